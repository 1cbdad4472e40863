//! What feeds the heads' queries and keys in one row of text.
//!
//! A query is W_Q times the normalised stream, and the stream is a sum of what each earlier component wrote. With the norm's
//! scale held, the part of component c along the query itself is (W_Q x_c) · q / ‖q‖²; all parts and the bias's add up to 1.

use std::sync::Arc;

use candle_core::Tensor;

use crate::analysis::component::Component;
use crate::analysis::contributions::Contributions;
use crate::engine::frozen::FrozenNorm;
use crate::engine::kernels::product;
use crate::engine::{SiteKind, Trace};
use crate::error::Result;
use crate::model::Model;
use crate::model::weights::Linear;
use crate::progress::Progress;

/// Shares by head, of the query and of the key, each by component in the order of [`Component::writers`], summed over the
/// positions.
pub(super) struct Fed {
    pub heads: Vec<(Vec<f32>, Vec<f32>)>,
    pub positions: u64,
}

/// Takes the heads' queries and keys apart in one row, its first position left out. A model whose stream is normalised
/// itself has no such parts: they are all zero.
pub(super) fn of(model: &Arc<Model>, ids: &[u32], progress: &Progress) -> Result<Fed> {
    let c = &model.config;
    let heads = |layer: usize| Component::writers(c, layer).len();
    if c.adds_up().is_err() {
        let none = |layer| (vec![0f32; heads(layer)], vec![0f32; heads(layer)]);
        let all = (0..c.n_layers).flat_map(|l| (0..c.n_heads).map(move |_| l)).map(none).collect();
        return Ok(Fed { heads: all, positions: 0 });
    }
    // Its own steps would count twice.
    let quiet = Progress::new();
    progress.check()?;
    let trace = Trace::run(model, ids.to_vec(), &quiet)?;
    let (first, rows, d) = (1, ids.len() - 1, c.d_model);
    let written = Contributions::part(&trace, first..ids.len(), c.n_layers - 1, &quiet)?;
    let device = trace.resid_final.device();
    // [writer, row · d_model]
    let count = heads(c.n_layers - 1);
    let flat: Vec<f32> = written.values.into_iter().take(count).flatten().collect();
    let written = Tensor::from_vec(flat, (count, rows * d), device)?;
    let mut all = Vec::new();
    for layer in 0..c.n_layers {
        progress.check()?;
        let block = &model.weights.blocks[layer];
        let stream = trace.get(SiteKind::ResidPre, layer)?.narrow(0, first, rows)?.contiguous()?;
        let norm = FrozenNorm::of(&stream, block.ln1.as_ref(), c)?;
        let divisor = Tensor::from_slice(&norm.divisor, (rows, 1), device)?;
        let before = written.narrow(0, 0, heads(layer))?;
        let shares = |kind: SiteKind, layer_of: &Linear, n: usize| -> Result<Vec<Vec<f32>>> {
            // Both as they come out of the product: rotation and norms of queries and keys come later.
            let value = trace.get(kind, layer)?.narrow(0, first, rows)?.contiguous()?;
            let mut directions = Vec::new();
            for head in 0..n {
                let own = value.narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
                let square = (own.sqr()?.sum_keepdim(1)? + 1e-12)?;
                let read = product::back(&own, &layer_of.weight.narrow(1, head * c.d_head, c.d_head)?)?;
                let read = norm.read(&read)?.broadcast_div(&divisor)?.broadcast_div(&square)?;
                directions.push(read.reshape(rows * d)?);
            }
            let found = before.matmul(&Tensor::stack(&directions, 0)?.t()?)?.t()?.contiguous()?;
            Ok(found.to_vec2()?)
        };
        let queries = shares(SiteKind::Q, &block.attn.q, c.n_heads)?;
        let keys = shares(SiteKind::K, &block.attn.k, c.n_kv_heads)?;
        all.extend(queries.into_iter().enumerate().map(|(h, q)| (q, keys[c.kv_head(h)].clone())));
    }
    Ok(Fed { heads: all, positions: rows as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a model without biases the parts of every query and key add up to 1, position for position.
    #[test]
    fn parts_add_up_to_the_query() {
        for name in ["llama", "qwen3", "gemma2", "mixtral"] {
            let folder = format!("{}/tests/families/{name}", env!("CARGO_MANIFEST_DIR"));
            let model = Arc::new(Model::open(&folder).unwrap());
            let fed = of(&model, &[5, 9, 3, 60, 22, 9, 41], &Progress::new()).unwrap();
            let c = &model.config;
            let plain = model.weights.blocks.iter().all(|b| b.attn.q.bias.is_none() && b.attn.o.bias.is_none());
            assert!(plain && c.n_layers * c.n_heads == fed.heads.len(), "{name}");
            for (query, key) in &fed.heads {
                for parts in [query, key] {
                    let sum: f32 = parts.iter().sum();
                    assert!((sum / fed.positions as f32 - 1.0).abs() < 1e-3, "{name}: {sum} of {}", fed.positions);
                }
            }
        }
    }
}
