//! Scores that say what kind of head each head is, by layer and head.
//!
//! Many heads do a simple job that is visible in their attention pattern: a *previous token* head looks one token back,
//! a *duplicate token* head looks at earlier copies of the current token, and an *induction* head looks at the token
//! that followed an earlier copy, which it then predicts [Olsson et al. 2022]. Two more scores describe any pattern:
//! its entropy and the mean distance it looks back.
//!
//! There are two ways to measure the first three:
//! - On random tokens that are repeated once (n tokens, twice) the score is the mean attention along one diagonal of
//!   the pattern: 1 back for previous token, n back for duplicate token, n − 1 back for induction.
//! - On any text it is TransformerLens' head detector with `error_measure = "mul"`: Σ(A ⊙ D) / ΣA for the pattern A and
//!   a detection pattern D.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::subject::{Compared, Subject};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use std::sync::Arc;

/// All scores, in the order of lists and menus.
pub const SCORES: [Score; 5] = [Score::Previous, Score::Duplicate, Score::Induction, Score::Entropy, Score::Distance];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Previous,
    Duplicate,
    Induction,
    Entropy,
    Distance,
}

impl Score {
    pub fn name(self) -> &'static str {
        match self {
            Self::Previous => "previous",
            Self::Duplicate => "duplicate",
            Self::Induction => "induction",
            Self::Entropy => "entropy",
            Self::Distance => "distance",
        }
    }

    pub fn explain(self) -> &'static str {
        match self {
            Self::Previous => "share of attention on the token just before",
            Self::Duplicate => "share of attention on earlier copies of the same token",
            Self::Induction => "share of attention on what followed earlier copies of the same token",
            Self::Entropy => "mean entropy of the attention pattern, nats",
            Self::Distance => "attention-weighted distance to the attended token, positions",
        }
    }
}

/// The way in which the first three scores are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// By the mean along a diagonal, on n random tokens repeated once.
    Diagonal { n: usize },
    /// By detection patterns, on any text.
    Detector,
}

/// The scores of every head: values[score][layer][head], with scores in the order of [`SCORES`].
#[derive(Clone, Debug)]
pub struct HeadScores {
    pub measure: Measure,
    pub values: [Vec<Vec<f32>>; 5],
}

impl HeadScores {
    pub fn get(&self, score: Score, layer: usize, head: usize) -> f32 {
        self.values[score as usize].get(layer).and_then(|l| l.get(head)).copied().unwrap_or(f32::NAN)
    }
}

/// Returns `n` random tokens, twice. The same seed gives the same tokens on every machine.
pub fn repeated_random(d_vocab: usize, n: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let half: Vec<u32> = (0..n).map(|_| rng.random_range(0..d_vocab as u32)).collect();
    [half.clone(), half].concat()
}

/// Returns n where `ids` are n tokens repeated once.
pub fn repeat_length(ids: &[u32]) -> Option<usize> {
    let n = ids.len() / 2;
    (n >= 2 && ids.len() == 2 * n && ids[..n] == ids[n..]).then_some(n)
}

/// Scores every head of a run.
pub fn head_scores(trace: &Trace, measure: Measure, progress: &Progress) -> Result<HeadScores> {
    let n_layers = trace.model.config.n_layers;
    progress.expect(n_layers as u64);
    let mut values: [Vec<Vec<f32>>; 5] = Default::default();
    for layer in 0..n_layers {
        let per_head = trace.each_pattern(layer, |pattern| score_pattern(pattern, &trace.ids, measure))?;
        for (score, by_layer) in values.iter_mut().enumerate() {
            by_layer.push(per_head.iter().map(|s| s[score]).collect());
        }
        progress.step(1)?;
    }
    Ok(HeadScores { measure, values })
}

/// Returns the five scores of one pattern [dest, src].
fn score_pattern(pattern: &[f32], ids: &[u32], measure: Measure) -> [f32; 5] {
    let t = ids.len();
    let at = |i: usize, j: usize| pattern[i * t + j];
    let diagonal = |offset: usize| {
        let n = t.saturating_sub(offset);
        if n == 0 { f32::NAN } else { (offset..t).map(|i| at(i, i - offset)).sum::<f32>() / n as f32 }
    };
    let (previous, duplicate, induction) = match measure {
        Measure::Diagonal { n } => (diagonal(1), diagonal(n), diagonal(n - 1)),
        Measure::Detector => {
            let (mut previous, mut duplicate, mut induction) = (0f64, 0f64, 0f64);
            for i in 1..t {
                previous += f64::from(at(i, i - 1));
                for j in 0..i {
                    if ids[j] == ids[i] {
                        duplicate += f64::from(at(i, j));
                    }
                    // Column j of the shifted pattern is column j − 1 of the duplicate one.
                    if j > 0 && ids[j - 1] == ids[i] {
                        induction += f64::from(at(i, j));
                    }
                }
                // Here j = i: the token just before is a copy of this one.
                if ids[i - 1] == ids[i] {
                    induction += f64::from(at(i, i));
                }
            }
            let total: f64 = pattern.iter().map(|v| f64::from(*v)).sum();
            ((previous / total) as f32, (duplicate / total) as f32, (induction / total) as f32)
        }
    };
    let (mut entropy, mut distance) = (0f64, 0f64);
    for i in 0..t {
        for j in 0..=i {
            let a = f64::from(at(i, j));
            if a > 0.0 {
                entropy -= a * a.ln();
                distance += a * (i - j) as f64;
            }
        }
    }
    [previous, duplicate, induction, (entropy / t as f64) as f32, (distance / t as f64) as f32]
}

/// Asks for the scores of all heads on a text.
#[derive(Clone, PartialEq)]
pub struct TextScoresOf {
    pub subject: Subject,
}

impl Question for TextScoresOf {
    type Answer = Compared<HeadScores>;
    const LABEL: &'static str = "head scores on this text";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.subject.ask(|trace| head_scores(trace, Measure::Detector, progress))
    }
}

/// Random tokens for the positional head scores, before they are repeated once.
const RANDOM_LENGTH: usize = 30;

/// Asks for the positional scores of all heads on random tokens that are repeated once.
#[derive(Clone, PartialEq)]
pub struct RandomScoresOf {
    pub model: Arc<Model>,
}

impl Question for RandomScoresOf {
    type Answer = HeadScores;
    const LABEL: &'static str = "head scores on random tokens";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let config = &self.model.config;
        let n = RANDOM_LENGTH.min(config.n_ctx / 2);
        if n < 2 {
            return Err(Error::request("this model's context is too short for head scores on random tokens"));
        }
        let trace = Trace::run(&self.model, repeated_random(config.d_vocab, n, 0), progress)?;
        head_scores(&trace, Measure::Diagonal { n }, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagonals_of_a_perfect_induction_head() {
        // Tokens 7 8 7 8, n = 2: induction looks back n − 1 = 1, which is also the previous token.
        let ids = [7, 8, 7, 8];
        let mut pattern = vec![0f32; 16];
        for (i, j) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
            pattern[i * 4 + j] = 1.0;
        }
        let s = score_pattern(&pattern, &ids, Measure::Diagonal { n: 2 });
        assert_eq!(s, [1.0, 0.0, 1.0, 0.0, 0.75]);
    }

    #[test]
    fn detector_by_hand() {
        // Tokens a b a: query 2 gives 0.5 to the earlier a (duplicate), 0.25 to b, which followed it
        // (induction, and the previous token), 0.25 to itself. Query 1 gives 1 to the a before it.
        let pattern = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.25, 0.25];
        let s = score_pattern(&pattern, &[1, 2, 1], Measure::Detector);
        for (got, want) in s.iter().zip([1.25 / 3.0, 0.5 / 3.0, 0.25 / 3.0]) {
            assert!((got - want).abs() < 1e-6, "{s:?}");
        }
    }

    #[test]
    fn random_tokens_repeat() {
        let ids = repeated_random(100, 20, 7);
        assert_eq!(repeat_length(&ids), Some(20));
        assert_eq!(ids, repeated_random(100, 20, 7));
        assert_eq!(repeat_length(&[1, 2, 3]), None);
    }
}
