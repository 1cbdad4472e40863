//! Times tracing through a set of transcoders with random weights: what a large published set would need, without fetching
//! it. Thresholds are such that about three features in a thousand are active.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::synthetic::{Measured, Opened, scratch};
use super::{peak_memory, prompt};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::dictionary::formats::circuit_tracer;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::features::train::set::HOOKS;
use crate::graph::features::{Settings, Target, trace_features};
use crate::graph::targets;
use crate::hash;
use crate::model::config::ModelConfig;
use crate::model::matrix::Held;
use crate::progress::Progress;

/// Tokens of the prompt.
const TOKENS: usize = 14;
/// Of inputs with a mean square of 1 and encoder rows of length 1, pre-activations have a standard deviation of 1.
const THRESHOLD: f32 = 2.75;

/// Numbers between ± `size`, the same for the same seed.
fn random(count: usize, size: f32, seed: u64) -> Vec<f32> {
    let number = |i: usize| {
        let bits = hash::mix(seed ^ hash::mix(i as u64 + 1)) >> 40;
        (bits as f32 / (1u64 << 23) as f32 - 1.0) * size
    };
    (0..count).into_par_iter().map(number).collect()
}

/// Writes a layer of a set.
fn write(folder: &Path, c: &ModelConfig, layer: usize, features: usize) -> Result<()> {
    let (d, seed) = (c.d_model, 2 * layer as u64);
    let size = (3.0 / d as f32).sqrt();
    let matrix = |seed, shape: (usize, usize)| {
        Ok::<_, Error>(Tensor::from_vec(random(features * d, size, hash::mix(seed)), shape, &Device::Cpu)?)
    };
    let dictionary = Dictionary {
        name: "random".to_owned(),
        path: folder.to_owned(),
        format: circuit_tracer::NAME,
        d_in: d,
        d_sae: features,
        d_out: d,
        w_enc: matrix(seed, (d, features))?,
        b_enc: vec![0.0; features],
        w_dec: matrix(seed + 1, (features, d))?,
        later: Default::default(),
        b_dec: vec![0.0; d],
        activation: Activation::JumpRelu { threshold: vec![THRESHOLD; features] },
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: true,
        input: None,
        output: None,
        model_name: None,
        config: Value::Null,
        warnings: Vec::new(),
    };
    circuit_tracer::save(&dictionary, folder, layer, &[]).map(drop)
}

/// Writes a set for the model, opens it, traces a prediction and removes the set.
pub(super) fn measure(text: &str, layers: Option<usize>, held: Held, features: usize) -> Result<Measured> {
    if features == 0 {
        return Err(Error::request("a set of 0 features traces nothing; give a number above 0"));
    }
    let (model, progress) = (Opened::of(text, layers, held)?.model, Progress::new());
    let c = &model.config;
    let work = scratch()?;
    for layer in 0..c.n_layers {
        write(work.path(), c, layer, features)?;
    }
    circuit_tracer::describe(work.path(), &c.name, HOOKS)?;
    let folder =
        work.path().to_str().ok_or_else(|| Error::request("the folder for scratch files has no name in UTF-8"))?;
    let before = peak_memory();
    let started = Instant::now();
    let set = DictionarySet::open(folder, &progress)?;
    set.check(c)?;
    let opened = started.elapsed().as_secs_f64();
    let trace = Trace::run(&model, prompt(&model, TOKENS), &progress)?;
    let target = Target::Top { most: targets::MOST, share: f64::from(targets::PROBABILITY) };
    let found = trace_features(&trace, &set, TOKENS - 1, &target, &Settings::default(), &progress)?;
    let (peak, weights) = (peak_memory(), model.weight_bytes() as u64);
    let doc = json!({
        "model": text, "layers": c.n_layers, "features": features, "tokens": TOKENS,
        "set_bytes": set.layers().filter_map(|l| set.file(l)?.metadata().ok()).map(|m| m.len()).sum::<u64>(),
        "open_seconds": opened, "trace_seconds": found.seconds, "active_features": found.features.len(),
        "selected_features": found.selected.len(), "limited": found.limited, "links": found.graph.links.len(),
        "weight_bytes": weights, "peak_memory_bytes": {"before": before, "traced": peak},
        "memory_over_weights_bytes": peak.map(|p| p.saturating_sub(weights)),
    });
    Ok(Measured { model: model.clone(), doc })
}

/// Returns the lines of text for what was measured.
pub(super) fn lines(doc: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    format!(
        "{} transcoders of {} features, {:.2} GB: opened in {:.3} s\n{} active features at {} tokens, {} of them traced in \
         {:.1} s, {} links; {:.2} GB beyond the weights",
        doc["layers"],
        doc["features"],
        number(&doc["set_bytes"]) / 1e9,
        number(&doc["open_seconds"]),
        doc["active_features"],
        doc["tokens"],
        doc["selected_features"],
        number(&doc["trace_seconds"]),
        doc["links"],
        number(&doc["memory_over_weights_bytes"]) / 1e9,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_set_is_traced_and_removed() {
        let found = measure("smollm2-135m:q4_1", Some(2), Held::Stored, 2000).unwrap();
        let active = found.doc["active_features"].as_u64().unwrap();
        // Three in a thousand of 2,000, at two layers and all positions but the first.
        assert!((40..400).contains(&active), "{active}");
        assert_eq!(found.doc["selected_features"], active);
        assert!(found.doc["links"].as_u64().unwrap() > active);
        let left = std::fs::read_dir(crate::files::scratch_folder()).unwrap().flatten();
        assert!(left.map(|e| e.path().join("config.yaml")).all(|p| !p.exists()));
        assert!(measure("smollm2-135m:q4_1", Some(2), Held::Stored, 0).is_err());
    }
}
