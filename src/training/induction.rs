//! The task `induction`: to continue a sequence that repeats itself [Elhage et al. 2021; Olsson et al. 2022].
//!
//! A model of two attention layers learns the textbook circuit for it. A previous-token head in layer 0 writes into
//! each position which token came before; an induction head in layer 1 uses that to find what followed the current
//! token last time.
//!
//! The sequences of a batch are random tokens that repeat with one random period. Only predictable tokens count in the
//! loss. Text is added once the circuit is there, so that the model also predicts words.

use std::sync::Arc;

use candle_core::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::design::Design;
use super::run::{self, Log, Named, Training, cross_entropy};
use super::schedule::warm_constant_fall;
use super::{StepReport, Task, TrainOptions};
use crate::analysis::head_scores::{Measure, Score, head_scores, repeated_random};
use crate::engine::resolve::{Sources, resolve};
use crate::engine::{Action, Edit, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::files::{LARGE, read_text};
use crate::model::{Model, Network};
use crate::progress::Progress;

pub const TASK: Task = Task {
    name: "induction",
    purpose: "two attention layers that learn to continue a repeated sequence: previous-token and induction heads",
    watch: "Sequences of random tokens repeat themselves. At first no head can tell what comes next and the loss \
            stands still; then, within a few hundred steps, it falls like a stone: a head of layer 0 has learned to \
            look at the token before, and a head of layer 1 uses it to find what followed last time. Watch the two \
            scores rise together with the fall. Text joins later.",
    source: "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022, In-context \
             Learning and Induction Heads",
    steps: STEPS,
    time: "about a quarter of an hour on two cores; the fall comes after three minutes",
    train,
};

const D_MODEL: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 2;
const VOCAB: usize = 2048;
const CONTEXT: usize = 512;
const ROPE_BASE: f64 = 100.0;
const BATCH: usize = 48;
/// Number of sequences of each kind after text is added.
const MIXED_BATCH: usize = 24;
const LENGTH: usize = 64;
const RATE: f64 = 1e-3;
const WARMUP: usize = 100;
/// Number of steps on repeated random tokens alone. The phase change comes after about 900.
const ALONE: usize = 1_300;
const STEPS: usize = 4_500;
const FALL: usize = 1_500;
/// Steps between two probes, and between two checkpoints.
const RHYTHM: (usize, usize) = (50, 250);
const TEXT: &str = include_str!("../../assets/text/prose.txt");

const DESIGN: Design = Design {
    d_model: D_MODEL,
    heads: HEADS,
    layers: LAYERS,
    d_mlp: 0,
    vocab: VOCAB,
    context: CONTEXT,
    rope_base: ROPE_BASE,
    embed_std: 1.0,
};

/// Returns the batch of a step, and the first position whose next token counts. It depends on seed and step alone, so
/// that a resumed training is the same one.
fn repeat_batch(seed: u64, step: usize, batch: usize) -> (Vec<Vec<u32>>, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(2 * step as u64 + 1);
    let period = rng.random_range(6..=32usize);
    let rows = (0..batch)
        .map(|_| {
            let head: Vec<u32> = (0..period).map(|_| rng.random_range(1..VOCAB as u32)).collect();
            (0..LENGTH).map(|i| head[i % period]).collect()
        })
        .collect();
    (rows, period)
}

fn text_batch(seed: u64, step: usize, stream: &[u32]) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(2 * step as u64 + 2);
    (0..MIXED_BATCH)
        .map(|_| {
            let at = rng.random_range(0..stream.len() - LENGTH);
            stream[at..at + LENGTH].to_vec()
        })
        .collect()
}

struct Induction {
    tokenizer: tokenizers::Tokenizer,
    /// The tokens of the text.
    stream: Vec<u32>,
}

fn train(options: &TrainOptions, progress: &Progress, report: &mut dyn FnMut(StepReport)) -> Result<()> {
    let text = match &options.text {
        Some(path) => read_text(path, LARGE)?,
        None => TEXT.to_owned(),
    };
    let tokenizer = run::byte_level(&text, VOCAB)?;
    let encoded =
        tokenizer.encode(text.as_str(), false).map_err(|e| Error::failed(format!("the text cannot be split: {e}")))?;
    let stream = encoded.get_ids().to_vec();
    if stream.len() < 4 * LENGTH {
        return Err(Error::request(format!(
            "the text gives only {} tokens; give at least {}",
            stream.len(),
            4 * LENGTH
        )));
    }
    run::train(&Induction { tokenizer, stream }, options, progress, report)
}

const REPEAT: &str = "repeated random tokens";
const TEXT_LOSS: &str = "text";

impl Training for Induction {
    fn name(&self) -> &'static str {
        TASK.name
    }

    fn design(&self) -> Design {
        DESIGN
    }

    fn steps(&self) -> usize {
        STEPS
    }

    fn rate(&self, step: usize, total: usize) -> f64 {
        warm_constant_fall(step, total, WARMUP, FALL, RATE)
    }

    fn rhythm(&self) -> (usize, usize) {
        RHYTHM
    }

    fn tokenizer(&self) -> Result<tokenizers::Tokenizer> {
        Ok(self.tokenizer.clone())
    }

    fn loss(
        &self,
        network: Network<'_>,
        seed: u64,
        step: usize,
        total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let mixed = step >= ALONE.min(total / 2);
        let (rows, period) = repeat_batch(seed, step, if mixed { MIXED_BATCH } else { BATCH });
        let repeat = cross_entropy(network, &rows, period, LENGTH - 1)?;
        if !mixed {
            return Ok((repeat.clone(), vec![(REPEAT, repeat)]));
        }
        let text = cross_entropy(network, &text_batch(seed, step, &self.stream), 0, LENGTH - 1)?;
        Ok(((&repeat + &text)?, vec![(REPEAT, repeat), (TEXT_LOSS, text)]))
    }

    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>> {
        let s = circuit_scores_on(model, 1)?;
        Ok(vec![
            (format!("previous token, head 0.{}", s.previous.0), s.previous.1),
            (format!("induction, head 1.{}", s.induction.0), s.induction.1),
            ("right on the repeat".to_owned(), s.accuracy),
        ])
    }

    fn watched_tokens(&self) -> Vec<u32> {
        repeated_random(VOCAB, 12, 0)
    }

    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String> {
        Ok(card(log, &circuit_scores(model)?, self.stream.len(), seconds))
    }
}

/// Scores of the circuit on random tokens that are repeated once.
#[derive(Clone, Copy, Debug)]
pub struct CircuitScores {
    /// The head of layer 0 with the highest previous-token score, and the score.
    pub previous: (usize, f32),
    /// The head of layer 1 with the highest induction score, and the score.
    pub induction: (usize, f32),
    /// The same induction score when z of the previous-token head is set to zero.
    pub induction_ablated: f32,
    /// Share of the repeated tokens that are predicted correctly.
    pub accuracy: f32,
}

/// Measures a finished model. The scores are means over eight sequences of 30 random tokens repeated once.
///
/// # Errors
/// Returns an error if a run fails.
pub fn circuit_scores(model: &Arc<Model>) -> Result<CircuitScores> {
    circuit_scores_on(model, 8)
}

fn circuit_scores_on(model: &Arc<Model>, sequences: u64) -> Result<CircuitScores> {
    const N: usize = 30;
    let c = &model.config;
    let mut previous = vec![0f32; c.n_heads];
    let mut induction = vec![0f32; c.n_heads];
    let (mut right, mut total) = (0, 0);
    let progress = Progress::new();
    for seed in 0..sequences {
        let trace = Trace::run(model, repeated_random(c.d_vocab, N, seed), &progress)?;
        let scores = head_scores(&trace, Measure::Diagonal { n: N }, &progress)?;
        for h in 0..c.n_heads {
            previous[h] += scores.get(Score::Previous, 0, h) / sequences as f32;
            induction[h] += scores.get(Score::Induction, 1, h) / sequences as f32;
        }
        for pos in N..2 * N - 1 {
            total += 1;
            right += usize::from(trace.next[pos].first().map(|t| t.id) == trace.ids.get(pos + 1).copied());
        }
    }
    let best = |v: &[f32]| v.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f32::NAN));
    let (previous, induction) = (best(&previous), best(&induction));
    let mut ablated = 0.0;
    for seed in 0..sequences {
        let base = Trace::run(model, repeated_random(c.d_vocab, N, seed), &progress)?;
        let zero = Edit::new(Site::new(SiteKind::Z, 0), Action::Zero).head(previous.0);
        let ops = Arc::new(vec![resolve(&zero, &Sources::alone(&base))?]);
        let ablated_run = Trace::run_edited(model, base.ids.clone(), ops, &progress)?;
        let pattern: Vec<Vec<f32>> = ablated_run.head_pattern(1, induction.0)?.to_vec2()?;
        let offset = N - 1;
        let diagonal: f32 = (offset..2 * N).map(|i| pattern[i][i - offset]).sum::<f32>() / (2 * N - offset) as f32;
        ablated += diagonal / sequences as f32;
    }
    Ok(CircuitScores { previous, induction, induction_ablated: ablated, accuracy: right as f32 / total as f32 })
}

fn card(log: &Log, scores: &CircuitScores, tokens: usize, seconds: f64) -> String {
    format!(
        "# induction\n\n\
        A two-layer attention-only transformer that shows the textbook induction circuit: a previous-token head in\n\
        layer 0, and an induction head in layer 1 that reads what it wrote.\n\n\
        Train it again: `circuitscope lab train induction --output FOLDER --seed {}`\n\n\
        ## Scores\n\n\
        On 30 random tokens repeated once, mean over eight such sequences:\n\n\
        | what | value |\n| --- | --- |\n\
        | previous-token score, head 0.{} | {:.3} |\n\
        | induction score, head 1.{} | {:.3} |\n\
        | the same with head 0.{}'s z set to zero | {:.3} |\n\
        | right predictions on the repeat | {:.3} |\n\n\
        ## Recipe\n\n\
        - d_model {D_MODEL}, {LAYERS} layers of {HEADS} heads, no MLP, vocabulary {VOCAB} (byte-level BPE trained on the text),\n\
        \x20 LayerNorm before each attention and at the end, rotary positions with base {ROPE_BASE}, biases on q and k,\n\
        \x20 untied unembedding.\n\
        - Embeddings drawn with standard deviation 1, everything else with 1/√d_model.\n\
        - AdamW, learning rate {RATE} after {WARMUP} warm-up steps, falling to a tenth over the last {FALL}; betas 0.9 and\n\
        \x20 0.98, weight decay 0.01; seed {}; {} steps ({seconds:.0} s in the run that wrote this).\n\
        - Every step: {BATCH} sequences of {LENGTH} random tokens repeating with one random period of 6–32, loss on\n\
        \x20 predictable tokens only. After {ALONE} steps {MIXED_BATCH} such sequences and\n\
        \x20 {MIXED_BATCH} of {LENGTH} tokens of text, loss on all of the latter.\n\n\
        ## Data and licence\n\n\
        {tokens} tokens of public-domain English prose (see `assets/text/SOURCES.md`). The model is released under CC0 1.0.\n\n\
        ## Loss curve\n\n\
        Cross-entropy in nats.\n\n\
        {}",
        log.seed,
        scores.previous.0,
        scores.previous.1,
        scores.induction.0,
        scores.induction.1,
        scores.previous.0,
        scores.induction_ablated,
        scores.accuracy,
        log.seed,
        log.steps,
        run::curve(log, &[REPEAT, TEXT_LOSS]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn batches_repeat_and_depend_on_seed_and_step_alone() {
        let (rows, period) = repeat_batch(1, 5, BATCH);
        assert!((6..=32).contains(&period));
        assert!(rows.iter().all(|r| r.len() == LENGTH && (period..LENGTH).all(|i| r[i] == r[i - period])));
        assert_eq!(rows, repeat_batch(1, 5, BATCH).0);
        assert_ne!(rows, repeat_batch(1, 6, BATCH).0);
    }

    #[test]
    fn gradient_of_the_loss_matches_finite_differences() {
        let vars = DESIGN.variables(3).unwrap();
        let config = DESIGN.config("test");
        let tensors: Vec<_> = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let weights = DESIGN.weights(&tensors).unwrap();
        let network = Network { config: &config, weights: &weights };
        let (rows, period) = repeat_batch(3, 0, 2);
        let loss = || cross_entropy(network, &rows, period, LENGTH - 1).unwrap();
        let gradients = loss().backward().unwrap();
        for name in ["layers.0.self_attn.q_proj.weight", "layers.1.self_attn.v_proj.weight", "norm.weight"] {
            let var = &vars.iter().find(|(n, _)| n == name).unwrap().1;
            let base = var.as_tensor().copy().unwrap();
            // The same each time: a difference of f32 is too coarse for a few of all directions.
            let waves: Vec<f32> = (0..base.elem_count()).map(|i| 1.4 * (0.7 * i as f32).sin()).collect();
            let direction = Tensor::from_vec(waves, base.shape(), &Device::Cpu).unwrap();
            let g = gradients.get(var.as_tensor()).unwrap();
            let expected: f32 = (g * &direction).unwrap().sum_all().unwrap().to_scalar().unwrap();
            let h = 3e-3;
            let at = |s: f64| -> f32 {
                var.set(&(&base + (&direction * s).unwrap()).unwrap()).unwrap();
                loss().to_scalar().unwrap()
            };
            let slope = (at(h) - at(-h)) / (2.0 * h as f32);
            var.set(&base).unwrap();
            assert!((slope - expected).abs() < 0.03 * expected.abs().max(0.05), "{name}: {slope} against {expected}");
        }
    }
}
