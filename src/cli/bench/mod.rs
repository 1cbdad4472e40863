//! `bench`: times this program on this machine. A ratio compares with something that is measured in the same run: the f32
//! GEMM peak at the model's own shapes, or one streaming pass over its weights.

mod features;
mod lab;
mod lenses;
mod sweeps;
mod synthetic;
mod synthetic_set;
#[cfg(feature = "gui")]
mod window;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::output::document;
use super::{ModelArgs, emit, emit_json};
use crate::engine::{Capture, NoHooks, Trace};
use crate::error::Result;
use crate::files::{SMALL, read_text};
use crate::model::Model;
use crate::model::matrix::Held;
use crate::progress::Progress;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Repetitions of each timing; the median is reported
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeat: usize,
    /// Time the superposition lab at full size instead (minutes)
    #[arg(long)]
    lab: bool,
    /// Time dictionaries of features instead: encoding, training, scanning
    #[arg(long, conflicts_with = "lab")]
    features: bool,
    /// Time fitting a Jacobian lens and heads over a text instead
    #[arg(long, conflicts_with_all = ["lab", "features"])]
    lenses: bool,
    /// Time a model of random weights instead: llama-3.1-8b, gemma-2-2b or smollm2-135m, and how they are stored. Its file
    /// lies in the cache folder until it is open
    #[arg(long, value_name = "SHAPE:TYPE", conflicts_with_all = ["lab", "features", "model", "lenses"])]
    synthetic: Option<String>,
    /// Give the model of --synthetic so many layers only
    #[arg(long, value_name = "N", requires = "synthetic", conflicts_with_all = ["lab", "features", "model", "lenses"])]
    layers: Option<usize>,
    /// Trace a prediction of the model of --synthetic through random transcoders, so many features a layer
    #[arg(long, value_name = "N", requires = "synthetic", conflicts_with_all = ["lab", "features", "model", "lenses"])]
    transcoders: Option<usize>,
    /// Time the window instead: its frames, how soon a keystroke is answered, how soon work stops (minutes)
    #[cfg(feature = "gui")]
    #[arg(long, conflicts_with_all = ["lab", "features", "lenses"])]
    window: bool,
}

/// Returns the median seconds of `f` over `n` runs after one warm-up.
pub(super) fn time(n: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut times = (0..n.max(1))
        .map(|_| {
            let start = Instant::now();
            f()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Returns the median seconds of `base` and `f` over `n` runs of one after the other, and the median of their ratio f/base: pairs
/// taken together share what else the machine was doing.
pub(super) fn beside(
    n: usize,
    mut base: impl FnMut() -> Result<()>,
    mut f: impl FnMut() -> Result<()>,
) -> Result<(f64, f64, f64)> {
    pairs(n, || timed(&mut base), || timed(&mut f))
}

fn timed(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64())
}

/// As [`beside`] of what tells its seconds itself.
fn pairs(
    n: usize,
    mut base: impl FnMut() -> Result<f64>,
    mut f: impl FnMut() -> Result<f64>,
) -> Result<(f64, f64, f64)> {
    base()?;
    f()?;
    let (mut bases, mut times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..n.max(1) {
        let (a, b) = (base()?, f()?);
        bases.push(a);
        times.push(b);
        ratios.push(b / a);
    }
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    Ok((median(bases), median(times), median(ratios)))
}

/// Returns the matrix products of one forward pass: input width, output width, how often.
fn products(model: &Model) -> Vec<(usize, usize, usize)> {
    let c = &model.config;
    let (q, kv) = (c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
    let mut list = vec![(c.d_model, q, c.n_layers), (c.d_model, kv, 2 * c.n_layers), (q, c.d_model, c.n_layers)];
    if c.has_mlp() {
        list.push((c.d_model, c.d_mlp, c.n_layers * if c.gated_mlp { 2 } else { 1 }));
        list.push((c.d_mlp, c.d_model, c.n_layers));
    }
    list.push((c.d_model, c.d_vocab, 1));
    list
}

/// Returns the floating-point operations of these products at `rows` tokens.
fn flops(model: &Model, rows: usize) -> f64 {
    products(model).iter().map(|(i, o, n)| 2.0 * rows as f64 * (*i * *o * *n) as f64).sum()
}

/// All products of a pass by themselves: input, weights that take turns, so that small ones do not stay in the cache as they
/// could not in a pass, and what the seconds of all turns are multiplied with.
struct Products(Vec<(Tensor, Vec<Tensor>, f64)>);

impl Products {
    fn new(model: &Model, rows: usize) -> Result<Self> {
        let one = |(input, output, count): (usize, usize, usize)| {
            let x = Tensor::rand(-1f32, 1f32, (rows, input), &Device::Cpu)?;
            // A part of a vocabulary's columns stands for all.
            let (whole, output) = (output, output.min(1 << 14));
            let copies = ((64 << 20) / (4 * input * output)).clamp(1, 16);
            let weights = (0..copies)
                .map(|_| Ok(Tensor::rand(-1f32, 1f32, (input, output), &Device::Cpu)?))
                .collect::<Result<Vec<_>>>()?;
            Ok((x, weights, (count * whole) as f64 / (output * copies) as f64))
        };
        products(model).into_iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// Returns the seconds that they take now.
    fn seconds(&self) -> Result<f64> {
        let mut total = 0.0;
        for (x, weights, times) in &self.0 {
            let start = Instant::now();
            for w in weights {
                std::hint::black_box(x.matmul(w)?);
            }
            total += start.elapsed().as_secs_f64() * times;
        }
        Ok(total)
    }
}

/// Returns the median seconds of all products of a pass at so many rows, of the pass, and of the pass over its products.
pub(super) fn beside_products(
    model: &Model,
    rows: usize,
    n: usize,
    mut pass: impl FnMut() -> Result<()>,
) -> Result<(f64, f64, f64)> {
    let products = Products::new(model, rows)?;
    pairs(n, || products.seconds(), || timed(&mut pass))
}

/// Returns the work of these products at `rows` rows, each on a weight of its own.
fn gemm_by(products: &[(usize, usize, usize)], rows: usize) -> Result<impl FnMut() -> Result<()> + use<>> {
    let mut all = Vec::new();
    for (input, output, count) in products {
        let x = Tensor::rand(-1f32, 1f32, (rows, *input), &Device::Cpu)?;
        let weights = (0..*count)
            .map(|_| Ok(Tensor::rand(-1f32, 1f32, (*input, *output), &Device::Cpu)?))
            .collect::<Result<Vec<_>>>()?;
        all.push((x, weights));
    }
    Ok(move || {
        for (x, weights) in &all {
            for w in weights {
                std::hint::black_box(x.matmul(w)?);
            }
        }
        Ok(())
    })
}

/// Returns the seconds to read all weights once, on all threads.
fn stream_seconds(model: &Model, repeat: usize) -> Result<f64> {
    let total = model.weights.bytes() / 4;
    // As many bytes as the weights take: where they lie makes no difference.
    let values = vec![1f32; total];
    time(repeat, || {
        let sum: f32 = values
            .par_chunks(1 << 18)
            .map(|c| {
                crate::engine::kernels::math::simd(|| {
                    let (head, _) = c.as_chunks::<64>();
                    let mut lanes = [0f32; 64];
                    for chunk in head {
                        for (l, v) in lanes.iter_mut().zip(chunk) {
                            *l += v;
                        }
                    }
                    lanes.iter().sum::<f32>()
                })
            })
            .sum();
        std::hint::black_box(sum);
        Ok(())
    })
}

/// Returns the peak resident memory of this process in bytes, where the system tells it.
fn peak_memory() -> Option<u64> {
    let status = read_text(Path::new("/proc/self/status"), SMALL).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Returns `n` random tokens, the second half equal to the first.
pub(super) fn prompt(model: &Model, n: usize) -> Vec<u32> {
    crate::analysis::head_scores::repeated_random(model.config.d_vocab, n.div_ceil(2), 0).into_iter().take(n).collect()
}

/// Returns the seconds from the start of this program to the window's first frame on the built-in model, where there is a
/// display to show it on.
fn first_frame() -> Option<f64> {
    let display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|s| !s.is_empty()));
    if !cfg!(feature = "gui") || !display {
        return None;
    }
    let once = || {
        let program = std::env::current_exe().ok()?;
        let out = std::process::Command::new(program).arg("--time").output().ok()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("first frame after ").map(str::to_owned))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    // The first start reads the program from the disk.
    once()?;
    let mut times: Vec<f64> = (0..3).filter_map(|_| once()).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Runs a forward pass with the logits of every position.
fn watched_pass(model: &Model, ids: &[u32], hooks: &mut dyn crate::engine::Hooks, progress: &Progress) -> Result<()> {
    let network = model.network();
    let resid = network.forward(&[ids], hooks, progress)?.squeeze(0)?;
    crate::engine::logits::summarise(network, &resid, 1, |_| Vec::new(), &mut NoHooks, progress)?;
    Ok(())
}

/// Runs a forward pass that nothing watches.
pub(super) fn plain_pass(model: &Model, ids: &[u32], progress: &Progress) -> Result<()> {
    watched_pass(model, ids, &mut NoHooks, progress)
}

/// Times the superposition lab and the frame of its workspace.
fn lab(args: &Arguments) -> Result<()> {
    let mut doc = lab::lab()?;
    #[cfg(feature = "gui")]
    {
        doc["frame"] = crate::app::bench::lab_frame()?;
    }
    doc["threads"] = json!(rayon::current_num_threads());
    if args.model.json { emit_json(doc) } else { emit(&lab::lines(&doc)) }
}

/// Times dictionaries of features.
fn features(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let started = Instant::now();
    let found = features::features(&model, args.repeat)?;
    let doc = document(&model, None, started.elapsed().as_secs_f64(), found);
    if args.model.json { emit_json(doc) } else { emit(&features::lines(&doc)) }
}

/// Times lenses and heads.
fn lenses(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let started = Instant::now();
    let found = lenses::lenses(&model, args.repeat)?;
    let doc = document(&model, None, started.elapsed().as_secs_f64(), found);
    if args.model.json { emit_json(doc) } else { emit(&lenses::lines(&doc)) }
}

/// Times a model of random weights, held as they are stored unless something else was asked for.
fn synthetic(args: &Arguments, what: &str) -> Result<()> {
    let held = if args.model.weights == Held::Auto { Held::Stored } else { args.model.weights };
    let started = Instant::now();
    let (found, lines): (_, fn(&Value) -> String) = match args.transcoders {
        Some(features) => (synthetic_set::measure(what, args.layers, held, features)?, synthetic_set::lines),
        None => (synthetic::measure(what, args.layers, held, args.repeat)?, synthetic::lines),
    };
    let doc = document(&found.model, None, started.elapsed().as_secs_f64(), found.doc);
    if args.model.json { emit_json(doc) } else { emit(&lines(&doc)) }
}

/// Times the window.
#[cfg(feature = "gui")]
fn window(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let started = Instant::now();
    let found = window::window(&model, args.repeat)?;
    let doc = document(&model, None, started.elapsed().as_secs_f64(), found);
    if args.model.json { emit_json(doc) } else { emit(&window::lines(&doc)) }
}

pub fn execute(args: &Arguments) -> Result<()> {
    #[cfg(feature = "gui")]
    if args.window {
        return window(args);
    }
    if args.lab {
        return lab(args);
    }
    if args.features {
        return features(args);
    }
    if args.lenses {
        return lenses(args);
    }
    if let Some(what) = &args.synthetic {
        return synthetic(args, what);
    }
    // The model is opened twice, so that the file is surely cached the second time.
    drop(args.model.open()?);
    let model = Arc::new(args.model.open()?);
    let load = model.load_seconds;
    let progress = Progress::new();
    let started = Instant::now();
    let mut rows = Vec::new();
    let mut forwards: Vec<Value> = Vec::new();
    // Plain passes first: memory high-water marks only rise.
    let lengths: Vec<usize> = [14, 128, 512].into_iter().filter(|n| *n <= model.config.n_ctx).collect();
    let pass = |ids: &[u32], hooks: &mut dyn crate::engine::Hooks| watched_pass(&model, ids, hooks, &progress);
    let mut plain_passes = Vec::new();
    for &n in &lengths {
        let ids = prompt(&model, n);
        plain_passes.push((n, time(args.repeat, || pass(&ids, &mut NoHooks))?, peak_memory()));
    }
    for (n, plain, peak) in plain_passes {
        let ids = prompt(&model, n);
        let traced = time(args.repeat, || Trace::run(&model, ids.clone(), &progress).map(drop))?;
        let everything = time(args.repeat, || pass(&ids, &mut Capture::everything(&model.config)))?;
        let (gemm, _, over) = beside_products(&model, n, args.repeat, || pass(&ids, &mut NoHooks))?;
        let share = 1.0 / over;
        rows.push(format!(
            "forward, {n} tokens: {plain:.4} s, {:.0} GFLOP/s, {:.0} % of this machine's GEMM at the same shapes; trace {:.2} ×, everything captured {:.2} ×",
            flops(&model, n) / plain / 1e9,
            100.0 * share,
            traced / plain,
            everything / plain,
        ));
        forwards.push(json!({"tokens": n, "seconds": plain, "gflops": flops(&model, n) / plain / 1e9,
            "gemm_seconds": gemm, "share_of_gemm_peak": share, "trace_ratio": traced / plain,
            "capture_everything_ratio": everything / plain, "peak_memory_bytes": peak,
            "peak_memory_over_weights": peak.map(|p| p as f64 / model.weight_bytes() as f64)}));
    }
    let stream = stream_seconds(&model, args.repeat)?;
    let causal = sweeps::sweeps(&model, args.repeat)?;
    let short = forwards.first().and_then(|f| f["seconds"].as_f64()).unwrap_or(f64::NAN);
    #[cfg(feature = "gui")]
    let frame = crate::app::bench::frame(&model, args.repeat)?;
    #[cfg(not(feature = "gui"))]
    let frame = Value::Null;
    let first_frame = first_frame();
    let doc = json!({
        "first_frame_seconds": first_frame,
        "threads": rayon::current_num_threads(),
        "forward": forwards,
        "stream_weights_seconds": stream,
        "stream_gb_per_second": model.weight_bytes() as f64 / stream / 1e9,
        "short_forward_over_stream": short / stream,
        "weight_bytes": model.weight_bytes(),
        "causal": causal,
        "frame": frame,
    });
    if args.model.json {
        let mut doc = document(&model, None, started.elapsed().as_secs_f64(), doc);
        doc["load_seconds"] = json!(load);
        return emit_json(doc);
    }
    let peak =
        doc["forward"].as_array().and_then(|f| f.last()).map_or(Value::Null, |f| f["peak_memory_over_weights"].clone());
    let mut text = format!(
        "{}: load {load:.3} s, {} threads\n{}\nweights stream in {stream:.4} s ({:.1} GB/s); the 14-token pass takes {:.2} × that\npeak memory {:.2} × the f32 weights",
        model.config.name,
        rayon::current_num_threads(),
        rows.join("\n"),
        model.weight_bytes() as f64 / stream / 1e9,
        short / stream,
        peak.as_f64().unwrap_or(f64::NAN),
    );
    text.push_str(&sweeps::lines(&doc["causal"]));
    #[cfg(feature = "gui")]
    for line in window::frame_lines(&doc["frame"]) {
        text.push_str(&format!("\n{line}"));
    }
    match first_frame {
        Some(f) => text.push_str(&format!("\nfirst frame of the window on the built-in model after {f:.3} s")),
        None => text.push_str("\nfirst frame: not measured, there is no display"),
    }
    emit(&text)
}
