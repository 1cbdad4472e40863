//! `lens`: the logit lens.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::output::{document, quoted};
use super::{ModelArgs, PromptArgs, emit, positions, progress, table};
use crate::analysis::logit_lens::{AnswerCell, Cell, logit_lens};
use crate::engine::Trace;
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Position to look at, from 0, or `all`
    #[arg(long, value_name = "N|all")]
    pos: Option<String>,
    /// Token whose probability, rank and logit to follow
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    answer: Option<String>,
    /// Token whose logit to subtract
    #[arg(long, value_name = "TOKEN", requires = "answer", allow_hyphen_values = true)]
    wrong: Option<String>,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let ids = args.prompt.required(&model)?;
    let at = positions(args.pos.as_deref(), ids.len(), !args.model.json)?;
    let answer = args.answer.as_deref().map(|t| model.single_token(t)).transpose()?;
    let wrong = args.wrong.as_deref().map(|t| model.single_token(t)).transpose()?;
    let (progress, bar) = progress("lens");
    let started = Instant::now();
    let trace = Trace::run(&model, ids, &progress)?;
    let lens = logit_lens(&trace, &at, answer, wrong, &progress, |_| {})?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    let missing = || Error::failed("the lens left a cell out");
    if args.model.json {
        // grid[layer][pos] of one quantity
        let grid = |f: &dyn Fn(&Cell) -> Value| -> Result<Value> {
            let rows = lens.cells.iter().map(|row| row.iter().map(|c| c.as_ref().map(f)).collect::<Option<Vec<_>>>());
            rows.collect::<Option<Vec<_>>>().map(|g| json!(g)).ok_or_else(missing)
        };
        let top = |c: &Cell| c.top.first().copied();
        let mut doc = json!({
            "axes": ["layer", "pos"],
            "positions": lens.positions,
            "top1_id": grid(&|c| json!(top(c).map(|t| t.id)))?,
            "top1_text": grid(&|c| json!(top(c).map(|t| model.token_text(t.id))))?,
            "top1_prob": grid(&|c| json!(top(c).map(|t| t.prob)))?,
            "entropy": grid(&|c| json!(c.entropy))?,
        });
        if let (Some(id), Some(map)) = (answer, doc.as_object_mut()) {
            let of = |f: fn(&AnswerCell) -> Value| grid(&move |c| c.answer.as_ref().map_or(Value::Null, f));
            map.insert("answer".to_owned(), json!({"id": id, "text": model.token_text(id)}));
            map.insert("answer_prob".to_owned(), of(|a| json!(a.prob))?);
            map.insert("answer_rank".to_owned(), of(|a| json!(a.rank))?);
            map.insert("answer_logit".to_owned(), of(|a| json!(a.logit))?);
            if let Some(id) = wrong {
                map.insert("wrong".to_owned(), json!({"id": id, "text": model.token_text(id)}));
                map.insert("logit_difference".to_owned(), of(|a| json!(a.logit_difference))?);
            }
        }
        return emit(&document(&model, Some(&trace.ids), seconds, doc).to_string());
    }
    let mut header = vec!["layer", "pos", "top token", "probability", "entropy"];
    if answer.is_some() {
        header.extend(["p(answer)", "rank"]);
    }
    if wrong.is_some() {
        header.push("logit diff");
    }
    let mut rows = Vec::new();
    for (layer, cells) in lens.cells.iter().enumerate() {
        for (pos, cell) in lens.positions.iter().zip(cells) {
            let cell = cell.as_ref().ok_or_else(missing)?;
            let top = cell.top.first().ok_or_else(missing)?;
            let mut row = vec![
                layer.to_string(),
                pos.to_string(),
                quoted(&model.token_text(top.id)),
                format!("{:.4}", top.prob),
                format!("{:.3}", cell.entropy),
            ];
            if let Some(a) = &cell.answer {
                row.extend([format!("{:.4}", a.prob), a.rank.to_string()]);
                row.extend(a.logit_difference.map(|d| format!("{d:+.3}")));
            }
            rows.push(row);
        }
    }
    emit(&table(&header, &rows))
}
