//! `run`: runs a prompt and prints its next tokens and its loss; writes captured sites to a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::output::quoted;
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, table};
use crate::analysis::plan::{Planned, cost};
use crate::cli::writable;
use crate::cost::Cost;
use crate::engine::logits::summarise;
use crate::engine::resume::bytes_per_row;
use crate::engine::{Capture, NoHooks};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::memory::afford;
use crate::model::safetensors_file::pack;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// How many next tokens to list
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
    /// Sites to capture, by TransformerLens name with * and ? (blocks.*.hook_resid_post); repeatable
    #[arg(long, value_name = "GLOB", requires = "output")]
    capture: Vec<String>,
    /// Where to write the captured sites (safetensors, f32)
    #[arg(short, long, value_name = "FILE", value_parser = writable)]
    output: Option<PathBuf>,
}

impl Arguments {
    /// How often what is captured is held: a file is put together in memory.
    fn copies(&self) -> usize {
        1 + usize::from(self.output.is_some())
    }

    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| {
            let n = self.prompt.required(model)?.len();
            let capture = Capture::globs(&model.config, &self.capture)?;
            let run = cost(model, n, Planned::Run);
            Ok(Cost { work: run.work + (self.copies() * capture.bytes(&model.config, n)) as u64, ..run })
        })
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "running")?;
    let (model, progress) = (&job.model, &job.progress);
    let ids = args.prompt.required(model)?;
    let mut capture = Capture::globs(&model.config, &args.capture)?;
    if args.output.is_some() && args.capture.is_empty() {
        return Err(Error::request("--output was given without --capture; name the sites to write"));
    }
    let what = format!("a run of {} tokens that keeps these sites", ids.len());
    let bytes = args.copies() * capture.bytes(&model.config, ids.len()) + ids.len() * bytes_per_row(&model.config);
    let room = if args.capture.is_empty() { model.room() } else { "shorten the prompt or capture less" };
    afford(bytes, &what, room)?;
    progress.expect(ids.len() as u64 + 1);
    let network = model.network();
    let resid = if args.capture.is_empty() {
        network.forward(&[&ids], &mut NoHooks, progress)?
    } else {
        let resid = network.forward(&[&ids], &mut capture, progress)?;
        network.final_norm(&resid, &mut capture)?;
        resid
    };
    let last = ids.len() - 1;
    // The loss needs every position's logits, the ranking only the last one's.
    let asked = |r: usize| ids.get(r + 1).copied().into_iter().collect();
    let resid = resid.squeeze(0)?;
    let rows = summarise(network, &resid, 0, asked, &mut NoHooks, progress)?;
    let losses: Vec<f32> = rows.iter().filter_map(|r| r.asked.first().map(|(logit, _)| r.log_sum - logit)).collect();
    let loss = (!losses.is_empty()).then(|| losses.iter().sum::<f32>() / losses.len() as f32);
    let top = args.top.min(model.config.d_vocab);
    let next = summarise(network, &resid.narrow(0, last, 1)?, top, |_| Vec::new(), &mut NoHooks, progress)?;
    let next = next.into_iter().next().map(|r| r.top).unwrap_or_default();
    let seconds = job.stop();

    if let Some(path) = &args.output {
        let tensors: BTreeMap<String, _> = capture
            .values
            .iter()
            .map(|(site, t)| Ok((site.to_string(), t.squeeze(0)?.contiguous()?)))
            .collect::<Result<_>>()?;
        let about = [
            ("ids", serde_json::to_string(&ids).unwrap_or_default()),
            ("model", model.config.name.clone()),
            ("generator", concat!("circuitscope ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        write_atomic(path, &pack(tensors.iter().map(|(n, t)| (n.as_str(), t)), &about)?)?;
    }
    let json = || {
        let next: Vec<_> = next
            .iter()
            .map(|t| json!({"id": t.id, "text": model.token_text(t.id), "prob": t.prob, "logit": t.logit}))
            .collect();
        let mut doc = json!({"next": next, "loss": loss});
        if let Some(path) = &args.output {
            let captured = capture.values.keys().map(|s| {
                json!({"name": s.to_string(), "shape": s.shape(&model.config, ids.len()),
                "axes": s.kind.axes().iter().map(|a| a.name()).collect::<Vec<_>>()})
            });
            doc["captured"] = captured.collect();
            doc["output"] = json!(path.display().to_string());
        }
        doc
    };
    let text = || {
        let rows: Vec<Vec<String>> = next
            .iter()
            .map(|t| {
                vec![
                    quoted(&model.token_text(t.id)),
                    t.id.to_string(),
                    format!("{:.4} %", t.prob * 100.0),
                    format!("{:.3}", t.logit),
                ]
            })
            .collect();
        let loss = loss.map_or("-".to_owned(), |l| format!("{l:.4}"));
        let mut text = table(&["next token", "id", "probability", "logit"], &rows);
        text.push_str(&format!("\n\n{} tokens · mean loss {loss} nats · {seconds:.3} s", ids.len()));
        if let Some(path) = &args.output {
            text.push_str(&format!("\n{} sites written to {}", capture.values.len(), path.display()));
        }
        text
    };
    job.finish(Some(&ids), json, text)
}
