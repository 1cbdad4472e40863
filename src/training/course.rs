//! How a lab transformer is trained: step by step from a seed, with checkpoints that it resumes from, and looks at it
//! on the way.

use std::collections::HashMap;
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
use crate::files::write_atomic;
use crate::model::Model;
use crate::model::Network;
use crate::model::tokenizer::Tokenizer;
use crate::progress::Progress;

/// A name and a value, as curves and scores are made of.
pub type Named = (String, f32);

/// What a training is: the model, its data, how it is judged.
pub trait Course {
    fn name(&self) -> &'static str;
    fn design(&self) -> Design;
    fn optimiser(&self) -> AdamWSettings {
        AdamWSettings::default()
    }
    /// Steps of the recipe.
    fn steps(&self) -> usize;
    fn rate(&self, step: usize, total: usize) -> f64;
    /// Steps between two looks, and between two checkpoints that can be opened.
    fn rhythm(&self) -> (usize, usize);
    fn tokenizer(&self) -> Result<tokenizers::Tokenizer>;
    /// The loss of a step, and the parts of it that are reported. A function of seed and step alone, so that a resumed
    /// training is the same one.
    fn loss(
        &self,
        network: Network<'_>,
        seed: u64,
        step: usize,
        total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)>;
    /// What the model can do by now.
    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>>;
    /// Tokens whose attention patterns are watched.
    fn probe(&self) -> Vec<u32>;
    /// Spectra, for a task that has them.
    fn fourier(&self, _model: &Model) -> Result<Option<Fourier>> {
        Ok(None)
    }
    /// The text of CARD.md.
    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String>;
}

/// What the model looks like at a step.
#[derive(Clone, Debug)]
pub struct Sight {
    pub step: usize,
    pub scores: Vec<Named>,
    /// The watched prompt, token by token.
    pub tokens: Vec<String>,
    /// [layer][head], each [dest][src] row by row.
    pub patterns: Vec<Vec<Vec<f32>>>,
    pub fourier: Option<Fourier>,
    /// The folder of the checkpoint, where there is one.
    pub folder: Option<PathBuf>,
}

/// What has been reported so far; goes with the checkpoint.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Log {
    pub seed: u64,
    pub steps: usize,
    pub reports: Vec<StepReport>,
}

/// The checkpoint of a training under way, in its folder.
pub const STATE: &str = "training-state.safetensors";
/// Steps between two points of the curves.
const REPORT_EVERY: usize = 25;

/// Trains, reporting now and then.
pub fn train(
    course: &dyn Course,
    options: &TrainOptions,
    progress: &Progress,
    report: &mut dyn FnMut(StepReport),
) -> Result<()> {
    let started = Instant::now();
    let steps = options.steps.unwrap_or(course.steps());
    if steps == 0 {
        return Err(Error::request("a training of 0 steps trains nothing; give --steps a number above 0"));
    }
    let folder = &options.output;
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let design = course.design();
    let tokenizer = course.tokenizer()?;
    let pretty =
        tokenizer.to_string(false).map_err(|e| Error::failed(format!("the tokenizer cannot be written: {e}")))?;
    let vars = design.variables(options.seed)?;
    let tensors: Vec<(String, Tensor)> = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let config = design.config(course.name());
    let weights = design.weights(&tensors)?;
    let network = Network { config: &config, weights: &weights };
    let mut adam = AdamW::new(vars, course.optimiser())?;
    let mut log = Log { seed: options.seed, steps, reports: Vec::new() };
    if !options.fresh {
        resume(folder, &mut adam, &mut log)?;
    }
    let (look, keep) = course.rhythm();
    progress.expect(steps as u64);
    progress.step(adam.step as u64)?;
    let snapshot = |adam: &AdamW| -> Result<Arc<Model>> {
        let tensors = copies(adam)?;
        let inner = tokenizer.clone();
        let tokenizer = Tokenizer::new(inner, design.vocab, None, None, folder)?;
        Ok(Arc::new(Model::in_memory(config.clone(), design.weights(&tensors)?, Some(tokenizer), course.name())))
    };
    let sight = |adam: &AdamW| -> Result<Arc<Sight>> {
        let model = snapshot(adam)?;
        let place = adam.step.is_multiple_of(keep) || adam.step >= steps;
        let folder = place.then(|| folder.join("checkpoints").join(format!("step-{:06}", adam.step)));
        if let Some(folder) = &folder {
            design.save(folder, &copies(adam)?, &pretty)?;
        }
        Ok(Arc::new(look_at(course, &model, adam.step, folder)?))
    };
    if options.looks && adam.step == 0 {
        report(StepReport { step: 0, values: Vec::new(), sight: Some(sight(&adam)?) });
    }
    while adam.step < steps {
        let step = adam.step;
        let (total, parts) = course.loss(network, options.seed, step, steps)?;
        adam.update(&total.backward()?, course.rate(step, steps))?;
        let looks = options.looks && (adam.step.is_multiple_of(look) || adam.step == steps);
        if step.is_multiple_of(REPORT_EVERY) || step + 1 == steps || looks {
            let values =
                parts.iter().map(|(n, t)| Ok(((*n).to_owned(), t.to_scalar()?))).collect::<Result<Vec<Named>>>()?;
            let r = StepReport { step, values, sight: None };
            if step.is_multiple_of(REPORT_EVERY) || step + 1 == steps {
                log.reports.push(r.clone());
            }
            let sight = if looks { Some(sight(&adam)?) } else { None };
            report(StepReport { sight, ..r });
        }
        let cancelled = progress.step(1);
        if adam.step.is_multiple_of(keep) || adam.step == steps || cancelled.is_err() {
            save_state(folder, &adam, &log)?;
        }
        cancelled?;
    }
    design.save(folder, &copies(&adam)?, &pretty)?;
    let spec = folder.to_str().ok_or_else(|| Error::request("the output folder's name is not UTF-8"))?;
    // The card tells what the finished files do, opened as everyone opens them.
    let model = Arc::new(Model::open(spec)?);
    let card = course.card(&log, &model, started.elapsed().as_secs_f64())?;
    write_atomic(&folder.join("CARD.md"), card.as_bytes())?;
    // The state has served; a later training starts afresh.
    std::fs::remove_file(folder.join(STATE)).map_err(|e| Error::write(&folder.join(STATE), e))
}

/// The variables' values now, apart from the training.
fn copies(adam: &AdamW) -> Result<Vec<(String, Tensor)>> {
    let state = adam.state().into_iter().filter(|(n, _)| !n.starts_with("adam."));
    state.map(|(n, t)| Ok((n, t.copy()?))).collect()
}

fn look_at(course: &dyn Course, model: &Arc<Model>, step: usize, folder: Option<PathBuf>) -> Result<Sight> {
    let ids = course.probe();
    let tokens = ids.iter().map(|id| model.token_text(*id)).collect();
    let trace = Trace::run(model, ids, &Progress::new())?;
    let patterns = (0..model.config.n_layers)
        .map(|l| {
            (0..model.config.n_heads)
                .map(|h| Ok(trace.head_pattern(l, h)?.flatten_all()?.to_vec1::<f32>()?))
                .collect::<Result<Vec<_>>>()
        })
        .collect::<Result<_>>()?;
    let (scores, fourier) = (course.scores(model)?, course.fourier(model)?);
    Ok(Sight { step, scores, tokens, patterns, fourier, folder })
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

/// Mean cross-entropy of the tokens that follow positions `from..to`, nats. Rows are equally long; `to` is at most
/// their length less one.
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

/// Logits after the last token of equally long rows, [row][vocabulary].
pub fn last_logits(model: &Model, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let network = model.network();
    let mut all = Vec::with_capacity(rows.len());
    // In parts, so that memory stays small.
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

/// The same model with one head's output set to zero: its rows of W_O, [head · d_head, d_model], are.
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
    block.attn.o.weight = block.attn.o.weight.broadcast_mul(&mask)?;
    Ok(Model::in_memory(model.config.clone(), weights, None, &model.spec))
}

/// Stands between the documents of a training text; token 0 of [`byte_level`].
pub const SEPARATOR: &str = "<|endoftext|>";

/// Byte-level BPE with `vocab` tokens, learned from a text.
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

/// A tokenizer whose tokens are the given words, split at white space.
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

/// A table of the log's values, about two dozen rows of it.
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
