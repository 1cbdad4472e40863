//! Everything computed that is on screen, each in a slot of its own.

use std::sync::Arc;

use crate::analysis::backup::Change;
use crate::analysis::direct_attribution::Attribution;
use crate::analysis::feature_geometry::FeatureGeometry;
use crate::analysis::head_scores::HeadScores;
use crate::analysis::logit_lens::Lens;
use crate::analysis::neurons::{NeuronTokens, Neurons};
use crate::analysis::norms::Norms;
use crate::analysis::ov_circuit::OvCircuit;
use crate::analysis::patterns::{Thumbnails, Which};
use crate::analysis::projection::Projection;
use crate::analysis::sweep::{Estimate, Found};
use crate::analysis::why_head::Why;
use crate::circuit::find::Step;
use crate::graph::layout::{Drawing, Shown};
use crate::jobs::circuits::Tried;
use crate::jobs::{Compared, Generations, Run};

/// A result with the run or model it belongs to.
pub struct Result<T> {
    pub value: Arc<T>,
    /// False while a newer run's result is on its way: shown dimmed.
    pub fresh: bool,
    /// Changes with every new value; views key their caches on it.
    pub stamp: u64,
}

impl<T> Clone for Result<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), fresh: self.fresh, stamp: self.stamp }
    }
}

impl<T> std::ops::Deref for Result<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A slot for one kind of result.
pub struct Slot<T> {
    pub result: Option<Result<T>>,
    pub error: Option<String>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { result: None, error: None }
    }
}

impl<T> Slot<T> {
    pub fn set(&mut self, value: T, stamp: &mut u64) {
        *stamp += 1;
        self.error = None;
        self.result = Some(Result { value: Arc::new(value), fresh: true, stamp: *stamp });
    }

    pub fn outdate(&mut self) {
        if let Some(r) = &mut self.result {
            r.fresh = false;
        }
        self.error = None;
    }

    pub fn get(&self) -> Option<&Result<T>> {
        self.result.as_ref()
    }
}

/// Everything computed that is on screen.
#[derive(Default)]
pub struct Results {
    pub run: Slot<Arc<Run>>,
    pub corrupted: Slot<Arc<Run>>,
    pub edited: Slot<Arc<Run>>,
    pub pattern: Slot<(Which, Compared<Vec<f32>>)>,
    pub thumbnails: Slot<Compared<Thumbnails>>,
    pub lens: Slot<Compared<Lens>>,
    pub norms: Slot<Compared<Norms>>,
    pub attribution: Slot<Compared<Attribution>>,
    pub neurons: Slot<Compared<Neurons>>,
    pub neuron_tokens: Slot<NeuronTokens>,
    pub geometry: Slot<FeatureGeometry>,
    pub projection: Slot<Projection>,
    pub text_scores: Slot<Compared<HeadScores>>,
    pub random_scores: Slot<Compared<HeadScores>>,
    pub sweep: Slot<Found>,
    pub approximation: Slot<Found>,
    /// What the sweep asked for will take.
    pub estimate: Option<Estimate>,
    pub backup: Slot<Vec<Change>>,
    pub generated: Slot<Generations>,
    pub graph: Slot<Shown>,
    pub drawing: Slot<Drawing>,
    pub why: Slot<(Why, Option<OvCircuit>)>,
    pub tried: Slot<Tried>,
    /// How far a search for a circuit is.
    pub searching: Slot<Step>,
    pub stamp: u64,
}

impl Results {
    pub fn outdate_run(&mut self) {
        self.run.outdate();
        self.corrupted.outdate();
        self.edited.outdate();
        self.sweep.outdate();
        self.approximation.outdate();
        self.backup.outdate();
        self.generated.outdate();
        self.tried.outdate();
        self.why.outdate();
        self.searching.error = None;
        self.outdate_analyses();
    }

    pub fn outdate_analyses(&mut self) {
        self.pattern.outdate();
        self.thumbnails.outdate();
        self.lens.outdate();
        self.norms.outdate();
        self.attribution.outdate();
        self.neurons.outdate();
        self.projection.outdate();
        self.text_scores.outdate();
    }

    /// Forgets everything; a graph of a file stays where it does not depend on model and prompt.
    pub fn clear(&mut self, keep_graph: bool) {
        let stamp = self.stamp;
        let graph = if keep_graph { std::mem::take(&mut self.graph) } else { Slot::default() };
        let drawing = if keep_graph { std::mem::take(&mut self.drawing) } else { Slot::default() };
        *self = Self { stamp, graph, drawing, ..Self::default() };
    }
}
