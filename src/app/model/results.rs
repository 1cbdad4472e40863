//! Everything computed of a model and a prompt, each answer in a slot of its own.

use crate::analysis::attribution_patching::ApproximationOf;
use crate::analysis::backup::BackupOf;
use crate::analysis::direct_attribution::AttributionOf;
use crate::analysis::feature_geometry::GeometryOf;
use crate::analysis::generation::GenerationOf;
use crate::analysis::head_scores::{RandomScoresOf, TextScoresOf};
use crate::analysis::logit_lens::LensOf;
use crate::analysis::neurons::{NeuronTokensOf, NeuronsOf};
use crate::analysis::norms::NormsOf;
use crate::analysis::patching::SweepOf;
use crate::analysis::patterns::{PatternOf, ThumbnailsOf};
use crate::analysis::projection::ProjectionOf;
use crate::analysis::run::{EditedRunOf, RunOf};
use crate::analysis::why_head::WhyOf;
use crate::circuit::quality::CircuitOf;
use crate::circuit::search::SearchOf;
use crate::features::labels::{SetLabelled, SetLabelsOf};
use crate::features::sets::SetOf;
use crate::graph::features::why::LooksOf;
use crate::graph::layout::{AuditOf, DrawingOf, OpenedOf, ShownOf};
use crate::jobs::slot::{AnySlot, Slot};

#[derive(Default)]
pub struct Results {
    pub run: Slot<RunOf>,
    pub corrupted: Slot<RunOf>,
    pub edited: Slot<EditedRunOf>,
    pub pattern: Slot<PatternOf>,
    pub thumbnails: Slot<ThumbnailsOf>,
    pub lens: Slot<LensOf>,
    /// The lens at the pinned position alone, for the inspector.
    pub lens_here: Slot<LensOf>,
    pub norms: Slot<NormsOf>,
    pub attribution: Slot<AttributionOf>,
    pub neurons: Slot<NeuronsOf>,
    pub neuron_tokens: Slot<NeuronTokensOf>,
    pub geometry: Slot<GeometryOf>,
    pub projection: Slot<ProjectionOf>,
    pub text_scores: Slot<TextScoresOf>,
    pub random_scores: Slot<RandomScoresOf>,
    pub sweep: Slot<SweepOf>,
    pub approximation: Slot<ApproximationOf>,
    pub backup: Slot<BackupOf>,
    pub generated: Slot<GenerationOf>,
    /// The set of transcoders that the graph is on, or that a graph of a file says it is on.
    pub set: Slot<SetOf>,
    pub set_labels: Slot<SetLabelsOf>,
    /// Labels of a file's graph that are taken into the set.
    pub labelled: Slot<SetLabelled>,
    pub graph: Slot<ShownOf>,
    pub drawing: Slot<DrawingOf>,
    /// A graph of a file as one of the run and the set that are here.
    pub opened: Slot<OpenedOf>,
    pub audit: Slot<AuditOf>,
    pub why: Slot<WhyOf>,
    /// The same in the features of the graph's set.
    pub looks: Slot<LooksOf>,
    pub tried: Slot<CircuitOf>,
    pub search: Slot<SearchOf>,
}

impl Results {
    /// The runs themselves, from which everything else follows.
    pub fn runs(&mut self) -> [&mut dyn AnySlot; 3] {
        [&mut self.run, &mut self.corrupted, &mut self.edited]
    }

    /// Forgets everything that depends on the prompt; a graph of a file stays where it does not.
    pub fn forget(&mut self, keeps_graph: bool) {
        let graph = keeps_graph.then(|| (std::mem::take(&mut self.graph), std::mem::take(&mut self.drawing)));
        let (random, set) = (std::mem::take(&mut self.random_scores), std::mem::take(&mut self.set));
        self.slots().into_iter().for_each(AnySlot::forget);
        (self.random_scores, self.set) = (random, set);
        if let Some(kept) = graph {
            (self.graph, self.drawing) = kept;
        }
    }

    /// Every slot.
    pub fn slots(&mut self) -> [&mut dyn AnySlot; 30] {
        [
            &mut self.run,
            &mut self.corrupted,
            &mut self.edited,
            &mut self.pattern,
            &mut self.thumbnails,
            &mut self.lens,
            &mut self.lens_here,
            &mut self.norms,
            &mut self.attribution,
            &mut self.neurons,
            &mut self.neuron_tokens,
            &mut self.geometry,
            &mut self.projection,
            &mut self.text_scores,
            &mut self.random_scores,
            &mut self.sweep,
            &mut self.approximation,
            &mut self.backup,
            &mut self.generated,
            &mut self.set,
            &mut self.set_labels,
            &mut self.labelled,
            &mut self.graph,
            &mut self.drawing,
            &mut self.opened,
            &mut self.audit,
            &mut self.why,
            &mut self.looks,
            &mut self.tried,
            &mut self.search,
        ]
    }
}
