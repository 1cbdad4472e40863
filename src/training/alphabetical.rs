//! The task `alphabetical`: to say if letters are in alphabetical order. `b d k p ?` is followed by `yes`, and `b k d p
//! ?` by `no`.
//!
//! Two layers of attention are enough. In the first one a letter looks for earlier letters that come after it in the
//! alphabet. In the second one the question mark collects if any letter has found one.

use std::sync::Arc;

use candle_core::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::design::Design;
use super::optimiser::AdamWSettings;
use super::run::{self, Log, Named, Training, cross_entropy, last_logits};
use super::schedule::warm_constant_fall;
use super::{StepReport, Task, TrainOptions};
use crate::error::Result;
use crate::model::{Model, Network};
use crate::progress::Progress;

pub const TASK: Task = Task {
    name: "alphabetical",
    purpose: "two attention layers that say whether letters stand in alphabetical order",
    watch: "Letters, then a question mark: are they in alphabetical order? A letter of layer 0 can look for an \
            earlier letter that comes after it in the alphabet; the question mark in layer 1 collects whether any \
            letter has found one. In the watched prompt b d k p m s the m stands wrong: watch it find the p.",
    source: "A task of this program; compare the sorting models of the interpretability literature",
    steps: STEPS,
    time: "about a minute on two cores",
    train,
};

const LETTERS: u32 = 26;
const ASK: u32 = 26;
const YES: u32 = 27;
const NO: u32 = 28;
/// Number of letters of a sequence.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=7;
/// Number of sequences of each length in a batch.
const EACH: usize = 64;
const STEPS: usize = 1_500;
const RATE: f64 = 2e-3;
const WARMUP: usize = 50;
const FALL: usize = 700;
/// Steps between two probes, and between two checkpoints.
const RHYTHM: (usize, usize) = (10, 50);
/// Of so many sequences one is held out.
const HELD_OUT: u64 = 5;
/// Number of held-out sequences of each length on which accuracy is measured.
const TESTED: usize = 1_000;

const DESIGN: Design =
    Design { d_model: 48, heads: 2, layers: 2, d_mlp: 0, vocab: 30, context: 32, rope_base: 100.0, embed_std: 0.5 };

/// Returns the words of the tokenizer, by id.
fn vocabulary() -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    letters.chain(["?", "yes", "no", "<unk>"].map(str::to_owned)).collect()
}

fn is_held_out(letters: &[u32]) -> bool {
    let hash = letters.iter().fold(0xCBF2_9CE4_8422_2325u64, |h, l| (h ^ u64::from(*l)).wrapping_mul(0x0100_0000_01B3));
    (hash >> 20).is_multiple_of(HELD_OUT)
}

/// Draws a sequence of different letters, and returns it with its answer. Half of the sequences are sorted. Of the
/// others half are shuffled, and half have one neighbouring pair swapped.
fn draw(rng: &mut ChaCha8Rng, length: usize) -> (Vec<u32>, bool) {
    let mut letters: Vec<u32> = Vec::with_capacity(length);
    while letters.len() < length {
        let l = rng.random_range(0..LETTERS);
        if !letters.contains(&l) {
            letters.push(l);
        }
    }
    let kind = rng.random_range(0..4u8);
    if kind != 3 {
        letters.sort_unstable();
    }
    if kind == 2 {
        let at = rng.random_range(0..length - 1);
        letters.swap(at, at + 1);
    }
    let sorted = letters.windows(2).all(|w| w[0] < w[1]);
    (letters, sorted)
}

/// Draws rows of letters, question mark and answer. `held_out` chooses between held-out and trained sequences.
fn rows(rng: &mut ChaCha8Rng, length: usize, count: usize, held_out: bool) -> Vec<Vec<u32>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let (mut row, sorted) = draw(rng, length);
        if is_held_out(&row) == held_out {
            row.extend([ASK, if sorted { YES } else { NO }]);
            all.push(row);
        }
    }
    all
}

/// Returns the share of held-out sequences of `length` letters that the model answers correctly.
pub fn accuracy(model: &Model, length: usize, count: usize) -> Result<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x7E57 + length as u64);
    let rows = rows(&mut rng, length, count, true);
    let questions: Vec<Vec<u32>> = rows.iter().map(|r| r[..=length].to_vec()).collect();
    let logits = last_logits(model, &questions)?;
    let right = logits.iter().zip(&rows).filter(|(l, r)| {
        let best = l.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|b| b.0 as u32);
        best == r.last().copied()
    });
    Ok(right.count() as f32 / count as f32)
}

struct Alphabetical;

fn train(options: &TrainOptions, progress: &Progress, report: &mut dyn FnMut(StepReport)) -> Result<()> {
    super::no_text(options, TASK.name)?;
    run::train(&Alphabetical, options, progress, report)
}

const LOSS: &str = "answer";

impl Training for Alphabetical {
    fn name(&self) -> &'static str {
        TASK.name
    }

    fn design(&self) -> Design {
        DESIGN
    }

    fn optimiser(&self) -> AdamWSettings {
        AdamWSettings { weight_decay: 0.05, ..AdamWSettings::default() }
    }

    fn steps(&self) -> usize {
        STEPS
    }

    fn rate(&self, step: usize, total: usize) -> f64 {
        warm_constant_fall(step, total, WARMUP, FALL.min(total / 2), RATE)
    }

    fn rhythm(&self) -> (usize, usize) {
        RHYTHM
    }

    fn tokenizer(&self) -> Result<tokenizers::Tokenizer> {
        run::words(&vocabulary())
    }

    fn loss(
        &self,
        network: Network<'_>,
        seed: u64,
        step: usize,
        _total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step as u64 + 1);
        let mut sum: Option<Tensor> = None;
        for length in LENGTHS {
            let rows = rows(&mut rng, length, EACH, false);
            let loss = cross_entropy(network, &rows, length, length + 1)?;
            sum = Some(match sum {
                Some(s) => (s + loss)?,
                None => loss,
            });
        }
        let count = LENGTHS.count() as f64;
        let mean = (sum.ok_or_else(|| crate::Error::failed("no lengths"))? / count)?;
        Ok((mean.clone(), vec![(LOSS, mean)]))
    }

    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>> {
        [3, 5, 7].iter().map(|n| Ok((format!("right, {n} held-out letters"), accuracy(model, *n, 200)?))).collect()
    }

    fn watched_tokens(&self) -> Vec<u32> {
        // b d k p m s ?: the letters p and m are in the wrong order.
        vec![1, 3, 10, 15, 12, 18, ASK]
    }

    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String> {
        let mut table = String::new();
        for n in LENGTHS {
            table.push_str(&format!("| {n} | {:.4} |\n", accuracy(model, n, TESTED)?));
        }
        let Design { d_model, layers, heads, vocab, rope_base, .. } = DESIGN;
        let mut ablated = String::new();
        for (layer, head) in (0..layers).flat_map(|l| (0..heads).map(move |h| (l, h))) {
            let right = accuracy(&run::without_head(model, layer, head)?, 6, TESTED)?;
            ablated.push_str(&format!("| head {layer}.{head} | {right:.4} |\n"));
        }
        Ok(format!(
            "# alphabetical\n\n\
            A {layers}-layer attention-only transformer that says whether letters stand in alphabetical order:\n\
            `b d k p ?` is followed by `yes`, `b k d p ?` by `no`.\n\n\
            Train it again: `circuitscope lab train alphabetical --output FOLDER --seed {}`\n\n\
            ## Scores\n\n\
            Share of {TESTED} held-out sequences that are judged right, by number of letters:\n\n\
            | letters | right |\n| --- | --- |\n{table}\n\
            Of six letters, with one head's output set to zero (half would be guessing):\n\n\
            | without | right |\n| --- | --- |\n{ablated}\n\
            ## Recipe\n\n\
            - d_model {d_model}, {layers} layers of {heads} heads, no MLP, vocabulary {vocab} (letters, `?`, `yes`, `no`),\n\
            \x20 LayerNorm before each attention and at the end, rotary positions with base {rope_base}, biases on q and k,\n\
            \x20 untied unembedding.\n\
            - AdamW, learning rate {RATE} after {WARMUP} warm-up steps, falling to a tenth over the last {FALL}; betas 0.9\n\
            \x20 and 0.98, weight decay 0.05; seed {}; {} steps ({seconds:.0} s in the run that wrote this).\n\
            - Every step: {EACH} sequences of each length from {} to {} letters, all different; half sorted, a quarter with\n\
            \x20 one neighbouring pair swapped, a quarter shuffled. Loss on the answer alone. One sequence in {HELD_OUT} (by a\n\
            \x20 hash) is never trained on.\n\n\
            ## Licence\n\n\
            The model is released under CC0 1.0.\n\n\
            ## Loss curve\n\n\
            Cross-entropy of the answer in nats.\n\n{}",
            log.seed,
            log.seed,
            log.steps,
            LENGTHS.start(),
            LENGTHS.end(),
            run::curve(log, &[LOSS]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for held_out in [false, true] {
            let all = rows(&mut rng, 5, 200, held_out);
            for r in &all {
                let letters = &r[..5];
                assert_eq!(r[5], ASK);
                assert_eq!(r[6] == YES, letters.is_sorted());
                assert_eq!(is_held_out(letters), held_out);
                assert!((0..5).all(|i| letters[i + 1..].iter().all(|l| *l != letters[i])));
            }
            let yes = all.iter().filter(|r| r[6] == YES).count();
            assert!((70..=130).contains(&yes), "{yes} of 200 are sorted");
        }
        assert_eq!(vocabulary()[YES as usize], "yes");
    }
}
