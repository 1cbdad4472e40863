//! Timing of the window's own work per frame: layout and shapes of every view at once, without the
//! rasteriser.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui;
use serde_json::{Value, json};

use super::App;
use super::layout::Layout;
use crate::error::Result;
use crate::model::Model;
use crate::session::Document;

const TOKENS: usize = 256;
const TEXT: &str = include_str!("../../assets/text/prose.txt");

/// A text of about `n` tokens for the model.
fn text(model: &Model, n: usize) -> Result<String> {
    let start: String = TEXT.chars().take(8 * n).collect();
    let ids = model.encode(&start, false)?;
    let n = n.min(ids.len());
    Ok(model.tokenizer.as_ref().map_or_else(String::new, |t| t.decode(&ids[..n])))
}

/// Median milliseconds of one frame with every view open at 256 tokens.
pub fn frame(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    if model.tokenizer.is_none() {
        return Ok(Value::Null);
    }
    let prompt = text(model, TOKENS)?;
    let ctx = egui::Context::default();
    let document = Document { model: model.spec.clone(), prompt, ..Document::default() };
    let mut app = App::new(&ctx, document, Vec::new());
    app.layout = Layout::everything();
    app.settle(&ctx, Duration::from_secs(300))?;
    let tokens = app.state.run().map_or(0, |r| r.trace.len());
    let (mut logic, mut shapes) = (Vec::new(), Vec::new());
    for i in 0..20 * repeat.max(1) {
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(2560.0, 1440.0))),
            time: Some(i as f64 / 60.0),
            max_texture_side: Some(crate::gpu::adapter::MAX_TEXTURE),
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
    let median = |v: &mut Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    Ok(json!({"tokens": tokens, "ui_ms": median(&mut logic), "tessellate_ms": median(&mut shapes)}))
}
