//! The number that a sweep measures at one position of each run: a logit, a logit difference, a probability, a rank, or
//! how far the prediction is from the clean run's (KL divergence).

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::engine::Trace;
use crate::engine::forward::overflow;
use crate::engine::kernels::math;
use crate::engine::logits::row_summary;
use crate::error::{Error, Result};
use crate::model::matrix::Matrix;
use crate::progress::Progress;

/// The metrics that the command line and the window offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    #[default]
    LogitDifference,
    Logit,
    Probability,
    Rank,
    Kl,
}

impl MetricKind {
    pub const ALL: [Self; 5] = [Self::LogitDifference, Self::Logit, Self::Probability, Self::Rank, Self::Kl];

    pub fn label(self) -> &'static str {
        match self {
            Self::LogitDifference => "logit difference",
            Self::Logit => "logit",
            Self::Probability => "probability",
            Self::Rank => "rank",
            Self::Kl => "KL to the clean run",
        }
    }

    /// Returns the spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogitDifference => "logit-difference",
            Self::Logit => "logit",
            Self::Probability => "probability",
            Self::Rank => "rank",
            Self::Kl => "kl",
        }
    }

    pub fn explain(self) -> &'static str {
        match self {
            Self::LogitDifference => "logit of the answer minus logit of the wrong answer",
            Self::Logit => "logit of the answer",
            Self::Probability => "probability of the answer",
            Self::Rank => "rank of the answer among all tokens; 0 is the most probable",
            Self::Kl => "KL divergence of the run's next-token distribution from the clean run's, nats",
        }
    }

    /// Makes the metric out of this kind and the tokens that it compares.
    ///
    /// # Errors
    /// The kind needs an answer or a wrong answer that is missing.
    pub fn with(self, answer: Option<u32>, wrong: Option<u32>) -> Result<Metric> {
        let answer = || {
            answer
                .ok_or_else(|| Error::request(format!("the metric `{}` needs an answer token; give one", self.label())))
        };
        Ok(match self {
            Self::LogitDifference => Metric::LogitDifference {
                answer: answer()?,
                wrong: wrong.ok_or_else(|| {
                    Error::request(
                        "a logit difference needs a wrong answer as well; give one, or choose another metric",
                    )
                })?,
            },
            Self::Logit => Metric::Logit { answer: answer()? },
            Self::Probability => Metric::Probability { answer: answer()? },
            Self::Rank => Metric::Rank { answer: answer()? },
            Self::Kl => Metric::Kl,
        })
    }
}

/// A metric with the tokens that it compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    LogitDifference {
        answer: u32,
        wrong: u32,
    },
    Logit {
        answer: u32,
    },
    Probability {
        answer: u32,
    },
    Rank {
        answer: u32,
    },
    /// KL(clean ‖ run)
    Kl,
}

impl Metric {
    pub fn kind(self) -> MetricKind {
        match self {
            Self::LogitDifference { .. } => MetricKind::LogitDifference,
            Self::Logit { .. } => MetricKind::Logit,
            Self::Probability { .. } => MetricKind::Probability,
            Self::Rank { .. } => MetricKind::Rank,
            Self::Kl => MetricKind::Kl,
        }
    }

    /// Returns the tokens whose logits it needs.
    pub fn tokens(self) -> Vec<u32> {
        match self {
            Self::LogitDifference { answer, wrong } => vec![answer, wrong],
            Self::Logit { answer } | Self::Probability { answer } | Self::Rank { answer } => vec![answer],
            Self::Kl => Vec::new(),
        }
    }
}

/// Number of rows that are unembedded together when the whole vocabulary is needed.
const ROWS: usize = 64;

/// A metric made ready for one model: it holds the columns of the unembedding that it needs, and no more.
pub struct Readout<'a> {
    trace: &'a Trace,
    pub metric: Metric,
    columns: Option<(Matrix, Option<Tensor>)>,
    /// The clean run's log-probabilities, for the KL divergence.
    clean: Vec<f32>,
}

impl<'a> Readout<'a> {
    /// Prepares the metric. `clean` is the run and the position that a KL divergence compares with.
    ///
    /// # Errors
    /// A token lies outside the vocabulary.
    pub fn new(metric: Metric, clean: &'a Trace, pos: usize) -> Result<Self> {
        let network = clean.model.network();
        let tokens = metric.tokens();
        if !tokens.is_empty() {
            network.check(&tokens)?;
        }
        let columns = match metric {
            Metric::LogitDifference { .. } | Metric::Logit { .. } => Some(network.unembed_columns(&tokens)?),
            _ => None,
        };
        let mut readout = Self { trace: clean, metric, columns, clean: Vec::new() };
        if metric == Metric::Kl {
            let logits = network.unembed(&clean.normalized(pos)?)?.flatten_all()?.to_vec1::<f32>()?;
            let log_sum = row_summary(&logits, 0, &[]).log_sum;
            readout.clean = logits.into_iter().map(|l| l - log_sum).collect();
        }
        Ok(readout)
    }

    /// Returns the metric of a finished run at `pos`.
    pub fn of(&self, trace: &Trace, pos: usize) -> Result<f32> {
        self.read(&trace.normalized(pos)?, &Progress::new())?
            .first()
            .copied()
            .ok_or_else(|| Error::failed("a readout of no row"))
    }

    /// Returns the metric of each normalised final residual row of [n, d_model].
    ///
    /// # Errors
    /// [`Error::Cancelled`], between strips of the vocabulary product.
    pub fn read(&self, normalized: &Tensor, progress: &Progress) -> Result<Vec<f32>> {
        let network = self.trace.model.network();
        if let Some((columns, bias)) = &self.columns {
            let logits: Vec<Vec<f32>> = network.logits_by(normalized, columns, bias.as_ref())?.to_vec2()?;
            if logits.iter().flatten().any(|l| !l.is_finite()) {
                return Err(overflow("a logit of the answers"));
            }
            return Ok(logits
                .iter()
                .map(|row| match row[..] {
                    [answer, wrong, ..] => answer - wrong,
                    [answer] => answer,
                    [] => f32::NAN,
                })
                .collect());
        }
        let n = normalized.dim(0)?;
        let mut out = Vec::with_capacity(n);
        for first in (0..n).step_by(ROWS) {
            progress.check()?;
            let rows = network.unembed(&normalized.narrow(0, first, ROWS.min(n - first))?)?;
            let width = rows.dim(1)?;
            let values = rows.flatten_all()?.to_vec1::<f32>()?;
            let read: Vec<f32> = values.par_chunks_exact(width).map(|row| self.read_row(row)).collect();
            out.extend(read);
        }
        Ok(out)
    }

    /// Returns the metric of one normalised row [1, d_model] as a scalar that can be differentiated.
    ///
    /// # Errors
    /// The metric is a rank, which has no gradient.
    pub fn differentiable(&self, normalized: &Tensor) -> Result<Tensor> {
        let network = self.trace.model.network();
        if let Some((columns, bias)) = &self.columns {
            let logits = network.logits_by(normalized, columns, bias.as_ref())?.flatten_all()?;
            return Ok(match self.metric {
                Metric::LogitDifference { .. } => (logits.get(0)? - logits.get(1)?)?,
                _ => logits.get(0)?,
            });
        }
        let logits = network.unembed(normalized)?;
        let log_probs = candle_nn::ops::log_softmax(&logits, 1)?.flatten_all()?;
        match self.metric {
            Metric::Probability { answer } => Ok(log_probs.get(answer as usize)?.exp()?),
            Metric::Kl => {
                let clean = Tensor::from_slice(&self.clean, self.clean.len(), normalized.device())?;
                Ok((clean.exp()? * (clean - log_probs)?)?.sum_all()?)
            }
            _ => Err(Error::request("a rank has no gradient; choose logit difference, logit, probability or KL")),
        }
    }

    fn read_row(&self, logits: &[f32]) -> f32 {
        let summary = row_summary(logits, 0, &self.metric.tokens());
        match (self.metric, summary.asked.first()) {
            (Metric::Probability { .. }, Some((logit, _))) => summary.prob(*logit),
            (Metric::Rank { .. }, Some((_, rank))) => *rank as f32,
            (Metric::Kl, _) => {
                let log_sum = f64::from(summary.log_sum);
                let total: f64 = math::simd(|| {
                    self.clean
                        .iter()
                        .zip(logits)
                        .map(|(p, l)| f64::from(math::exp(*p)) * (f64::from(*p) - (f64::from(*l) - log_sum)))
                        .sum()
                });
                total.max(0.0) as f32
            }
            _ => f32::NAN,
        }
    }
}
