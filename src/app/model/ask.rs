//! What is wanted of a model and a prompt now. It is derived from the document, the pins and what can be seen; nothing is
//! asked for or put out of date by hand. What is asked first is the most urgent.

use std::sync::Arc;

use super::views;
use crate::analysis::attribution_patching::ApproximationOf;
use crate::analysis::backup::BackupOf;
use crate::analysis::direct_attribution::AttributionOf;
use crate::analysis::feature_geometry::{Directions, GeometryOf};
use crate::analysis::generation::{GenerationOf, Generations};
use crate::analysis::head_scores::{RandomScoresOf, TextScoresOf};
use crate::analysis::logit_lens::LensOf;
use crate::analysis::metric::MetricKind;
use crate::analysis::neurons::{NeuronTokensOf, NeuronsOf, Statistic};
use crate::analysis::norms::NormsOf;
use crate::analysis::patterns::{PatternOf, ThumbnailsOf};
use crate::analysis::projection::ProjectionOf;
use crate::analysis::run::{EditedRunOf, RunOf};
use crate::analysis::subject::Subject;
use crate::analysis::why_head::WhyOf;
use crate::app::state::State;
use crate::app::view::Workspace;
use crate::app::widgets::turns;
use crate::engine::{RunSide, Trace};
use crate::graph::features::why::LooksOf;
use crate::graph::layout::Origin;
use crate::session::desk::{Focus, Show, Source};

/// Directions whose cosines are shown one by one.
const SHOWN: usize = 48;
/// Neurons shown at once.
pub const NEURONS: usize = 256;
/// Tokens that a neuron promotes, and as many that it suppresses.
const NEURON_TOKENS: usize = 10;

/// Tokens of a prompt from which on its runs are not kept for what was made of them.
const LONG: usize = 512;

impl State {
    /// Asks for the runs, then for everything that follows from them.
    pub(in crate::app) fn ask_model(&mut self) {
        if self.desk().is_blank() || self.model.is_none() {
            let keeps_graph = self.desk().graph.file.is_some();
            self.results.forget(keeps_graph);
            self.update_pair();
        } else {
            self.ask_runs();
        }
        self.begin_waiting();
        let subject = self.subject();
        self.follow_pins();
        self.ask_set();
        self.ask_inspected(subject.as_ref());
        self.ask_analyses(subject.as_ref());
        self.ask_geometry();
        self.ask_sweep();
        self.ask_generation();
        self.ask_graph(subject.as_ref());
        self.ask_circuit();
    }

    /// Begins what was asked for before the runs were there; without a run there is nothing to begin it on.
    fn begin_waiting(&mut self) {
        if self.runs_stand() {
            for action in std::mem::take(&mut self.waiting) {
                // Neither a search nor a sweep changes the document, so there is no time to note.
                self.apply_model(action, 0.0);
            }
        } else if self.desk().is_blank() || self.results.run.error().is_some() {
            self.waiting.clear();
        }
    }

    fn ask_runs(&mut self) {
        let Some(model) = self.model.clone() else { return };
        let (pool, d) = (&self.pool, &self.document.desk);
        let results = &mut self.results;
        // While a text is being typed, the run of the text before it stays.
        if !self.typing.is_pending() {
            // Most of what is typed goes on from what was there, or changes a word of the other prompt.
            let known = [results.run.value(), results.corrupted.value()];
            let before: Vec<_> = known.into_iter().flatten().map(|run| Arc::downgrade(&run.trace)).collect();
            results.run.want(
                pool,
                Some(RunOf {
                    model: model.clone(),
                    prompt: d.prompt.clone(),
                    ids: d.ids.clone(),
                    conversation: d.conversation.clone(),
                    answer: d.answer.clone(),
                    wrong: d.wrong.clone(),
                    before: before.clone(),
                }),
            );
            let none = (String::new(), String::new());
            let corrupted = (!d.corrupted.is_empty()).then(|| RunOf {
                model,
                prompt: d.corrupted.clone(),
                ids: None,
                conversation: None,
                answer: none.0,
                wrong: none.1,
                before,
            });
            results.corrupted.ask(pool, corrupted.clone(), corrupted.is_some());
        }
        self.update_pair();
        self.settle_show();
        let (pool, stack) = (&self.pool, self.document.desk.stack.clone());
        let results = &mut self.results;
        if !stack.is_active() {
            results.edited.forget();
            return;
        }
        if stack.base == RunSide::Corrupted && self.document.desk.corrupted.is_empty() {
            results.edited.refuse(
                "the edits are of the corrupted run, but there is no corrupted prompt; type one, or change the run that they edit",
            );
            return;
        }
        if let (RunSide::Corrupted, Some(error)) = (stack.base, results.corrupted.error()) {
            let text = format!("the edits are of the corrupted run, which cannot be made: {error}");
            results.edited.refuse(&text);
            return;
        }
        let pair = self.runs.pair.clone().filter(|p| p.run(stack.base).is_ok());
        let question = pair.zip(results.run.value().cloned()).map(|(pair, clean)| EditedRunOf { pair, stack, clean });
        results.edited.want(pool, question);
    }

    /// Leaves a run that is no longer asked for.
    fn settle_show(&mut self) {
        let list = self.showable();
        let d = &mut self.document.desk;
        if !list.contains(&d.show) {
            let corrupted = d.show == Show::Edited && d.stack.base == RunSide::Corrupted;
            d.show = if corrupted && list.contains(&Show::Corrupted) { Show::Corrupted } else { Show::Clean };
        }
    }

    /// The inspector and the bars are seen wherever a model and its prompt are.
    fn bars_are_seen(&self) -> bool {
        self.seen.bars && matches!(self.seen.workspace, Workspace::Model | Workspace::Features)
    }

    pub(super) fn inspector_is_seen(&self) -> bool {
        self.seen.bars && self.seen.workspace == Workspace::Model && !self.cover.inspector
    }

    /// What the inspector and the bars show, and views beside them.
    fn ask_inspected(&mut self, subject: Option<&Subject>) {
        let (inspector, bars) = (self.inspector_is_seen(), self.bars_are_seen());
        let pinned = self.desk().pinned;
        let clean = self.clean().cloned();
        let (pool, results, seen) = (&self.pool, &mut self.results, &self.seen);
        let attention = seen.has(&views::attention::VIEW);
        let pattern = subject.map(|s| PatternOf { subject: s.clone(), which: pinned.which() });
        results.pattern.ask(pool, pattern, attention || inspector);
        let attribution = subject.zip(clean.as_ref()).and_then(|(s, clean)| {
            let (answer, wrong) = clean.asked_at(&s.trace, pinned.pos);
            Some(AttributionOf { subject: s.clone(), pos: pinned.pos, answer: answer?, wrong })
        });
        // The head that adds most to the answer is shown from the start.
        let follows = !self.document.desk.chose_head && (attention || inspector);
        results.attribution.ask(pool, attribution, bars || follows || seen.has(&views::attribution::VIEW));
        let whole = seen.has(&views::lens::VIEW) && views::lens::reads_logits(&self.document.desk);
        let lens = |s: &Subject, positions: Vec<usize>| {
            let (answer, wrong) = clean.as_ref().map_or((None, None), |r| (r.answer, r.wrong));
            LensOf { subject: s.clone(), lens: None, positions, answer, wrong }
        };
        let here = subject
            .filter(|s| pinned.pos < s.trace.len())
            .map(|s| lens(&Subject::one(s.trace.clone()), vec![pinned.pos]));
        results.lens_here.ask(pool, here, inspector);
        results.lens.ask(pool, subject.map(|s| lens(s, Vec::new())), whole);
        let tokens = self.model.clone().zip(pinned.neuron).map(|(model, neuron)| NeuronTokensOf {
            model,
            layer: pinned.layer,
            neuron,
            count: NEURON_TOKENS,
        });
        results.neuron_tokens.ask(pool, tokens, inspector && pinned.focus == Focus::Neuron);
        let scores = subject.map(|s| TextScoresOf { subject: s.clone() });
        results.text_scores.ask(pool, scores, attention || inspector && pinned.head.is_some());
        let random = self.model.clone().map(|model| RandomScoresOf { model });
        results.random_scores.ask(pool, random, attention || inspector && pinned.head.is_some());
        // Only unedited runs are taken apart.
        let plain = subject.filter(|s| pinned.pos < s.trace.len() && s.trace.edits().is_empty());
        let why = plain.zip(pinned.head.filter(|_| !pinned.all_heads)).map(|(s, head)| WhyOf {
            trace: s.trace.clone(),
            layer: pinned.layer,
            head,
            query: pinned.pos,
            key: pinned.key.filter(|k| *k <= pinned.pos),
        });
        if why.is_none() && subject.is_some() {
            // What stood there is another run's.
            results.why.forget();
        }
        let of_file = match results.graph.value().map(|shown| &shown.source) {
            Some(Origin::File(file)) => Some(file.silent()),
            _ => None,
        };
        let silent = of_file.unwrap_or(self.document.desk.graph.silent());
        // A graph of a file may be of another set or prompt.
        let on_features = self.document.desk.graph.file.is_none() || results.opened.fresh().is_some();
        let set = results.set.fresh().filter(|_| on_features).map(|s| s.value.clone());
        let looks = set.zip(why.clone()).map(|(set, why)| {
            let WhyOf { trace, layer, head, query, key } = why;
            LooksOf { trace, set, layer, head, query, key, silent }
        });
        if looks.is_none() {
            results.looks.forget();
        }
        results.looks.ask(pool, looks, inspector || seen.has(&views::graph::VIEW));
        results.why.ask(pool, why, inspector);
    }

    fn ask_analyses(&mut self, subject: Option<&Subject>) {
        let inspector = self.inspector_is_seen();
        let folded = self.run().map_or_else(Vec::new, |run| turns::folded(run, self.desk()));
        let d = &self.document.desk;
        let (pool, results, seen) = (&self.pool, &mut self.results, &self.seen);
        let thumbnails = subject.map(|s| ThumbnailsOf { subject: s.clone(), folded });
        results.thumbnails.ask(pool, thumbnails, seen.has(&views::attention::VIEW));
        let activations = seen.has(&views::activations::VIEW);
        let norms = subject.map(|s| NormsOf { subject: s.clone() });
        results.norms.ask(pool, norms, activations || inspector || seen.has(&views::norms::VIEW));
        let statistic = match d.statistic {
            Statistic::AtPosition(_) => Statistic::AtPosition(d.pinned.pos),
            other => other,
        };
        let neurons = subject.filter(|s| s.trace.model.config.has_mlp()).map(|s| NeuronsOf {
            subject: s.clone(),
            layer: d.pinned.layer,
            statistic,
            limit: NEURONS,
        });
        let leading = seen.has(&views::geometry::VIEW) && matches!(d.geometry, Directions::Neurons(_));
        let inspected = inspector && d.pinned.focus == Focus::Neuron;
        results.neurons.ask(pool, neurons, activations || leading || inspected);
        let projection = subject.map(|s| ProjectionOf { trace: s.trace.clone(), settings: d.projection });
        results.projection.ask(pool, projection, seen.has(&views::projection::VIEW));
    }

    /// The directions themselves belong to the model; which cosines are shown depends on the prompt.
    fn ask_geometry(&mut self) {
        let decoder = self.features.dictionary().map(|d| d.w_dec.clone());
        let layer = self.desk().pinned.layer;
        let directions = match self.desk().geometry {
            Directions::Neurons(_) => Directions::Neurons(layer),
            Directions::Decoder(_) if decoder.is_none() => Directions::Embedding,
            other => other,
        };
        let chosen: Vec<usize> = match directions {
            Directions::Neurons(layer) => match self.results.neurons.get() {
                Some(n) if n.now.layer == layer => n.now.order.iter().copied().take(SHOWN).collect(),
                _ => (0..SHOWN).collect(),
            },
            Directions::Decoder(_) => match self.features.activations.value() {
                Some(r) => r.leading(Default::default(), None, SHOWN).0.into_iter().map(|f| f as usize).collect(),
                None => (0..SHOWN).collect(),
            },
            Directions::Embedding | Directions::Unembedding => {
                let mut ids: Vec<usize> = Vec::new();
                for id in self.run().map_or(&[][..], |r| &r.trace.ids) {
                    if !ids.contains(&(*id as usize)) && ids.len() < SHOWN {
                        ids.push(*id as usize);
                    }
                }
                ids
            }
        };
        let question = self.model.clone().map(|model| {
            let question = GeometryOf { model, directions, chosen, known: None, decoder };
            // What does not depend on the prompt is computed once.
            let known = self.results.geometry.get().filter(|g| g.question.is_like(&question));
            GeometryOf { known: known.map(|g| g.value.clone()), ..question }
        });
        self.results.geometry.ask(&self.pool, question, self.seen.has(&views::geometry::VIEW));
    }

    /// The sweep that the settings describe. One that was confirmed goes on when its view is hidden.
    fn ask_sweep(&mut self) {
        let seen = self.seen.has(&views::patching::VIEW);
        let asked = self.sweep_wanted();
        let settings = self.desk().patching;
        let approximation = self.pair().cloned().filter(|p| p.corrupted.is_some()).map(|pair| {
            Ok::<_, crate::Error>(ApproximationOf {
                pair,
                site: settings.site,
                by: settings.by,
                metric: self.metric(settings.metric)?,
            })
        });
        let (pool, results) = (&self.pool, &mut self.results);
        match asked {
            Ok(plain) => {
                self.confirmed = self.confirmed.take().filter(|c| plain.as_ref().is_some_and(|p| p.is_like(c)));
                let confirmed = self.confirmed.is_some();
                results.sweep.ask(pool, self.confirmed.clone().or(plain), seen || confirmed);
            }
            Err(e) => results.sweep.refuse(&e.to_string()),
        }
        let approximates = seen && settings.source != Source::Exact;
        match approximation.transpose() {
            Ok(question) => results.approximation.ask(pool, question, approximates),
            Err(e) => results.approximation.refuse(&e.to_string()),
        }
        let edited = self.results.edited.fresh().map(|r| r.value.trace.clone());
        let base = self.pair().and_then(|p| p.run(self.desk().stack.base).ok().cloned());
        let backup = edited.zip(base).and_then(|(after, before)| {
            let kinds = [MetricKind::LogitDifference, MetricKind::Logit];
            let tokens = kinds.iter().find_map(|k| self.metric(*k).ok())?.tokens();
            Some(BackupOf { before, after, answer: *tokens.first()?, wrong: tokens.get(1).copied() })
        });
        self.results.backup.ask(&self.pool, backup, self.seen.has(&views::edits::VIEW));
    }

    /// Pins stay inside the prompt, at its end while it grows; until a head is chosen by hand, the one that adds most to
    /// the answer is pinned.
    fn follow_pins(&mut self) {
        let Some((stamp, len)) = self.shown_run().map(|s| (s.stamp, s.run.trace.len())) else { return };
        if self.pinned_in != Some(stamp) {
            self.pinned_in = Some(stamp);
            let at_end = !self.desk().chose_pos;
            let pinned = &mut self.document.desk.pinned;
            pinned.pos = if at_end { len - 1 } else { pinned.pos.min(len - 1) };
            pinned.key = pinned.key.filter(|k| *k < len);
        }
        // Edits do not move the eye elsewhere; only a window that opens on them has nothing to keep.
        if self.document.desk.chose_head || self.document.desk.show != Show::Clean && self.document.desk.found_head {
            return;
        }
        let Some(a) = self.results.attribution.fresh() else { return };
        let all = a.heads.iter().enumerate().flat_map(|(l, row)| row.iter().enumerate().map(move |(h, v)| (l, h, *v)));
        if let Some((layer, head, _)) = all.max_by(|x, y| x.2.total_cmp(&y.2)) {
            self.document.desk.found_head = true;
            let pinned = &mut self.document.desk.pinned;
            (pinned.layer, pinned.head, pinned.all_heads) = (layer, Some(head), false);
        }
    }

    /// Continuations, once they were asked for and the runs are there.
    fn ask_generation(&mut self) {
        let active = self.desk().stack.is_active();
        let base =
            self.pair().and_then(|p| p.run(if active { self.desk().stack.base } else { RunSide::Clean }).ok().cloned());
        let edited = self.results.edited.fresh().map(|r| r.value.trace.clone()).filter(|_| active);
        if self.generates && active && self.results.edited.error().is_some() {
            self.generates = false;
            let error = self.results.edited.error().cloned().unwrap_or_default();
            self.results.generated.refuse(&error);
        }
        if self.generates
            && !self.typing.is_pending()
            && let Some(base) = base.clone().filter(|_| edited.is_some() == active)
        {
            self.generates = false;
            let (sampling, limit) = (self.desk().sampling, self.desk().limit.0);
            let edited = edited.clone();
            self.generation = Some(GenerationOf { base, edited, sampling, limit });
            self.results.generated.again();
        }
        // What was generated of other runs is shown dimmed.
        let current = self.generation.clone().filter(|g| Some(&g.base) == base.as_ref() && g.edited == edited);
        if self.generation.as_ref().is_some_and(|g| g.base.len() > LONG && Some(&g.base) != base.as_ref()) {
            // It would hold the runs of a long prompt that is left.
            self.generation = None;
            self.results.generated.forget();
        }
        if self.results.generated.error().is_none() || current.is_some() {
            self.results.generated.want(&self.pool, current);
        }
    }

    /// The tokens that a prompt was continued by, as far as they are of the runs that stand there now.
    pub fn continued(&self) -> Option<(&Arc<Trace>, &Arc<Generations>)> {
        let generated = self.results.generated.fresh()?;
        Some((&generated.question.base, &generated.value))
    }
}
