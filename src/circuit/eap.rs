//! Edge attribution patching: an estimate of what every edge is worth, all at once [EAP, Syed et al. 2023; EAP-IG, Hanna et
//! al. 2024].
//!
//! The exact worth of an edge is the change of the metric when the edge carries what its sender writes in the corrupted
//! run, which takes a run for each of a hundred thousand edges. To first order the change is a product:
//! (a_corrupt − a_clean) · ∂metric/∂(input of the receiver), summed over positions and d_model. One backward pass gives
//! all gradients, and all edges of a layer are one matrix product.
//!
//! Gradients at one point mislead where the model saturates. EAP-IG averages them over runs whose embedding lies between
//! the corrupted and the clean one, as integrated gradients do; these runs go through the model together.
//!
//! Scores are [receiver][sender], in units of the metric. A negative score: corrupting the edge lowers the metric. They are
//! estimates; [`super::find::refine`] measures the ones that matter.

use std::fmt;
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use super::checks::check_lengths;
use super::wiring::{Edge, Receiver, Wiring};
use crate::analysis::component::Part;
use crate::analysis::contributions::Contributions;
use crate::analysis::metric::Metric;
use crate::analysis::pair::Pair;
use crate::engine::forward::finite_values;
use crate::engine::gradient::{Along, Passes, differentiate, runs_at_once};
use crate::engine::kernels::product;
use crate::engine::{Freeze, RunSide, Site, SiteKind};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::Model;
use crate::model::config::{ModelConfig, NormKind, Parallel};
use crate::model::weights::{Linear, Norm};
use crate::progress::Progress;

/// Steps of EAP-IG unless somebody says otherwise: the authors' demo.
pub const STEPS: usize = 5;

/// A score for every edge.
#[derive(Clone, Debug)]
pub struct EdgeScores {
    pub wiring: Wiring,
    /// [receiver][sender it reads]
    pub values: Vec<Vec<f32>>,
    /// Gradients that were averaged; 0 for plain EAP.
    pub steps: usize,
    pub metric: Metric,
    pub seconds: f64,
}

/// Where the gradient is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// On the clean run: EAP.
    Clean,
    /// On `m` runs with embeddings corrupted + (k/m)(clean − corrupted), k = 0..m−1: EAP-IG.
    Integrated(usize),
}

impl Path {
    /// # Errors
    /// A number of steps that cannot be.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Integrated(m) if m == 0 || m > 10_000 => {
                Err(Error::request(format!("EAP-IG cannot take {m} steps; give 1 to 10000, 5 are usual")))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => write!(f, "EAP"),
            Self::Integrated(steps) => write!(f, "EAP-IG, {steps} steps"),
        }
    }
}

/// Scores every edge of the model.
///
/// # Errors
/// No corrupted prompt, prompts of different length, a metric without gradient, or [`Error::Cancelled`].
pub fn edge_scores(pair: &Pair, metric: Metric, path: Path, progress: &Progress) -> Result<EdgeScores> {
    let started = Instant::now();
    let (clean, corrupted) = (&pair.clean, pair.run(RunSide::Corrupted)?);
    check_lengths(clean, corrupted)?;
    if !clean.edits().is_empty() || !corrupted.edits().is_empty() {
        return Err(Error::request("edges are scored on prompts without edits; switch the edits off"));
    }
    let model = &clean.model;
    let c = &model.config;
    c.adds_up()?;
    let wiring = Wiring::new(c);
    let n = clean.len();
    // Before this position nothing differs, so that nothing is carried.
    let first = clean.ids.iter().zip(&corrupted.ids).position(|(a, b)| a != b).unwrap_or(n - 1);
    let rows = n - first;
    let readout = pair.readout(metric)?;
    let mut kinds = vec![SiteKind::Q, SiteKind::K, SiteKind::V, SiteKind::ResidPost];
    kinds.extend([SiteKind::MlpRouter, SiteKind::MlpPre, SiteKind::MlpPreLinear].into_iter().filter(|k| k.exists(c)));
    path.check()?;
    let steps = match path {
        Path::Clean => vec![1.0],
        Path::Integrated(m) => (0..m).map(|k| k as f64 / m as f64).collect::<Vec<_>>(),
    };
    let (from, to) = (corrupted.get(SiteKind::Embed, 0)?, clean.get(SiteKind::Embed, 0)?);
    let along = Along {
        network: model.network(),
        ids: &clean.ids,
        embeddings: None,
        kinds: &kinds,
        keep: &[SiteKind::ResidPre, SiteKind::ResidMid, SiteKind::MlpRouter],
        freeze: Freeze::default(),
        per_head_kv: true,
        pos: n - 1,
    };
    let mut inputs: Vec<Vec<f32>> = vec![Vec::new(); wiring.n_receivers()];
    let bytes = 4 * (wiring.n_receivers() + 4 * wiring.n_senders()) * rows * c.d_model;
    afford(bytes, &format!("scoring the edges of {rows} positions"), "shorten the prompts")?;
    for chunk in steps.chunks(runs_at_once(&along)) {
        progress.check()?;
        let points = chunk.iter().map(|t| Ok(((&from * (1.0 - t))? + (&to * *t)?)?)).collect::<Result<Vec<_>>>()?;
        let points = Tensor::stack(&points, 0)?;
        let embeddings = matches!(path, Path::Integrated(_)).then_some(&points);
        let passes = differentiate(&Along { embeddings, ..along }, |row| readout.differentiable(row), progress)?;
        collect(model, wiring, &passes, first, &mut inputs)?;
    }
    progress.check()?;
    let senders = Contributions::of(corrupted, first)?.minus(&Contributions::of(clean, first)?);
    let width = rows * c.d_model;
    let senders = Tensor::from_vec(senders.concat(), (wiring.n_senders(), width), clean.resid_final.device())?;
    let mut values = vec![Vec::new(); wiring.n_receivers()];
    // Receivers that read the same senders make one product.
    let mut at = 0;
    while at < wiring.n_receivers() {
        let reads = wiring.reads(at);
        let end = (at..wiring.n_receivers()).find(|r| wiring.reads(*r) != reads).unwrap_or(wiring.n_receivers());
        let gradient = Tensor::from_vec(inputs[at..end].concat(), (end - at, width), clean.resid_final.device())?;
        let product = (gradient.matmul(&senders.narrow(0, 0, reads)?.t()?)? / steps.len() as f64)?;
        for (receiver, row) in (at..end).zip(product.to_vec2::<f32>()?) {
            finite_values(&row, || format!("the score of an edge into {}", wiring.receiver_at(receiver)))?;
            values[receiver] = row;
        }
        at = end;
    }
    let steps = if path == Path::Clean { 0 } else { steps.len() };
    Ok(EdgeScores { wiring, values, steps, metric, seconds: started.elapsed().as_secs_f64() })
}

impl EdgeScores {
    /// The mean over several prompts' scores.
    ///
    /// # Errors
    /// No scores at all.
    pub fn mean(mut all: Vec<Self>) -> Result<Self> {
        let n = all.len() as f32;
        let mut sum = all.pop().ok_or_else(|| Error::request("there is no prompt to score edges on"))?;
        for other in &all {
            sum.seconds += other.seconds;
            for (a, b) in sum.values.iter_mut().flatten().zip(other.values.iter().flatten()) {
                *a += b;
            }
        }
        sum.values.iter_mut().flatten().for_each(|v| *v /= n);
        Ok(sum)
    }

    /// Scores that stand one behind the other, receiver by receiver; nothing where there are more or fewer than edges.
    pub fn of_flat(wiring: Wiring, flat: &[f32], steps: usize, metric: Metric) -> Option<Self> {
        let mut left = flat;
        let mut values = Vec::with_capacity(wiring.n_receivers());
        for receiver in 0..wiring.n_receivers() {
            let (row, rest) = left.split_at_checked(wiring.reads(receiver))?;
            values.push(row.to_vec());
            left = rest;
        }
        left.is_empty().then_some(Self { wiring, values, steps, metric, seconds: 0.0 })
    }

    pub fn get(&self, edge: Edge) -> f32 {
        self.values[edge.receiver][edge.sender]
    }

    /// The `n` edges of largest |score|, largest first.
    pub fn top(&self, n: usize) -> Vec<(Edge, f32)> {
        let mut all: Vec<(Edge, f32)> = self
            .values
            .iter()
            .enumerate()
            .flat_map(|(receiver, row)| row.iter().enumerate().map(move |(sender, v)| (Edge { sender, receiver }, *v)))
            .collect();
        let larger = |a: &(Edge, f32), b: &(Edge, f32)| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0));
        if n < all.len() {
            all.select_nth_unstable_by(n, larger);
            all.truncate(n);
        }
        all.sort_by(larger);
        all
    }

    /// Sum of the scores of the edges that leave each sender.
    pub fn by_sender(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.wiring.n_senders()];
        for row in &self.values {
            for (o, v) in out.iter_mut().zip(row) {
                *o += f64::from(*v);
            }
        }
        out
    }
}

/// Adds to each receiver's [rows, d_model] the gradient at its input, summed over the runs.
fn collect(model: &Model, wiring: Wiring, passes: &Passes, first: usize, inputs: &mut [Vec<f32>]) -> Result<()> {
    let c = &model.config;
    for (layer, block) in model.weights.blocks.iter().enumerate() {
        let at = |kind| Site::new(kind, layer);
        let stream = Stream::of(passes.value(at(SiteKind::ResidPre))?, first, c, block.ln1.as_ref())?;
        for (part, kind, weights, heads) in [
            (Part::Query, SiteKind::Q, &block.attn.q, c.n_heads),
            (Part::Key, SiteKind::K, &block.attn.k, c.n_kv_heads),
            (Part::Value, SiteKind::V, &block.attn.v, c.n_kv_heads),
        ] {
            let gradient = passes.gradient(at(kind))?;
            let (runs, n, ..) = gradient.dims4()?;
            let g = gradient.narrow(1, first, n - first)?;
            let through: Vec<Vec<f32>> = (0..c.n_heads)
                .into_par_iter()
                .map(|head| {
                    let g = g.narrow(2, head, 1)?.contiguous()?.reshape((runs * (n - first), c.d_head))?;
                    let group = head * heads / c.n_heads;
                    let w = weights.weight.narrow(1, group * c.d_head, c.d_head)?;
                    Ok(stream.back(product::back(&g, &w)?.flatten_all()?.to_vec1()?))
                })
                .collect::<Result<_>>()?;
            for (head, g) in through.into_iter().enumerate() {
                if let Some(r) = wiring.receiver(Receiver::Head { layer, head, part }) {
                    accumulate(&mut inputs[r], g);
                }
            }
        }
        if let (Some(mlp), Some(r)) = (&block.mlp, wiring.receiver(Receiver::Mlp { layer })) {
            let back = |kind, weights: &Linear| -> Result<Tensor> {
                let g = passes.gradient(at(kind))?;
                let (runs, n, width) = g.dims3()?;
                let g = g.narrow(1, first, n - first)?.contiguous()?.reshape((runs * (n - first), width))?;
                Ok(product::back(&g, &weights.weight)?)
            };
            let mut g = match &mlp.gate {
                Some(gate) => (back(SiteKind::MlpPre, gate)? + back(SiteKind::MlpPreLinear, &mlp.input)?)?,
                None => back(SiteKind::MlpPre, &mlp.input)?,
            };
            if let Some(router) = &mlp.router {
                g = (g + through_router(passes, at(SiteKind::MlpRouter), router, first)?)?;
            }
            let g = g.flatten_all()?.to_vec1()?;
            let g = match c.parallel {
                Parallel::Sequential => {
                    Stream::of(passes.value(at(SiteKind::ResidMid))?, first, c, block.ln2.as_ref())?.back(g)
                }
                Parallel::SharedNorm => stream.back(g),
                Parallel::OwnNorms => {
                    Stream::of(passes.value(at(SiteKind::ResidPre))?, first, c, block.ln2.as_ref())?.back(g)
                }
            };
            accumulate(&mut inputs[r], g);
        }
    }
    let last = passes.gradient(Site::new(SiteKind::ResidPost, c.n_layers - 1))?;
    let n = last.dim(1)?;
    let g = last.narrow(1, first, n - first)?.sum(0)?.flatten_all()?.to_vec1()?;
    accumulate(&mut inputs[wiring.logits()], g);
    Ok(())
}

/// The gradient at an MLP's input that arrives through the probabilities p of its experts, [runs · rows, d_model]:
/// p (g − Σ p g) · Wᵀ.
fn through_router(passes: &Passes, site: Site, router: &Linear, first: usize) -> Result<Tensor> {
    let rows = |x: &Tensor| -> Result<Tensor> {
        let (runs, n, experts) = x.dims3()?;
        Ok(x.narrow(1, first, n - first)?.contiguous()?.reshape((runs * (n - first), experts))?)
    };
    let (g, p) = (rows(passes.gradient(site)?)?, rows(passes.value(site)?)?);
    let mean = (&g * &p)?.sum_keepdim(1)?;
    Ok(product::back(&(p * g.broadcast_sub(&mean)?)?, &router.weight)?)
}

fn accumulate(sum: &mut Vec<f32>, more: Vec<f32>) {
    if sum.is_empty() {
        *sum = more;
    } else {
        sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
    }
}

/// The residual stream that a norm reads, for carrying gradients back through it.
struct Stream {
    /// [runs][rows][d], centred where the norm centres.
    x: Vec<f32>,
    /// By row.
    divisor: Vec<f32>,
    gain: Option<Vec<f32>>,
    centres: bool,
    d: usize,
    rows: usize,
}

impl Stream {
    fn of(resid: &Tensor, first: usize, config: &ModelConfig, n: Option<&Norm>) -> Result<Self> {
        let d = config.d_model;
        let rows = resid.dim(1)? - first;
        let mut x: Vec<f32> = resid.narrow(1, first, rows)?.flatten_all()?.to_vec1()?;
        let (centres, eps) = match config.norm {
            NormKind::Rms { eps } => (false, eps),
            NormKind::Layer { eps } => (true, eps),
        };
        let mut divisor = Vec::with_capacity(x.len() / d);
        for row in x.chunks_exact_mut(d) {
            if centres {
                let mean = row.iter().sum::<f32>() / d as f32;
                row.iter_mut().for_each(|v| *v -= mean);
            }
            let square = row.iter().map(|v| v * v).sum::<f32>() / d as f32;
            divisor.push((square + eps).sqrt());
        }
        let gain = n.map(|n| n.weight.to_vec1()).transpose()?;
        Ok(Self { x, divisor, gain, centres, d, rows })
    }

    /// A gradient at the norm's output [runs · rows, d] as one at its input, summed over the runs: [rows, d].
    /// With y = γ x/σ and u = γ g: u/σ − x (x·u)/(d σ³), its mean taken away where the norm centres.
    fn back(&self, mut g: Vec<f32>) -> Vec<f32> {
        let d = self.d;
        if let Some(gain) = &self.gain {
            for ((g, x), s) in g.chunks_exact_mut(d).zip(self.x.chunks_exact(d)).zip(&self.divisor) {
                g.iter_mut().zip(gain).for_each(|(g, w)| *g *= w);
                let along = g.iter().zip(x).map(|(g, x)| g * x).sum::<f32>() / (d as f32 * s * s);
                g.iter_mut().zip(x).for_each(|(g, x)| *g = (*g - x * along) / s);
                if self.centres {
                    let mean = g.iter().sum::<f32>() / d as f32;
                    g.iter_mut().for_each(|v| *v -= mean);
                }
            }
        }
        let mut out = vec![0.0; self.rows * d];
        for run in g.chunks_exact(self.rows * d) {
            out.iter_mut().zip(run).for_each(|(o, g)| *o += g);
        }
        out
    }
}
