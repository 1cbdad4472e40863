//! Runs of a model in which every edge outside a circuit is ablated.
//!
//! To see what a circuit does alone, the rest of the model must be silenced without being removed: each edge outside
//! carries what its sender writes in a reference instead of what it writes in this run. The reference is the corrupted run
//! (resample ablation, also called interchange), a mean, or nothing [Wang et al. 2022; Hanna et al. 2024].
//!
//! What is kept of a sender is its difference from the reference, δ [rows, d_model]. A receiver's input is the reference's
//! stream plus the δ of the senders that it reads through edges of the circuit. The rows are the positions from the first
//! one on at which run and reference differ: before it every δ is 0.
//!
//! A circuit that differs in a few edges from one that was run is not run again. Only the components that the changed
//! edges reach inside the circuit are computed, and many such variants go through each component together. Removing one
//! edge from a circuit of a few hundred costs a small part of a forward pass; every search here lives on that.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::checks::{bytes, check_lengths, check_memory};
use super::edges::{Edges, Senders};
use super::limit::Limit;
use super::wiring::{Edge, Receiver, Wiring};
use crate::analysis::component::{Component, Part};
use crate::analysis::contributions::{Contributions, Means, PostNorm, output_weights};
use crate::analysis::patching::Ablation;
use crate::engine::forward::Prepared;
use crate::engine::hooks::NoHooks;
use crate::engine::kernels::segments::{Past, Segment};
use crate::engine::kernels::{norm, product};
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::config::{Parallel, QkNorm};
use crate::model::weights::{Linear, Norm};
use crate::progress::Progress;

type Rows = Arc<Vec<f32>>;

/// (variant, receiver, what arrived there)
type Inputs = Vec<(usize, usize, Rows)>;

/// One prompt with what stands in for everything outside a circuit.
pub struct AblatedRuns {
    pub clean: Arc<Trace>,
    pub wiring: Wiring,
    pub outside: Ablation,
    /// The first position at which clean run and reference differ.
    first: usize,
    rows: usize,
    d: usize,
    /// By sender what it writes outside the circuit, [rows, d_model].
    reference: Vec<Vec<f32>>,
    /// By layer what neurons outside the circuit hold, [rows, d_mlp]; empty where that is nothing.
    neurons: Vec<Rows>,
    /// The embedding's difference from the reference.
    embed: Rows,
    /// The reference's stream before each layer, before each MLP, and before the final norm.
    pre: Vec<Rows>,
    mid: Vec<Rows>,
    last: Rows,
    prepared: Prepared,
}

/// A circuit that was run with everything outside ablated.
#[derive(Clone)]
pub struct AblatedRun {
    /// What was run: the circuit, pruned.
    pub edges: Edges,
    /// By receiver; `None` where nothing of the circuit arrives, so that the reference's stream does.
    inputs: Vec<Option<Rows>>,
    /// By sender; `None` where it was not computed, being outside.
    deltas: Vec<Option<Rows>>,
    /// The normalised final residual row [1, d_model].
    pub normalized: Tensor,
}

/// A variant while it runs.
struct Variant<'a> {
    base: &'a AblatedRun,
    edges: Edges,
    /// Senders that have to be computed.
    compute: Senders,
    /// Senders of which only the last row is read by anything that matters; the others of their rows are left
    /// unchanged.
    short: Senders,
    /// By computed sender.
    deltas: Vec<Option<Vec<f32>>>,
    /// Senders computed so far, and how many.
    done: Senders,
    n_done: usize,
    /// Sum of all changes so far, for receivers that read nearly everything.
    total: Vec<f32>,
    inputs: Vec<(usize, Rows)>,
}

/// Rows of a batch at most, to bound memory and the time between two chances to cancel.
const ROWS: usize = 512;

impl AblatedRuns {
    /// # Errors
    /// Prompts of different length with [`Ablation::Resample`], or no reference run with the others.
    pub fn new(
        clean: &Arc<Trace>,
        corrupted: Option<&Trace>,
        outside: Ablation,
        means: Option<&Means>,
    ) -> Result<Self> {
        let n = clean.len();
        let mut first = 0;
        if outside == Ablation::Resample {
            let corrupted = corrupted.ok_or_else(|| {
                Error::request(
                    "resampling what is outside a circuit needs a corrupted prompt; give one, or choose zero or mean",
                )
            })?;
            check_lengths(clean, corrupted)?;
            first = clean.ids.iter().zip(&corrupted.ids).position(|(a, b)| a != b).unwrap_or(n - 1);
        }
        let d = clean.model.config.d_model;
        let rows = n - first;
        let wiring = Wiring::new(&clean.model.config);
        check_memory(wiring, rows, d)?;
        let own = match (outside, means) {
            (Ablation::Mean, None) => Some(Means::of(std::slice::from_ref(clean), &Progress::new())?),
            _ => None,
        };
        let means = means.or(own.as_ref());
        let repeated = |list: &[Vec<f32>]| -> Vec<Vec<f32>> { list.iter().map(|row| row.repeat(rows)).collect() };
        let reference = match (outside, corrupted, means) {
            (Ablation::Resample, Some(corrupted), _) => Contributions::of(corrupted, first)?.values,
            (Ablation::Mean, _, Some(means)) => repeated(&means.values),
            _ => vec![vec![0.0; rows * d]; wiring.n_senders()],
        };
        let neurons = match (outside, corrupted, means) {
            (Ablation::Resample, Some(corrupted), _) if wiring.has_mlp() => (0..wiring.n_layers)
                .map(|l| {
                    let post = corrupted.get(SiteKind::MlpPost, l)?.narrow(0, first, rows)?;
                    Ok(post.flatten_all()?.to_vec1()?)
                })
                .collect::<Result<Vec<Vec<f32>>>>()?,
            (Ablation::Mean, _, Some(means)) => repeated(&means.neurons),
            _ => Vec::new(),
        };
        let exact = (outside == Ablation::Resample).then_some(corrupted).flatten();
        let plain = Self::with_reference(clean, exact, outside, first, reference)?;
        Ok(Self { neurons: neurons.into_iter().map(Arc::new).collect(), ..plain })
    }

    /// With contributions from elsewhere standing in for what is outside; single neurons outside hold nothing.
    pub fn with_reference(
        clean: &Arc<Trace>,
        exact: Option<&Trace>,
        outside: Ablation,
        first: usize,
        reference: Vec<Vec<f32>>,
    ) -> Result<Self> {
        let c = &clean.model.config;
        if !clean.edits().is_empty() || exact.is_some_and(|t| !t.edits().is_empty()) {
            return Err(Error::request("circuits are run on prompts without edits; switch the edits off"));
        }
        c.adds_up()?;
        let wiring = Wiring::new(c);
        let (n, d) = (clean.len(), c.d_model);
        let rows = n - first;
        check_memory(wiring, rows, d)?;
        let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(t.narrow(0, first, rows)?.flatten_all()?.to_vec1()?) };
        let own = Contributions::of(clean, first)?;
        let embed = Arc::new(own.values[0].iter().zip(&reference[0]).map(|(a, b)| a - b).collect());
        // The reference's streams: those of its run, or what its senders and the biases add up to.
        let mut sum = vec![0f32; rows * d];
        let mut added = 0;
        let mut stream = |kind: SiteKind, layer: usize, senders: usize| -> Result<Rows> {
            while added < senders {
                add(&mut sum, &reference[added], 1.0);
                // A layer's bias joins with its last head.
                if let Component::Head { layer, head } = wiring.sender_at(added)
                    && head + 1 == c.n_heads
                    && let Some(bias) = &own.biases[layer]
                {
                    add(&mut sum, bias, 1.0);
                }
                added += 1;
            }
            Ok(Arc::new(match exact {
                Some(t) if layer == c.n_layers => flat(t.resid_final.clone())?,
                Some(t) => flat(t.get(kind, layer)?)?,
                None => sum.clone(),
            }))
        };
        let (mut pre, mut mid) = (Vec::new(), Vec::new());
        for layer in 0..c.n_layers {
            let receiver = |r| wiring.receiver(r).map_or(0, |r| wiring.reads(r));
            pre.push(stream(
                SiteKind::ResidPre,
                layer,
                receiver(Receiver::Head { layer, head: 0, part: Part::Query }),
            )?);
            mid.push(match (c.has_mlp(), c.parallel) {
                (true, Parallel::Sequential) => stream(SiteKind::ResidMid, layer, receiver(Receiver::Mlp { layer }))?,
                _ => pre[layer].clone(),
            });
        }
        let last = stream(SiteKind::ResidPost, c.n_layers, wiring.n_senders())?;
        let prepared = Prepared::new(c, n);
        Ok(Self {
            clean: clean.clone(),
            wiring,
            outside,
            first,
            rows,
            d,
            reference,
            neurons: Vec::new(),
            embed,
            pre,
            mid,
            last,
            prepared,
        })
    }

    /// Bytes that it takes with a few circuits run on it.
    pub fn bytes(&self) -> usize {
        bytes(self.wiring, self.rows, self.d)
    }

    /// Positions that are computed, counted from the first that differs from the reference.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn stream(&self, receiver: usize) -> &Rows {
        match self.wiring.receiver_at(receiver) {
            Receiver::Head { layer, .. } => &self.pre[layer],
            Receiver::Mlp { layer } => &self.mid[layer],
            Receiver::Logits => &self.last,
        }
    }

    /// The circuit of no edges: the reference itself.
    pub fn empty(&self) -> Result<AblatedRun> {
        let row = self.final_rows(&[self.last.as_slice()])?;
        Ok(AblatedRun {
            edges: Edges::none(self.wiring),
            inputs: vec![None; self.wiring.n_receivers()],
            deltas: vec![None; self.wiring.n_senders()],
            normalized: row,
        })
    }

    /// Runs one circuit.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn run(&self, edges: &Edges, progress: &Progress) -> Result<AblatedRun> {
        let empty = self.empty()?;
        let mut runs = self.batch(&empty, vec![edges.clone()], progress, true)?.0;
        runs.pop().ok_or_else(|| Error::failed("a circuit was not run"))
    }

    /// The normalised final rows [variant, d_model] of circuits that differ little from `base`.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn variants(&self, base: &AblatedRun, circuits: &[Edges], progress: &Progress) -> Result<Tensor> {
        self.variants_of(base, circuits, true, progress)
    }

    /// As [`Self::variants`], without counting them as progress.
    pub(super) fn trial_variants(&self, base: &AblatedRun, circuits: &[Edges], progress: &Progress) -> Result<Tensor> {
        self.variants_of(base, circuits, false, progress)
    }

    fn variants_of(&self, base: &AblatedRun, circuits: &[Edges], count: bool, progress: &Progress) -> Result<Tensor> {
        let at_once = (ROWS / self.rows).max(1);
        let mut rows = Vec::new();
        for chunk in circuits.chunks(at_once) {
            rows.push(self.batch(base, chunk.to_vec(), progress, false)?.1);
            if count {
                progress.step(chunk.len() as u64)?;
            }
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// `base` with changed edges as a base of its own.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn moved(&self, base: &AblatedRun, edges: &Edges, progress: &Progress) -> Result<AblatedRun> {
        let mut runs = self.batch(base, vec![edges.clone()], progress, true)?.0;
        runs.pop().ok_or_else(|| Error::failed("a circuit was not run"))
    }

    fn batch(
        &self,
        base: &AblatedRun,
        circuits: Vec<Edges>,
        progress: &Progress,
        keep: bool,
    ) -> Result<(Vec<AblatedRun>, Tensor)> {
        let mut variants: Vec<Variant<'_>> = circuits.into_par_iter().map(|e| self.plan(base, e, keep)).collect();
        for layer in 0..self.wiring.n_layers {
            progress.check()?;
            self.heads(layer, &mut variants, keep)?;
            if self.wiring.has_mlp() {
                self.mlp(layer, &mut variants, keep)?;
            }
        }
        let logits = self.wiring.logits();
        let size = self.rows * self.d;
        let mut inputs: Vec<Vec<f32>> = vec![vec![0.0; size]; variants.len()];
        inputs.par_iter_mut().zip(&variants).for_each(|(x, v)| self.input(v, logits, x));
        let normalized = self.final_rows(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        if !keep {
            return Ok((Vec::new(), normalized));
        }
        let mut runs = Vec::new();
        for (i, (mut v, input)) in variants.into_iter().zip(inputs).enumerate() {
            v.inputs.push((logits, Arc::new(input)));
            runs.push(v.finish(self.wiring, normalized.narrow(0, i, 1)?));
        }
        Ok((runs, normalized))
    }

    fn plan<'a>(&self, base: &'a AblatedRun, mut edges: Edges, keep: bool) -> Variant<'a> {
        let w = self.wiring;
        let connected = edges.prune();
        let mut compute = edges.no_senders();
        let mut deltas = vec![None; w.n_senders()];
        // The embedding comes before all others.
        if base.deltas[0].is_none() {
            compute.insert(0);
        }
        for sender in connected.iter().filter(|s| *s > 0) {
            let changes = |r| !edges.same_row(&base.edges, r) || edges.reads_any(r, &compute);
            let limits = match w.sender_at(sender) {
                Component::Mlp { layer } => edges.neurons(layer) != base.edges.neurons(layer),
                _ => false,
            };
            if limits || base.deltas[sender].is_none() || w.receivers_of(sender).any(changes) {
                compute.insert(sender);
            }
        }
        // What serves as a base later has to be whole.
        let short = if keep || self.rows == 1 { edges.no_senders() } else { self.short(&edges, &connected) };
        let mut total = vec![0.0; self.rows * self.d];
        let mut done = edges.no_senders();
        let first = base.deltas[0].is_none();
        if first {
            total.copy_from_slice(&self.embed);
            deltas[0] = Some(self.embed.to_vec());
            done.insert(0);
        }
        Variant { base, edges, compute, short, deltas, done, n_done: usize::from(first), total, inputs: Vec::new() }
    }

    /// Senders whose other rows no key or value of the circuit reads, directly or through what reads them.
    fn short(&self, edges: &Edges, connected: &Senders) -> Senders {
        let w = self.wiring;
        let mut long = edges.no_senders();
        // Readers stand behind what they read.
        for receiver in (0..w.logits()).rev() {
            let Some(reader) = w.sender_of(receiver).filter(|s| connected.contains(*s)) else { continue };
            let all_rows = match w.receiver_at(receiver) {
                Receiver::Head { part: Part::Key | Part::Value, .. } => true,
                _ => long.contains(reader),
            };
            if all_rows {
                edges.row(receiver).for_each(|s| long.insert(s));
            }
        }
        let mut short = edges.no_senders();
        connected.iter().filter(|s| *s > 0 && !long.contains(*s)).for_each(|s| short.insert(s));
        short
    }

    /// Writes what arrives at a receiver to x [rows, d_model].
    fn input(&self, v: &Variant<'_>, receiver: usize, x: &mut [f32]) {
        let (members, inside) = v.edges.counts(receiver, &v.done);
        let reads = self.wiring.reads(receiver);
        // Whichever is less: adding what is inside, or adding everything and taking away what is outside. All
        // that was computed so far stands in the total, so that every part of it must be one that could be read.
        let all = 2 * inside > v.n_done + 1 && v.done.iter().all(|s| s < reads);
        let changes = if all { v.n_done - inside + 1 } else { inside };
        let flips: Vec<(usize, bool)> = v.edges.flips(&v.base.edges, receiver).collect();
        if members <= changes + flips.len() || self.outside == Ablation::Zero {
            // Afresh. Where nothing arrives this gives the reference's stream itself. Against a reference of nothing
            // a sum that merely cancels would leave rounding errors that the norm of an empty stream blows up.
            x.copy_from_slice(self.stream(receiver));
            for sender in v.edges.row(receiver) {
                if let Some(delta) = v.deltas[sender].as_ref().or(v.base.deltas[sender].as_deref()) {
                    add(x, delta, 1.0);
                }
            }
            return;
        }
        x.copy_from_slice(v.base.inputs[receiver].as_ref().unwrap_or_else(|| self.stream(receiver)));
        if all {
            add(x, &v.total, 1.0);
        }
        for sender in v.done.iter().take_while(|s| *s < reads) {
            if v.edges.contains(Edge { sender, receiver }) != all
                && let Some(delta) = &v.deltas[sender]
            {
                let sign = if all { -1.0 } else { 1.0 };
                add(x, delta, sign);
                if let Some(old) = &v.base.deltas[sender] {
                    add(x, old, -sign);
                }
            }
        }
        for (sender, new) in flips {
            if let Some(delta) = &v.base.deltas[sender] {
                add(x, delta, if new { 1.0 } else { -1.0 });
            }
        }
    }

    /// Inputs of several variants one behind the other, [1, variants · rows, d_model]. Those that are to be kept
    /// go to `read` as (variant, receiver, input).
    fn stack(
        &self,
        variants: &[Variant<'_>],
        members: &[usize],
        receiver: usize,
        read: Option<&mut Inputs>,
    ) -> Result<Tensor> {
        let size = self.rows * self.d;
        let mut flat = vec![0f32; members.len() * size];
        flat.par_chunks_mut(size).zip(members).for_each(|(x, v)| self.input(&variants[*v], receiver, x));
        if let Some(read) = read {
            let inputs = flat.chunks_exact(size).map(|x| Arc::new(x.to_vec()));
            read.extend(members.iter().zip(inputs).map(|(v, x)| (*v, receiver, x)));
        }
        Ok(Tensor::from_vec(flat, (1, members.len() * self.rows, self.d), self.clean.resid_final.device())?)
    }

    fn prepare(&self, runs: usize) -> Prepared {
        let segment = |i| Segment { first: i * self.rows, rows: self.rows, start: self.first };
        self.prepared.resume((0..runs).map(segment).collect())
    }

    fn heads(&self, layer: usize, variants: &mut [Variant<'_>], keep: bool) -> Result<()> {
        let c = &self.clean.model.config;
        let sender = |head| self.wiring.sender(Component::Head { layer, head }).unwrap_or(0);
        let work: Vec<(usize, Vec<usize>)> = (0..c.n_heads)
            .map(|h| {
                (h, (0..variants.len()).filter(|v| variants[*v].compute.contains(sender(h))).collect::<Vec<usize>>())
            })
            .filter(|(_, members)| !members.is_empty())
            .collect();
        if work.is_empty() {
            return Ok(());
        }
        let past = self.clean.past(layer)?;
        let post = PostNorm::of(&self.clean, layer, self.first)?;
        let divisors = self.divisors(layer)?;
        let shared: &[Variant<'_>] = variants;
        let written: Vec<(Vec<f32>, Inputs)> = work
            .par_iter()
            .map(|(head, members)| {
                self.head(layer, *head, shared, members, &past, post.as_ref(), divisors.as_ref(), keep)
            })
            .collect::<Result<_>>()?;
        for ((head, members), (written, inputs)) in work.iter().zip(written) {
            self.store(variants, sender(*head), members, &written, self.rows);
            for (v, receiver, x) in inputs {
                variants[v].inputs.push((receiver, x));
            }
        }
        Ok(())
    }

    /// What q/k norms over all heads divide by in the clean run, [rows, 1] each.
    fn divisors(&self, layer: usize) -> Result<Option<[Tensor; 2]>> {
        let c = &self.clean.model.config;
        if c.qk_norm != QkNorm::FullWidth {
            return Ok(None);
        }
        let of = |kind: SiteKind, heads: usize| -> Result<Tensor> {
            let x = self.clean.get(kind, layer)?.narrow(0, self.first, self.rows)?.contiguous()?;
            Ok(norm::normalize(&x.reshape((self.rows, heads * c.d_head))?, c.norm, false)?.1)
        };
        Ok(Some([of(SiteKind::Q, c.n_heads)?, of(SiteKind::K, c.n_kv_heads)?]))
    }

    /// One head of several variants: what it writes [variants, rows, d_model] and what it read.
    fn head(
        &self,
        layer: usize,
        head: usize,
        variants: &[Variant<'_>],
        members: &[usize],
        past: &Past,
        post: Option<&PostNorm>,
        divisors: Option<&[Tensor; 2]>,
        keep: bool,
    ) -> Result<(Vec<f32>, Inputs)> {
        let model = &self.clean.model;
        let c = &model.config;
        let block = &model.weights.blocks[layer];
        let kv = c.kv_head(head);
        let n = members.len() * self.rows;
        let mut read = Vec::new();
        let mut project = |part: Part, weights: &Linear, at: usize| -> Result<Tensor> {
            let receiver = self.wiring.receiver(Receiver::Head { layer, head, part }).unwrap_or(0);
            let x = self.stack(variants, members, receiver, keep.then_some(&mut read))?;
            let x = self.normed(&x, block.ln1.as_ref())?.squeeze(0)?;
            let mut y = product::apply(&x, &weights.weight.narrow(1, at * c.d_head, c.d_head)?)?;
            if let Some(b) = &weights.bias {
                y = y.broadcast_add(&b.narrow(0, at * c.d_head, c.d_head)?)?;
            }
            Ok(y.reshape((1, n, 1, c.d_head))?)
        };
        let q = project(Part::Query, &block.attn.q, head)?;
        let k = project(Part::Key, &block.attn.k, kv)?;
        let v = project(Part::Value, &block.attn.v, kv)?;
        let own = Past {
            keys: past.keys.narrow(1, kv, 1)?.contiguous()?,
            values: past.values.narrow(1, kv, 1)?.contiguous()?,
        };
        let repeat = |t: &Tensor| Tensor::cat(&vec![t.clone(); members.len()], 0);
        let divisors = match divisors {
            Some([q, k]) => Some([repeat(q)?, repeat(k)?]),
            None => None,
        };
        let prepared = self.prepare(members.len());
        let z = model.network().attend_head(layer, head, [q, k, v], &prepared, &own, divisors.as_ref())?;
        let mut written = product::apply(&z.reshape((n, c.d_head))?, &output_weights(&self.clean, layer, head)?)?;
        if let Some(post) = post {
            written = post.repeated(members.len())?.apply(&written, c.centres())?;
        }
        Ok((written.flatten_all()?.to_vec1()?, read))
    }

    fn mlp(&self, layer: usize, variants: &mut [Variant<'_>], keep: bool) -> Result<()> {
        let Some(sender) = self.wiring.sender(Component::Mlp { layer }) else { return Ok(()) };
        let computed = |v: &usize| variants[*v].compute.contains(sender);
        let (short, long): (Vec<usize>, Vec<usize>) =
            (0..variants.len()).filter(computed).partition(|v| variants[*v].short.contains(sender));
        for (members, rows) in [(long, self.rows), (short, 1)] {
            self.mlp_rows(layer, sender, variants, &members, rows, keep)?;
        }
        Ok(())
    }

    /// The MLP of some variants at their last rows.
    fn mlp_rows(
        &self,
        layer: usize,
        sender: usize,
        variants: &mut [Variant<'_>],
        members: &[usize],
        rows: usize,
        keep: bool,
    ) -> Result<()> {
        let network = self.clean.model.network();
        let block = &network.weights.blocks[layer];
        let Some(weights) = block.mlp.as_ref().filter(|_| !members.is_empty()) else { return Ok(()) };
        let receiver = self.wiring.receiver(Receiver::Mlp { layer }).unwrap_or(0);
        let mut read = Vec::new();
        let mut x = self.stack(variants, members, receiver, keep.then_some(&mut read))?;
        if rows < self.rows {
            let last = x.reshape((members.len(), self.rows, self.d))?.narrow(1, self.rows - rows, rows)?;
            x = last.contiguous()?.reshape((1, members.len() * rows, self.d))?;
        }
        let gain = if network.config.parallel == Parallel::SharedNorm { &block.ln1 } else { &block.ln2 };
        let mut limit = Limit {
            inside: members.iter().map(|v| variants[*v].edges.neurons(layer)).collect(),
            outside: self.neurons.get(layer).map(|n| &n[(self.rows - rows) * self.wiring.d_mlp..]),
            rows,
        };
        let out = network.mlp(layer, &self.normed(&x, gain.as_ref())?, weights, false, &mut limit)?;
        let out = network.post_norm(out, block.ln2_post.as_ref(), false)?;
        self.store(variants, sender, members, &out.flatten_all()?.to_vec1()?, rows);
        for (v, receiver, x) in read {
            variants[v].inputs.push((receiver, x));
        }
        Ok(())
    }

    fn normed(&self, x: &Tensor, n: Option<&Norm>) -> Result<Tensor> {
        match n {
            Some(n) => Ok(norm::apply(x, self.clean.model.config.norm, n, false)?),
            None => Ok(x.clone()),
        }
    }

    /// Takes up what a sender wrote in its last rows.
    fn store(&self, variants: &mut [Variant<'_>], sender: usize, members: &[usize], written: &[f32], rows: usize) {
        let before = (self.rows - rows) * self.d;
        let reference = &self.reference[sender][before..];
        for (v, written) in members.iter().zip(written.chunks_exact(rows * self.d)) {
            let v = &mut variants[*v];
            let old = v.base.deltas[sender].as_deref();
            // Rows that are not computed count as unchanged.
            let mut delta = old.map_or_else(|| vec![0f32; self.rows * self.d], Vec::clone);
            for ((c, w), r) in delta[before..].iter_mut().zip(written).zip(reference) {
                *c = w - r;
            }
            add(&mut v.total[before..], &delta[before..], 1.0);
            if let Some(old) = old {
                add(&mut v.total[before..], &old[before..], -1.0);
            }
            v.deltas[sender] = Some(delta);
            v.done.insert(sender);
            v.n_done += 1;
        }
    }

    fn final_rows(&self, inputs: &[&[f32]]) -> Result<Tensor> {
        let last: Vec<f32> =
            inputs.iter().flat_map(|x| x[(self.rows - 1) * self.d..self.rows * self.d].iter().copied()).collect();
        let x = Tensor::from_vec(last, (1, inputs.len(), self.d), self.clean.resid_final.device())?;
        Ok(self.clean.model.network().final_norm(&x, &mut NoHooks)?.squeeze(0)?)
    }
}

impl Variant<'_> {
    fn finish(self, wiring: Wiring, normalized: Tensor) -> AblatedRun {
        let mut inputs = self.base.inputs.clone();
        for (receiver, x) in self.inputs {
            inputs[receiver] = Some(x);
        }
        let mut deltas = self.base.deltas.clone();
        for (slot, delta) in deltas.iter_mut().zip(self.deltas) {
            if let Some(delta) = delta {
                *slot = Some(Arc::new(delta));
            }
        }
        // What fell out of the circuit is the reference again.
        let connected = self.edges.connected();
        for (sender, slot) in deltas.iter_mut().enumerate().skip(1) {
            if !connected.contains(sender) {
                *slot = None;
                for receiver in wiring.receivers_of(sender) {
                    inputs[receiver] = None;
                }
            }
        }
        AblatedRun { edges: self.edges, inputs, deltas, normalized }
    }
}

/// x += factor · y
fn add(x: &mut [f32], y: &[f32], factor: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += factor * y;
    }
}
