//! `generate`: continues a prompt while edits are active.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::output::{note, print};
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs};
use crate::analysis::pair::Pair;
use crate::analysis::plan::{Planned, cost};
use crate::engine::EditStack;
use crate::engine::generate::{Sampling, generate};
use crate::engine::resolve::resolve_stack;
use crate::error::Result;
use crate::features::Store;
use crate::model::Model;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// A stack of edits as JSON, as the window saves it
    #[arg(long, value_name = "FILE")]
    edits: Option<PathBuf>,
    /// The other prompt, for edits that copy from it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    corrupt: Option<String>,
    /// Most tokens to generate
    #[arg(long, default_value_t = 40, value_name = "N")]
    max: usize,
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Only the K most probable tokens (0: all)
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Only the most probable tokens that together reach P
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f32,
    /// Seed of the tokens that are drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| {
            let tokens = self.prompt.required(model)?.len().saturating_add(self.max);
            Ok(cost(model, tokens.min(model.config.n_ctx), Planned::Run))
        })
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "generate")?;
    let (model, progress) = (&job.model, &job.progress);
    let ids = args.prompt.required(model)?;
    let stack = args.edits.as_deref().map(EditStack::open).transpose()?.unwrap_or_default();
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    sampling.check()?;
    let (ids, ops) = if stack.is_active() {
        let corrupted = args.corrupt.as_ref().map(|t| model.encode(t, args.prompt.bos)).transpose()?;
        let pair =
            Pair::for_stack(model, &stack, ids, corrupted, progress)?.with_dictionaries(Arc::new(Store::default()));
        let ops = resolve_stack(&stack, &pair.sources(stack.base)?)?;
        (pair.run(stack.base)?.ids.clone(), Arc::new(ops))
    } else {
        (ids, Arc::default())
    };
    let stream = !args.model.json;
    let mut shown = String::new();
    let mut so_far: Vec<u32> = Vec::new();
    job.hide_bar();
    if stream {
        print(&text_of(model, &ids))?;
    }
    let made = generate(model, &ids, &ops, sampling, args.max, progress, |token| {
        so_far.push(token.id);
        if stream {
            // A token may end in the middle of a character; only whole ones are printed.
            let text = text_of(model, &so_far);
            if let Some(new) = text.strip_prefix(shown.as_str())
                && !new.ends_with('\u{fffd}')
                && print(new).is_ok()
            {
                shown = text;
            }
        }
    })?;
    let json = || {
        let list: Vec<_> =
            made.tokens.iter().map(|t| json!({"id": t.id, "text": model.token_text(t.id), "prob": t.prob})).collect();
        let edits = stack.words();
        json!({"generated": list, "text": text_of(model, &so_far), "edits": edits,
            "stopped": made.stopped.json(model),
            "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "seed": sampling.seed}})
    };
    // What is not printed yet: a character that the last token left open.
    let rest = || text_of(model, &so_far).strip_prefix(shown.as_str()).unwrap_or_default().to_owned();
    job.finish(Some(&ids), json, rest)?;
    if stream {
        note(&format!("stopped {}", made.stopped.words(model)));
    }
    Ok(())
}

/// Returns the text of ids; without a tokenizer the ids themselves.
pub fn text_of(model: &Model, ids: &[u32]) -> String {
    match &model.tokenizer {
        Some(t) => t.decode(ids),
        None => ids.iter().map(|id| format!("{} ", model.token_text(*id))).collect(),
    }
}
