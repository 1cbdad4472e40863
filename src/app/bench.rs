//! Timing of the window's own work per frame: layout and shapes of every view at once, without the
//! rasteriser.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui;
use serde_json::{Value, json};

use super::App;
use super::features::FeatureAction;
use crate::app::action::Action;
use crate::app::shell::layout::Layout;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Workspace;
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::model::Model;
use crate::session::{Desk, Document};
use crate::superposition::presets;

const TOKENS: usize = 256;
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
    let prompt = text(model, TOKENS)?;
    let ctx = egui::Context::default();
    let document = Document::from(Desk { model: model.spec.clone(), prompt, ..Desk::default() });
    let mut app = App::new(&ctx, document, Vec::new());
    app.layout = Layout::everything(Workspace::Model);
    app.settle(&ctx, Duration::from_secs(300))?;
    let tokens = app.state.run().map_or(0, |r| r.trace.len());
    let (ui, tessellate) = measure(&mut app, &ctx, 20 * repeat.max(1), |_| Vec::new());
    let graph = graph_frame(model, repeat)?;
    Ok(json!({"tokens": tokens, "ui_ms": ui, "tessellate_ms": tessellate, "graph": graph}))
}

/// The graph of the usual prompt, while the pointer drags and the wheel turns.
fn graph_frame(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let ctx = egui::Context::default();
    let document = Document::from(Desk {
        model: model.spec.clone(),
        prompt: crate::session::start::PROMPT.to_owned(),
        ..Desk::default()
    });
    let mut app = App::new(&ctx, document, Vec::new());
    app.layout = Layout::single("graph");
    app.settle(&ctx, Duration::from_secs(300))?;
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
    let ctx = egui::Context::default();
    let document = Document::from(Desk { model: model.spec.clone(), prompt: text(model, 128)?, ..Desk::default() });
    let mut app = App::new(&ctx, document, Vec::new());
    app.layout = Layout::single("features");
    app.settle(&ctx, Duration::from_secs(300))?;
    let started = Instant::now();
    app.state.apply(Action::Feature(FeatureAction::Open(path.display().to_string())), 0.0);
    // What a view shows is asked for when it is drawn.
    measure(&mut app, &ctx, 1, |_| Vec::new());
    app.settle(&ctx, Duration::from_secs(300))?;
    measure(&mut app, &ctx, 1, |_| Vec::new());
    app.settle(&ctx, Duration::from_secs(300))?;
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
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    (median(logic), median(shapes))
}
