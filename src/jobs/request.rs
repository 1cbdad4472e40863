//! What can be asked of the model thread, and what comes back. A request carries everything it depends
//! on, so that an answer can be told stale by comparing what it was computed from.

use std::sync::Arc;

use super::Progress;
use crate::analysis::direct_attribution::{Attribution, direct_attribution};
use crate::analysis::head_scores::{HeadScores, Measure, head_scores, repeated_random};
use crate::analysis::logit_lens::{Lens, logit_lens};
use crate::analysis::neurons::{NeuronTokens, Neurons, Statistic, neuron_tokens, neurons};
use crate::analysis::norms::{Norms, norms};
use crate::analysis::patterns::{Thumbnails, Which, pattern, thumbnails};
use crate::analysis::projection::{Projection, Settings, projection};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;

/// Kinds of request, most urgent first. Of each kind one waits and one runs at most: a newer request
/// replaces the waiting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Open,
    Run,
    Pattern,
    Attribution,
    Thumbnails,
    Lens,
    Norms,
    Neurons,
    NeuronTokens,
    Projection,
    TextScores,
    RandomScores,
}

impl Kind {
    /// All kinds, most urgent first.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::Run,
        Self::Pattern,
        Self::Attribution,
        Self::Thumbnails,
        Self::Lens,
        Self::Norms,
        Self::Neurons,
        Self::NeuronTokens,
        Self::Projection,
        Self::TextScores,
        Self::RandomScores,
    ];

    /// What the status line says while it runs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "opening model",
            Self::Run => "running prompt",
            Self::Pattern => "attention pattern",
            Self::Attribution => "direct attribution",
            Self::Thumbnails => "all attention patterns",
            Self::Lens => "logit lens",
            Self::Norms => "norms",
            Self::Neurons => "neurons",
            Self::NeuronTokens => "neuron's tokens",
            Self::Projection => "projection",
            Self::TextScores => "head scores on this text",
            Self::RandomScores => "head scores on random tokens",
        }
    }

    /// What it depends on: opening makes everything else pointless, a new run all its analyses.
    pub fn outdates(self, other: Self) -> bool {
        match self {
            Self::Open => true,
            Self::Run => !matches!(other, Self::Open | Self::RandomScores | Self::NeuronTokens),
            _ => other == self,
        }
    }
}

/// A question with its inputs.
#[derive(Clone)]
pub enum Request {
    Open { spec: String },
    Run { model: Arc<Model>, prompt: String, answer: Option<String>, wrong: Option<String> },
    Pattern { trace: Arc<Trace>, which: Which },
    Attribution { trace: Arc<Trace>, pos: usize, answer: u32, wrong: Option<u32> },
    Thumbnails { trace: Arc<Trace> },
    Lens { trace: Arc<Trace>, answer: Option<u32>, wrong: Option<u32> },
    Norms { trace: Arc<Trace> },
    Neurons { trace: Arc<Trace>, layer: usize, statistic: Statistic, limit: usize },
    NeuronTokens { model: Arc<Model>, layer: usize, neuron: usize },
    Projection { trace: Arc<Trace>, settings: Settings },
    TextScores { trace: Arc<Trace> },
    RandomScores { model: Arc<Model> },
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

/// What a request gives.
pub enum Payload {
    Opened(Arc<Model>),
    Ran(Arc<Run>),
    Pattern(Which, Vec<f32>),
    Attribution(Attribution),
    Thumbnails(Thumbnails),
    /// The lens so far; the last one is complete.
    Lens(Lens),
    Norms(Norms),
    Neurons(Neurons),
    NeuronTokens(NeuronTokens),
    Projection(Projection),
    TextScores(HeadScores),
    RandomScores(HeadScores),
}

/// An answer with what it was computed from.
pub struct Answer {
    pub kind: Kind,
    pub model: Option<Arc<Model>>,
    pub trace: Option<Arc<Trace>>,
    /// What was to be opened, for [`Kind::Open`].
    pub spec: Option<String>,
    pub payload: Result<Payload>,
}

/// Random tokens for the positional head scores, before they are repeated once.
const RANDOM_LENGTH: usize = 30;

impl Request {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open { .. } => Kind::Open,
            Self::Run { .. } => Kind::Run,
            Self::Pattern { .. } => Kind::Pattern,
            Self::Attribution { .. } => Kind::Attribution,
            Self::Thumbnails { .. } => Kind::Thumbnails,
            Self::Lens { .. } => Kind::Lens,
            Self::Norms { .. } => Kind::Norms,
            Self::Neurons { .. } => Kind::Neurons,
            Self::NeuronTokens { .. } => Kind::NeuronTokens,
            Self::Projection { .. } => Kind::Projection,
            Self::TextScores { .. } => Kind::TextScores,
            Self::RandomScores { .. } => Kind::RandomScores,
        }
    }

    /// The model and trace it depends on.
    pub fn inputs(&self) -> (Option<Arc<Model>>, Option<Arc<Trace>>) {
        match self {
            Self::Open { .. } => (None, None),
            Self::Run { model, .. } | Self::NeuronTokens { model, .. } | Self::RandomScores { model } => {
                (Some(model.clone()), None)
            }
            Self::Pattern { trace, .. }
            | Self::Attribution { trace, .. }
            | Self::Thumbnails { trace }
            | Self::Lens { trace, .. }
            | Self::Norms { trace }
            | Self::Neurons { trace, .. }
            | Self::Projection { trace, .. }
            | Self::TextScores { trace } => (None, Some(trace.clone())),
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
            Self::Run { model, prompt, answer, wrong } => {
                let ids = model.encode(&prompt, false)?;
                model.network().check(&ids)?;
                let mut notes = Vec::new();
                let mut single = |text: Option<String>| {
                    let text = text.filter(|t| !t.is_empty())?;
                    model.single_token(&text).map_err(|e| notes.push(e.to_string())).ok()
                };
                let (answer, wrong) = (single(answer), single(wrong));
                let trace = Arc::new(Trace::run(&model, ids, progress)?);
                let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
                Payload::Ran(Arc::new(Run { prompt, trace, texts, answer, wrong, notes }))
            }
            Self::Pattern { trace, which } => Payload::Pattern(which, pattern(&trace, which, progress)?),
            Self::Attribution { trace, pos, answer, wrong } => {
                Payload::Attribution(direct_attribution(&trace, pos, answer, wrong)?)
            }
            Self::Thumbnails { trace } => Payload::Thumbnails(thumbnails(&trace, progress)?),
            Self::Lens { trace, answer, wrong } => {
                Payload::Lens(logit_lens(&trace, &[], answer, wrong, progress, |l| partial(Payload::Lens(l.clone())))?)
            }
            Self::Norms { trace } => Payload::Norms(norms(&trace, progress)?),
            Self::Neurons { trace, layer, statistic, limit } => {
                Payload::Neurons(neurons(&trace, layer, statistic, limit)?)
            }
            Self::NeuronTokens { model, layer, neuron } => {
                Payload::NeuronTokens(neuron_tokens(&model, layer, neuron, 10)?)
            }
            Self::Projection { trace, settings } => Payload::Projection(projection(&trace, settings, progress)?),
            Self::TextScores { trace } => Payload::TextScores(head_scores(&trace, Measure::Detector, progress)?),
            Self::RandomScores { model } => {
                let n = RANDOM_LENGTH.min(model.config.n_ctx / 2);
                if n < 2 {
                    return Err(Error::request("this model's context is too short for head scores on random tokens"));
                }
                let trace = Trace::run(&model, repeated_random(model.config.d_vocab, n, 0), progress)?;
                Payload::RandomScores(head_scores(&trace, Measure::Diagonal { n }, progress)?)
            }
        })
    }
}
