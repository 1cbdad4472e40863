//! What the model thread has answered, and what is asked for next.

use std::sync::Arc;

use crate::analysis::feature_geometry::Directions;
use crate::analysis::pair::Pair;
use crate::app::model::results::Slot;
use crate::app::model::runs::Show;
use crate::app::shell::notices::Level;
use crate::app::state::State;
use crate::error::Error;
use crate::jobs::{Answer, Kind, Payload, Request, Run};
use crate::model::Model;

impl State {
    pub fn receive(&mut self, answer: Answer) {
        // Stale: computed from a model or run that is no longer the one on screen.
        let same_model = |m: &Arc<Model>| self.model.as_ref().is_some_and(|c| Arc::ptr_eq(c, m));
        if answer.model.as_ref().is_some_and(|m| !same_model(m)) {
            return;
        }
        if !self.is_current(&answer) {
            return;
        }
        // Another model has been asked for meanwhile.
        if answer.kind == Kind::Open && answer.spec != self.opening && answer.payload.is_err() {
            return;
        }
        let payload = match answer.payload {
            Ok(p) => p,
            Err(Error::Cancelled) => {
                if answer.kind == Kind::Open {
                    self.opening = None;
                    self.notices.push(Level::Info, "Opening was cancelled.");
                    self.request_run();
                }
                return;
            }
            Err(error) => return self.failed(answer.kind, &error),
        };
        let r = &mut self.results;
        let stamp = &mut r.stamp;
        match payload {
            Payload::Opened(model) => self.opened(model),
            Payload::Ran(run) => self.ran(run),
            Payload::RanCorrupted(run) => {
                r.corrupted.set(run, stamp);
                self.runs_are_there();
                if matches!(self.show, Show::Corrupted | Show::Difference) {
                    self.refresh();
                }
            }
            Payload::RanEdited(run) => {
                r.edited.set(run, stamp);
                if matches!(self.show, Show::Edited | Show::Difference) {
                    self.refresh();
                }
                self.request_backup();
                if self.pending_generation {
                    self.request_generation();
                }
            }
            Payload::Backup(v) => r.backup.set(v, stamp),
            Payload::Estimate(v) => r.estimate = Some(v),
            Payload::Sweep(v) => {
                let merged = self.merged(v);
                let r = &mut self.results;
                r.sweep.set(merged, &mut r.stamp);
            }
            Payload::Approximation(v) => r.approximation.set(v, stamp),
            Payload::Generated(v) => r.generated.set(v, stamp),
            Payload::Graph(v) => {
                r.graph.set(v, stamp);
                self.request_drawing();
            }
            Payload::Drawing(v) => r.drawing.set(v, stamp),
            Payload::Why(v, ov) => r.why.set((v, ov), stamp),
            Payload::Quality(v) => r.tried.set(v, stamp),
            Payload::Searching(v) => r.searching.set(v, stamp),
            Payload::Searched(v) => self.searched(v),
            Payload::Pattern(which, values) => {
                if which == self.selection.pinned.which() {
                    r.pattern.set((which, values), stamp);
                }
            }
            Payload::Thumbnails(v) => r.thumbnails.set(v, stamp),
            Payload::Lens(v) => r.lens.set(v, stamp),
            Payload::Norms(v) => r.norms.set(v, stamp),
            Payload::Attribution(v) => {
                r.attribution.set(v, stamp);
                self.choose_head();
            }
            Payload::Neurons(v) => {
                r.neurons.set(v, stamp);
                if matches!(self.geometry, Some(Directions::Neurons(_))) {
                    self.request_geometry();
                }
            }
            Payload::Geometry(v) => r.geometry.set(v, stamp),
            Payload::NeuronTokens(v) => r.neuron_tokens.set(v, stamp),
            Payload::Projection(v) => r.projection.set(v, stamp),
            Payload::TextScores(v) => r.text_scores.set(v, stamp),
            Payload::RandomScores(v) => r.random_scores.set(v, stamp),
        }
    }

    /// Whether an answer was computed from the runs that are on screen.
    fn is_current(&self, answer: &Answer) -> bool {
        let expected = match answer.kind {
            Kind::Open
            | Kind::Run
            | Kind::RunCorrupted
            | Kind::NeuronTokens
            | Kind::Geometry
            | Kind::RandomScores
            | Kind::GraphFile
            | Kind::Drawing => return true,
            Kind::RunEdited | Kind::Sweep | Kind::Approximation | Kind::Quality | Kind::Search => {
                self.pair().map(Pair::traces)
            }
            Kind::Generate | Kind::Backup | Kind::Graph | Kind::Why => {
                // Either half of the pair may be the base; the edited run tells.
                let known: Vec<_> = [self.clean(), self.corrupted(), self.edited()].into_iter().flatten().collect();
                return answer.traces.iter().all(|t| known.iter().any(|r| Arc::ptr_eq(&r.trace, t)));
            }
            _ => self.subject().map(|s| s.traces()),
        };
        expected.is_some_and(|e| {
            e.len() == answer.traces.len() && e.iter().zip(&answer.traces).all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }

    /// The head with the largest positive part of the answer's logit.
    fn choose_head(&mut self) {
        let Some(a) = self.results.attribution.get().filter(|_| {
            // Edits do not move the eye elsewhere; only a window that opens on them has nothing to keep.
            self.auto_head && (self.show == Show::Clean || !self.chose_head)
        }) else {
            return;
        };
        let all = a.heads.iter().enumerate().flat_map(|(l, row)| row.iter().enumerate().map(move |(h, v)| (l, h, *v)));
        if let Some((layer, head, _)) = all.max_by(|x, y| x.2.total_cmp(&y.2)) {
            let pinned = self.selection.pinned;
            self.pin(crate::app::selection::Pinned { layer, head: Some(head), ..pinned });
            (self.auto_head, self.chose_head) = (true, true);
        }
    }

    fn failed(&mut self, kind: Kind, error: &Error) {
        let text = error.to_string();
        // A run that failed leaves nothing of an older one to be taken for it.
        match kind {
            Kind::RunCorrupted => {
                self.results.corrupted = Slot { result: None, error: Some(text) };
                self.runs_are_there();
                return;
            }
            Kind::RunEdited => {
                self.results.edited = Slot { result: None, error: Some(text) };
                self.results.backup = Slot::default();
                if self.pending_generation {
                    self.request_generation();
                }
                return;
            }
            _ => {}
        }
        let r = &mut self.results;
        let slot: &mut Option<String> = match kind {
            Kind::Open => {
                self.opening = None;
                let kept = if self.model.is_some() { " The previous model is still open." } else { "" };
                self.notices.push(Level::Error, format!("{text}.{kept}"));
                // Opening has thrown out what was still being computed on the model that stays.
                self.request_run();
                if let (Some(model), Some(neuron)) = (self.model.clone(), self.selection.pinned.neuron) {
                    let layer = self.selection.pinned.layer;
                    self.worker.submit(Request::NeuronTokens { model, layer, neuron });
                }
                return;
            }
            Kind::Run => &mut r.run.error,
            Kind::RunCorrupted | Kind::RunEdited => return,
            Kind::Backup => &mut r.backup.error,
            Kind::Sweep => &mut r.sweep.error,
            Kind::Approximation => &mut r.approximation.error,
            Kind::Generate => &mut r.generated.error,
            Kind::Graph | Kind::GraphFile => &mut r.graph.error,
            Kind::Drawing => &mut r.drawing.error,
            Kind::Why => &mut r.why.error,
            Kind::Quality => &mut r.tried.error,
            Kind::Search => &mut r.searching.error,
            Kind::Pattern => &mut r.pattern.error,
            Kind::Attribution => &mut r.attribution.error,
            Kind::Thumbnails => &mut r.thumbnails.error,
            Kind::Lens => &mut r.lens.error,
            Kind::Norms => &mut r.norms.error,
            Kind::Neurons => &mut r.neurons.error,
            Kind::Geometry => &mut r.geometry.error,
            Kind::NeuronTokens => &mut r.neuron_tokens.error,
            Kind::Projection => &mut r.projection.error,
            Kind::TextScores => &mut r.text_scores.error,
            Kind::RandomScores => &mut r.random_scores.error,
        };
        *slot = Some(text);
    }

    fn opened(&mut self, model: Arc<Model>) {
        self.opening = None;
        self.results.clear(self.circuits.file.is_some());
        self.update_pair();
        (self.auto_head, self.chose_head) = (true, false);
        let spec = model.spec.clone();
        self.document.model.clone_from(&spec);
        self.recent.retain(|r| *r != spec);
        self.recent.insert(0, spec);
        self.recent.truncate(12);
        self.selection.pinned.layer = self.selection.pinned.layer.min(model.config.n_layers - 1);
        self.selection.pinned.head = self.selection.pinned.head.filter(|h| *h < model.config.n_heads);
        self.selection.pinned.neuron = None;
        self.model = Some(model);
        self.request_run();
    }

    fn ran(&mut self, run: Arc<Run>) {
        if self.document.prompt.is_empty() {
            return;
        }
        for note in &run.notes {
            self.notices.push(Level::Info, note.clone());
        }
        let results = &mut self.results;
        results.run.set(run, &mut results.stamp);
        // The corrupted run follows; what needs both waits for it.
        let waits = !self.document.corrupted.is_empty();
        if waits {
            self.update_pair();
        } else {
            self.runs_are_there();
        }
        let shown = self.shown_slot().get().is_some_and(|s| s.fresh);
        if shown {
            self.refresh();
        }
    }
}
