//! The card of a trained dictionary: how it was made, how good it is, and how it is made again.

use super::recipe::{HELD_OUT, Training};
use crate::features::Dictionary;
use crate::features::quality::Quality;
use crate::model::Model;
use crate::shell::word;

/// The line that trains it again; words are quoted as shells on Unix read them.
fn command(t: &Training, model: &Model) -> String {
    let r = &t.recipe;
    let mut line = format!("circuitscope features train -m {} --site {}", word(&model.spec), r.site);
    if let Some(target) = &r.target {
        line.push_str(&format!(" --target {target}"));
    }
    for text in &r.text {
        line.push_str(&format!(" --text {}", word(text)));
    }
    let s = &r.settings;
    line.push_str(&format!(
        " --context {} --method {} --features {} -k {} --sparsity {} --steps {} --batch {} --rate {} --warmup {} --fall {} \
         --sparsity-warmup {} --bandwidth {} --dead-after {} --resample {} --auxiliary {} --seed {}{}{}{}{}{} -o FOLDER",
        r.context,
        s.method.name(),
        s.features,
        s.k,
        s.sparsity,
        s.steps,
        s.batch,
        s.rate,
        s.warmup,
        s.fall,
        s.sparsity_warmup,
        s.bandwidth,
        s.dead_after,
        s.resample,
        s.auxiliary,
        s.seed,
        r.tokens.map_or(String::new(), |n| format!(" --tokens {n}")),
        if r.bos { " --bos" } else { "" },
        if r.include_first { " --include-first" } else { "" },
        if s.skip { " --skip" } else { "" },
        if s.nested.is_empty() {
            String::new()
        } else {
            format!(" --nested {}", s.nested.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        },
    ));
    line
}

/// The card's text, in Markdown.
pub(super) fn card(t: &Training, d: &Dictionary, quality: Option<&Quality>, model: &Model) -> String {
    let (r, s) = (&t.recipe, &t.recipe.settings);
    let mut text = format!(
        "# {}\n\nA {} for {}, in SAELens' format.\n\nTrain it again: `{}`\n\n## Scores\n\n",
        d.name,
        d.describe(),
        model.config.name,
        command(t, model)
    );
    match quality {
        Some(q) => text.push_str(&format!(
            "On the {} rows that training held out (every {HELD_OUT}th; of fewer, the last):\n\n```\n{}\n```\n",
            t.held.len(),
            q.report()
        )),
        None if t.held.is_empty() => text.push_str("The text was too short to hold any out.\n"),
        None if !t.is_judged() => {
            text.push_str(&format!("What {} holds is read only, so that no loss can be measured.\n", r.site));
        }
        None => text.push_str("Judging was stopped; `circuitscope features eval` does it.\n"),
    }
    text.push_str(&format!(
        "\n## Recipe\n\n{}; {} positions of {} in rows of {} tokens{}; activations scaled to a mean squared length of d;\n\
         Adam, learning rate {} after {} warm-up steps, falling to zero over the last {:.0} %; decoder rows of length 1.\n\n\
         ## Curve\n\n| step | explained variance | L0 | dead | CE-loss score |\n| --- | --- | --- | --- | --- |\n",
        s.method.explain(),
        t.positions,
        r.text.join(", "),
        r.context,
        if r.include_first { "" } else { ", each row's first left out" },
        s.rate,
        s.warmup,
        100.0 * s.fall,
    ));
    for p in t.trainer.curve.iter().filter(|p| p.ce_score.is_some() || p.step == 1 || p.step == s.steps) {
        text.push_str(&format!(
            "| {} | {:.4} | {:.1} | {:.1} % | {} |\n",
            p.step,
            p.explained,
            p.l0,
            100.0 * p.dead,
            p.ce_score.map_or("–".to_owned(), |s| format!("{s:.4}"))
        ));
    }
    text
}
