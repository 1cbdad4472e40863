//! Trains a small transformer step by step from a seed. On the way it takes probes of the model, and writes checkpoints
//! from which a stopped training goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{D, Device, Tensor};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::addition::Fourier;
use super::design::Design;
use super::optimiser::{AdamW, AdamWSettings};
use super::{StepReport, TrainOptions};
use crate::engine::{NoHooks, Trace};
use crate::error::{Error, Result};
use crate::files::{Claim, LARGE, read, write_atomic};
use crate::interrupt;
use crate::model::safetensors_file::pack;
use crate::model::tokenizer::Tokenizer;
use crate::model::{Model, Network};
use crate::progress::Progress;

/// A name and a value. Curves and scores are made of these.
pub type Named = (String, f32);

/// A training: the model, its data, and how it is scored.
pub trait Training {
    fn name(&self) -> &'static str;
    fn design(&self) -> Design;
    fn optimiser(&self) -> AdamWSettings {
        AdamWSettings::default()
    }
    /// Returns the number of steps of the recipe.
    fn steps(&self) -> usize;
    /// Returns the learning rate of a step, of `total`.
    fn rate(&self, step: usize, total: usize) -> f64;
    /// Returns the steps between two probes, and between two checkpoints that can be opened.
    fn rhythm(&self) -> (usize, usize);
    fn tokenizer(&self) -> Result<tokenizers::Tokenizer>;
    /// Returns the loss of a step, and the parts of it that are reported, all in nats. It depends on seed and step
    /// alone, so that a resumed training is the same one.
    fn loss(
        &self,
        network: Network<'_>,
        seed: u64,
        step: usize,
        total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)>;
    /// Returns scores of what the model can do.
    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>>;
    /// Returns the prompt whose attention patterns a probe shows.
    fn watched_tokens(&self) -> Vec<u32>;
    /// Returns the spectra of the model, for a task that has them.
    fn fourier(&self, _model: &Model) -> Result<Option<Fourier>> {
        Ok(None)
    }
    /// Returns the text of CARD.md.
    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String>;
}

/// A probe of the model: what it can do at a step, and where its heads look.
#[derive(Clone, Debug)]
pub struct Probe {
    pub step: usize,
    pub scores: Vec<Named>,
    /// The watched prompt, token by token.
    pub tokens: Vec<String>,
    /// Attention patterns on the watched prompt, [layer][head], each [dest, src] row by row.
    pub patterns: Vec<Vec<Vec<f32>>>,
    pub fourier: Option<Fourier>,
    /// The folder of the checkpoint that was written at this step, if one was.
    pub folder: Option<PathBuf>,
}

/// What a training has reported so far. A checkpoint holds it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Log {
    pub seed: u64,
    pub steps: usize,
    pub reports: Vec<StepReport>,
}

/// The file, in a training's folder, from which it goes on after a stop.
const CHECKPOINT: &str = "training-state.safetensors";
/// Steps between two points of the curves.
const REPORT_EVERY: usize = 25;

/// Trains, and reports on the way. Goes on from a checkpoint in the folder unless the options say to start afresh.
///
/// # Errors
/// Returns an error if the steps are 0, if the folder cannot be written, or if its checkpoint is of another seed or
/// number of steps; and [`Error::Cancelled`] after a checkpoint has been written.
pub fn train(
    training: &dyn Training,
    options: &TrainOptions,
    progress: &Progress,
    report: &mut dyn FnMut(StepReport),
) -> Result<()> {
    let started = Instant::now();
    let steps = options.steps.unwrap_or(training.steps());
    if steps == 0 {
        return Err(Error::request("a training of 0 steps trains nothing; give --steps a number above 0"));
    }
    let folder = &options.output;
    let _claim = Claim::of(folder)?;
    let _careful = interrupt::careful(progress);
    let design = training.design();
    let tokenizer = training.tokenizer()?;
    let pretty =
        tokenizer.to_string(false).map_err(|e| Error::failed(format!("the tokenizer cannot be written: {e}")))?;
    let vars = design.variables(options.seed)?;
    let tensors: Vec<(String, Tensor)> = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let config = design.config(training.name());
    let weights = design.weights(&tensors)?;
    let network = Network { config: &config, weights: &weights };
    let mut adam = AdamW::new(vars, training.optimiser())?;
    let mut log = Log { seed: options.seed, steps, reports: Vec::new() };
    if !options.fresh {
        resume(folder, &mut adam, &mut log)?;
    }
    let (probed, kept) = training.rhythm();
    let is_probed = |step: usize| options.probes && (step.is_multiple_of(probed) || step == steps);
    progress.expect(steps as u64);
    progress.step(adam.step as u64)?;
    let model = |adam: &AdamW| -> Result<Arc<Model>> {
        let tensors = copies(adam)?;
        let inner = tokenizer.clone();
        let tokenizer = Tokenizer::new(inner, design.vocab);
        Ok(Arc::new(Model::in_memory(config.clone(), design.weights(&tensors)?, Some(tokenizer), training.name())))
    };
    let probe = |adam: &AdamW| -> Result<Arc<Probe>> {
        let keeps = adam.step.is_multiple_of(kept) || adam.step >= steps;
        let folder = keeps.then(|| folder.join("checkpoints").join(format!("step-{:06}", adam.step)));
        if let Some(folder) = &folder {
            design.save(folder, &copies(adam)?, &pretty)?;
        }
        Ok(Arc::new(take_probe(training, &model(adam)?, adam.step, folder)?))
    };
    // The stop that left the checkpoint may have come before this step's probe was seen.
    if is_probed(adam.step) {
        report(StepReport { step: adam.step, values: Vec::new(), probe: Some(probe(&adam)?) });
    }
    while adam.step < steps {
        let step = adam.step;
        let (total, parts) = training.loss(network, options.seed, step, steps)?;
        if !total.to_scalar::<f32>()?.is_finite() {
            let last = adam.step - adam.step % kept;
            return Err(Error::failed(format!(
                "the training diverged: its loss at step {step} is not finite; the last checkpoint is of step {last}"
            )));
        }
        adam.update(&total.backward()?, training.rate(step, steps))?;
        let is_probed = is_probed(adam.step);
        if step.is_multiple_of(REPORT_EVERY) || step + 1 == steps || is_probed {
            let values =
                parts.iter().map(|(n, t)| Ok(((*n).to_owned(), t.to_scalar()?))).collect::<Result<Vec<Named>>>()?;
            let r = StepReport { step, values, probe: None };
            if step.is_multiple_of(REPORT_EVERY) || step + 1 == steps {
                log.reports.push(r.clone());
            }
            let probe = if is_probed { Some(probe(&adam)?) } else { None };
            report(StepReport { probe, ..r });
        }
        let cancelled = progress.step(1);
        if adam.step.is_multiple_of(kept) || adam.step == steps || cancelled.is_err() {
            save_checkpoint(folder, &adam, &log)?;
        }
        cancelled?;
    }
    design.save(folder, &copies(&adam)?, &pretty)?;
    let spec = folder.to_str().ok_or_else(|| Error::request("the output folder's name is not UTF-8"))?;
    // The card describes the finished files, so they are opened from the folder again.
    let model = Arc::new(Model::open(spec)?);
    let card = training.card(&log, &model, started.elapsed().as_secs_f64())?;
    write_atomic(&folder.join("CARD.md"), card.as_bytes())?;
    // Without a checkpoint the next training in this folder starts afresh.
    std::fs::remove_file(folder.join(CHECKPOINT)).map_err(|e| Error::write(&folder.join(CHECKPOINT), e))
}

/// Returns copies of the variables, which the training does not change any more.
fn copies(adam: &AdamW) -> Result<Vec<(String, Tensor)>> {
    let state = adam.state().into_iter().filter(|(n, _)| !n.starts_with("adam."));
    state.map(|(n, t)| Ok((n, t.copy()?))).collect()
}

fn take_probe(training: &dyn Training, model: &Arc<Model>, step: usize, folder: Option<PathBuf>) -> Result<Probe> {
    let ids = training.watched_tokens();
    let tokens = ids.iter().map(|id| model.token_text(*id)).collect();
    let trace = Trace::run(model, ids, &Progress::new())?;
    let patterns = (0..model.config.n_layers)
        .map(|l| {
            (0..model.config.n_heads)
                .map(|h| Ok(trace.head_pattern(l, h)?.flatten_all()?.to_vec1::<f32>()?))
                .collect::<Result<Vec<_>>>()
        })
        .collect::<Result<_>>()?;
    let (scores, fourier) = (training.scores(model)?, training.fourier(model)?);
    Ok(Probe { step, scores, tokens, patterns, fourier, folder })
}

fn save_checkpoint(folder: &Path, adam: &AdamW, log: &Log) -> Result<()> {
    let about = [
        ("step", adam.step.to_string()),
        ("log", serde_json::to_string(log).map_err(|e| Error::failed(e.to_string()))?),
    ];
    let state = adam.state();
    let bytes = pack(state.iter().map(|(n, t)| (n.as_str(), t)), &about)?;
    write_atomic(&folder.join(CHECKPOINT), &bytes)
}

/// A checkpoint as it lies in a folder.
pub(super) struct Checkpoint {
    step: usize,
    pub log: Log,
    /// The whole file: variables and the optimiser's moments are in it.
    bytes: Vec<u8>,
}

/// Reads the checkpoint in a folder. Returns `None` if there is none.
///
/// # Errors
/// Returns an error if the file is not a checkpoint.
pub(super) fn read_checkpoint(folder: &Path) -> Result<Option<Checkpoint>> {
    let path = folder.join(CHECKPOINT);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read(&path, LARGE)?;
    let (_, metadata) =
        safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| malformed(folder, e.to_string()))?;
    let values = metadata.metadata().clone().unwrap_or_default();
    let log = values.get("log").and_then(|l| serde_json::from_str(l).ok());
    let log = log.ok_or_else(|| malformed(folder, "it holds no training log".to_owned()))?;
    let step = values.get("step").and_then(|s| s.parse().ok());
    let step = step.ok_or_else(|| malformed(folder, "it does not say its step".to_owned()))?;
    Ok(Some(Checkpoint { step, log, bytes }))
}

fn malformed(folder: &Path, what: String) -> Error {
    Error::Malformed { path: folder.join(CHECKPOINT), format: "checkpoint", what }
}

/// Puts optimiser and log where the checkpoint in the folder stands. Changes nothing if there is none.
fn resume(folder: &Path, adam: &mut AdamW, log: &mut Log) -> Result<()> {
    let Some(Checkpoint { step, log: old, bytes }) = read_checkpoint(folder)? else { return Ok(()) };
    if old.seed != log.seed || old.steps != log.steps {
        return Err(Error::request(format!(
            "{} belongs to a training with seed {} and {} steps; use the same or another --output",
            folder.join(CHECKPOINT).display(),
            old.seed,
            old.steps
        )));
    }
    let state = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
    adam.restore(&state.map_err(|e| malformed(folder, e.to_string()))?, step)?;
    *log = old;
    Ok(())
}

/// Returns the mean cross-entropy, in nats, of the tokens that follow positions `from..to`. All rows are equally long,
/// and `to` is at most their length less one.
pub fn cross_entropy(network: Network<'_>, rows: &[Vec<u32>], from: usize, to: usize) -> Result<Tensor> {
    let refs: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let resid = network.forward(&refs, &mut NoHooks, &Progress::new())?;
    let count = to - from;
    let resid = resid.narrow(1, from, count)?.contiguous()?;
    let d_model = network.config.d_model;
    let x = network.final_norm(&resid, &mut NoHooks)?.reshape((rows.len() * count, d_model))?;
    let logits = network.unembed(&x)?;
    let targets: Vec<u32> = rows.iter().flat_map(|r| r[from + 1..=to].iter().copied()).collect();
    let targets = Tensor::from_vec(targets, rows.len() * count, &Device::Cpu)?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let log_sum = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
    let picked = logits.gather(&targets.unsqueeze(1)?, 1)?;
    Ok((log_sum - picked)?.mean_all()?)
}

/// Returns the logits after the last token of equally long rows, [row][d_vocab].
pub fn last_logits(model: &Model, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let network = model.network();
    let mut all = Vec::with_capacity(rows.len());
    // Many rows at once would take much memory.
    for part in rows.chunks(512) {
        let refs: Vec<&[u32]> = part.iter().map(Vec::as_slice).collect();
        let Some(len) = refs.first().map(|r| r.len()) else { continue };
        let resid = network.forward(&refs, &mut NoHooks, &Progress::new())?;
        let last = resid.narrow(1, len - 1, 1)?.contiguous()?;
        let x = network.final_norm(&last, &mut NoHooks)?.reshape((part.len(), network.config.d_model))?;
        all.extend(network.unembed(&x)?.to_vec2::<f32>()?);
    }
    Ok(all)
}

/// Returns the same model with one head's output set to zero. Its rows of W_O, [head · d_head, d_model], are zero then.
///
/// # Errors
/// Returns an error if the model has no such head.
pub fn without_head(model: &Model, layer: usize, head: usize) -> Result<Model> {
    let mut weights = model.weights.clone();
    let (d, d_head) = (model.config.d_model, model.config.d_head);
    let block = weights
        .blocks
        .get_mut(layer)
        .filter(|_| head < model.config.n_heads)
        .ok_or_else(|| Error::request(format!("there is no head {layer}.{head}")))?;
    let mask: Vec<f32> = (0..d).map(|i| f32::from(u8::from(i / d_head != head))).collect();
    let mask = Tensor::from_vec(mask, (d, 1), &Device::Cpu)?;
    block.attn.o.weight = block.attn.o.weight.tensor()?.broadcast_mul(&mask)?.into();
    Ok(Model::in_memory(model.config.clone(), weights, None, &model.spec))
}

/// Separates the documents of a training text. It is token 0 of [`byte_level`].
pub const SEPARATOR: &str = "<|endoftext|>";

/// Learns a byte-level BPE tokenizer of `vocab` tokens from a text.
pub fn byte_level(text: &str, vocab: usize) -> Result<tokenizers::Tokenizer> {
    let fail = |e: tokenizers::Error| Error::failed(format!("the tokenizer could not be trained: {e}"));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
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

/// Returns a tokenizer that splits at white space and whose tokens are the given words. The last one stands for unknown
/// words.
pub fn words(vocabulary: &[String]) -> Result<tokenizers::Tokenizer> {
    let fail = |e: tokenizers::Error| Error::failed(format!("the tokenizer could not be made: {e}"));
    let vocab = vocabulary.iter().enumerate().map(|(i, w)| (w.clone(), i as u32)).collect();
    let unknown = vocabulary.last().cloned().unwrap_or_default();
    let model = WordLevel::builder().vocab(vocab).unk_token(unknown.clone()).build().map_err(fail)?;
    let tokenizer = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(WhitespaceSplit))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(None::<tokenizers::DecoderWrapper>)
        .build()
        .map_err(fail)?;
    let mut tokenizer: tokenizers::Tokenizer = tokenizer.into();
    tokenizer.add_special_tokens([AddedToken::from(unknown, true)]).map_err(fail)?;
    Ok(tokenizer)
}

/// Returns the log's values as a Markdown table of about two dozen rows.
pub fn curve(log: &Log, names: &[&str]) -> String {
    let mut text = format!("| step | {} |\n| --- |{}\n", names.join(" | "), " --- |".repeat(names.len()));
    let every = (log.reports.len() / 24).max(1);
    for r in log.reports.iter().step_by(every).chain(log.reports.last()) {
        let cell =
            |name: &&str| r.values.iter().find(|(n, _)| n == name).map_or("–".to_owned(), |(_, v)| format!("{v:.4}"));
        let cells: Vec<String> = names.iter().map(cell).collect();
        text.push_str(&format!("| {} | {} |\n", r.step, cells.join(" | ")));
    }
    text
}
