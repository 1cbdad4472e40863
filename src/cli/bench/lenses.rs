//! Times the fit of a Jacobian lens beside its arithmetic at the rate of matrix products, and heads over a text beside plain
//! passes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{beside, gemm_by, products, prompt};
use crate::engine::NoHooks;
use crate::engine::forward::Prepared;
use crate::error::{Error, Result};
use crate::features::harvest::{PASS, run_to};
use crate::features::rows::Rows;
use crate::heads::scan::Plan;
use crate::lenses::fit::{SKIP, TOKENS, batch, jacobian_rows, layers_of};
use crate::model::Model;
use crate::progress::Progress;
use crate::shard::share;

/// Rows of text that heads are timed on, and their tokens. A share of the rows is timed, of which one is taken apart, as
/// in most.
const HEADS: (usize, usize) = (4096, 64);
const SHARE: (usize, usize) = (1, 43);
/// Batches of cotangents that are timed.
const BATCHES: usize = 4;

pub(super) fn lenses(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let c = &model.config;
    let progress = Progress::new();
    let tokens = TOKENS.min(c.n_ctx);
    let skip = SKIP.min(tokens.saturating_sub(3));
    let ids = prompt(model, tokens);
    let (start, end) = (skip, tokens - 1);
    let rows = end - start;
    let count = batch(model.network(), rows);
    let coordinates = (BATCHES * count).min(c.d_model);
    // The products of a batch of cotangents with the weights of all layers but the first, which no lens asks for, and some
    // rows of a lens, run of the prompt and all: more of them share the run in a fit.
    let inner: Vec<(usize, usize, usize)> = products(model)
        .into_iter()
        .filter(|(_, output, _)| *output != c.d_vocab)
        .map(|(input, output, n)| (input, output, n / c.n_layers * (c.n_layers - 1)))
        .collect();
    let mut batch_of = gemm_by(&inner, count * rows)?;
    let mut forward = gemm_by(&inner, tokens)?;
    let gemm = || {
        forward()?;
        (0..coordinates.div_ceil(count)).try_for_each(|_| batch_of())
    };
    let layers = layers_of(model, &[])?;
    let (gemm, fit, ratio) = beside(repeat, gemm, || {
        std::hint::black_box(jacobian_rows(model.network(), &ids, skip, &layers, 0..coordinates, &progress)?);
        Ok(())
    })?;
    // Attention's products count at the same rate.
    let weights: f64 = inner.iter().map(|(input, output, n)| (rows * input * output * n) as f64).sum();
    let arithmetic = 1.0 + attention(model, start, end) / weights;
    let prompt_seconds = fit * c.d_model as f64 / coordinates as f64;
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
        "jacobian": {"tokens": tokens, "rows": rows, "cotangents": count, "coordinates": coordinates, "seconds": fit,
            "weight_products_seconds": gemm, "ratio_to_weight_products": ratio, "ratio": ratio / arithmetic,
            "prompt_seconds": prompt_seconds},
        "heads": {"rows": batches.iter().map(Vec::len).sum::<usize>(), "of": HEADS.0, "tokens": HEADS.1,
            "plain_seconds": plain, "seconds": scan, "ratio": heads},
    }))
}

/// Multiplications of attention's products on the way back of one cotangent, in all layers but the first: of each position from
/// `start` on with all that it sees, to the scores and to the query; and with those from `start` on that it sees, to the keys
/// and to the values.
fn attention(model: &Model, start: usize, end: usize) -> f64 {
    let c = &model.config;
    let prepared = Prepared::new(c, end);
    let layer = |layer: usize| {
        let seen = (start..end).map(|p| prepared.attend(layer).visible(p));
        seen.map(|s| s.len() + s.end.saturating_sub(s.start.max(start))).sum::<usize>()
    };
    (2 * (1..c.n_layers).map(layer).sum::<usize>() * c.d_head * c.n_heads) as f64
}

pub(super) fn lines(doc: &Value) -> String {
    let (j, h) = (&doc["jacobian"], &doc["heads"]);
    let f = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    format!(
        "Jacobian lens: {:.2} × its arithmetic at the rate of matrix products ({:.2} × the products with weights alone); a prompt of {} tokens takes {:.1} s\nheads over {} of {} rows of {} tokens: {:.2} × the plain passes",
        f(&j["ratio"]),
        f(&j["ratio_to_weight_products"]),
        j["tokens"],
        f(&j["prompt_seconds"]),
        h["rows"],
        h["of"],
        h["tokens"],
        f(&h["ratio"])
    )
}
