//! What can be asked of the model thread, and what comes back. A request carries everything it depends
//! on, so that an answer can be told stale by comparing what it was computed from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::Kind;
use super::circuits::{CircuitQuestion, Searched, Tried};
use crate::analysis::attribution_patching::attribution_patching;
use crate::analysis::backup::{Change, changes};
use crate::analysis::direct_attribution::{Attribution, direct_attribution};
use crate::analysis::feature_geometry::{Directions, FeatureGeometry, feature_geometry};
use crate::analysis::head_scores::{HeadScores, Measure, head_scores, repeated_random};
use crate::analysis::logit_lens::{Lens, logit_lens};
use crate::analysis::metric::Metric;
use crate::analysis::neurons::{NeuronTokens, Neurons, Statistic, neuron_tokens, neurons};
use crate::analysis::norms::{Norms, norms};
use crate::analysis::ov_circuit::{OvCircuit, ov_circuit};
use crate::analysis::pair::Pair;
use crate::analysis::patterns::{Thumbnails, Which, pattern, thumbnails};
use crate::analysis::projection::{Projection, Settings, projection};
use crate::analysis::sweep::{By, Estimate, Found, Question, Sweep};
use crate::analysis::why_head::{Why, why_head};
use crate::circuit::find::Step;
use crate::circuit::search::{SearchOf, Searching};
use crate::engine::generate::{Generated, Sampling, generate};
use crate::engine::resolve::{Alignment, resolve_stack};
use crate::engine::{EditStack, Freeze, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::graph::layout::{Cut, Drawing, DrawingOf, GraphFileOf, GraphOf, Shown};
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question as _;

/// What the views look at: a run, or the difference of two.
#[derive(Clone)]
pub struct Subject {
    pub trace: Arc<Trace>,
    /// What is subtracted.
    pub minus: Option<Arc<Trace>>,
    /// From positions of `trace` to those of `minus`.
    pub alignment: Arc<Alignment>,
}

impl Subject {
    pub fn one(trace: Arc<Trace>) -> Self {
        Self { trace, minus: None, alignment: Arc::default() }
    }

    /// The runs it is made of.
    pub fn traces(&self) -> Vec<Arc<Trace>> {
        std::iter::once(self.trace.clone()).chain(self.minus.clone()).collect()
    }

    fn ask<T>(&self, mut question: impl FnMut(&Trace) -> Result<T>) -> Result<Compared<T>> {
        let minus = self.minus.as_deref().map(&mut question).transpose()?;
        Ok(Compared { now: question(&self.trace)?, minus, alignment: self.alignment.clone() })
    }
}

/// A result of one run, beside that of the run it is to be compared with.
#[derive(Clone, Debug)]
pub struct Compared<T> {
    pub now: T,
    pub minus: Option<T>,
    /// From positions of `now` to those of `minus`.
    pub alignment: Arc<Alignment>,
}

impl<T> std::ops::Deref for Compared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.now
    }
}

/// A question with its inputs.
#[derive(Clone)]
pub enum Request {
    Open {
        spec: String,
    },
    Run {
        model: Arc<Model>,
        prompt: String,
        ids: Option<Vec<u32>>,
        answer: Option<String>,
        wrong: Option<String>,
    },
    RunCorrupted {
        model: Arc<Model>,
        prompt: String,
    },
    RunEdited {
        pair: Pair,
        stack: EditStack,
        like: Arc<Run>,
    },
    Pattern {
        subject: Subject,
        which: Which,
    },
    Attribution {
        subject: Subject,
        pos: usize,
        answer: u32,
        wrong: Option<u32>,
    },
    Backup {
        before: Arc<Trace>,
        after: Arc<Trace>,
        pos: usize,
        answer: u32,
        wrong: Option<u32>,
    },
    Thumbnails {
        subject: Subject,
    },
    Lens {
        subject: Subject,
        answer: Option<u32>,
        wrong: Option<u32>,
    },
    Norms {
        subject: Subject,
    },
    Neurons {
        subject: Subject,
        layer: usize,
        statistic: Statistic,
        limit: usize,
    },
    /// Directions of the model itself, and those whose cosines are wanted one by one.
    Geometry {
        model: Arc<Model>,
        directions: Directions,
        chosen: Vec<usize>,
        /// The measures of this model, if they are known.
        known: Option<Arc<FeatureGeometry>>,
        /// Whose decoder is meant.
        dictionary: Option<Arc<Dictionary>>,
    },
    NeuronTokens {
        model: Arc<Model>,
        layer: usize,
        neuron: usize,
    },
    Projection {
        subject: Subject,
        settings: Settings,
    },
    /// `cells`: only these, else all; `confirmed`: run it however long it takes.
    Sweep {
        pair: Pair,
        reference: Vec<String>,
        question: Question,
        cells: Option<Vec<usize>>,
        confirmed: bool,
    },
    Approximation {
        pair: Pair,
        site: SiteKind,
        by: By,
        metric: Metric,
    },
    TextScores {
        subject: Subject,
    },
    RandomScores {
        model: Arc<Model>,
    },
    /// Without and, where the edited run is given, with edits.
    Generate {
        base: Arc<Trace>,
        edited: Option<Arc<Trace>>,
        sampling: Sampling,
        limit: usize,
    },
    /// The attribution graph of one prediction.
    Graph {
        trace: Arc<Trace>,
        pos: usize,
        target: Target,
        attention: Attention,
    },
    /// A graph from a file.
    OpenGraph {
        path: PathBuf,
    },
    /// A graph pruned and laid out.
    Drawing {
        shown: Arc<Shown>,
        cut: Cut,
    },
    Why {
        trace: Arc<Trace>,
        layer: usize,
        head: usize,
        query: usize,
        key: Option<usize>,
    },
    Quality {
        pair: Pair,
        question: CircuitQuestion,
    },
    Search {
        pair: Pair,
        question: SearchOf,
    },
}

/// A finished run of a prompt.
pub struct Run {
    pub prompt: String,
    pub trace: Arc<Trace>,
    /// Text of every token.
    pub texts: Vec<String>,
    /// The token to explain and the one to compare it with, where the texts given are single tokens.
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
    /// Why an answer that was given is not used.
    pub notes: Vec<String>,
}

impl Run {
    pub fn of(prompt: String, trace: Arc<Trace>, answer: Option<u32>, wrong: Option<u32>) -> Self {
        let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
        Self { prompt, trace, texts, answer, wrong, notes: Vec::new() }
    }
}

/// What a request gives.
pub enum Payload {
    Opened(Arc<Model>),
    Ran(Arc<Run>),
    RanCorrupted(Arc<Run>),
    RanEdited(Arc<Run>),
    Pattern(Which, Compared<Vec<f32>>),
    Attribution(Compared<Attribution>),
    /// Components by the rise of their direct attribution.
    Backup(Vec<Change>),
    Thumbnails(Compared<Thumbnails>),
    /// The lens so far; the last one is complete.
    Lens(Compared<Lens>),
    Norms(Compared<Norms>),
    Neurons(Compared<Neurons>),
    NeuronTokens(NeuronTokens),
    Geometry(FeatureGeometry),
    Projection(Projection),
    /// What a sweep will take; the sweep follows unless it is long and was not confirmed.
    Estimate(Estimate),
    /// The sweep so far; the last one is done.
    Sweep(Found),
    Approximation(Found),
    TextScores(Compared<HeadScores>),
    RandomScores(Compared<HeadScores>),
    /// The texts so far.
    Generated(Generations),
    /// Traced, or of a file.
    Graph(Shown),
    Drawing(Drawing),
    /// A head taken apart; its OV circuit follows.
    Why(Why, Option<OvCircuit>),
    /// What is known so far; the last one is complete.
    Quality(Tried),
    /// How far the search is.
    Searching(Step),
    Searched(Searched),
}

/// Continuations without and with edits.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    pub base: Vec<Generated>,
    pub edited: Option<Vec<Generated>>,
    pub done: bool,
}

/// An answer with what it was computed from.
pub struct Answer {
    pub kind: Kind,
    pub model: Option<Arc<Model>>,
    pub traces: Vec<Arc<Trace>>,
    /// What was to be opened, for [`Kind::Open`].
    pub spec: Option<String>,
    pub payload: Result<Payload>,
}

/// Random tokens for the positional head scores, before they are repeated once.
const RANDOM_LENGTH: usize = 30;

/// A sweep that takes longer is asked about first, seconds.
pub const ASK_FROM: f64 = 6.0;

impl Request {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open { .. } => Kind::Open,
            Self::Run { .. } => Kind::Run,
            Self::RunCorrupted { .. } => Kind::RunCorrupted,
            Self::RunEdited { .. } => Kind::RunEdited,
            Self::Backup { .. } => Kind::Backup,
            Self::Sweep { .. } => Kind::Sweep,
            Self::Approximation { .. } => Kind::Approximation,
            Self::Generate { .. } => Kind::Generate,
            Self::Graph { .. } => Kind::Graph,
            Self::OpenGraph { .. } => Kind::GraphFile,
            Self::Drawing { .. } => Kind::Drawing,
            Self::Why { .. } => Kind::Why,
            Self::Quality { .. } => Kind::Quality,
            Self::Search { .. } => Kind::Search,
            Self::Pattern { .. } => Kind::Pattern,
            Self::Attribution { .. } => Kind::Attribution,
            Self::Thumbnails { .. } => Kind::Thumbnails,
            Self::Lens { .. } => Kind::Lens,
            Self::Norms { .. } => Kind::Norms,
            Self::Neurons { .. } => Kind::Neurons,
            Self::NeuronTokens { .. } => Kind::NeuronTokens,
            Self::Geometry { .. } => Kind::Geometry,
            Self::Projection { .. } => Kind::Projection,
            Self::TextScores { .. } => Kind::TextScores,
            Self::RandomScores { .. } => Kind::RandomScores,
        }
    }

    /// The model and the runs it depends on.
    pub fn inputs(&self) -> (Option<Arc<Model>>, Vec<Arc<Trace>>) {
        match self {
            Self::Open { .. } | Self::OpenGraph { .. } | Self::Drawing { .. } => (None, Vec::new()),
            Self::Graph { trace, .. } | Self::Why { trace, .. } => (None, vec![trace.clone()]),
            Self::Run { model, .. }
            | Self::RunCorrupted { model, .. }
            | Self::NeuronTokens { model, .. }
            | Self::Geometry { model, .. }
            | Self::RandomScores { model } => (Some(model.clone()), Vec::new()),
            Self::Pattern { subject, .. }
            | Self::Attribution { subject, .. }
            | Self::Thumbnails { subject }
            | Self::Lens { subject, .. }
            | Self::Norms { subject }
            | Self::Neurons { subject, .. }
            | Self::Projection { subject, .. }
            | Self::TextScores { subject } => (None, subject.traces()),
            Self::RunEdited { pair, .. }
            | Self::Sweep { pair, .. }
            | Self::Approximation { pair, .. }
            | Self::Quality { pair, .. }
            | Self::Search { pair, .. } => (None, pair.traces()),
            Self::Backup { before, after, .. } => (None, vec![before.clone(), after.clone()]),
            Self::Generate { base, edited, .. } => {
                (None, std::iter::once(base.clone()).chain(edited.clone()).collect())
            }
        }
    }

    /// What it opens, if it opens something.
    pub fn spec(&self) -> Option<String> {
        if let Self::Open { spec } = self { Some(spec.clone()) } else { None }
    }

    /// Answers the request; `partial` is handed what is finished on the way.
    pub(super) fn execute(self, progress: &Progress, partial: &mut dyn FnMut(Payload)) -> Result<Payload> {
        Ok(match self {
            Self::Open { spec } => Payload::Opened(Arc::new(Model::open_watched(&spec, progress)?)),
            Self::Run { model, prompt, ids, answer, wrong } => {
                let ids = ids.map_or_else(|| model.encode(&prompt, false), Ok)?;
                model.network().check(&ids)?;
                let mut notes = Vec::new();
                let mut single = |text: Option<String>| {
                    let text = text.filter(|t| !t.is_empty())?;
                    model.single_token(&text).map_err(|e| notes.push(e.to_string())).ok()
                };
                let (answer, wrong) = (single(answer), single(wrong));
                let trace = Arc::new(Trace::run(&model, ids, progress)?);
                Payload::Ran(Arc::new(Run { notes, ..Run::of(prompt, trace, answer, wrong) }))
            }
            Self::RunCorrupted { model, prompt } => {
                let ids = model.encode(&prompt, false)?;
                let trace = Arc::new(Trace::run(&model, ids, progress)?);
                Payload::RanCorrupted(Arc::new(Run::of(prompt, trace, None, None)))
            }
            Self::RunEdited { pair, stack, like } => {
                let model = pair.clean.model.clone();
                let pair = pair.with_reference(&stack.reference, progress)?;
                let base = pair.run(stack.base)?.clone();
                let ops = resolve_stack(&stack, &pair.sources(stack.base)?)?;
                let trace = Arc::new(Trace::run_edited(&model, base.ids.clone(), Arc::new(ops), progress)?);
                Payload::RanEdited(Arc::new(Run::of(like.prompt.clone(), trace, like.answer, like.wrong)))
            }
            Self::Pattern { subject, which } => {
                Payload::Pattern(which, subject.ask(|trace| pattern(trace, which, progress))?)
            }
            Self::Attribution { subject, pos, answer, wrong } => {
                let aligned = |trace: &Trace| {
                    let same = std::ptr::eq(trace, &*subject.trace);
                    if same { Some(pos) } else { subject.alignment.get(pos).copied().flatten() }
                };
                Payload::Attribution(subject.ask(|trace| match aligned(trace) {
                    Some(p) => direct_attribution(trace, p, answer, wrong),
                    None => Err(Error::request("this token has no counterpart in the other prompt; pin another one")),
                })?)
            }
            Self::Backup { before, after, pos, answer, wrong } => {
                let before = direct_attribution(&before, pos, answer, wrong)?;
                Payload::Backup(changes(&before, &direct_attribution(&after, pos, answer, wrong)?))
            }
            Self::Thumbnails { subject } => Payload::Thumbnails(subject.ask(|trace| thumbnails(trace, progress))?),
            Self::Lens { subject, answer, wrong } => {
                let minus = match &subject.minus {
                    Some(trace) => Some(logit_lens(trace, &[], answer, wrong, progress, |_| {})?),
                    None => None,
                };
                let with = |now: Lens, minus| Compared { now, minus, alignment: subject.alignment.clone() };
                let lens = logit_lens(&subject.trace, &[], answer, wrong, progress, |l| {
                    if minus.is_none() {
                        partial(Payload::Lens(with(l.clone(), None)));
                    }
                })?;
                Payload::Lens(with(lens, minus))
            }
            Self::Norms { subject } => Payload::Norms(subject.ask(|trace| norms(trace, progress))?),
            Self::Neurons { subject, layer, statistic, limit } => {
                let now = neurons(&subject.trace, layer, statistic, limit)?;
                let minus = subject.minus.as_deref().map(|trace| now.again(trace)).transpose()?;
                Payload::Neurons(Compared { now, minus, alignment: subject.alignment })
            }
            Self::Geometry { model, directions, chosen, known, dictionary } => Payload::Geometry(match known {
                Some(g) => g.choose(&model, dictionary.as_deref().map(|d| &d.w_dec), &chosen)?,
                None => {
                    feature_geometry(&model, directions, dictionary.as_deref().map(|d| &d.w_dec), &chosen, progress)?
                }
            }),
            Self::NeuronTokens { model, layer, neuron } => {
                Payload::NeuronTokens(neuron_tokens(&model, layer, neuron, 10)?)
            }
            Self::Projection { subject, settings } => {
                Payload::Projection(projection(&subject.trace, settings, progress)?)
            }
            Self::Sweep { pair, reference, question, cells, confirmed } => {
                let pair = pair.with_reference(&reference, progress)?;
                let mut sweep = Sweep::new(&pair, question, progress)?;
                if let Some(cells) = &cells {
                    sweep = sweep.only(cells);
                }
                let estimate = sweep.estimate();
                if estimate.seconds > ASK_FROM && !confirmed {
                    return Ok(Payload::Estimate(estimate));
                }
                partial(Payload::Estimate(estimate));
                Payload::Sweep(sweep.run(progress, |found| partial(Payload::Sweep(found.clone())))?)
            }
            Self::Approximation { pair, site, by, metric } => {
                let found = attribution_patching(&pair, metric, &[site], Freeze::default(), progress)?;
                Payload::Approximation(found.grid(&pair, site, by)?)
            }
            Self::TextScores { subject } => {
                Payload::TextScores(subject.ask(|trace| head_scores(trace, Measure::Detector, progress))?)
            }
            Self::Generate { base, edited, sampling, limit } => {
                let mut so_far = Generations { edited: edited.as_ref().map(|_| Vec::new()), ..Generations::default() };
                let mut last = Instant::now();
                let mut report = |so_far: &Generations| {
                    // As fast as anybody reads.
                    if last.elapsed().as_millis() > 40 {
                        last = Instant::now();
                        partial(Payload::Generated(so_far.clone()));
                    }
                };
                if let Some(edited) = &edited {
                    generate(&edited.model, &edited.ids, edited.edits(), sampling, limit, progress, |token| {
                        so_far.edited.get_or_insert_default().push(token);
                        report(&so_far);
                    })?;
                }
                generate(&base.model, &base.ids, base.edits(), sampling, limit, progress, |token| {
                    so_far.base.push(token);
                    report(&so_far);
                })?;
                so_far.done = true;
                Payload::Generated(so_far)
            }
            Self::Graph { trace, pos, target, attention } => {
                Payload::Graph(GraphOf { trace, pos, target, attention }.run(progress, &mut |_| {})?)
            }
            Self::OpenGraph { path } => Payload::Graph(GraphFileOf { path }.run(progress, &mut |_| {})?),
            Self::Drawing { shown, cut } => Payload::Drawing(DrawingOf { shown, cut }.run(progress, &mut |_| {})?),
            Self::Why { trace, layer, head, query, key } => {
                let why = why_head(&trace, layer, head, query, key, progress)?;
                partial(Payload::Why(why.clone(), None));
                progress.check()?;
                let ov = ov_circuit(&trace.model, layer, head, &trace.ids, progress)?;
                Payload::Why(why, Some(ov))
            }
            Self::Quality { question, .. } => {
                Payload::Quality(question.run(progress, &mut |t| partial(Payload::Quality(t)))?)
            }
            Self::Search { question, .. } => {
                let payload = |searching| match searching {
                    Searching::Step(step) => Payload::Searching(step),
                    Searching::Found(found) => Payload::Searched(*found),
                };
                payload(question.run(progress, &mut |s| partial(payload(s)))?)
            }
            Self::RandomScores { model } => {
                let n = RANDOM_LENGTH.min(model.config.n_ctx / 2);
                if n < 2 {
                    return Err(Error::request("this model's context is too short for head scores on random tokens"));
                }
                let trace = Trace::run(&model, repeated_random(model.config.d_vocab, n, 0), progress)?;
                let now = head_scores(&trace, Measure::Diagonal { n }, progress)?;
                Payload::RandomScores(Compared { now, minus: None, alignment: Arc::default() })
            }
        })
    }
}
