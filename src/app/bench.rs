//! Timing of the window's own work per frame: layout and shapes of every view at once, without the
//! rasteriser.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui;
use serde_json::{Value, json};

use super::App;
use super::features::FeatureAction;
use crate::app::action::{Action, Command};
use crate::app::model::ModelAction;
use crate::app::shell::layout::Layout;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Workspace;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::model::Model;
use crate::progress::Progress;
use crate::session::{Desk, Document};
use crate::superposition::presets;

const TOKENS: usize = 256;
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(300);
const TEXT: &str = include_str!("../../assets/text/prose.txt");

/// A text of about `n` tokens for the model.
fn text(model: &Model, n: usize) -> Result<String> {
    let start: String = TEXT.chars().take(8 * n).collect();
    let ids = model.encode(&start, false)?;
    let n = n.min(ids.len());
    Ok(model.tokenizer.as_ref().map_or_else(String::new, |t| t.decode(&ids[..n])))
}

/// Median milliseconds of one frame with every view open at 256 tokens, and of one with a graph of hundreds of nodes
/// that is moved and zoomed.
pub fn frame(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    if model.tokenizer.is_none() {
        return Ok(Value::Null);
    }
    let (mut app, ctx) = alone(model, text(model, TOKENS)?, Layout::everything(Workspace::Model))?;
    let tokens = app.state.run().map_or(0, |r| r.trace.len());
    let (ui, tessellate) = measure(&mut app, &ctx, 20 * repeat.max(1), |_| Vec::new());
    let graph = graph_frame(model, repeat)?;
    Ok(json!({"tokens": tokens, "ui_ms": ui, "tessellate_ms": tessellate, "graph": graph}))
}

/// The lengths of prompt at which a keystroke is timed.
const TYPED: [usize; 2] = [14, 300];

/// After a keystroke with the attention view alone: median seconds until its picture is there and until nothing runs any
/// more, beside one plain run of the prompt.
pub fn keystroke(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    if model.tokenizer.is_none() {
        return Ok(Value::Null);
    }
    let longest = model.config.n_ctx.saturating_sub(2);
    let mut all = Vec::new();
    for n in TYPED.map(|n| n.min(longest)) {
        let (mut app, ctx) = alone(model, text(model, n)?, Layout::single("attention"))?;
        let tokens = app.state.run().map_or(0, |r| r.trace.len());
        let (mut plain, mut picture, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..repeat.max(1) {
            let prompt = format!("{}{}", text(model, n)?, if i % 2 == 0 { " a" } else { " the" });
            let started = Instant::now();
            Trace::run(model, model.encode(&prompt, false)?, &Progress::new())?;
            plain.push(started.elapsed().as_secs_f64());
            let started = Instant::now();
            app.state.apply(ModelAction::Prompt(prompt), 0.0);
            app.until(&ctx, |s| s.results.run.fresh().is_some() && s.results.pattern.fresh().is_some());
            picture.push(started.elapsed().as_secs_f64());
            app.settle(&ctx, LIMIT)?;
            quiet.push(started.elapsed().as_secs_f64());
        }
        let [plain, picture, quiet] = [plain, picture, quiet].map(median);
        all.push(json!({"tokens": tokens, "plain_seconds": plain, "picture_seconds": picture, "quiet_seconds": quiet,
            "picture_over_plain": picture / plain, "quiet_over_plain": quiet / plain}));
    }
    Ok(all.into())
}

/// The tokens of the prompt whose work is stopped, and the seconds after which it is.
const STOPPED: usize = 990;
const STOPS: [f64; 5] = [1.0, 3.0, 10.0, 30.0, 60.0];

/// With every view open on a long prompt: seconds from Esc until nothing runs, and from another, short prompt until that is
/// shown, at several moments of the work; and the memory that is held before it and after it.
pub fn stop(model: &Arc<Model>) -> Result<Value> {
    if model.tokenizer.is_none() || model.config.n_ctx < STOPPED {
        return Ok(Value::Null);
    }
    let (short, long) = (text(model, TYPED[0])?, text(model, STOPPED)?);
    let (mut app, ctx) = alone(model, short.clone(), Layout::everything(Workspace::Model))?;
    let held = || crate::memory::resident().unwrap_or(0) as f64 / 1e9;
    let before = held();
    let (mut stops, mut most) = (Vec::new(), before);
    for (i, wait) in STOPS.into_iter().enumerate() {
        // Another one each time, whose run is not known yet.
        let other = format!("{short} {i}");
        for escape in [true, false] {
            app.state.apply(ModelAction::Prompt(long.clone()), 0.0);
            let started = Instant::now();
            app.until(&ctx, |_| started.elapsed().as_secs_f64() > wait);
            most = most.max(held());
            let running: Vec<_> = app.state.pool.running().iter().map(|t| t.label).collect();
            let stopped = Instant::now();
            if escape {
                app.command(&ctx, Command::Cancel);
                app.until(&ctx, |s| !s.pool.is_busy());
            } else {
                app.state.apply(ModelAction::Prompt(other.clone()), 0.0);
                app.until(&ctx, |s| s.results.run.fresh().is_some());
            }
            stops.push(json!({"by": if escape { "Esc" } else { "another prompt" }, "after_seconds": wait,
                "running": running, "seconds": stopped.elapsed().as_secs_f64()}));
            app.state.apply(ModelAction::Prompt(short.clone()), 0.0);
            app.settle(&ctx, LIMIT)?;
        }
    }
    let rests = Instant::now();
    app.until(&ctx, |_| rests.elapsed().as_secs_f64() > 3.0);
    let worst = stops.iter().filter_map(|s| s["seconds"].as_f64()).fold(0.0, f64::max);
    Ok(json!({"tokens": STOPPED, "worst_seconds": worst, "stops": stops,
        "memory_gb": {"before": before, "most": most, "after": held()}}))
}

/// A window with these views, once it rests.
fn alone(model: &Model, prompt: String, layout: Layout) -> Result<(App, egui::Context)> {
    let ctx = egui::Context::default();
    let document = Document::from(Desk { model: model.spec.clone(), prompt, ..Desk::default() });
    let mut app = App::new(&ctx, document, Vec::new());
    app.layout = layout;
    app.settle(&ctx, LIMIT)?;
    Ok((app, ctx))
}

/// The graph of the usual prompt, while the pointer drags and the wheel turns.
fn graph_frame(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let prompt = crate::session::start::PROMPT.to_owned();
    let (mut app, ctx) = alone(model, prompt, Layout::single("graph"))?;
    let Some((nodes, links)) = app.state.results.drawing.get().map(|d| (d.graph.nodes.len(), d.graph.links.len()))
    else {
        return Ok(Value::Null);
    };
    let moving = |i: usize| {
        let at = egui::pos2(900.0 + 3.0 * (i % 40) as f32, 600.0 + 2.0 * (i % 30) as f32);
        let wheel = egui::Event::MouseWheel {
            unit: egui::MouseWheelUnit::Point,
            delta: egui::vec2(0.0, if (i / 10).is_multiple_of(2) { 8.0 } else { -8.0 }),
            phase: egui::TouchPhase::Move,
            source: egui::MouseWheelSource::Wheel,
            modifiers: egui::Modifiers::NONE,
        };
        vec![egui::Event::PointerMoved(at), wheel]
    };
    // The first frame puts the picture together.
    let (first, _) = measure(&mut app, &ctx, 1, moving);
    let (ui, tessellate) = measure(&mut app, &ctx, 20 * repeat.max(1), moving);
    Ok(json!({"nodes": nodes, "links": links, "first_ms": first, "ui_ms": ui, "tessellate_ms": tessellate}))
}

/// Median milliseconds of a frame of the superposition lab's workspace, and of all its views at once, while the ten
/// models of the first preset are training.
pub fn lab_frame() -> Result<Value> {
    let ctx = egui::Context::default();
    let mut app = App::new(&ctx, crate::session::start::Start::default().document()?, Vec::new());
    app.settle(&ctx, Duration::from_secs(60))?;
    let mut of = |layout: Layout| {
        app.layout = layout;
        let mut recipe = (presets::PRESETS[0].recipe)();
        // Longer than the frames take.
        recipe.steps = 10_000_000;
        app.state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))), 0.0);
        app.state.apply(Action::Superposition(SuperpositionAction::Start), 0.0);
        std::thread::sleep(Duration::from_millis(300));
        let times = measure(&mut app, &ctx, 200, |_| Vec::new());
        app.state.apply(Action::Superposition(SuperpositionAction::Pause(true)), 0.0);
        times
    };
    let (ui, tessellate) = of(Layout::of(Workspace::Superposition));
    let (all_ui, all_tessellate) = of(Layout::everything(Workspace::Superposition));
    Ok(json!({"ui_ms": ui, "tessellate_ms": tessellate, "all_views_ui_ms": all_ui,
        "all_views_tessellate_ms": all_tessellate}))
}

/// Median milliseconds of a frame of the feature heatmap while it scrolls, over a dictionary of a hundred thousand
/// features of which about half are active at each token; and seconds from opening the file to the finished heatmap.
pub fn features_frame(model: &Arc<Model>, dictionary: &Dictionary, repeat: usize) -> Result<Value> {
    if model.tokenizer.is_none() {
        return Ok(Value::Null);
    }
    let folder = tempfile::tempdir().map_err(|e| Error::failed(format!("there is no room for a dictionary: {e}")))?;
    let path = folder.path().join("dictionary");
    crate::features::dictionary::formats::saelens::save(dictionary, &path, &Value::Null)?;
    let (mut app, ctx) = alone(model, text(model, 128)?, Layout::single("features"))?;
    let started = Instant::now();
    app.state.apply(Action::Feature(FeatureAction::Open(path.display().to_string())), 0.0);
    // What a view shows is asked for when it is drawn.
    measure(&mut app, &ctx, 1, |_| Vec::new());
    app.settle(&ctx, LIMIT)?;
    measure(&mut app, &ctx, 1, |_| Vec::new());
    app.settle(&ctx, LIMIT)?;
    let opened = started.elapsed().as_secs_f64();
    let Some((rows, cols)) = app.state.features.heat.value().map(|h| (h.features.len(), h.tokens())) else {
        return Ok(Value::Null);
    };
    let scrolling = |i: usize| {
        let wheel = egui::Event::MouseWheel {
            unit: egui::MouseWheelUnit::Point,
            delta: egui::vec2(0.0, if (i / 50).is_multiple_of(2) { -900.0 } else { 900.0 }),
            phase: egui::TouchPhase::Move,
            source: egui::MouseWheelSource::Wheel,
            modifiers: egui::Modifiers::NONE,
        };
        vec![egui::Event::PointerMoved(egui::pos2(900.0 + (i % 40) as f32, 700.0)), wheel]
    };
    let (first, _) = measure(&mut app, &ctx, 1, scrolling);
    let (ui, tessellate) = measure(&mut app, &ctx, 20 * repeat.max(1), scrolling);
    Ok(json!({"rows": rows, "tokens": cols, "features": dictionary.d_sae, "open_seconds": opened, "first_ms": first,
        "ui_ms": ui, "tessellate_ms": tessellate}))
}

/// Medians of (layout and shapes, tessellation) in milliseconds.
fn measure(
    app: &mut App,
    ctx: &egui::Context,
    frames: usize,
    events: impl Fn(usize) -> Vec<egui::Event>,
) -> (f64, f64) {
    let (mut logic, mut shapes) = (Vec::new(), Vec::new());
    for i in 0..frames {
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(2560.0, 1440.0))),
            time: Some(i as f64 / 60.0),
            max_texture_side: Some(crate::gpu::adapter::MAX_TEXTURE),
            events: events(i),
            ..egui::RawInput::default()
        };
        let started = Instant::now();
        let output = ctx.run_ui(input, |ui| {
            app.tick(&ui.ctx().clone());
            app.draw(ui);
        });
        logic.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        std::hint::black_box(ctx.tessellate(output.shapes.clone(), output.pixels_per_point));
        shapes.push(started.elapsed().as_secs_f64() * 1e3);
        output.drop_without_applying_deltas();
    }
    (median(logic), median(shapes))
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
