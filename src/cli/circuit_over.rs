//! `circuit eval --set -o`: how good a circuit is over the pairs of a prompt set, in shards where it is large. Of each pair are
//! kept the faithfulness of the circuit, of its complement, and of the circuits of all sizes that given scores rank.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::circuit::eap::EdgeScores;
use crate::circuit::edges::Edges;
use crate::circuit::find::{Runs, top_edges};
use crate::circuit::pair_values::{Means, Measured, PairValues, PairsAbout};
use crate::circuit::quality::{Curve, SIZES};
use crate::circuit::trial::AnsweredPair;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::progress::Progress;
use crate::shard::hex;

/// The axis of what is kept of a pair, by which a file of it is known.
const AXIS: &str = "circuit";

/// What is measured of every pair.
pub struct Judge {
    metric: MetricKind,
    outside: Ablation,
    circuit: Edges,
    complement: Edges,
    /// Circuits of growing size, with their share of all edges.
    sizes: Vec<(f64, Edges)>,
}

impl Judge {
    /// `scores` rank the edges for the curve over sizes; without them there is none.
    ///
    /// # Errors
    /// A mean stands outside the circuit: it is one over all prompts, which no shard has.
    pub fn new(
        metric: MetricKind,
        outside: Ablation,
        circuit: Edges,
        scores: Option<&Arc<EdgeScores>>,
    ) -> Result<Self> {
        check_outside(outside)?;
        let sizes = scores.map_or_else(Vec::new, |scores| {
            let n = scores.wiring.n_edges();
            let of = |share: f64| top_edges(scores, ((share * n as f64).round() as usize).clamp(1, n));
            SIZES.iter().map(|share| (*share, of(*share))).collect()
        });
        Ok(Self { metric, outside, complement: circuit.complement(), circuit, sizes })
    }

    /// What tells this work from others.
    pub fn measured(&self, path: &Path, method: &str) -> Value {
        let hash = |edges: &Edges| {
            let ends = edges.iter().flat_map(|e| [e.sender as u64, e.receiver as u64]);
            let neurons = edges.limited().flat_map(|(layer, some)| some.iter().map(move |n| [layer as u64, *n as u64]));
            let mut hash = Hash::default();
            hash.all(ends);
            hex(hash.all(neurons.flatten()))
        };
        // Those that lie on a path from the embedding to the logits.
        let size = |edges: &Edges| {
            let mut edges = edges.clone();
            edges.prune();
            edges.len()
        };
        let sizes: Vec<Value> = self.sizes.iter().map(|(share, e)| json!([share, size(e), hash(e)])).collect();
        json!({
            "circuit": path.display().to_string(), "method": method, "metric": self.metric.name(),
            "outside": self.outside.label(), "n_edges": size(&self.circuit), "edges": hash(&self.circuit), "sizes": sizes,
        })
    }

    /// # Errors
    /// As a trial of the circuit on this pair.
    pub fn pair(&self, pair: &AnsweredPair, progress: &Progress) -> Result<Measured> {
        let trials = [pair.trial(self.metric, self.outside, None)?];
        let all = [&self.circuit, &self.complement].into_iter().chain(self.sizes.iter().map(|(_, edges)| edges));
        let values =
            all.map(|edges| Runs::of(&trials, edges, progress)?.faithfulness(progress)).collect::<Result<Vec<_>>>()?;
        let [trial] = &trials;
        Ok(Measured {
            axes: vec![(AXIS.to_owned(), values.len())],
            values,
            ends: [trial.scale.full, trial.scale.empty],
        })
    }
}

/// # Errors
/// A mean: no pair knows it.
pub fn check_outside(outside: Ablation) -> Result<()> {
    if outside == Ablation::Mean {
        return Err(Error::request(
            "outside the circuit stands the mean over all prompts, which is not known pair by pair; choose another \
             --outside, or leave --output out",
        ));
    }
    Ok(())
}

/// Whether values of pairs are of a circuit.
pub fn is_one(found: &PairValues) -> bool {
    found.about.axes.first().is_some_and(|(name, _)| name == AXIS)
}

fn curve(about: &PairsAbout, m: &Means) -> Option<Curve> {
    let sizes = about.measured["sizes"].as_array().filter(|s| !s.is_empty())?;
    let points = sizes.iter().zip(m.values.iter().skip(2));
    Some(Curve::through(points.filter_map(|(s, f)| Some((s[0].as_f64()?, s[1].as_u64()? as usize, *f))).collect()))
}

/// Fills a document of means, with the names that `circuit eval` has for them.
pub fn fill(doc: &mut Value, about: &PairsAbout, m: &Means) {
    let measured = &about.measured;
    for field in ["circuit", "method", "metric", "outside", "n_edges"] {
        doc[field] = measured[field].clone();
    }
    // The metric's ends on a circuit are the whole model and nothing.
    (doc["whole"], doc["without"]) = (json!(m.clean), json!(m.corrupted));
    (doc["faithfulness"], doc["completeness"]) = (json!(m.values.first()), json!(m.values.get(1)));
    if let Some(c) = curve(about, m) {
        let points: Vec<Value> =
            c.points.iter().map(|(s, n, f)| json!({"share": s, "edges": n, "faithfulness": f})).collect();
        doc["curve"] = json!({"cpr": c.cpr, "cmd": c.cmd, "points": points});
    }
}

/// The same in words.
pub fn told(about: &PairsAbout, m: &Means) -> String {
    let measured = &about.measured;
    let word = |name: &str| measured[name].as_str().unwrap_or_default().to_owned();
    let value = |i: usize| format!("{:.3} ± {:.3}", m.values[i], m.deviation[i]);
    let mut text = format!(
        "{} edges, {} outside, {}: faithfulness {}, completeness (the complement's) {}; {:+.4} whole, {:+.4} without",
        measured["n_edges"],
        word("outside"),
        word("metric"),
        value(0),
        value(1),
        m.clean,
        m.corrupted,
    );
    if let Some(c) = curve(about, m) {
        let points: Vec<String> = c.points.iter().map(|(s, _, f)| format!("{s} {f:.3}")).collect();
        text += &format!("\ncurve over shares of all edges: {}; CPR {:.3}, CMD {:.3}", points.join(", "), c.cpr, c.cmd);
    }
    text
}
