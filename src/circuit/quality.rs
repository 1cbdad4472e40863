//! How good a circuit is: faithfulness, completeness, minimality, and the curve over sizes with its areas
//! CPR and CMD [MIB, Mueller et al. 2025].

use std::time::Instant;

use candle_core::Tensor;

use super::eap::EdgeScores;
use super::edges::Edges;
use super::file::Overlap;
use super::find::{Runs, top_edges};
use super::stage::Stage;
use super::wiring::{Edge, Member};
use crate::analysis::component::Component;
use crate::analysis::contributions::Means;
use crate::analysis::metric::{Metric, Readout};
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The metric's two ends: everything outside (the reference), and the whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub empty: f32,
    pub full: f32,
}

impl Scale {
    /// (m(C) − m(∅)) / (m(M) − m(∅))
    pub fn faithfulness(self, value: f32) -> f32 {
        (value - self.empty) / (self.full - self.empty)
    }
}

/// A smaller distance between the metric's ends is rounding, and shares of it say nothing.
const LEAST: f32 = 1e-3;

/// One prompt on which circuits are tried: the runs, what stands in for the outside, and what is measured.
pub struct Trial<'a> {
    pub stage: Stage,
    pub readout: Readout<'a>,
    pub scale: Scale,
}

impl<'a> Trial<'a> {
    /// `means`: what stands outside with [`Ablation::Mean`]; those of the clean run where none are given.
    ///
    /// # Errors
    /// See [`Stage::new`], and a metric that is the same at both ends, so that nothing can be a share of their
    /// distance.
    pub fn new(pair: &'a Pair, metric: Metric, outside: Ablation, means: Option<&Means>) -> Result<Self> {
        let stage = Stage::new(&pair.clean, pair.corrupted.as_deref(), outside, means)?;
        let readout = pair.readout(metric)?;
        let empty = readout.read(&stage.empty()?.normalized, &Progress::new())?;
        let full = readout.of(&stage.clean, stage.clean.len() - 1)?;
        let empty = empty.first().copied().unwrap_or(f32::NAN);
        if !(full - empty).is_finite() || (full - empty).abs() < LEAST {
            return Err(Error::request(format!(
                "the metric is {full:.4} for the whole model and {empty:.4} without it, so there is nothing for a circuit to explain; choose another answer or corrupted prompt"
            )));
        }
        Ok(Self { stage, readout, scale: Scale { empty, full } })
    }

    /// Faithfulness of normalised final rows [n, d_model].
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn read(&self, rows: &Tensor, progress: &Progress) -> Result<Vec<f32>> {
        Ok(self.readout.read(rows, progress)?.into_iter().map(|v| self.scale.faithfulness(v)).collect())
    }
}

/// What can be said of a circuit, as means over the prompts it was tried on.
#[derive(Clone, Debug)]
pub struct Quality {
    pub faithfulness: f32,
    /// The complement's faithfulness: small if the circuit holds everything that matters.
    pub completeness: f32,
    /// (faithfulness, the metric's two ends) on each prompt.
    pub prompts: Vec<(f32, Scale)>,
    /// Loss of faithfulness without each component (of an MLP of which some neurons belong to the circuit, without each
    /// of these), and without each edge; largest first.
    pub members: Vec<(Member, f32)>,
    pub edges: Vec<(Edge, f32)>,
    /// Edges that lie on a path from the embedding to the logits.
    pub size: usize,
    pub seconds: f64,
}

/// Runs a circuit, its complement, and the circuit without each member.
///
/// # Errors
/// No prompts; [`Error::Cancelled`].
pub fn quality(trials: &[Trial<'_>], circuit: &Edges, progress: &Progress) -> Result<Quality> {
    let started = Instant::now();
    let runs = Runs::of(trials, circuit, progress)?;
    let by_prompt = runs.by_prompt(progress)?;
    let faithfulness = by_prompt.iter().sum::<f32>() / by_prompt.len() as f32;
    let edges: Vec<Edge> = runs.edges().iter().collect();
    let w = circuit.wiring;
    let members: Vec<Member> = runs
        .edges()
        .components()
        .iter()
        .filter(|s| *s > 0)
        .flat_map(|s| match w.sender_at(s) {
            Component::Mlp { layer } if runs.edges().neurons(layer).is_some() => {
                let neurons = runs.edges().neurons(layer).into_iter().flatten();
                neurons.map(|neuron| Member::Neuron { layer, neuron: *neuron }).collect()
            }
            whole => vec![Member::Component(whole)],
        })
        .collect();
    progress.expect(((edges.len() + members.len()) * trials.len()) as u64);
    let completeness = Runs::of(trials, &circuit.complement(), progress)?.faithfulness(progress)?;
    let without: Vec<Edges> = members
        .iter()
        .map(|member| {
            let mut fewer = runs.edges().clone();
            match *member {
                Member::Neuron { layer, neuron } => fewer.remove_neuron(layer, neuron),
                Member::Component(c) => fewer.touching(c).into_iter().for_each(|e| fewer.remove(e)),
            }
            fewer
        })
        .collect();
    fn largest_first<T>(mut drops: Vec<(T, f32)>) -> Vec<(T, f32)> {
        drops.sort_by(|a, b| b.1.total_cmp(&a.1));
        drops
    }
    let drops = runs.variants(&without, progress)?;
    let members = members.into_iter().zip(drops).map(|(m, f)| (m, faithfulness - f)).collect();
    let drops = runs.without_each(&edges, progress)?;
    let size = edges.len();
    let edges = edges.into_iter().zip(drops).map(|(e, f)| (e, faithfulness - f)).collect();
    Ok(Quality {
        faithfulness,
        completeness,
        prompts: by_prompt.into_iter().zip(trials.iter().map(|t| t.scale)).collect(),
        members: largest_first(members),
        edges: largest_first(edges),
        size,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Two circuits side by side, on the same prompts.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub overlap: Overlap,
    /// Edges of the other.
    pub other_edges: usize,
    pub other_faithfulness: f32,
    /// Of what both have.
    pub shared_faithfulness: f32,
}

impl Comparison {
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn of(trials: &[Trial<'_>], a: &Edges, b: &Edges, progress: &Progress) -> Result<Self> {
        let faithfulness = |e: &Edges| Runs::of(trials, e, progress)?.faithfulness(progress);
        Ok(Self {
            overlap: Overlap::of(a, b),
            other_edges: b.len(),
            other_faithfulness: faithfulness(b)?,
            shared_faithfulness: faithfulness(&a.shared(b))?,
        })
    }
}

/// Shares of all edges at which the curve is taken [MIB].
pub const SIZES: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// Faithfulness of circuits of growing size.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// (share of all edges, edges left after pruning, faithfulness)
    pub points: Vec<(f64, usize, f32)>,
    /// Area under faithfulness.
    pub cpr: f64,
    /// Area between faithfulness and 1.
    pub cmd: f64,
}

/// The curve of the circuits that scores give.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn curve(
    trials: &[Trial<'_>],
    scores: &EdgeScores,
    progress: &Progress,
    mut on_point: impl FnMut(f64, f32),
) -> Result<Curve> {
    let n = scores.wiring.n_edges();
    let mut points = Vec::new();
    progress.expect(SIZES.len() as u64);
    for share in SIZES {
        let edges = top_edges(scores, ((share * n as f64).round() as usize).clamp(1, n));
        let runs = Runs::of(trials, &edges, progress)?;
        let f = runs.faithfulness(progress)?;
        on_point(share, f);
        points.push((share, runs.edges().len(), f));
        progress.step(1)?;
    }
    Ok(Curve::through(points))
}

impl Curve {
    /// The trapezoid rule over the shares.
    pub fn through(points: Vec<(f64, usize, f32)>) -> Self {
        let area = |f: &dyn Fn(f32) -> f64| -> f64 {
            points.windows(2).map(|w| (w[1].0 - w[0].0) * (f(w[0].2) + f(w[1].2)) / 2.0).sum()
        };
        let (cpr, cmd) = (area(&|v| f64::from(v)), area(&|v| f64::from((1.0 - v).abs())));
        Self { points, cpr, cmd }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_by_hand() {
        // From 0 to 0.5 faithfulness rises from 0 to 1, from there to 1.5 at 1.
        let c = Curve::through(vec![(0.0, 0, 0.0), (0.5, 1, 1.0), (1.0, 2, 1.5)]);
        assert!((c.cpr - (0.25 + 0.625)).abs() < 1e-12);
        assert!((c.cmd - (0.25 + 0.125)).abs() < 1e-12);
    }

    #[test]
    fn faithfulness_is_a_share_of_the_distance() {
        let s = Scale { empty: -2.0, full: 2.0 };
        assert_eq!((s.faithfulness(-2.0), s.faithfulness(2.0), s.faithfulness(1.0)), (0.0, 1.0, 0.75));
    }
}
