//! Exact partial re-computation. An edit at layer L and position p cannot change layers below L, nor, by
//! causality, positions before p. So a variant of a run is computed from the base run's resid_pre[L], rows
//! p.., with the base's keys and values for the positions before; and all variants of a sweep go through
//! the remaining layers together, their rows one behind the other, so that each layer's weights are read
//! once for all of them. The result equals a full run under the same edits.

use std::sync::Arc;

use candle_core::Tensor;

use super::editor::Editor;
use super::forward::Prepared;
use super::hooks::Hooks;
use super::kernels::segments::Segment;
use super::resolve::Op;
use super::site::{Site, SiteKind};
use super::trace::Trace;
use crate::error::{Error, Result};
use crate::memory::piece;
use crate::model::config::ModelConfig;
use crate::progress::Progress;

/// A variant of the base run: the same prompt under other edits.
#[derive(Clone, Debug)]
pub struct Variant {
    pub ops: Arc<Vec<Op>>,
    /// The first layer that has to be computed; `n_layers` for the final norm alone.
    pub layer: usize,
    /// The first position that has to be computed.
    pub start: usize,
}

impl Variant {
    /// `None` where the edits change no row of `base`: the variant is the base run, bit for bit.
    pub fn new(ops: Vec<Op>, base: &Trace) -> Option<Self> {
        let n_layers = base.model.config.n_layers;
        let touched = |op: &&Op| op.rows.inside(0..base.len()).next().is_some();
        let layer = ops.iter().filter(touched).map(|op| op.start_layer(n_layers)).min()?;
        let start = ops.iter().map(|op| op.rows.first()).min()?;
        Some(Self { ops: Arc::new(ops), layer, start })
    }

    /// Returns the number of rows × layers to compute, the unit of cost.
    pub fn row_layers(&self, base: &Trace) -> usize {
        (base.len() - self.start.min(base.len())) * (base.model.config.n_layers - self.layer).max(1)
    }
}

/// Resumes `base` under each variant's edits and returns the normalised final residual rows
/// [variant, d_model] at position `pos`, which must not lie before any variant's start. Progress is stepped
/// by row-layers; the caller says how many to expect.
///
/// # Errors
/// [`Error::Cancelled`], between two layers.
pub fn resume(
    base: &Trace,
    prepared: &Prepared,
    variants: &[Variant],
    pos: usize,
    progress: &Progress,
) -> Result<Tensor> {
    if let Some(v) = variants.iter().find(|v| v.start > pos) {
        return Err(Error::failed(format!("a variant that starts at {} cannot change position {pos}", v.start)));
    }
    let Resumed { resid, segments, members, mut editor } = Resumed::run(base, prepared, variants, progress)?;
    let picks: Vec<u32> = segments.iter().map(|s| (s.first + pos - s.start) as u32).collect();
    let rows = resid.index_select(&Tensor::from_vec(picks, segments.len(), resid.device())?, 0)?;
    for (row, i) in members.iter().enumerate() {
        editor.place(*i, Segment { first: row, rows: 1, start: pos });
    }
    let normalized = base.model.network().final_norm(&rows.unsqueeze(0)?, &mut editor)?.squeeze(0)?;
    // The results go back into the order that was asked for.
    let mut place = vec![0u32; variants.len()];
    for (row, i) in members.iter().enumerate() {
        place[*i] = row as u32;
    }
    Ok(normalized.index_select(&Tensor::from_vec(place, variants.len(), normalized.device())?, 0)?)
}

/// As [`resume`], but returns the stream after the last block at all positions from each variant's start on,
/// [pos, d_model], in the variants' order.
///
/// # Errors
/// [`Error::Cancelled`], between two layers.
pub fn resume_streams(
    base: &Trace,
    prepared: &Prepared,
    variants: &[Variant],
    progress: &Progress,
) -> Result<Vec<Tensor>> {
    let Resumed { resid, segments, members, .. } = Resumed::run(base, prepared, variants, progress)?;
    let mut found: Vec<(usize, Tensor)> = segments
        .iter()
        .zip(&members)
        .map(|(s, i)| Ok((*i, resid.narrow(0, s.first, s.rows)?)))
        .collect::<Result<_>>()?;
    found.sort_by_key(|(i, _)| *i);
    Ok(found.into_iter().map(|(_, rows)| rows).collect())
}

/// Variants that have been run to the last layer, their rows one behind the other.
struct Resumed {
    /// [row, d_model]
    resid: Tensor,
    segments: Vec<Segment>,
    /// The variant of each segment.
    members: Vec<usize>,
    editor: Editor,
}

impl Resumed {
    fn run(base: &Trace, prepared: &Prepared, variants: &[Variant], progress: &Progress) -> Result<Self> {
        let n = base.len();
        let network = base.model.network();
        let config = network.config;
        if !base.edits().is_empty() {
            return Err(Error::failed("runs are resumed from an unedited one"));
        }
        // Variants that start at an early layer come first, so that rows keep their places when others join behind them.
        let mut order: Vec<usize> = (0..variants.len()).collect();
        order.sort_by_key(|i| variants[*i].layer);
        let mut editor = Editor::new(variants.iter().map(|v| v.ops.clone()).collect());
        let mut waiting = order.iter().copied().peekable();
        let mut segments: Vec<Segment> = Vec::new();
        let mut members: Vec<usize> = Vec::new();
        let mut resid: Option<Tensor> = None;
        let mut plan: Option<Prepared> = None;
        let mut embedded = None;
        for layer in 0..=config.n_layers {
            progress.check()?;
            let mut joined: Vec<Tensor> = Vec::new();
            while let Some(&i) = waiting.peek().filter(|i| variants[**i].layer == layer) {
                waiting.next();
                let first = segments.last().map_or(0, |s| s.first + s.rows);
                let segment = Segment { first, rows: n - variants[i].start, start: variants[i].start };
                // The stream before this layer. Edits of the embedding come before positions are added.
                let edits_embedding = layer == 0 && variants[i].ops.iter().any(|op| op.site.kind == SiteKind::Embed);
                let stream = if edits_embedding {
                    let source: &Tensor = match &embedded {
                        Some(t) => t,
                        None => embedded.insert(base.get(SiteKind::Embed, 0)?),
                    };
                    let rows = source.narrow(0, segment.start, segment.rows)?.unsqueeze(0)?.contiguous()?;
                    let mut own = Editor::single(variants[i].ops.clone(), segment.start, segment.rows);
                    let mut rows = own.visit(Site::new(SiteKind::Embed, 0), rows)?;
                    if let Some(table) = &network.weights.pos_embed {
                        rows = rows.broadcast_add(&table.narrow(0, segment.start, segment.rows)?)?;
                    }
                    rows.squeeze(0)?
                } else {
                    base.resid(layer)?.narrow(0, segment.start, segment.rows)?
                };
                joined.push(stream);
                editor.place(i, segment);
                segments.push(segment);
                members.push(i);
            }
            if !joined.is_empty() {
                if let Some(r) = resid.take() {
                    joined.insert(0, r.squeeze(0)?);
                }
                resid = Some(Tensor::cat(&joined, 0)?.unsqueeze(0)?.contiguous()?);
                plan = Some(prepared.resume(segments.clone()));
            }
            if layer == config.n_layers {
                break;
            }
            if let (Some(r), Some(plan)) = (resid.take(), &mut plan) {
                plan.set_past(base.past(layer)?);
                progress.step(r.dim(1)? as u64)?;
                resid = Some(network.block(layer, r, plan, &mut editor)?);
            }
        }
        let Some(resid) = resid else {
            return Err(Error::failed("there is no variant to resume"));
        };
        Ok(Self { resid: resid.squeeze(0)?, segments, members, editor })
    }
}

/// The most rows that are held at a time: enough to keep the products at full speed.
const ROWS: usize = 1024;

/// Operations of a layer between two chances to cancel: less than a tenth of a second on two cores.
const OPERATIONS: usize = 8_000_000_000;

/// Returns the bytes of working memory that a row takes at its peak inside a block.
pub fn bytes_per_row(c: &ModelConfig) -> usize {
    4 * (4 * c.d_model + 3 * c.d_mlp + 3 * c.n_heads * c.d_head + 4 * c.n_kv_heads * c.d_head)
}

/// Returns the number of weights in the matrices of one layer that a row is multiplied with, which is half of its
/// operations. Of a mixture of experts only those count that a row goes to.
pub fn layer_weights(c: &ModelConfig) -> usize {
    let neurons = c.experts.map_or(c.d_mlp, |e| c.d_mlp * e.used / e.count.max(1));
    let mlp = c.d_model * neurons * if c.gated_mlp { 3 } else { 2 };
    c.d_model * (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head + mlp
}

/// Returns the number of rows that fit one chunk of a sweep over a run of `n` tokens. A variant that edits patterns holds
/// patterns too.
pub fn rows_at_once(c: &ModelConfig, n: usize, edges: bool) -> usize {
    const MEMORY: usize = 512 << 20;
    let per_row = bytes_per_row(c) + if edges { 12 * c.n_heads * n } else { 0 };
    (piece(MEMORY) / per_row.max(1)).min(OPERATIONS / (2 * layer_weights(c)).max(1)).clamp(1, ROWS)
}
