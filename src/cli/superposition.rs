//! `superposition`: trains toy models of superposition.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::{emit, emit_json, progress, table};
use crate::analysis::interference::interference;
use crate::error::{Error, Result};
use crate::superposition::Recipe;
use crate::superposition::geometry::{Shape, dimensions_per_feature};
use crate::superposition::presets::{PRESETS, by_name};
use crate::superposition::recipe::Sweep;
use crate::superposition::setup::{Setup, Tie};
use crate::superposition::toy::{Frame, Toy};

/// The number of inputs on which the final loss is measured.
const EVALUATED: usize = 65_536;
/// The number of steps between two updates of the progress.
const BLOCK: usize = 50;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A figure's settings by name (`list` lists them) instead of features, hidden, sparsity and importance
    #[arg(long, value_name = "NAME", conflicts_with_all = ["features", "hidden", "sparsity", "importance"])]
    preset: Option<String>,
    /// Number of features, n
    #[arg(long, value_name = "N", required_unless_present = "preset")]
    features: Option<usize>,
    /// Hidden dimensions, m
    #[arg(long, value_name = "M", required_unless_present = "preset")]
    hidden: Option<usize>,
    /// Probabilities that a feature is zero; one model for each
    #[arg(long, value_name = "S,S,...", value_delimiter = ',', required_unless_present = "preset")]
    sparsity: Vec<f32>,
    /// Importance of feature i is F^i; 1 makes all equal
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    importance: f32,
    /// Steps (default: the preset's, 10000)
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// First weights and inputs follow from it (default: the preset's, 0)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Train each sparsity this many times, from other first weights
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Inputs a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f32>,
    /// Weight decay a step
    #[arg(long, value_name = "RATE")]
    weight_decay: Option<f32>,
    /// Let the learning rate fall along half a cosine
    #[arg(long)]
    cosine: bool,
    /// x′ = WᵀWx + b, without ReLU
    #[arg(long)]
    linear: bool,
    /// ReLU on the hidden layer too
    #[arg(long)]
    hidden_relu: bool,
    /// Output weights of their own instead of Wᵀ
    #[arg(long)]
    untied: bool,
    /// Groups of this many features that are active together
    #[arg(long, value_name = "N", conflicts_with = "anticorrelated")]
    correlated: Option<usize>,
    /// Groups of this many features of which at most one is active
    #[arg(long, value_name = "N")]
    anticorrelated: Option<usize>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
}

/// Reads the recipe from the options: the preset, changed by what else was given.
fn recipe(args: &Arguments) -> Result<Recipe> {
    let mut r = match (&args.preset, args.features, args.hidden) {
        (Some(name), ..) => {
            let preset = by_name(name).ok_or_else(|| {
                let known: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
                Error::request(format!("there is no preset `{name}`; there are {}", known.join(", ")))
            })?;
            (preset.recipe)()
        }
        (None, Some(n), Some(m)) => {
            // Checked before importances are listed: they are as long as there are features.
            Setup::fits(n, m, args.sparsity.len())?;
            Recipe::sweep(n, m, &args.sparsity, args.importance)
        }
        _ => return Err(Error::request("give --features and --hidden, or --preset")),
    };
    if let Some(n) = args.repeat {
        match &mut r.sweep {
            Sweep::Sparsity { repeat, .. } if n > 0 => *repeat = n,
            Sweep::Sparsity { .. } => return Err(Error::request("--repeat 0 trains nothing; give at least 1")),
            _ => return Err(Error::request("--repeat goes with sparsities; this preset varies something else")),
        }
    }
    r.seed = args.seed.unwrap_or(r.seed);
    r.steps = args.steps.unwrap_or(r.steps);
    r.batch = args.batch.unwrap_or(r.batch);
    r.optimiser.rate = args.learning_rate.unwrap_or(r.optimiser.rate);
    r.optimiser.weight_decay = args.weight_decay.unwrap_or(r.optimiser.weight_decay);
    r.optimiser.cosine |= args.cosine;
    r.output_relu &= !args.linear;
    r.hidden_relu |= args.hidden_relu;
    r.tied &= !args.untied;
    let tied = |len: Option<usize>, tie: Tie| len.map(|len| (tie, len));
    let groups = tied(args.correlated, Tie::Correlated).or(tied(args.anticorrelated, Tie::Anticorrelated));
    r.groups = groups.or(r.groups);
    Ok(r)
}

/// Returns one instance as JSON: its weights, losses and geometry.
fn instance(setup: &Setup, frames: &[Frame], k: usize) -> Value {
    let (f, settings, m) = (&frames[k], &setup.instances[k], setup.hidden);
    let measures = interference(&f.encoder, m);
    let by_hidden =
        |rows: &[f32]| -> Vec<Vec<f32>> { (0..m).map(|j| rows.chunks(m).map(|r| r[j]).collect()).collect() };
    let mut v = json!({
        "sparsity": settings.sparsity,
        "loss": f.loss(),
        "W": by_hidden(&f.encoder),
        "b": f.bias,
        "norm": measures.norm,
        "dimensionality": measures.dimensionality,
        "d_star": dimensions_per_feature(&f.encoder, m),
        "superposition": measures.superposition,
        "feature_loss": f.feature_loss,
        "shape": Shape::of(&f.encoder, m).label(),
        "seed": settings.seed,
    });
    if !setup.tied {
        v["V"] = json!(f.decoder.chunks(m).collect::<Vec<_>>());
    }
    if let Some(loss) = f.train_loss {
        v["samples"] = json!(settings.samples);
        v["train_loss"] = json!(loss);
    }
    v
}

fn diverged(setup: &Setup, k: usize, what: &str) -> Error {
    let sparsity = setup.instances.get(k).map_or(f32::NAN, |i| i.sparsity);
    Error::failed(format!("model {k}, of sparsity {sparsity}, diverged: {what}; lower --learning-rate"))
}

pub fn execute(args: &Arguments) -> Result<()> {
    if args.preset.as_deref() == Some("list") {
        if args.json {
            let list: Vec<Value> =
                PRESETS.iter().map(|p| json!({"name": p.name, "title": p.title, "source": p.source})).collect();
            return emit_json(json!({"presets": list}));
        }
        let lines: Vec<String> = PRESETS.iter().map(|p| format!("{}: {} ({})", p.name, p.title, p.source)).collect();
        return emit(&lines.join("\n"));
    }
    let recipe = recipe(args)?;
    let setup = Arc::new(recipe.setup()?);
    let started = Instant::now();
    let (progress, bar) = progress("training");
    progress.expect(setup.steps as u64);
    let mut toy = Toy::new(setup.clone())?;
    while !toy.is_finished() {
        toy.run(BLOCK, &progress)?;
        if let Some((k, step)) = toy.diverged() {
            return Err(diverged(&setup, k, &format!("its weights are not finite after step {step}")));
        }
    }
    let frames = toy.frames(EVALUATED);
    if let Some(k) = frames.iter().position(|f| !f.loss().is_finite()) {
        return Err(diverged(&setup, k, &format!("its loss is not finite after step {}", toy.step())));
    }
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    // Cells with at least a tenth between the best and the second best phase lie away from a boundary.
    let agreement = recipe
        .grid()
        .filter(|_| recipe.has_closed_form())
        .map(|g| g.agreement(setup.features, setup.hidden, &frames, 0.1));
    if args.json {
        let instances: Vec<Value> = (0..frames.len()).map(|k| instance(&setup, &frames, k)).collect();
        let mut doc = json!({
            "features": setup.features, "hidden": setup.hidden, "steps": setup.steps, "batch": setup.batch,
            "setup": &*setup, "instances": instances, "seconds": seconds,
        });
        if let Some((same, all)) = agreement {
            doc["agreement"] = json!({"same": same, "cells": all});
        }
        return emit_json(doc);
    }
    let rows: Vec<Vec<String>> = frames
        .iter()
        .zip(&setup.instances)
        .map(|(f, s)| {
            let mut row = vec![format!("{:.4}", s.sparsity)];
            if let Some(n) = s.samples {
                row[0] = format!("{n} samples");
            }
            row.push(format!("{:.6}", f.loss()));
            row.push(format!("{:.3}", dimensions_per_feature(&f.encoder, setup.hidden)));
            row.push(Shape::of(&f.encoder, setup.hidden).label());
            row
        })
        .collect();
    let mut text = table(&["sparsity", "loss", "D*", "shape"], &rows);
    if let Some((same, all)) = agreement {
        text += &format!("\n{same} of {all} cells away from a boundary are in the phase of the closed form");
    }
    text += &format!("\n{} models, {} steps of {} inputs, {seconds:.2} s", rows.len(), setup.steps, setup.batch);
    emit(&text)
}
