//! `why`: prints what makes a head attend where it does: which components write its query, its key and its value.

use serde_json::json;

use super::{Job, ModelArgs, PromptArgs, table};
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

/// Names the component of a share; the biases have none.
fn name(share: &Share) -> String {
    share.0.map_or_else(|| "biases".to_owned(), |c| c.to_string())
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "why")?;
    let ids = args.prompt.required(&job.model)?;
    let Some(Component::Head { layer, head }) = Component::parse(&args.head) else {
        return Err(Error::request(format!("`{}` is not a head; write LAYER.HEAD, as 23.3", args.head)));
    };
    let trace = Trace::run(&job.model, ids, &job.progress)?;
    let why = why_head(&trace, layer, head, args.pos.unwrap_or(trace.len() - 1), args.key, &job.progress)?;
    let json = || {
        let list =
            |shares: &[Share]| -> Vec<_> { shares.iter().map(|s| json!({"name": name(s), "value": s.1})).collect() };
        json!({
            "head": format!("a{layer}.h{head}"), "query": why.query, "key": why.key, "attention": why.attention,
            "advantage": why.advantage, "by_position": why.by_position, "by_query": list(&why.by_query), "by_key": list(&why.by_key), "by_value": list(&why.by_value),
            "pattern": why.pattern, "frozen": ["norm scales"],
        })
    };
    let text = || {
        let cell = |list: &[Share], i: usize| {
            list.get(i).map_or([String::new(), String::new()], |s| [name(s), format!("{:+.3}", s.1)])
        };
        let row = |i| [&why.by_query, &why.by_key, &why.by_value].map(|list| cell(list, i)).concat();
        let rows: Vec<Vec<String>> = (0..args.top).map(row).collect();
        format!(
            "{}\n\na{layer}.h{head} at {} {:?} attends to {} {:?} with {:.3}: its score is {:+.3} above the mean of the others; query and key parts add up to that, value parts to 1",
            table(&["query from", "", "key from", "", "value from", "share"], &rows),
            why.query,
            trace.token_text(why.query),
            why.key,
            trace.token_text(why.key),
            why.attention,
            why.advantage
        )
    };
    job.finish(Some(&trace.ids), json, text)
}
