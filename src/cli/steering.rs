//! Steers a prompt with several strengths and prints the responses: the common half of `features steer` and `direction
//! steer`.

use clap::Args;
use serde_json::json;

use super::generate::text_of;
use super::{Job, PromptArgs, table};
use crate::engine::Edit;
use crate::engine::dictionaries::Dictionaries;
use crate::engine::edit::Positions;
use crate::engine::generate::Sampling;
use crate::error::{Error, Result};
use crate::features::rows::{Cut, Rows};
use crate::features::steering::{Watched, continued, dose_response};

/// The options that give the strengths, and the tokens and the text that are watched.
#[derive(Args, Clone, Debug)]
pub struct SteerArgs {
    /// Strengths to try
    #[arg(long, value_name = "A,A,...", value_delimiter = ',', allow_hyphen_values = true,
          default_values_t = [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])]
    pub alpha: Vec<f32>,
    /// Tokens whose probability is expected to rise, each taken as given; repeatable
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub towards: Vec<String>,
    /// Tokens whose probability is expected to fall; repeatable
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub away: Vec<String>,
    /// Text whose loss tells what steering costs: a file, a folder, or a shipped text's name
    #[arg(long, value_name = "PATH")]
    pub reference: Option<String>,
    /// Tokens of that text
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub reference_tokens: usize,
    /// Continue the prompt by so many tokens, without and with the largest strength
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub generate: usize,
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Seed of the tokens that are drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where the prompt and what is generated are changed: all, prompt, generated, or positions counted from 0; the
    /// reference text is changed everywhere
    #[arg(long, value_name = "all|prompt|generated|P,P,...", default_value = "all", value_parser = positions)]
    pub positions: Positions,
}

fn positions(text: &str) -> std::result::Result<Positions, String> {
    match text {
        "all" => Ok(Positions::All),
        "prompt" => Ok(Positions::Prompt),
        "generated" => Ok(Positions::Generated),
        list => list
            .split(',')
            .map(|p| {
                p.trim().parse().map_err(|_| format!("`{p}` is no position; give all, prompt, generated or numbers"))
            })
            .collect::<std::result::Result<Vec<usize>, String>>()
            .map(Positions::At),
    }
}

/// Runs the prompt under `edits(α)` for each strength α and prints the table or the document. `what` names what is steered
/// along.
pub fn execute(
    job: &mut Job,
    prompt: &PromptArgs,
    args: &SteerArgs,
    what: &str,
    edits: &dyn Fn(f32) -> Result<Vec<Edit>>,
    dictionaries: &dyn Dictionaries,
) -> Result<()> {
    let model = job.model.clone();
    let ids = prompt.required(&model)?;
    if args.alpha.iter().any(|a| !a.is_finite()) {
        return Err(Error::request("a strength is not a finite number; give numbers like -1,0,1"));
    }
    let edits = &|alpha: f32| -> Result<Vec<Edit>> {
        let mut all = edits(alpha)?;
        all.iter_mut().for_each(|e| e.positions.clone_from(&args.positions));
        Ok(all)
    };
    let watched = Watched::parse(&model, &args.towards, &args.away)?;
    let reference = match &args.reference {
        Some(path) => {
            Rows::cut(&model, std::slice::from_ref(path), &Cut::new(128, Some(args.reference_tokens)), &job.progress)?
        }
        None => Rows::default(),
    };
    job.restart();
    let progress = &job.progress;
    let doses = dose_response(&model, &ids, edits, dictionaries, &args.alpha, &watched, &reference, progress, |_| {})?;
    let mut texts = Vec::new();
    if args.generate > 0 {
        let sampling = Sampling { temperature: args.temperature, seed: args.seed, ..Sampling::default() };
        let strongest = args.alpha.iter().copied().fold(0f32, |a, b| if b.abs() >= a.abs() { b } else { a });
        for (alpha, edits) in [(0.0, Vec::new()), (strongest, edits(strongest)?)] {
            let made = continued(&model, &ids, &edits, dictionaries, sampling, args.generate, progress)?;
            let ids: Vec<u32> = made.tokens.iter().map(|t| t.id).collect();
            texts.push(json!({"alpha": alpha, "text": text_of(&model, &ids),
                "stopped": made.stopped.json(&model)}));
        }
    }
    let seconds = job.stop();
    let named = edits(1.0)?;
    let json = || {
        let edits: Vec<String> = named.iter().map(ToString::to_string).collect();
        json!({"steered": what, "edit": edits.join("; "), "doses": doses, "generated": texts})
    };
    let text = || {
        let known = |v: f32, text: fn(f32) -> String| if v.is_nan() { "–".to_owned() } else { text(v) };
        let rows: Vec<Vec<String>> = doses
            .iter()
            .map(|d| {
                vec![
                    format!("{:+.2}", d.alpha),
                    known(d.towards, |p| format!("{:.3} %", 100.0 * p)),
                    known(d.away, |p| format!("{:.3} %", 100.0 * p)),
                    known(d.share, |s| format!("{s:.4}")),
                    format!("{:.4}", d.kl),
                    d.loss.map_or("–".to_owned(), |l| format!("{l:.4}")),
                ]
            })
            .collect();
        let mut text = table(&["alpha", "towards", "away", "share", "KL, nats", "reference loss"], &rows);
        for t in &texts {
            text.push_str(&format!("\n\nα = {}: {}", t["alpha"], t["text"].as_str().unwrap_or_default()));
        }
        if args.positions == Positions::Generated {
            text.push_str(
                "\n\nWhat begins behind the prompt does not move the prediction at its end; --generate shows it.",
            );
        }
        text.push_str(&format!("\n\n{what} · {seconds:.2} s"));
        text
    };
    job.finish(Some(&ids), json, text)
}
