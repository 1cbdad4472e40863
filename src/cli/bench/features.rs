//! Times dictionaries: encoding, training and scanning. Each is compared with the matrix products or forward passes that it
//! cannot do without, measured in the same run.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::beside;
use crate::engine::SiteKind;
use crate::error::Result;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::features::harvest::{PASS, run_to};
use crate::features::rows::{Cut, Rows};
use crate::features::scan::{Plan, Subject};
use crate::features::train::activations::Table;
use crate::features::train::maths::{Matrix, product};
use crate::features::train::{Method, Origin, Settings, Trainer};
use crate::model::Model;
use crate::progress::Progress;

const FEATURES: usize = 4096;
#[cfg(feature = "gui")]
const MANY: usize = 100_000;
const ROWS: usize = 512;
/// The number of active features a position.
const K: usize = 48;
/// The number of tokens that are scanned.
const SCANNED: usize = 6_144;
/// How often a scan is timed beside plain passes; each takes seconds.
const SCANS: usize = 3;

/// Makes a dictionary with random weights that keeps `K` features a position, as a trained one does.
fn random(d: usize, layer: usize, features: usize) -> Result<Dictionary> {
    let place = crate::features::Place::from(crate::engine::Site::new(SiteKind::ResidPost, layer));
    Ok(Dictionary {
        name: "random".to_owned(),
        path: "random".into(),
        format: "SAELens",
        d_in: d,
        d_sae: features,
        d_out: d,
        w_enc: Tensor::randn(0f32, (d as f32).sqrt().recip(), (d, features), &Device::Cpu)?,
        b_enc: vec![0.0; features],
        w_dec: Tensor::randn(0f32, (d as f32).sqrt().recip(), (features, d), &Device::Cpu)?,
        later: Default::default(),
        b_dec: vec![0.0; d],
        activation: Activation::TopK { k: K },
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: false,
        input: Some(place),
        output: Some(place),
        model_name: None,
        config: Value::Null,
        warnings: Vec::new(),
    })
}

/// Times one training step, and the dense products alone that it is bound by.
fn training(method: Method, d: usize, repeat: usize) -> Result<Value> {
    let settings = Settings { method, features: FEATURES, k: K, batch: 2048, steps: 10_000, ..Settings::default() };
    let n = 4 * settings.batch;
    let values = Tensor::randn(0f32, 1f32, n * d, &Device::Cpu)?.to_vec1()?;
    let mut trainer = Trainer::new(settings.clone(), Origin::default(), Table::Memory { d, values }, None)?;
    // x·W and dWᵀ of the encoder, aᵀ, e·Wᵀ and a·W of the decoder.
    let (b, f) = (settings.batch, FEATURES);
    let (x, w, z) = (vec![0.5f32; b * d], vec![0.5f32; f * d], vec![0.5f32; b * f]);
    let (mut bf, mut bd, mut fd) = (vec![0f32; b * f], vec![0f32; b * d], vec![0f32; f * d]);
    let dense = || {
        for _ in 0..2 {
            product(&mut bf, Matrix::new(&x, b, d), Matrix::new(&w, f, d).t(), 1.0, false);
            product(&mut fd, Matrix::new(&z, b, f).t(), Matrix::new(&x, b, d), 1.0, false);
        }
        product(&mut bd, Matrix::new(&z, b, f), Matrix::new(&w, f, d), 1.0, false);
        if method == Method::Gated {
            // The gate's own reconstruction, and its error's way back.
            product(&mut bd, Matrix::new(&z, b, f), Matrix::new(&w, f, d), 1.0, false);
            product(&mut bf, Matrix::new(&x, b, d), Matrix::new(&w, f, d).t(), 1.0, false);
        }
        Ok(())
    };
    let (dense, step, over) = beside(4 * repeat, dense, || trainer.advance().map(drop))?;
    Ok(json!({
        "method": method.name(), "features": FEATURES, "d": d, "batch": settings.batch, "k": K,
        "step_seconds": step, "positions_per_second": b as f64 / step,
        "dense_products": method.dense_products(), "dense_products_seconds": dense, "throughput_over_dense_bound": 1.0 / over,
        "l0": trainer.curve.last().map(|p| p.l0),
    }))
}

/// Times the window's heatmap of a hundred thousand features, half of them active everywhere: more than any real dictionary
/// has.
#[cfg(feature = "gui")]
fn frame(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let many = random(model.config.d_model, model.config.n_layers / 2, MANY)?;
    crate::app::bench::features_frame(model, &Dictionary { activation: Activation::Relu, ..many }, repeat)
}

#[cfg(not(feature = "gui"))]
fn frame(_: &Arc<Model>, _: usize) -> Result<Value> {
    Ok(Value::Null)
}

/// Runs all timings on a model.
pub fn features(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let d = model.config.d_model;
    let progress = Progress::new();
    let layer = model.config.n_layers / 2;
    let dictionary = Arc::new(random(d, layer, FEATURES)?);
    let x = Tensor::randn(0f32, 1f32, (ROWS, d), &Device::Cpu)?;
    let mut encode = Vec::new();
    for activation in
        [Activation::Relu, Activation::JumpRelu { threshold: vec![2.0; FEATURES] }, Activation::TopK { k: K }]
    {
        let d = Dictionary { activation, b_enc: vec![-2.0; FEATURES], ..(*dictionary).clone() };
        let gemm = || {
            std::hint::black_box(x.matmul(&d.w_enc)?);
            Ok(())
        };
        let encoded = || {
            std::hint::black_box(d.encode(&x, &progress)?);
            Ok(())
        };
        let (gemm, seconds, over) = beside(8 * repeat, gemm, encoded)?;
        let name = d.activation.name();
        encode.push(json!({"architecture": name, "gemm_seconds": gemm, "seconds": seconds, "over_gemm": over}));
    }
    let trained = Method::ALL.into_iter().map(|m| training(m, d, repeat)).collect::<Result<Vec<_>>>()?;

    let rows = Rows::cut(model, &["prose".to_owned()], &Cut::new(128, Some(SCANNED)), &progress)?;
    let pass = || {
        for batch in rows.batches(PASS) {
            run_to(
                model,
                &rows.some(&batch)?.rows(),
                model.config.n_layers - 1,
                &mut crate::engine::NoHooks,
                &progress,
            )?;
        }
        Ok(())
    };
    let plan = Plan {
        model,
        subjects: Vec::new(),
        companion: None,
        rows: &rows,
        texts: vec!["prose".to_owned()],
        context: 128,
        limit: Some(SCANNED),
        shard: (0, 1),
        window: 5,
    };
    // The last layer's site needs the whole pass, so that nothing is saved by stopping early.
    let last = Arc::new(random(d, model.config.n_layers - 1, FEATURES)?);
    let scan = |subject: Subject| {
        let plan = Plan { subjects: vec![subject], texts: plan.texts.clone(), companion: None, ..plan };
        beside(SCANS, pass, || {
            std::hint::black_box(plan.run(None, &progress, &mut |_, _| {})?);
            Ok(())
        })
    };
    let (_, middle, middle_over) = scan(Subject::Features(dictionary))?;
    let (pass, last, last_over) = scan(Subject::Features(last))?;
    Ok(json!({
        "frame": frame(model, repeat)?,
        "encode": {"rows": ROWS, "features": FEATURES, "d": d, "by": encode},
        "train": trained,
        "scan": {
            "tokens": rows.tokens(), "features": FEATURES, "pass_seconds": pass,
            "middle_layer_seconds": middle, "middle_layer_over_pass": middle_over,
            "last_layer_seconds": last, "last_layer_over_pass": last_over,
        },
    }))
}

/// Returns the timings as text.
pub fn lines(doc: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let mut text = String::new();
    for e in doc["encode"]["by"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "encoding {}: {:.3} × its matrix product\n",
            e["architecture"],
            number(&e["over_gemm"])
        ));
    }
    for t in doc["train"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "training {}: {:.0} positions a second, {:.2} of what dense products alone would allow\n",
            t["method"],
            number(&t["positions_per_second"]),
            number(&t["throughput_over_dense_bound"])
        ));
    }
    let scan = &doc["scan"];
    text.push_str(&format!(
        "scanning {} tokens: {:.2} × the passes at a middle layer, {:.2} × at the last",
        scan["tokens"],
        number(&scan["middle_layer_over_pass"]),
        number(&scan["last_layer_over_pass"])
    ));
    let frame = &doc["frame"];
    if frame.is_object() {
        text.push_str(&format!(
            "\na heatmap of {} features on {} tokens: there after {:.1} s; a frame while it scrolls takes {:.2} ms, and {:.2} ms for its triangles",
            frame["rows"],
            frame["tokens"],
            number(&frame["open_seconds"]),
            number(&frame["ui_ms"]),
            number(&frame["tessellate_ms"])
        ));
    }
    text
}
