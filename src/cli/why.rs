//! `why`: what makes a head attend where it does.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::output::document;
use super::{ModelArgs, PromptArgs, emit, progress, table};
use crate::analysis::component::Component;
use crate::analysis::why_head::{Share, why_head};
use crate::engine::Trace;
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The head, as 23.3 or a23.h3
    #[arg(long, value_name = "LAYER.HEAD")]
    head: String,
    /// The query's position (default: the last)
    #[arg(long, value_name = "N")]
    pos: Option<usize>,
    /// The key's position (default: where the head attends most)
    #[arg(long, value_name = "N")]
    key: Option<usize>,
    /// Components to list
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
}

pub fn name(share: &Share) -> String {
    share.0.map_or_else(|| "biases".to_owned(), |c| c.to_string())
}

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let ids = args.prompt.required(&model)?;
    let Some(Component::Head { layer, head }) = Component::parse(&args.head) else {
        return Err(Error::request(format!("`{}` is not a head; write LAYER.HEAD, as 23.3", args.head)));
    };
    let (progress, bar) = progress("why");
    let started = Instant::now();
    let trace = Trace::run(&model, ids, &progress)?;
    let why = why_head(&trace, layer, head, args.pos.unwrap_or(trace.len() - 1), args.key, &progress)?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let list =
            |shares: &[Share]| -> Vec<_> { shares.iter().map(|s| json!({"name": name(s), "value": s.1})).collect() };
        let doc = json!({
            "head": format!("a{layer}.h{head}"), "query": why.query, "key": why.key, "attention": why.attention,
            "advantage": why.advantage, "by_position": why.by_position, "by_query": list(&why.by_query), "by_key": list(&why.by_key), "by_value": list(&why.by_value),
            "pattern": why.pattern, "frozen": ["norm scales"],
        });
        return emit(&document(&model, Some(&trace.ids), seconds, doc).to_string());
    }
    let rows: Vec<Vec<String>> = (0..args.top)
        .map(|i| {
            let cell = |list: &[Share]| {
                list.get(i).map_or([String::new(), String::new()], |s| [name(s), format!("{:+.3}", s.1)])
            };
            [cell(&why.by_query), cell(&why.by_key), cell(&why.by_value)].concat()
        })
        .collect();
    emit(&format!("{}\n", table(&["query from", "", "key from", "", "value from", "share"], &rows)))?;
    emit(&format!(
        "a{layer}.h{head} at {} {:?} attends to {} {:?} with {:.3}: its score is {:+.3} above the mean of the others; query and key parts add up to that, value parts to 1",
        why.query,
        trace.token_text(why.query),
        why.key,
        trace.token_text(why.key),
        why.attention,
        why.advantage
    ))
}
