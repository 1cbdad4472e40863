//! Projection: principal components of the residual stream.

use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace, ready};
use eframe::egui::{self, RichText};
use egui_plot::{HoverPosition, Line, MarkerShape, Plot, PlotPoints, PlotUi, Points, Text};

use crate::analysis::projection::Settings;
use crate::app::look::theme;
use crate::app::widgets::colorbar::colorbar;
use crate::app::widgets::heatmap::coloring;
use crate::gpu::ColorMap;
use crate::session::desk::Focus;

/// Ends the name of a series of tokens that the chat template wrote.
const TEMPLATE: &str = " · template";

pub struct ProjectionView;

impl View for ProjectionView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.projection;
        let mut settings = cx.state.desk().projection;
        let last = cx.state.model.as_ref().map_or(1, |m| m.config.n_layers);
        controls(ui, cx, &mut settings, last);
        if settings != cx.state.desk().projection {
            cx.push(ModelAction::Project(settings));
        }
        if !ready(ui, cx, slot) {
            return;
        }
        let Some(result) = slot.get().cloned() else { return };
        let projection = &*result.value;
        let p = cx.pinned();
        let count = projection.layers.len().max(2);
        let color = |i: usize| {
            // The first steps of the map would drown in a dark panel.
            let c = ColorMap::Viridis.at(0.15 + 0.85 * i as f32 / (count - 1) as f32);
            if result.fresh { c } else { c.gamma_multiply(0.5) }
        };
        let percent = projection.explained.map(|e| e * 100.0);
        let follow = cx.state.hovered.pos.unwrap_or(p.pos);
        let (accent, ink) = (cx.palette.accent, cx.palette.text);
        let label = |pos: usize| cx.token(pos);
        let offset = projection.first;
        let turns = cx.turns();
        // What the chat template wrote is dimmed, and thinking that is folded is its first token.
        let all = offset + projection.points.first().map_or(0, Vec::len);
        let kept = turns.kept(all).unwrap_or_else(|| (0..all).collect());
        let shown = |pos: &&usize| **pos >= offset;
        let (template, said): (Vec<usize>, Vec<usize>) =
            kept.iter().filter(shown).copied().partition(|pos| turns.is_template(*pos));
        let response = Plot::new("projection")
            .data_aspect(1.0)
            .show_grid([false, false])
            .x_axis_label(format!("component 1 ({:.0} %)", percent[0]))
            .y_axis_label(format!("component 2 ({:.0} %)", percent[1]))
            .label_formatter(|h| match h {
                HoverPosition::NearDataPoint { plot_name, index, .. } if plot_name.starts_with("layer") => {
                    let of = if plot_name.ends_with(TEMPLATE) { &template } else { &said };
                    let pos = *of.get(*index)?;
                    let whose = turns.whose(pos).map_or_else(String::new, |w| format!("\n{w}"));
                    let whose = turns.fold(pos).map_or(whose, |(_, folded)| format!("\n{folded}"));
                    Some(format!("{plot_name}\n{} ({pos}){whose}", label(pos)))
                }
                _ => None,
            })
            .show(ui, |plot| {
                for (i, points) in projection.points.iter().enumerate() {
                    let name = if projection.layers[i] == last {
                        "layer output".to_owned()
                    } else {
                        format!("layer {}", projection.layers[i])
                    };
                    let series = |of: &[usize]| -> PlotPoints<'_> {
                        of.iter().map(|pos| points[pos - offset].map(f64::from)).collect()
                    };
                    let drawn = |name: String, of: &[usize], color: egui::Color32| {
                        Points::new(name, series(of)).radius(2.2).shape(MarkerShape::Circle).color(color)
                    };
                    if !template.is_empty() {
                        plot.points(drawn(format!("{name}{TEMPLATE}"), &template, color(i).gamma_multiply(0.35)));
                    }
                    plot.points(drawn(name, &said, color(i)));
                }
                let path: Vec<[f64; 2]> = projection
                    .points
                    .iter()
                    .filter_map(|l| l.get(follow.checked_sub(offset)?))
                    .map(|p| [f64::from(p[0]), f64::from(p[1])])
                    .collect();
                path_of(plot, path, label(follow), ink, accent);
            });
        // The point nearest to the pointer, within a few pixels.
        let nearest = response.response.hover_pos().and_then(|at| {
            let all = projection
                .points
                .iter()
                .enumerate()
                .flat_map(|(l, row)| row.iter().enumerate().map(move |(t, p)| (l, t, p)));
            let distance = |p: &[f32; 2]| {
                response.transform.position_from_point(&[f64::from(p[0]), f64::from(p[1])].into()).distance(at)
            };
            let all = all.filter(|(_, t, _)| kept.binary_search(&(offset + t)).is_ok());
            all.map(|(l, t, p)| (l, t, distance(p))).filter(|x| x.2 < 10.0).min_by(|a, b| a.2.total_cmp(&b.2))
        });
        if let Some((layer, pos, _)) = nearest {
            let pos = offset + pos;
            cx.hovered.pos = Some(pos);
            cx.hovered.layer = Some(layer.min(last - 1));
            if response.response.clicked() {
                cx.pin(|p| {
                    (p.pos, p.layer, p.focus) = (pos, layer.min(last - 1), Focus::Token);
                });
            }
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let p = cx.state.results.projection.get().cloned()?;
        let mut table = Table {
            name: "projection".to_owned(),
            row_axis: "layer.pos",
            col_axis: "component",
            rows: Vec::new(),
            cols: vec!["1".to_owned(), "2".to_owned()],
            values: Vec::new(),
            ..Table::default()
        };
        for (l, row) in p.value.layers.iter().zip(&p.value.points) {
            for (pos, xy) in row.iter().enumerate() {
                table.rows.push(format!("{l}.{}", p.value.first + pos));
                table.values.push(xy.iter().copied().map(Some).collect());
            }
        }
        Some(table)
    }
}

/// The way of one position through the layers, with its ends.
fn path_of(plot: &mut PlotUi<'_>, path: Vec<[f64; 2]>, name: String, ink: egui::Color32, accent: egui::Color32) {
    let (Some(first), Some(end)) = (path.first().copied(), path.last().copied()) else { return };
    plot.line(Line::new("path", path).color(accent).width(1.5).allow_hover(false));
    plot.text(Text::new("start", first.into(), RichText::new("0").color(ink).font(theme::mono_small())));
    let name = RichText::new(name).color(accent).font(theme::mono());
    plot.text(Text::new("end", end.into(), name).anchor(egui::Align2::LEFT_BOTTOM));
}

/// What takes part, and the colours of the layers, of which `last` is the last.
fn controls(ui: &mut egui::Ui, cx: &Context<'_>, settings: &mut Settings, last: usize) {
    if is_plate(ui.ctx()) {
        return;
    }
    let end = cx.state.run().map_or(0, |r| r.trace.len() - 1);
    ui.horizontal_wrapped(|ui| {
        let small = |t: &str| RichText::new(t).font(theme::small());
        ui.toggle_value(&mut settings.normalise, small("unit length"))
            .on_hover_text("divide each vector by its norm, so that growth with depth does not dominate");
        ui.toggle_value(&mut settings.skip_first, small("without first token"))
            .on_hover_text("leave the first position out of the fit; it often carries outliers");
        let (mut from, mut to) = (settings.layers.0.min(last), settings.layers.1.min(last));
        let a = ui.add(drag(&mut from, 0..=to, "layers ")).on_hover_text("first layer that takes part");
        let b = ui.add(drag(&mut to, from..=last, "to ")).on_hover_text("last layer that takes part");
        if a.changed() || b.changed() {
            settings.layers = (from, to);
        }
        let (mut from, mut to) = (settings.positions.0.min(end), settings.positions.1.min(end));
        let a = ui.add(drag(&mut from, 0..=to, "tokens ")).on_hover_text("first position that takes part");
        let b = ui.add(drag(&mut to, from..=end, "to ")).on_hover_text("last position that takes part");
        if a.changed() || b.changed() {
            // The end of the prompt stays its end while it grows.
            settings.positions = (from, if to == end { usize::MAX } else { to });
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let bar = coloring(&cx.palette, ColorMap::Viridis, 0.0, 1.0, false, true);
            colorbar(ui, &bar, "layer 0", &format!("{last}"));
        });
    });
}

/// A field for one end of the range of layers.
fn drag<'a>(value: &'a mut usize, range: std::ops::RangeInclusive<usize>, prefix: &'static str) -> egui::DragValue<'a> {
    egui::DragValue::new(value).range(range).prefix(prefix).speed(0.1)
}

pub const VIEW: ViewDef = ViewDef {
    name: "projection",
    title: "Projection",
    workspace: Workspace::Model,
    area: Area::BottomRight,
    make: || Box::new(ProjectionView),
};
