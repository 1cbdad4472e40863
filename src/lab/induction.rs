//! `induction`: a two-layer attention-only model that grows the textbook circuit, a previous-token head
//! in layer 0 that an induction head in layer 1 reads [Elhage et al. 2021; Olsson et al. 2022].
//!
//! Every sequence of a batch is random tokens repeating with one random period, and only predictable
//! tokens count in the loss. Text joins once the circuit stands, so that the model also predicts words.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{D, Device, Tensor, Var};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::optimiser::{AdamW, AdamWSettings};
use super::schedule::warm_constant_fall;
use super::{Lab, StepReport, TrainOptions};
use crate::analysis::head_scores::{Measure, Score, head_scores, repeated_random};
use crate::engine::resolve::{Sources, resolve};
use crate::engine::{Action, Edit, Network, NoHooks, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::jobs::Progress;
use crate::model::Model;
use crate::model::config::{ModelConfig, NormKind, Positions, Rotary, RotaryScaling, RotaryStyle, Shape};
use crate::model::weights::{Attention, Block, Linear, Norm, Weights};

pub const LAB: Lab = Lab {
    name: "induction",
    purpose: "two attention layers that learn to continue a repeated sequence: previous-token and induction heads",
    train,
};

const D_MODEL: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 2;
const VOCAB: usize = 2048;
const CONTEXT: usize = 512;
const ROPE_BASE: f64 = 100.0;
const BATCH: usize = 48;
/// Sequences of each kind once text has joined.
const MIXED_BATCH: usize = 24;
const LENGTH: usize = 64;
const RATE: f64 = 1e-3;
const WARMUP: usize = 100;
/// Steps on repeated random tokens alone; the phase change comes after about 900.
const ALONE: usize = 1_300;
const STEPS: usize = 4_500;
const FALL: usize = 1_500;
const CHECKPOINT_EVERY: usize = 250;
const REPORT_EVERY: usize = 25;
const SEPARATOR: &str = "<|endoftext|>";
const TEXT: &str = include_str!("../../assets/text/prose.txt");

fn config() -> ModelConfig {
    let shape = Shape {
        n_layers: LAYERS,
        n_heads: HEADS,
        n_kv_heads: HEADS,
        d_model: D_MODEL,
        d_head: D_MODEL / HEADS,
        d_mlp: 0,
        d_vocab: VOCAB,
        n_ctx: CONTEXT,
    };
    let mut c = ModelConfig::plain("circuitscope_lab", shape, NormKind::Layer { eps: 1e-5 });
    let rotary =
        Rotary { dims: D_MODEL / HEADS, base: ROPE_BASE, style: RotaryStyle::Half, scaling: RotaryScaling::None };
    c.positions = Positions::Rotary(vec![rotary; LAYERS]);
    c
}

/// The same model as config.json tells it.
fn config_json() -> serde_json::Value {
    json!({
        "model_type": "circuitscope_lab", "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "hidden_size": D_MODEL, "intermediate_size": 0, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
        "layer_norm_eps": 1e-5, "rope_theta": ROPE_BASE, "tie_word_embeddings": false,
    })
}

/// Byte-level BPE over the text.
fn train_tokenizer(text: &str) -> Result<tokenizers::Tokenizer> {
    let fail = |e: tokenizers::Error| Error::failed(format!("the tokenizer could not be trained: {e}"));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(VOCAB)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(SEPARATOR, true)])
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(fail)?;
    let lines = text.lines().filter(|l| *l != SEPARATOR);
    tokenizer.train(&mut trainer, lines.map(str::to_owned)).map_err(fail)?;
    Ok(tokenizer.into())
}

/// A standard normal draw (Box–Muller), the same on every machine.
fn normal(rng: &mut impl Rng) -> f32 {
    let u: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.random_range(0.0..1.0);
    ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
}

/// The variables by their names in the model folder, in a fixed order.
fn variables(seed: u64) -> Result<Vec<(String, Var)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut vars = Vec::new();
    let mut add = |name: String, shape: &[usize], std: f32, base: f32| -> Result<()> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| if std > 0.0 { std * normal(&mut rng) } else { base }).collect();
        vars.push((name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?));
        Ok(())
    };
    let std = (D_MODEL as f32).sqrt().recip();
    add("embed_tokens.weight".to_owned(), &[VOCAB, D_MODEL], 1.0, 0.0)?;
    add("lm_head.weight".to_owned(), &[D_MODEL, VOCAB], std, 0.0)?;
    for l in 0..LAYERS {
        add(format!("layers.{l}.input_layernorm.weight"), &[D_MODEL], 0.0, 1.0)?;
        add(format!("layers.{l}.input_layernorm.bias"), &[D_MODEL], 0.0, 0.0)?;
        for part in ["q", "k", "v", "o"] {
            add(format!("layers.{l}.self_attn.{part}_proj.weight"), &[D_MODEL, D_MODEL], std, 0.0)?;
        }
        for part in ["q", "k"] {
            add(format!("layers.{l}.self_attn.{part}_proj.bias"), &[D_MODEL], 0.0, 0.0)?;
        }
    }
    add("norm.weight".to_owned(), &[D_MODEL], 0.0, 1.0)?;
    add("norm.bias".to_owned(), &[D_MODEL], 0.0, 0.0)?;
    Ok(vars)
}

/// The canonical block over the variables: training runs the very forward pass that analyses hook.
fn weights(vars: &[(String, Var)]) -> Result<Weights> {
    let by_name: HashMap<&str, &Var> = vars.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let get = |name: &str| {
        by_name.get(name).map(|v| v.as_tensor().clone()).ok_or_else(|| Error::failed(format!("no variable {name}")))
    };
    let norm = |path: &str| -> Result<Norm> {
        Ok(Norm { weight: get(&format!("{path}.weight"))?, bias: Some(get(&format!("{path}.bias"))?) })
    };
    let blocks = (0..LAYERS)
        .map(|l| {
            let linear = |part: &str, bias: bool| -> Result<Linear> {
                let path = format!("layers.{l}.self_attn.{part}_proj");
                let bias = if bias { Some(get(&format!("{path}.bias"))?) } else { None };
                Ok(Linear { weight: get(&format!("{path}.weight"))?, bias })
            };
            Ok(Block {
                ln1: Some(norm(&format!("layers.{l}.input_layernorm"))?),
                attn: Attention {
                    q: linear("q", true)?,
                    k: linear("k", true)?,
                    v: linear("v", false)?,
                    o: linear("o", false)?,
                    q_norm: None,
                    k_norm: None,
                },
                ln1_post: None,
                ln2: None,
                mlp: None,
                ln2_post: None,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Weights {
        embed: Some(get("embed_tokens.weight")?),
        pos_embed: None,
        embed_norm: None,
        blocks,
        ln_final: Some(norm("norm")?),
        unembed: get("lm_head.weight")?,
        unembed_bias: None,
    })
}

/// The batch of a step: a function of seed and step alone, so that a resumed training is the same one.
/// Gives the rows and the first position whose next token counts.
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

/// Mean cross-entropy of the next tokens after positions `from`.., nats.
fn loss(network: Network<'_>, rows: &[Vec<u32>], from: usize) -> Result<Tensor> {
    let refs: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let resid = network.forward(&refs, &mut NoHooks, &Progress::new())?;
    let count = LENGTH - 1 - from;
    let resid = resid.narrow(1, from, count)?.contiguous()?;
    let x = network.final_norm(&resid, &mut NoHooks)?.reshape((rows.len() * count, D_MODEL))?;
    let logits = network.unembed(&x)?;
    let targets: Vec<u32> = rows.iter().flat_map(|r| r[from + 1..].iter().copied()).collect();
    let targets = Tensor::from_vec(targets, rows.len() * count, &Device::Cpu)?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let log_sum = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
    let picked = logits.gather(&targets.unsqueeze(1)?, 1)?;
    Ok((log_sum - picked)?.mean_all()?)
}

const STATE: &str = "training-state.safetensors";

#[derive(serde::Serialize, serde::Deserialize)]
struct Log {
    seed: u64,
    steps: usize,
    reports: Vec<StepReport>,
}

fn train(options: &TrainOptions, progress: &Progress, report: &mut dyn FnMut(StepReport)) -> Result<()> {
    let started = Instant::now();
    let steps = options.steps.unwrap_or(STEPS);
    if steps == 0 {
        return Err(Error::request("a training of 0 steps trains nothing; give --steps a number above 0"));
    }
    let folder = &options.output;
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let text = match &options.text {
        Some(path) => std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?,
        None => TEXT.to_owned(),
    };
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer = train_tokenizer(&text)?;
    let encoded =
        tokenizer.encode(text.as_str(), false).map_err(|e| Error::failed(format!("the text cannot be split: {e}")))?;
    let stream = encoded.get_ids();
    if stream.len() < 4 * LENGTH {
        return Err(Error::request(format!(
            "the text gives only {} tokens; give at least {}",
            stream.len(),
            4 * LENGTH
        )));
    }

    let vars = variables(options.seed)?;
    let config = config();
    let weights = weights(&vars)?;
    let network = Network { config: &config, weights: &weights };
    let mut adam = AdamW::new(vars, AdamWSettings::default())?;
    let mut log = Log { seed: options.seed, steps, reports: Vec::new() };
    resume(folder, &mut adam, &mut log)?;
    let pretty =
        tokenizer.to_string(false).map_err(|e| Error::failed(format!("the tokenizer cannot be written: {e}")))?;
    write_atomic(&tokenizer_path, pretty.as_bytes())?;
    progress.expect(steps as u64);
    progress.step(adam.step as u64)?;
    while adam.step < steps {
        let step = adam.step;
        let rate = warm_constant_fall(step, steps, WARMUP, FALL, RATE);
        let mixed = step >= ALONE.min(steps / 2);
        let (rows, period) = repeat_batch(options.seed, step, if mixed { MIXED_BATCH } else { BATCH });
        let repeat_loss = loss(network, &rows, period)?;
        let text_loss = if mixed { Some(loss(network, &text_batch(options.seed, step, stream), 0)?) } else { None };
        let total = match &text_loss {
            Some(t) => (&repeat_loss + t)?,
            None => repeat_loss.clone(),
        };
        adam.update(&total.backward()?, rate)?;
        if step.is_multiple_of(REPORT_EVERY) || step + 1 == steps {
            let loss_text = text_loss.map(|t| t.to_scalar()).transpose()?;
            let r = StepReport { step, loss_repeat: repeat_loss.to_scalar()?, loss_text };
            log.reports.push(r);
            report(r);
        }
        let cancelled = progress.step(1);
        if adam.step.is_multiple_of(CHECKPOINT_EVERY) || adam.step == steps || cancelled.is_err() {
            save_state(folder, &adam, &log)?;
        }
        cancelled?;
    }
    save_model(folder, &adam)?;
    write_atomic(&folder.join("config.json"), format!("{:#}\n", config_json()).as_bytes())?;
    let scores = measure(folder)?;
    let card = card(&log, &scores, stream.len(), started.elapsed().as_secs_f64());
    write_atomic(&folder.join("CARD.md"), card.as_bytes())?;
    // The state has served; a later training starts afresh.
    std::fs::remove_file(folder.join(STATE)).map_err(|e| Error::write(&folder.join(STATE), e))
}

fn save_state(folder: &Path, adam: &AdamW, log: &Log) -> Result<()> {
    let metadata = HashMap::from([
        ("step".to_owned(), adam.step.to_string()),
        ("log".to_owned(), serde_json::to_string(log).map_err(|e| Error::failed(e.to_string()))?),
    ]);
    let state = adam.state();
    let bytes = safetensors::serialize(state.iter().map(|(n, t)| (n.as_str(), t)), Some(metadata))
        .map_err(|e| Error::failed(format!("the checkpoint cannot be packed: {e}")))?;
    write_atomic(&folder.join(STATE), &bytes)
}

/// Takes up a checkpoint of the same recipe, if there is one.
fn resume(folder: &Path, adam: &mut AdamW, log: &mut Log) -> Result<()> {
    let path = folder.join(STATE);
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    let malformed = |what: String| Error::Malformed { path: path.clone(), format: "checkpoint", what };
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| malformed(e.to_string()))?;
    let values = metadata.metadata().clone().unwrap_or_default();
    let old: Log = values
        .get("log")
        .and_then(|l| serde_json::from_str(l).ok())
        .ok_or_else(|| malformed("it holds no training log".to_owned()))?;
    if old.seed != log.seed || old.steps != log.steps {
        return Err(Error::request(format!(
            "{} belongs to a training with seed {} and {} steps; use the same or another --output",
            path.display(),
            old.seed,
            old.steps
        )));
    }
    let step = values
        .get("step")
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| malformed("it does not say its step".to_owned()))?;
    let state = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| malformed(e.to_string()))?;
    adam.restore(&state, step)?;
    *log = old;
    Ok(())
}

/// Writes the weights as the family's loader reads them: linear layers as [output, input].
fn save_model(folder: &Path, adam: &AdamW) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, t) in adam.state() {
        if name.starts_with("adam.") {
            continue;
        }
        let turned = name == "lm_head.weight" || name.contains("_proj.weight");
        let t = if turned { t.t()?.contiguous()? } else { t };
        let name = if name == "lm_head.weight" { name } else { format!("model.{name}") };
        tensors.push((name, t));
    }
    for l in 0..LAYERS {
        // The family has a bias on v; the recipe does not train one.
        tensors.push((
            format!("model.layers.{l}.self_attn.v_proj.bias"),
            Tensor::zeros(D_MODEL, candle_core::DType::F32, &Device::Cpu)?,
        ));
    }
    let bytes = safetensors::serialize(tensors.iter().map(|(n, t)| (n.as_str(), t)), None)
        .map_err(|e| Error::failed(format!("the model cannot be packed: {e}")))?;
    write_atomic(&folder.join("model.safetensors"), &bytes)
}

/// What the circuit scores on random tokens repeated once.
#[derive(Clone, Copy, Debug)]
pub struct CircuitScores {
    /// Layer-0 head with the highest previous-token score, and the score.
    pub previous: (usize, f32),
    /// Layer-1 head with the highest induction score, and the score.
    pub induction: (usize, f32),
    /// That induction score with the previous-token head's z set to zero.
    pub induction_ablated: f32,
    /// Share of the repeat that is predicted right.
    pub accuracy: f32,
}

/// Measures the finished model through the same loader and engine as any other. Mean over eight
/// sequences of 30 random tokens repeated once.
pub fn circuit_scores(model: &Arc<Model>) -> Result<CircuitScores> {
    const N: usize = 30;
    const SEQUENCES: u64 = 8;
    let c = &model.config;
    let mut previous = vec![0f32; c.n_heads];
    let mut induction = vec![0f32; c.n_heads];
    let (mut right, mut total) = (0, 0);
    let progress = Progress::new();
    for seed in 0..SEQUENCES {
        let trace = Trace::run(model, repeated_random(c.d_vocab, N, seed), &progress)?;
        let scores = head_scores(&trace, Measure::Diagonal { n: N }, &progress)?;
        for h in 0..c.n_heads {
            previous[h] += scores.get(Score::Previous, 0, h) / SEQUENCES as f32;
            induction[h] += scores.get(Score::Induction, 1, h) / SEQUENCES as f32;
        }
        for pos in N..2 * N - 1 {
            total += 1;
            right += usize::from(trace.next[pos].first().map(|t| t.id) == trace.ids.get(pos + 1).copied());
        }
    }
    let best = |v: &[f32]| v.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f32::NAN));
    let (previous, induction) = (best(&previous), best(&induction));
    let mut ablated = 0.0;
    for seed in 0..SEQUENCES {
        let base = Trace::run(model, repeated_random(c.d_vocab, N, seed), &progress)?;
        let zero = Edit::new(Site::new(SiteKind::Z, 0), Action::Zero).head(previous.0);
        let ops = Arc::new(vec![resolve(&zero, &Sources::alone(&base))?]);
        let ablated_run = Trace::run_edited(model, base.ids.clone(), ops, &progress)?;
        let pattern: Vec<Vec<f32>> = ablated_run.head_pattern(1, induction.0)?.to_vec2()?;
        let offset = N - 1;
        let diagonal: f32 = (offset..2 * N).map(|i| pattern[i][i - offset]).sum::<f32>() / (2 * N - offset) as f32;
        ablated += diagonal / SEQUENCES as f32;
    }
    Ok(CircuitScores { previous, induction, induction_ablated: ablated, accuracy: right as f32 / total as f32 })
}

fn measure(folder: &Path) -> Result<CircuitScores> {
    let spec = folder.to_str().ok_or_else(|| Error::request("the output folder's name is not UTF-8"))?;
    circuit_scores(&Arc::new(Model::open(spec)?))
}

fn card(log: &Log, scores: &CircuitScores, tokens: usize, seconds: f64) -> String {
    let mut curve = String::new();
    let every = (log.reports.len() / 24).max(1);
    for r in log.reports.iter().step_by(every).chain(log.reports.last()) {
        let text = r.loss_text.map_or("–".to_owned(), |t| format!("{t:.3}"));
        curve.push_str(&format!("| {} | {:.3} | {text} |\n", r.step, r.loss_repeat));
    }
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
        | step | repeated random tokens | text |\n| --- | --- | --- |\n{curve}",
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
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let vars = variables(3).unwrap();
        let config = config();
        let weights = weights(&vars).unwrap();
        let network = Network { config: &config, weights: &weights };
        let (rows, period) = repeat_batch(3, 0, 2);
        let rows = &rows[..];
        let gradients = loss(network, rows, period).unwrap().backward().unwrap();
        for name in ["layers.0.self_attn.q_proj.weight", "layers.1.self_attn.v_proj.weight", "norm.weight"] {
            let var = &vars.iter().find(|(n, _)| n == name).unwrap().1;
            let base = var.as_tensor().copy().unwrap();
            let direction = Tensor::randn(0f32, 1f32, base.shape(), &Device::Cpu).unwrap();
            let g = gradients.get(var.as_tensor()).unwrap();
            let expected: f32 = (g * &direction).unwrap().sum_all().unwrap().to_scalar().unwrap();
            let h = 1e-3;
            let at = |s: f64| -> f32 {
                var.set(&(&base + (&direction * s).unwrap()).unwrap()).unwrap();
                loss(network, rows, period).unwrap().to_scalar().unwrap()
            };
            let slope = (at(h) - at(-h)) / (2.0 * h as f32);
            var.set(&base).unwrap();
            assert!((slope - expected).abs() < 0.03 * expected.abs().max(0.05), "{name}: {slope} against {expected}");
        }
    }
}
