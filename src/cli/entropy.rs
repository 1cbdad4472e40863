//! `entropy`: prints how undecided the model is after each layer.

use std::sync::Arc;

use serde_json::json;

use super::output::quoted;
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, positions, table};
use crate::analysis::entropy::{EntropyOf, Unit};
use crate::analysis::plan::Planned;
use crate::analysis::subject::Subject;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::question::Question as _;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Position to look at, from 0, or `all`
    #[arg(long, value_name = "N|all")]
    pos: Option<String>,
    /// nats, bits, or the share of the greatest entropy that the vocabulary allows
    #[arg(long, value_enum, default_value_t = Unit::Nats)]
    unit: Unit,
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::on_prompt(&self.model, &self.prompt, Planned::Lens)
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "entropy")?;
    let model = &job.model;
    let ids = args.prompt.required(model)?;
    let at = positions(args.pos.as_deref(), ids.len(), !args.model.json)?;
    let trace = Arc::new(Trace::run(model, ids, &job.progress)?);
    let question = EntropyOf { subject: Subject::one(trace.clone()), positions: at };
    let found = question.run(&job.progress, &mut |_| {})?;
    let told = |nats: f32| args.unit.of(nats, model.config.d_vocab);
    let rows: Option<Vec<Vec<f32>>> = found.nats.iter().map(|r| r.iter().map(|v| v.map(told)).collect()).collect();
    let rows = rows.ok_or_else(|| Error::failed("the lens left a cell out"))?;
    let json =
        || json!({"axes": ["layer", "pos"], "positions": found.positions, "unit": args.unit.name(), "values": rows});
    let text = || {
        let cells = rows
            .iter()
            .enumerate()
            .flat_map(|(layer, row)| found.positions.iter().zip(row).map(move |(pos, v)| (layer, *pos, *v)));
        let line = |(layer, pos, v): (usize, usize, f32)| {
            vec![layer.to_string(), pos.to_string(), quoted(&model.token_text(trace.ids[pos])), format!("{v:.3}")]
        };
        table(&["layer", "pos", "token", args.unit.name()], &cells.map(line).collect::<Vec<_>>())
    };
    job.finish(Some(&trace.ids), json, text)
}
