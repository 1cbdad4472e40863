//! `lens`: prints what each layer would predict (the logit lens).

use std::sync::Arc;

use serde_json::{Value, json};

use super::faithful::{Cells, FaithfulArgs};
use super::output::quoted;
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, positions, table};
use crate::analysis::logit_lens::{AnswerCell, Cell, TOP, logit_lens};
use crate::analysis::plan::Planned;
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
    #[command(flatten)]
    faithful: FaithfulArgs,
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::on_prompt(&self.model, &self.prompt, Planned::Lens)
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "lens")?;
    let model = &job.model;
    let ids = args.prompt.required(model)?;
    let at = positions(args.pos.as_deref(), ids.len(), !args.model.json)?;
    let answer = args.answer.as_deref().map(|t| model.single_token(t)).transpose()?;
    let wrong = args.wrong.as_deref().map(|t| model.single_token(t)).transpose()?;
    let swap = args.faithful.token(model)?;
    let trace = Arc::new(Trace::run(model, ids, &job.progress)?);
    let lens = logit_lens(&trace, None, &at, answer, wrong, TOP, &job.progress, |_| {})?;
    // cells[layer][pos]
    let cells: Option<Vec<Vec<&Cell>>> =
        lens.cells.iter().map(|row| row.iter().map(Option::as_ref).collect()).collect();
    let cells = cells.ok_or_else(|| Error::failed("the lens left a cell out"))?;
    let cells = Cells { layers: (0..lens.n_layers).collect(), positions: lens.positions.clone(), cells };
    let faithful = args.faithful.measure(&trace, None, &cells, swap, &job.progress)?;
    let cells = cells.cells;
    let json = || {
        let grid = |f: &dyn Fn(&Cell) -> Value| {
            Value::Array(cells.iter().map(|row| row.iter().map(|c| f(c)).collect()).collect())
        };
        let top = |c: &Cell| c.top.first().copied();
        let mut doc = json!({
            "axes": ["layer", "pos"],
            "positions": lens.positions,
            "top1_id": grid(&|c| json!(top(c).map(|t| t.id))),
            "top1_text": grid(&|c| json!(top(c).map(|t| model.token_text(t.id)))),
            "top1_prob": grid(&|c| json!(top(c).map(|t| t.prob))),
            "entropy": grid(&|c| json!(c.entropy)),
        });
        if let Some(id) = answer {
            let of = |f: fn(&AnswerCell) -> Value| grid(&|c| c.answer.as_ref().map_or(Value::Null, f));
            doc["answer"] = json!({"id": id, "text": model.token_text(id)});
            doc["answer_prob"] = of(|a| json!(a.prob));
            doc["answer_rank"] = of(|a| json!(a.rank));
            doc["answer_logit"] = of(|a| json!(a.logit));
            if let Some(id) = wrong {
                doc["wrong"] = json!({"id": id, "text": model.token_text(id)});
                doc["logit_difference"] = of(|a| json!(a.logit_difference));
            }
        }
        if let Some(found) = &faithful {
            doc["faithful"] = found.json();
        }
        doc
    };
    let text = || {
        let mut header = vec!["layer", "pos", "top token", "probability", "entropy"];
        if answer.is_some() {
            header.extend(["p(answer)", "rank"]);
        }
        if wrong.is_some() {
            header.push("logit diff");
        }
        if faithful.is_some() {
            header.push("faithful");
        }
        let mut rows = Vec::new();
        for (layer, row) in cells.iter().enumerate() {
            for (pos, cell) in lens.positions.iter().zip(row) {
                let top = cell.top.first();
                let mut row = vec![
                    layer.to_string(),
                    pos.to_string(),
                    top.map_or_else(String::new, |t| quoted(&model.token_text(t.id))),
                    top.map_or_else(String::new, |t| format!("{:.4}", t.prob)),
                    format!("{:.3}", cell.entropy),
                ];
                if let Some(a) = &cell.answer {
                    row.extend([format!("{:.4}", a.prob), a.rank.to_string()]);
                    row.extend(a.logit_difference.map(|d| format!("{d:+.3}")));
                }
                row.extend(faithful.as_ref().map(|found| found.share(layer, *pos)));
                rows.push(row);
            }
        }
        table(&header, &rows)
    };
    job.finish(Some(&trace.ids), json, text)
}
