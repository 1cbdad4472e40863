//! `patch --set`, `attribute --set` and `circuit eval --set -o`: the mean over the pairs of a prompt set, in shards where it is large.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::output::document;
use super::set_args::{PAIR, SetArgs};
use super::submit::Work;
use super::sweep::nested;
use super::{ModelArgs, Part, ShardArgs, circuit_over, emit, emit_json, progress, table};
use crate::analysis::plan::Planned;
use crate::analysis::sweep::SweepResult;
use crate::circuit::eap::EdgeScores;
use crate::circuit::pair_values::{self, Measured, PairValues, PairsAbout};
use crate::circuit::trial::AnsweredPair;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::shard::Shard;

/// The options of a mean over a set.
#[derive(clap::Args, Clone, Debug)]
pub struct OverSetArgs {
    #[command(flatten)]
    pub set: SetArgs,
    #[command(flatten)]
    pub shard: ShardArgs,
    /// With --set: where to write the values of every pair (safetensors); an unfinished file is gone on with
    #[arg(short, long, value_name = "FILE", requires = "set", conflicts_with_all = PAIR)]
    pub output: Option<PathBuf>,
}

impl OverSetArgs {
    /// What is gone over, where a set is asked for.
    pub fn work<'a>(&'a self, model: &'a ModelArgs, what: Planned) -> Option<Work<'a>> {
        self.set.set.is_some().then(|| Work::over_pairs(model, &self.set, what))
    }

    /// True where a set is asked for, not one pair.
    ///
    /// # Errors
    /// A shard of one pair, or one that is not written.
    pub fn is_asked(&self) -> Result<bool> {
        if self.shard.shard != Part(0, 1) && (self.set.set.is_none() || self.output.is_none()) {
            return Err(Error::request(
                "--shard is a share of a prompt set, in a file; add --set NAME and --output FILE",
            ));
        }
        Ok(self.set.set.is_some())
    }
}

/// Measures every pair of the shard and says what the means are. `measured` says what, as the options name it.
pub fn execute(
    args: &OverSetArgs,
    (model, json): (Arc<Model>, bool),
    (command, measured): (&str, Value),
    top: usize,
    one: &mut dyn FnMut(&AnsweredPair, &Progress) -> Result<Measured>,
) -> Result<()> {
    let (progress, bar) = progress("over the prompt set");
    let started = Instant::now();
    let pairs = args.set.generate(&model)?.ok_or_else(|| Error::request("name a prompt set with --set"))?;
    let shard = args.shard.shard.begin(args.output.as_deref())?;
    let about = PairsAbout {
        model: model.config.name.clone(),
        shard: Shard::new(command, model.fingerprint()?, pair_values::hash(&pairs), shard)?,
        measured,
        set: args.set.set.clone().unwrap_or_default(),
        seed: args.set.seed,
        total: pairs.len(),
        axes: Vec::new(),
        done: 0,
        pairs: 0,
    };
    let found = pair_values::run(about, &pairs, args.output.as_deref(), &progress, &mut |pair| {
        let part = progress.part();
        one(&AnsweredPair::run(pair, &model, &part)?, &part)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    let ids = pairs.first().map(|p| p.clean_ids.clone());
    if json {
        let mut fields = fields(&found)?;
        fields["output"] = json!(args.output.as_ref().map(|p| p.display().to_string()));
        return emit_json(document(&model, ids.as_deref(), seconds, fields));
    }
    let written = args.output.as_deref().map_or(String::new(), |p: &Path| format!(" in {}", p.display()));
    emit(&format!("{}\n\n{}{written} · {seconds:.1} s", strongest(&found, top)?, line(&found)))
}

/// What is measured of a sweep over one pair.
pub fn of_sweep(found: &SweepResult) -> Measured {
    Measured {
        axes: found.axes.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        values: found.values.clone(),
        ends: [found.clean, found.corrupted.unwrap_or(f32::NAN)],
    }
}

/// What is measured of edges: their scores, receiver by receiver.
pub fn of_edges(scores: &EdgeScores, ends: [f32; 2]) -> Measured {
    let values = scores.values.concat();
    Measured { axes: vec![("edge".to_owned(), values.len())], values, ends }
}

/// The means as a document says them: with both ends the metric's share where cells are patched, else the scores.
pub fn fields(found: &PairValues) -> Result<Value> {
    let a = &found.about;
    if found.ends.is_empty() {
        return Ok(json!({"set": a.set, "seed": a.seed, "pairs": 0, "measured": a.measured, "about": a}));
    }
    let m = found.means()?;
    let (names, shape): (Vec<&String>, Vec<usize>) = a.axes.iter().map(|(name, n)| (name, *n)).unzip();
    let mut doc = json!({
        "set": a.set, "seed": a.seed, "pairs": found.ends.len(), "measured": a.measured, "axes": names,
        "clean": m.clean, "corrupt": m.corrupted, "deviation": nested(&m.deviation, &shape), "about": a,
    });
    if circuit_over::is_one(found) {
        circuit_over::fill(&mut doc, a, &m);
        return Ok(doc);
    }
    if edges(found) {
        doc["scores"] = nested(&m.values, &shape);
        return Ok(doc);
    }
    doc["raw"] = nested(&m.values, &shape);
    // A share of the pairs has means of its own; whether theirs differ enough is seen on the whole.
    doc["values"] = match share(&m) {
        Err(_) if found.about.shard.shards.len() < found.about.shard.of => Value::Null,
        values => nested(&values?, &shape),
    };
    Ok(doc)
}

/// Whether the cells are edges, whose scores stand for themselves.
fn edges(found: &PairValues) -> bool {
    found.about.axes.first().is_some_and(|(name, _)| name == "edge")
}

/// (mean − corrupted)/(clean − corrupted), of means: pairs on which the metric hardly differs weigh little.
fn share(m: &pair_values::Means) -> Result<Vec<f32>> {
    let span = m.clean - m.corrupted;
    if !(span.is_finite() && span.abs() > 1e-6) {
        return Err(Error::request(format!(
            "the metric is {:.4} on the clean and on the corrupted prompts, so that nothing is a share of the difference",
            m.clean
        )));
    }
    Ok(m.values.iter().map(|v| (v - m.corrupted) / span).collect())
}

/// A line about what was measured.
pub fn line(found: &PairValues) -> String {
    let a = &found.about;
    format!("{} over {} pairs of {} (seed {})", a.shard.command, found.ends.len(), a.set, a.seed)
}

/// The strongest cells as a table.
fn strongest(found: &PairValues, top: usize) -> Result<String> {
    if found.ends.is_empty() {
        return Ok("no pair is in this shard".to_owned());
    }
    let m = found.means()?;
    if circuit_over::is_one(found) {
        return Ok(circuit_over::told(&found.about, &m));
    }
    let (values, name) = if edges(found) {
        (m.values.clone(), "score")
    } else {
        match share(&m) {
            Err(e) if found.about.shard.shards.len() < found.about.shard.of => return Ok(format!("in this shard {e}")),
            values => (values?, "value"),
        }
    };
    let mut ranked: Vec<usize> = (0..values.len()).filter(|i| values[*i].is_finite()).collect();
    ranked.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
    let mut header: Vec<&str> = found.about.axes.iter().map(|(n, _)| n.as_str()).collect();
    header.extend([name, "mean", "deviation"]);
    let rows: Vec<Vec<String>> = ranked
        .into_iter()
        .take(top)
        .map(|i| {
            let (mut left, mut row) = (i, Vec::new());
            for (_, n) in found.about.axes.iter().rev() {
                row.insert(0, (left % n).to_string());
                left /= n;
            }
            row.extend([values[i], m.values[i], m.deviation[i]].map(|v| format!("{v:+.4}")));
            row
        })
        .collect();
    Ok(table(&header, &rows))
}
