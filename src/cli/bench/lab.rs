//! Times the superposition lab at full size, and tells what its models learned.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::error::Result;
use crate::progress::Progress;
use crate::superposition::geometry::Shape;
use crate::superposition::presets::by_name;
use crate::superposition::{Moment, Recipe, Toy};

/// Trains all models of a recipe and returns the seconds, with the trained models.
fn train(recipe: &Recipe) -> Result<(f64, Toy)> {
    let mut toy = Toy::new(Arc::new(recipe.setup()?))?;
    let started = Instant::now();
    toy.run(recipe.steps, &Progress::new())?;
    Ok((started.elapsed().as_secs_f64(), toy))
}

/// The number of inputs on which a cell's loss is measured. With so many, chance decides no cell away from a boundary.
const MEASURED: usize = 65_536;

/// Returns the multiplications and additions of a training: five products of n × m for each input.
fn flops(recipe: &Recipe) -> f64 {
    10.0 * (recipe.features * recipe.hidden * recipe.batch * recipe.steps * recipe.instances()) as f64
}

/// Returns the operations a second of a large square product on this machine.
fn gemm_rate() -> Result<f64> {
    const N: usize = 1024;
    let a = Tensor::randn(0f32, 1f32, (N, N), &Device::Cpu)?;
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let started = Instant::now();
        a.matmul(&a)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (N * N * N) as f64 / best)
}

fn preset(name: &str) -> Recipe {
    by_name(name).map_or_else(|| Recipe::sweep(5, 2, &[0.5], 1.0), |p| (p.recipe)())
}

/// Runs all timings.
pub fn lab() -> Result<Value> {
    let rate = gemm_rate()?;
    let share = |recipe: &Recipe, seconds: f64| flops(recipe) / seconds / rate;
    // Ten models of five equally important features: how many become pentagons, and how fast.
    let five = Recipe::repeated(5, 2, 0.95, 1.0, 10);
    let (seconds, end) = train(&five)?;
    let end = Moment::of(&end);
    let pentagons = end.measures.iter().filter(|m| m.shape == Shape::Polygon(5)).count();
    // Until the first seven are to be recognised.
    let mut toy = Toy::new(Arc::new(five.setup()?))?;
    let started = Instant::now();
    let mut seen = 0;
    while !toy.is_finished() && seen < pentagons.min(7) {
        toy.run(100, &Progress::new())?;
        seen = Moment::of(&toy).measures.iter().filter(|m| m.shape == Shape::Polygon(5)).count();
    }
    let recognised = (started.elapsed().as_secs_f64(), toy.step());
    let phases = preset("phase-diagram");
    let (phase_seconds, phase_end) = train(&phases)?;
    let agreement = phases.grid().map(|g| g.agreement(2, 1, &phase_end.measured(MEASURED).frames, 0.1));
    let geometry = preset("geometry");
    let (geometry_seconds, geometry_end) = train(&geometry)?;
    let d_star: Vec<f32> = Moment::of(&geometry_end).measures.iter().map(|m| m.d_star).collect();
    let absolute = preset("absolute-value");
    let (absolute_seconds, absolute_end) = train(&absolute)?;
    let losses: Vec<f32> = Moment::of(&absolute_end).measures.iter().map(|m| m.loss).collect();
    Ok(json!({
        "gemm_gflops": rate / 1e9,
        "five_features": {"models": 10, "steps": five.steps, "batch": five.batch, "seconds": seconds,
            "pentagons": pentagons, "inputs_per_second": (five.batch * five.steps * 10) as f64 / seconds,
            "share_of_gemm": share(&five, seconds), "seven_recognised_seconds": recognised.0,
            "seven_recognised_step": recognised.1},
        "phase_diagram": {"models": phases.instances(), "steps": phases.steps, "seconds": phase_seconds,
            "agreement": agreement.map(|a| json!({"same": a.0, "cells": a.1}))},
        "geometry": {"models": geometry.instances(), "steps": geometry.steps, "seconds": geometry_seconds,
            "share_of_gemm": share(&geometry, geometry_seconds), "d_star": d_star},
        "absolute_value": {"models": absolute.instances(), "steps": absolute.steps, "seconds": absolute_seconds,
            "share_of_gemm": share(&absolute, absolute_seconds), "loss": losses},
    }))
}

/// Returns the timings as text.
pub fn lines(v: &Value) -> String {
    let f = |path: &[&str]| path.iter().fold(v, |v, k| &v[*k]).as_f64().unwrap_or(f64::NAN);
    let list = |v: &Value| {
        let all = v.as_array().into_iter().flatten().filter_map(Value::as_f64);
        all.map(|x| format!("{x:.3}")).collect::<Vec<_>>().join(" ")
    };
    let mut text = format!(
        "toy models: ten of 5 features in 2 dimensions, 10,000 steps of 1024 inputs: {:.2} s, {:.0} % of this machine's \
         GEMM rate; {} of 10 pentagons, seven after {:.2} s\n\
         phase diagram of {} models: {:.1} s, {} of {} cells away from a boundary as in theory\n\
         geometry, 16 models of 200 features in 20 dimensions: {:.0} s, {:.0} % of the GEMM rate; D* {}\n\
         absolute value, 6 models of 100 features in 40 neurons: {:.0} s; loss {}",
        f(&["five_features", "seconds"]),
        100.0 * f(&["five_features", "share_of_gemm"]),
        f(&["five_features", "pentagons"]),
        f(&["five_features", "seven_recognised_seconds"]),
        f(&["phase_diagram", "models"]),
        f(&["phase_diagram", "seconds"]),
        f(&["phase_diagram", "agreement", "same"]),
        f(&["phase_diagram", "agreement", "cells"]),
        f(&["geometry", "seconds"]),
        100.0 * f(&["geometry", "share_of_gemm"]),
        list(&v["geometry"]["d_star"]),
        f(&["absolute_value", "seconds"]),
        list(&v["absolute_value"]["loss"]),
    );
    if let (Some(ui), Some(shapes)) = (v["frame"]["ui_ms"].as_f64(), v["frame"]["tessellate_ms"].as_f64()) {
        text.push_str(&format!(
            "\na frame of the lab's workspace while it trains: {ui:.2} ms, and {shapes:.2} ms for its triangles"
        ));
    }
    text
}
