//! A view by itself, to be printed: its title above, what it is of below, its legend, and none of its controls.

use std::time::Duration;

use eframe::egui::{self, RichText, vec2};

use super::provenance::Provenance;
use crate::app::App;
use crate::app::look::svg::{self, Recorder};
use crate::app::look::theme::{self, Palette};
use crate::app::selection::Hovered;
use crate::app::view::{self, Context};

/// Passes after which egui's sizes have settled.
const PASSES: usize = 4;
/// Points around the picture.
const MARGIN: i8 = 12;

fn plate_id() -> egui::Id {
    egui::Id::unique("plate")
}

/// Whether what is drawn is to be printed: there nothing can be clicked, so controls are left out or say their value.
pub fn is_plate(ctx: &egui::Context) -> bool {
    ctx.data(|d| d.get_temp::<bool>(plate_id())).is_some()
}

/// A place to draw views that are to be printed. It is made once: fonts take a while.
pub struct Press {
    ctx: egui::Context,
}

impl Default for Press {
    fn default() -> Self {
        let ctx = egui::Context::default();
        ctx.add_font_provider(std::sync::Arc::new(egui_system_font_provider::SystemFontProvider::new()));
        theme::install(&ctx);
        ctx.all_styles_mut(|s| s.animation_time = 0.0);
        ctx.data_mut(|d| d.insert_temp(plate_id(), true));
        Self { ctx }
    }
}

impl App {
    /// A view of the shown workspace as SVG, with the results that are there. Its size is in points.
    pub fn plate(&mut self, name: &'static str, size: egui::Vec2, light: bool) -> String {
        let press = self.press.get_or_insert_default();
        let ctx = press.ctx.clone();
        ctx.set_theme(if light { egui::Theme::Light } else { egui::Theme::Dark });
        let palette = Palette::of(&ctx);
        let about = view::by_name(name).map(|def| (def, Provenance::of(&self.state, def)));
        let recorder = Recorder::install(&ctx);
        let mut shapes = Vec::new();
        for pass in 0..PASSES {
            recorder.clear();
            let input = egui::RawInput {
                screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, size)),
                time: Some(pass as f64),
                ..egui::RawInput::default()
            };
            let mut output = ctx.run_ui(input, |ui| {
                let frame = egui::Frame::new().fill(palette.panel).inner_margin(egui::Margin::same(MARGIN));
                egui::CentralPanel::default().frame(frame).show(ui, |ui| {
                    let Some((def, about)) = &about else { return };
                    ui.label(RichText::new(def.title).font(egui::FontId::new(16.0, theme::title().family)));
                    let text = RichText::new(about.caption()).font(theme::small()).color(palette.weak);
                    let caption = egui::Label::new(text).wrap();
                    // What it is of stands below; how high it is, is known once it was drawn.
                    let below = egui::Panel::bottom("caption").frame(egui::Frame::new()).show_separator_line(false);
                    below.resizable(false).show(ui, |ui| ui.add(caption));
                    let (mut actions, mut hovered) = (Vec::new(), Hovered::default());
                    let mut cx = Context { state: &self.state, palette, actions: &mut actions, hovered: &mut hovered };
                    let room = vec2(ui.available_width(), ui.available_height() - theme::GRID);
                    ui.allocate_ui(room, |ui| self.layout.alone(name, ui, &mut cx));
                });
            });
            shapes = std::mem::take(&mut output.shapes);
            output.drop_without_applying_deltas();
        }
        svg::document(&shapes, &recorder, size, palette.panel)
    }

    /// Shows these views alone and waits until their results are there: for reports without a window.
    ///
    /// # Errors
    /// The results did not come in that time.
    pub fn compute(
        &mut self,
        ctx: &egui::Context,
        views: &[&'static str],
        limit: Duration,
    ) -> crate::error::Result<()> {
        self.layout = crate::app::shell::layout::Layout::only(views);
        self.settle(ctx, limit)
    }
}
