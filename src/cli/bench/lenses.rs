//! Times the fit of a Jacobian lens beside its arithmetic at the rate of matrix products, and heads over a text beside plain passes.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::{beside, gemm_by, products, prompt};
use crate::engine::NoHooks;
use crate::engine::pullback::Pullback;
use crate::error::{Error, Result};
use crate::features::harvest::{PASS, run_to};
use crate::features::rows::Rows;
use crate::heads::scan::Plan;
use crate::lenses::fit::{SKIP, TOKENS, batch};
use crate::model::Model;
use crate::progress::Progress;
use crate::shard::share;

/// Rows of text that heads are timed on, and their tokens. A share of the rows is timed, of which one is taken apart, as
/// in most.
const HEADS: (usize, usize) = (4096, 64);
const SHARE: (usize, usize) = (1, 43);

pub(super) fn lenses(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let c = &model.config;
    let progress = Progress::new();
    let tokens = TOKENS.min(c.n_ctx);
    let skip = SKIP.min(tokens.saturating_sub(3));
    let ids = prompt(model, tokens);
    let (start, end) = (skip, tokens - 1);
    let rows = end - start;
    let count = batch(model.network(), rows);
    let back = Pullback::along(model.network(), &ids, start, end, 0, &progress)?;
    let seeds = Tensor::rand(-1f32, 1f32, (count * rows, c.d_model), &candle_core::Device::Cpu)?;
    // The products of one batch of cotangents with the weights of all layers, and the batch itself.
    let inner: Vec<(usize, usize, usize)> =
        products(model).into_iter().filter(|(_, output, _)| *output != c.d_vocab).collect();
    let mut gemm = gemm_by(&inner, count * rows)?;
    let (gemm, batch_seconds, ratio) = beside(repeat, &mut gemm, || {
        let mut g = seeds.clone();
        for layer in (0..c.n_layers).rev() {
            g = back.block(layer, g)?;
        }
        std::hint::black_box(g);
        Ok(())
    })?;
    // Attention's products count at the same rate.
    let weights: f64 = inner.iter().map(|(input, output, n)| (rows * input * output * n) as f64).sum();
    let arithmetic = 1.0 + attention(model, start, end) / weights;
    let turns = c.d_model.div_ceil(count) as f64;
    let text = prompt(model, HEADS.0 * HEADS.1);
    let text = Rows::new(text.chunks_exact(HEADS.1).zip(0..));
    let plan = Plan { model, rows: &text, texts: Vec::new(), context: HEADS.1, limit: None, shard: SHARE };
    let batches = text.batches(PASS);
    let batches = &batches[share(SHARE, batches.len())];
    let plain = || {
        for batch in batches {
            run_to(model, &text.some(batch)?.rows(), c.n_layers - 1, &mut NoHooks, &progress)?;
        }
        Ok(())
    };
    // What the weights alone say is asked once, however long the text.
    let (plain, scan, heads) = beside(repeat, plain, || plan.count(&progress).map(drop))?;
    if !(gemm > 0.0 && plain > 0.0) {
        return Err(Error::failed("the clock stood still"));
    }
    Ok(json!({
        "jacobian": {"tokens": tokens, "rows": rows, "cotangents": count, "batch_seconds": batch_seconds,
            "gemm_seconds": gemm * arithmetic, "ratio": ratio / arithmetic, "ratio_to_weights": ratio, "prompt_seconds": turns * batch_seconds},
        "heads": {"rows": batches.iter().map(Vec::len).sum::<usize>(), "of": HEADS.0, "tokens": HEADS.1, "plain_seconds": plain, "seconds": scan, "ratio": heads},
    }))
}

/// Multiplications of attention's products on the way back of one cotangent: of each position from `start` on with all that it
/// sees, to the scores and to the query; and with those from `start` on that it sees, to the keys and to the values.
fn attention(model: &Model, start: usize, end: usize) -> f64 {
    let c = &model.config;
    let seen = |from: usize| (start..end).map(|p| p + 1 - from).sum::<usize>();
    (2 * (seen(0) + seen(start)) * c.d_head * c.n_heads * c.n_layers) as f64
}

pub(super) fn lines(doc: &Value) -> String {
    let (j, h) = (&doc["jacobian"], &doc["heads"]);
    let f = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    format!(
        "Jacobian lens: {:.2} × its arithmetic at the rate of matrix products ({:.2} × the products with weights alone); a prompt of {} tokens takes {:.1} s\nheads over {} of {} rows of {} tokens: {:.2} × the plain passes",
        f(&j["ratio"]),
        f(&j["ratio_to_weights"]),
        j["tokens"],
        f(&j["prompt_seconds"]),
        h["rows"],
        h["of"],
        h["tokens"],
        f(&h["ratio"])
    )
}
