//! Times the window: its frames, how soon a keystroke is answered, and how soon work stops.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::bench;
use crate::error::Result;
use crate::model::Model;

/// Runs all timings on a model.
pub fn window(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    Ok(json!({
        "keystroke": bench::keystroke(model, repeat)?,
        "frame": bench::frame(model, repeat)?,
        "stop": bench::stop(model)?,
    }))
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or(f64::NAN)
}

/// Returns the timings as text.
pub fn lines(doc: &Value) -> String {
    let mut lines: Vec<String> = Vec::new();
    for k in doc["keystroke"].as_array().into_iter().flatten() {
        lines.push(format!(
            "a keystroke at {} tokens with attention alone: its picture after {:.3} s, {:.2} × a plain run; at rest after {:.3} s",
            k["tokens"],
            number(&k["picture_seconds"]),
            number(&k["picture_over_plain"]),
            number(&k["quiet_seconds"])
        ));
    }
    lines.extend(frame_lines(&doc["frame"]));
    let stop = &doc["stop"];
    if stop.is_object() {
        let memory = &stop["memory_gb"];
        lines.push(format!(
            "at {} tokens with every view open, Esc and another prompt stop what runs within {:.2} s; memory {:.1} GB before, {:.1} at most, {:.1} after",
            stop["tokens"],
            number(&stop["worst_seconds"]),
            number(&memory["before"]),
            number(&memory["most"]),
            number(&memory["after"])
        ));
    }
    lines.join("\n")
}

/// Returns what is said of the time of frames; nothing for a model without a vocabulary.
pub fn frame_lines(frame: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let mut frame_of = |what: String, of: &Value| {
        if of["ui_ms"].is_number() {
            let (ui, triangles) = (number(&of["ui_ms"]), number(&of["tessellate_ms"]));
            lines.push(format!("a frame {what}: {ui:.2} ms, and {triangles:.2} ms for its triangles"));
        }
    };
    frame_of(format!("with every view open at {} tokens", frame["tokens"]), frame);
    let graph = &frame["graph"];
    frame_of(format!("of a graph of {} nodes and {} links, moved and zoomed", graph["nodes"], graph["links"]), graph);
    lines
}
