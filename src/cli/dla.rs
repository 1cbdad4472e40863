//! `dla`: prints what each component adds to a logit or a logit difference (direct logit attribution).

use serde_json::json;

use super::output::quoted;
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, positions, table};
use crate::analysis::direct_attribution::direct_attribution;
use crate::analysis::plan::Planned;
use crate::engine::Trace;
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Token whose logit to explain
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    answer: String,
    /// Token whose logit to subtract
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    wrong: Option<String>,
    /// Position that predicts (default: the last)
    #[arg(long, value_name = "N")]
    pos: Option<String>,
    /// Components to list in the table
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::on_prompt(&self.model, &self.prompt, Planned::Trace)
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "dla")?;
    let model = &job.model;
    let ids = args.prompt.required(model)?;
    let at = positions(args.pos.as_deref(), ids.len(), true)?;
    let [pos] = at[..] else { return Err(Error::request("dla explains one position; give --pos a number")) };
    let answer = model.single_token(&args.answer)?;
    let wrong = args.wrong.as_deref().map(|t| model.single_token(t)).transpose()?;
    let trace = Trace::run(model, ids, &job.progress)?;
    let a = direct_attribution(&trace, pos, answer, wrong)?;
    let json = || {
        let token = |id: u32| json!({"id": id, "text": model.token_text(id)});
        json!({
            "pos": pos,
            "answer": token(answer),
            "wrong": wrong.map(token),
            "axes": {"heads": ["layer", "head"], "mlps": ["layer"], "attn_biases": ["layer"]},
            "parts": {"embed": a.embed, "pos_embed": a.pos_embed, "heads": a.heads, "mlps": a.mlps,
                      "biases": a.biases(), "attn_biases": a.attn_biases, "output_bias": a.output_bias},
            "sum": a.sum(),
            "logit": a.logit,
            "frozen": ["ln_final.hook_scale"],
            "before_softcap": model.config.final_softcap,
        })
    };
    let text = || {
        let mut parts = vec![("embed".to_owned(), a.embed), ("biases".to_owned(), a.biases())];
        if model.weights.pos_embed.is_some() {
            parts.push(("pos_embed".to_owned(), a.pos_embed));
        }
        for (l, heads) in a.heads.iter().enumerate() {
            parts.extend(heads.iter().enumerate().map(|(h, v)| (format!("a{l}.h{h}"), *v)));
        }
        parts.extend(a.mlps.iter().enumerate().map(|(l, v)| (format!("m{l}"), *v)));
        parts.sort_by(|x, y| y.1.abs().total_cmp(&x.1.abs()));
        let rows: Vec<Vec<String>> =
            parts.iter().take(args.top).map(|(n, v)| vec![n.clone(), format!("{v:+.4}")]).collect();
        let quoted = |id: u32| quoted(&model.token_text(id));
        let minus = wrong.map_or(String::new(), |w| format!(" minus {}", quoted(w)));
        let rest = parts.len().saturating_sub(args.top);
        format!(
            "{}\n\nlogit of {}{minus} at position {pos}: {:+.4} · sum of all {} parts {:+.4}{} · final norm's scale frozen{}",
            table(&["component", "part"], &rows),
            quoted(answer),
            a.logit,
            parts.len(),
            a.sum(),
            if rest > 0 { format!(" ({rest} not listed)") } else { String::new() },
            model.config.final_softcap.map_or(String::new(), |c| format!(" · before the soft cap of {c}")),
        )
    };
    job.finish(Some(&trace.ids), json, text)
}
