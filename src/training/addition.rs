//! The task `addition`: modular addition [Power et al. 2022; Nanda et al. 2023]. `a + b =` is followed by (a + b) mod
//! p.
//!
//! The model first knows the trained pairs by heart. Long after that it finds the rule and answers the held-out pairs
//! as well ("grokking"). The finished model turns numbers into waves of a few key frequencies, and adds their angles.

use std::sync::Arc;

use candle_core::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::design::Design;
use super::optimiser::AdamWSettings;
use super::run::{self, Log, Named, Training, cross_entropy, last_logits};
use super::{StepReport, Task, TrainOptions};
use crate::error::{Error, Result};
use crate::model::{Model, Network};
use crate::progress::Progress;

pub const TASK: Task = Task {
    name: "addition",
    purpose: "one layer that learns to add modulo 59: first by heart, then by adding angles",
    watch: "a + b modulo 59, trained on half of all pairs. Soon all of those are right and none of the others: the model \
            knows them by heart. Weight decay goes on pulling, and thousands of steps later the held-out pairs turn \
            right as well: it has found a rule. The Fourier view shows which: numbers become waves of a few \
            frequencies, and adding is turning.",
    source: "Power et al. 2022, Grokking; Nanda et al. 2023, Progress Measures for Grokking via Mechanistic \
             Interpretability",
    steps: STEPS,
    time: "about ten minutes on two idle cores",
    train,
};

/// The modulus, a prime.
pub const P: usize = 59;
const PLUS: u32 = P as u32;
const EQUALS: u32 = P as u32 + 1;
/// Share of all pairs that are trained on.
const TRAINED: f32 = 0.5;
const STEPS: usize = 7_000;
const RATE: f64 = 1e-3;
const WARMUP: usize = 10;
const WEIGHT_DECAY: f64 = 1.5;
/// Steps between two probes, and between two checkpoints.
const RHYTHM: (usize, usize) = (50, 250);

const DESIGN: Design = Design {
    d_model: 32,
    heads: 4,
    layers: 1,
    d_mlp: 128,
    vocab: P + 3,
    context: 16,
    rope_base: 10_000.0,
    embed_std: 0.1,
};

fn vocabulary() -> Vec<String> {
    (0..P).map(|n| n.to_string()).chain(["+", "=", "<unk>"].map(str::to_owned)).collect()
}

fn row(a: usize, b: usize) -> Vec<u32> {
    vec![a as u32, PLUS, b as u32, EQUALS, ((a + b) % P) as u32]
}

/// Returns the pairs that are trained on, and those that are held out.
fn split(seed: u64) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut all: Vec<Vec<u32>> = (0..P * P).map(|k| row(k / P, k % P)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(0x0ADD);
    all.shuffle(&mut rng);
    let held_out = all.split_off((TRAINED * all.len() as f32) as usize);
    (all, held_out)
}

/// Returns the share of rows that are answered correctly, and their mean loss in nats.
fn measure(model: &Model, rows: &[Vec<u32>]) -> Result<(f32, f32)> {
    let questions: Vec<Vec<u32>> = rows.iter().map(|r| r[..4].to_vec()).collect();
    let (mut right, mut loss) = (0usize, 0f64);
    for (l, r) in last_logits(model, &questions)?.iter().zip(rows) {
        let max = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = l.iter().map(|v| f64::from(v - max).exp()).sum();
        let answer = l[r[4] as usize];
        right += usize::from(answer >= max);
        loss += sum.ln() - f64::from(answer - max);
    }
    Ok((right as f32 / rows.len() as f32, (loss / rows.len() as f64) as f32))
}

/// Returns the accuracy on held-out pairs of a finished model that was trained with `seed`.
pub fn held_out_accuracy(model: &Model, seed: u64) -> Result<f32> {
    Ok(measure(model, &split(seed).1)?.0)
}

/// The frequencies that the model uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Fourier {
    /// For each frequency k = 1..=(p−1)/2 the share of the number embeddings' variance that lies in cos 2πkn/p and
    /// sin 2πkn/p.
    pub embedding: Vec<f32>,
    /// For each frequency the share of the logits' variance, over all a, b and c, that lies in cos 2πk(a + b − c)/p.
    pub logits: Vec<f32>,
}

/// A frequency with at least this share of the logits' variance is a key frequency.
pub const KEY: f32 = 0.04;

impl Fourier {
    /// Returns the frequencies that carry the answer, the one with the largest share first.
    pub fn key_frequencies(&self) -> Vec<usize> {
        let mut list: Vec<usize> = (0..self.logits.len()).filter(|k| self.logits[*k] >= KEY).collect();
        list.sort_by(|a, b| self.logits[*b].total_cmp(&self.logits[*a]));
        list.into_iter().map(|k| k + 1).collect()
    }
}

/// Returns each frequency's share of the variance of `rows`, [p][d_model].
fn spectrum(rows: &[Vec<f32>]) -> Vec<f32> {
    let p = rows.len();
    let d = rows.first().map_or(0, Vec::len);
    let mut total = 0f64;
    let mut power = vec![0f64; (p - 1) / 2];
    for j in 0..d {
        let mean = rows.iter().map(|r| f64::from(r[j])).sum::<f64>() / p as f64;
        total += rows.iter().map(|r| (f64::from(r[j]) - mean).powi(2)).sum::<f64>();
        for (k, out) in power.iter_mut().enumerate() {
            let (mut c, mut s) = (0.0, 0.0);
            for (n, r) in rows.iter().enumerate() {
                let angle = 2.0 * std::f64::consts::PI * ((k + 1) * n % p) as f64 / p as f64;
                c += f64::from(r[j]) * angle.cos();
                s += f64::from(r[j]) * angle.sin();
            }
            *out += (c * c + s * s) * 2.0 / p as f64;
        }
    }
    power.iter().map(|v| (v / total.max(f64::MIN_POSITIVE)) as f32).collect()
}

/// Returns the spectra of a model of this task.
///
/// # Errors
/// Returns an error if the model is not one of this task, or if a run fails.
pub fn fourier(model: &Model) -> Result<Fourier> {
    if model.config.d_vocab < P {
        return Err(Error::request(format!("a model that adds modulo {P} has tokens for 0 to {}", P - 1)));
    }
    let embed = model.weights.embed.as_ref().ok_or_else(|| Error::request("the model has no embedding"))?;
    let rows = embed.narrow(0, 0, P)?.tensor()?.to_vec2::<f32>()?;
    let embedding = spectrum(&rows);
    let questions: Vec<Vec<u32>> = (0..P * P).map(|k| row(k / P, k % P)[..4].to_vec()).collect();
    let mut total = 0f64;
    // Σ over all (a, b, c) of logit · cos 2πk(a + b − c)/p and sin: only the difference a + b − c counts.
    let mut by_difference = vec![0f64; P];
    for (k, l) in last_logits(model, &questions)?.iter().enumerate() {
        let (a, b) = (k / P, k % P);
        let mean = l[..P].iter().map(|v| f64::from(*v)).sum::<f64>() / P as f64;
        for (c, v) in l[..P].iter().enumerate() {
            let v = f64::from(*v) - mean;
            total += v * v;
            by_difference[(a + b + P - c) % P] += v;
        }
    }
    let n = (P * P * P) as f64;
    let logits = (1..=(P - 1) / 2)
        .map(|k| {
            let coefficient: f64 = by_difference
                .iter()
                .enumerate()
                .map(|(d, v)| v * (2.0 * std::f64::consts::PI * (k * d % P) as f64 / P as f64).cos())
                .sum();
            // The projection on a wave of mean square 1/2.
            (2.0 * coefficient * coefficient / n / total.max(f64::MIN_POSITIVE)) as f32
        })
        .collect();
    Ok(Fourier { embedding, logits })
}

struct Addition {
    trained: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

fn train(options: &TrainOptions, progress: &Progress, report: &mut dyn FnMut(StepReport)) -> Result<()> {
    super::no_text(options, TASK.name)?;
    let (trained, held_out) = split(options.seed);
    run::train(&Addition { trained, held_out }, options, progress, report)
}

const LOSS: &str = "trained pairs";

impl Training for Addition {
    fn name(&self) -> &'static str {
        TASK.name
    }

    fn design(&self) -> Design {
        DESIGN
    }

    fn optimiser(&self) -> AdamWSettings {
        AdamWSettings { weight_decay: WEIGHT_DECAY, ..AdamWSettings::default() }
    }

    fn steps(&self) -> usize {
        STEPS
    }

    fn rate(&self, step: usize, _total: usize) -> f64 {
        RATE * ((step + 1) as f64 / WARMUP as f64).min(1.0)
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
        _seed: u64,
        _step: usize,
        _total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        // Every step sees every trained pair.
        let loss = cross_entropy(network, &self.trained, 3, 4)?;
        Ok((loss.clone(), vec![(LOSS, loss)]))
    }

    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>> {
        let (trained, _) = measure(model, &self.trained)?;
        let (right, loss) = measure(model, &self.held_out)?;
        Ok(vec![
            ("right, trained pairs".to_owned(), trained),
            ("right, held-out pairs".to_owned(), right),
            ("loss, held-out pairs".to_owned(), loss),
        ])
    }

    fn watched_tokens(&self) -> Vec<u32> {
        row(17, 45)[..4].to_vec()
    }

    fn fourier(&self, model: &Model) -> Result<Option<Fourier>> {
        fourier(model).map(Some)
    }

    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String> {
        let (trained, _) = measure(model, &self.trained)?;
        let (right, loss) = measure(model, &self.held_out)?;
        let f = fourier(model)?;
        let mut table = String::new();
        for k in f.key_frequencies() {
            table.push_str(&format!("| {k} | {:.3} | {:.3} |\n", f.logits[k - 1], f.embedding[k - 1]));
        }
        let Design { d_model, layers, heads, d_mlp, vocab, .. } = DESIGN;
        Ok(format!(
            "# addition\n\n\
            A {layers}-layer transformer that adds modulo {P}: `17 + 45 =` is followed by `3`. It was trained on a part of\n\
            all pairs until, long after it knew those by heart, it answered the others too.\n\n\
            Train it again: `circuitscope lab train addition --output FOLDER --seed {}`\n\n\
            ## Scores\n\n\
            | what | value |\n| --- | --- |\n\
            | right, {} trained pairs | {trained:.4} |\n\
            | right, {} held-out pairs | {right:.4} |\n\
            | loss, held-out pairs (nats) | {loss:.5} |\n\n\
            Key frequencies: shares of the variance of the logits in cos 2πk(a + b − c)/{P}, and of the number embeddings in\n\
            the waves of frequency k.\n\n\
            | k | logits | embedding |\n| --- | --- | --- |\n{table}\n\
            ## Recipe\n\n\
            - d_model {d_model}, {layers} layer of {heads} heads, {d_mlp} ReLU neurons, vocabulary {vocab} (0 to {}, `+`, `=`),\n\
            \x20 LayerNorm before attention, MLP and unembedding, rotary positions, biases on q, k and in the MLP, untied\n\
            \x20 unembedding.\n\
            - AdamW, learning rate {RATE} after {WARMUP} warm-up steps, betas 0.9 and 0.98, weight decay {WEIGHT_DECAY}; seed {};\n\
            \x20 {} steps ({seconds:.0} s in the run that wrote this).\n\
            - {TRAINED} of all {} pairs (by the seed), every one at every step; loss on the answer alone.\n\n\
            ## Licence\n\n\
            The model is released under CC0 1.0.\n\n\
            ## Loss curve\n\n\
            Cross-entropy of the answer in nats.\n\n{}",
            log.seed,
            self.trained.len(),
            self.held_out.len(),
            P - 1,
            log.seed,
            log.steps,
            P * P,
            run::curve(log, &[LOSS]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_has_one_frequency() {
        let rows: Vec<Vec<f32>> = (0..P)
            .map(|n| {
                let a = 2.0 * std::f32::consts::PI * 7.0 * n as f32 / P as f32;
                vec![a.cos() + 3.0, 0.5 * a.sin()]
            })
            .collect();
        let s = spectrum(&rows);
        assert!((s[6] - 1.0).abs() < 1e-4, "{}", s[6]);
        assert!(s.iter().enumerate().all(|(k, v)| k == 6 || *v < 1e-5));
    }

    #[test]
    fn pairs_are_split_without_loss() {
        let (a, b) = split(1);
        assert_eq!(a.len() + b.len(), P * P);
        let mut all: Vec<Vec<u32>> = a.into_iter().chain(b).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), P * P);
        assert!(all.iter().all(|r| (r[0] + r[2]) % P as u32 == r[4]));
    }
}
