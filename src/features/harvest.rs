//! Activations of a site over many rows of text: the forward pass stops after the last layer that is asked for.

use candle_core::Tensor;

use crate::engine::forward::Prepared;
use crate::engine::hooks::Chain;
use crate::engine::{Capture, Hooks, NoHooks};
use crate::error::Result;
use crate::features::dictionary::place::Place;
use crate::model::Model;
use crate::progress::Progress;

/// Tokens of one forward pass: enough for the matrix products to be fast, few enough to answer a cancellation soon.
pub const PASS: usize = 512;

/// What rows of equal length hold at `places`: for each place [rows · len, width], one row behind the other.
///
/// # Errors
/// As a forward pass; places that the model does not have.
pub fn activations(model: &Model, rows: &[&[u32]], places: &[Place], progress: &Progress) -> Result<Vec<Tensor>> {
    let last = places.iter().map(|p| p.layer()).max().unwrap_or(0);
    let mut capture = Capture::sites(places.iter().map(|p| p.site));
    run_to(model, rows, last, &mut capture, progress)?;
    places.iter().map(|p| p.rows(model, &capture.values.get(&p.site).cloned().ok_or_else(|| missing(*p))?)).collect()
}

fn missing(place: Place) -> crate::Error {
    crate::Error::request(format!("the run passes no {place}"))
}

/// Runs rows of equal length through the layers up to and including `last`; gives the residual stream,
/// [rows, len, d_model].
pub fn run_to(
    model: &Model,
    rows: &[&[u32]],
    last: usize,
    hooks: &mut dyn Hooks,
    progress: &Progress,
) -> Result<Tensor> {
    let network = model.network();
    for row in rows {
        network.check(row)?;
    }
    let prepared = Prepared::new(&model.config, rows.first().map_or(0, |r| r.len()));
    let mut none = NoHooks;
    let mut hooks = Chain(hooks, &mut none);
    let mut resid = network.embed(rows, &mut hooks)?;
    for layer in 0..=last.min(model.config.n_layers - 1) {
        progress.check()?;
        resid = network.block(layer, resid, &prepared, &mut hooks)?;
    }
    Ok(resid)
}
