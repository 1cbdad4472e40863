//! Decoder directions in the plane.

use crate::app::export::plate::is_plate;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use std::collections::HashSet;
use std::sync::{Arc, Weak};

use eframe::egui;
use egui_plot::{HoverPosition, MarkerShape, Plot, PlotPoints, Points};

use super::{act, dictionary_open, weak};
use crate::app::features::{Chosen, FeatureAction, FeaturesState};
use crate::app::widgets::{choice, message};
use crate::features::feature_activations::{FeatureActivations, Order};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum How {
    #[default]
    Neighbours,
    Components,
}

#[derive(Default)]
pub struct Map {
    how: How,
    /// Features that are active on the prompt or in a file, and what says so.
    active: HashSet<u32>,
    activations: Weak<FeatureActivations>,
}

/// Where the features are active that are shown so.
fn active_where(s: &FeaturesState) -> &'static str {
    if s.desk.reads_captured().is_some() { "active in the file" } else { "active on the prompt" }
}

impl View for Map {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !dictionary_open(ui, cx) {
            return;
        }
        let s = &cx.state.features;
        ui.horizontal(|ui| {
            let options = [(How::Neighbours, "t-SNE"), (How::Components, "principal components")];
            if let Some(h) = choice(ui, "by", self.how, &options) {
                self.how = h;
            }
            if s.map.is_running() {
                ui.label(weak(cx, "laying out …"));
            } else if !is_plate(ui.ctx()) {
                let text = if s.map.value().is_some() { "Lay out again" } else { "Lay out" };
                if ui.button(text).on_hover_text("features that a scan found active, or all").clicked() {
                    act(cx, FeatureAction::Map);
                }
            }
            if let Some(m) = s.map.value() {
                let every = if m.features.len() < m.of {
                    format!(" of {}, every {}th", m.of, m.of.div_ceil(m.features.len().max(1)))
                } else {
                    String::new()
                };
                ui.label(weak(cx, format!("{} features{every},", m.features.len())));
                ui.label(weak(cx, format!("● {}", active_where(s))).color(cx.palette.positive));
            }
        });
        let Some(m) = s.map.value().cloned() else {
            let text = match s.map.error() {
                Some(e) => e.as_str(),
                None => "lay the decoder's directions out in the plane",
            };
            message(ui, text, s.map.error().is_some());
            return;
        };
        let at = if self.how == How::Neighbours { &m.neighbours } else { &m.components };
        let activations = s.activations.value().map_or_else(Weak::new, Arc::downgrade);
        if !self.activations.ptr_eq(&activations) {
            let leading = s.activations.value().map(|a| a.leading(Order::Max, None, usize::MAX).0);
            self.active = leading.into_iter().flatten().collect();
            self.activations = activations;
        }
        let active = &self.active;
        let points = |wanted: &dyn Fn(u32) -> bool| -> PlotPoints<'static> {
            let chosen = m.features.iter().zip(at).filter(|(f, _)| wanted(**f));
            chosen.map(|(_, p)| [f64::from(p[0]), f64::from(p[1])]).collect()
        };
        let response = Plot::new(("map", self.how as u8))
            .height(ui.available_height())
            .show_axes([false, false])
            .show_grid([false, false])
            .data_aspect(1.0)
            .label_formatter(|h| match h {
                HoverPosition::NearDataPoint { position, .. } => {
                    let same = |p: &[f32; 2]| {
                        (f64::from(p[0]) - position.x).abs() < 1e-6 && (f64::from(p[1]) - position.y).abs() < 1e-6
                    };
                    let i = at.iter().position(same)?;
                    Some(s.name(Chosen::Feature(m.features[i])))
                }
                HoverPosition::Elsewhere { .. } => None,
            })
            .show(ui, |p| {
                let all = Points::new("silent here", points(&|f| !active.contains(&f)));
                p.points(all.radius(1.5).color(cx.palette.faint));
                p.points(
                    Points::new(active_where(s), points(&|f| active.contains(&f)))
                        .radius(2.5)
                        .color(cx.palette.positive),
                );
                if let Some(Chosen::Feature(c)) = s.desk.chosen {
                    let one = Points::new("chosen", points(&|f| f == c));
                    p.points(one.radius(6.0).shape(MarkerShape::Circle).filled(false).color(cx.palette.accent));
                }
            });
        if response.response.clicked()
            && let Some(pointer) = response.response.interact_pointer_pos()
        {
            let to = |p: &[f32; 2]| {
                let at = response
                    .transform
                    .position_from_point(&egui_plot::PlotPoint::new(f64::from(p[0]), f64::from(p[1])));
                at.distance(pointer)
            };
            let near = (0..at.len()).min_by(|a, b| to(&at[*a]).total_cmp(&to(&at[*b])));
            if let Some(i) = near.filter(|i| to(&at[*i]) < 24.0) {
                act(cx, FeatureAction::Choose(Chosen::Feature(m.features[i])));
            }
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let m = cx.state.features.map.value()?;
        let at = if self.how == How::Neighbours { &m.neighbours } else { &m.components };
        Some(Table {
            name: "feature-map".to_owned(),
            row_axis: "feature",
            col_axis: "coordinate",
            rows: m.features.iter().map(ToString::to_string).collect(),
            cols: ["x", "y"].map(str::to_owned).to_vec(),
            values: at.iter().map(|p| vec![Some(p[0]), Some(p[1])]).collect(),
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "feature-map",
    title: "Map",
    workspace: Workspace::Features,
    area: Area::BottomLeft,
    make: || Box::new(Map::default()),
};
