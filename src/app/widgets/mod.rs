//! Pieces that several views are built from.

pub mod bars;
pub mod colorbar;
pub mod heatmap;
pub mod names;
pub mod plots;
pub mod reach;
pub mod scrubber;
pub mod token_field;
pub mod token_text;
pub mod turns;

use eframe::egui::{self, RichText};

use crate::app::export::plate::is_plate;
use crate::app::look::theme::{self, Palette};

/// A sentence in the middle of an empty, loading or failed view.
pub fn message(ui: &mut egui::Ui, text: &str, error: bool) {
    let palette = Palette::of(ui.ctx());
    let color = if error { palette.error } else { palette.weak };
    let room = ui.available_size();
    let job = egui::text::LayoutJob::simple(text.to_owned(), theme::body(), color, (room.x - 24.0).clamp(80.0, 460.0));
    let galley = ui.painter().layout_job(egui::text::LayoutJob { halign: egui::Align::Center, ..job });
    ui.add_space(((room.y - galley.size().y) / 2.0).max(0.0));
    ui.vertical_centered(|ui| ui.label(galley));
}

/// A choice among a few values in one line.
pub fn choice<T: PartialEq + Copy>(ui: &mut egui::Ui, label: &str, current: T, options: &[(T, &str)]) -> Option<T> {
    explained_choice(ui, (label, ""), current, options)
}

/// As [`choice`], with what it does said where it is pointed at.
pub fn explained_choice<T: PartialEq + Copy>(
    ui: &mut egui::Ui,
    (label, said): (&str, &str),
    current: T,
    options: &[(T, &str)],
) -> Option<T> {
    let mut chosen = None;
    if is_plate(ui.ctx()) {
        // What was chosen is part of what is shown; the choice is not.
        let text = options.iter().find(|(v, _)| *v == current).map_or("", |(_, t)| *t);
        ui.label(RichText::new(format!("{label} {text}")).font(theme::small()).color(Palette::of(ui.ctx()).weak));
        return None;
    }
    let text = options.iter().find(|(v, _)| *v == current).map_or("", |(_, t)| *t);
    let caption = RichText::new(label).font(theme::small()).color(Palette::of(ui.ctx()).weak);
    let value = RichText::new(text).font(theme::small());
    let shown = egui::WidgetText::from(value.clone());
    let shown = shown.into_galley(ui, Some(egui::TextWrapMode::Extend), f32::INFINITY, egui::TextStyle::Small);
    let arrow = ui.spacing().icon_width + ui.spacing().icon_spacing + 2.0 * ui.spacing().button_padding.x;
    let width = shown.size().x + arrow;
    captioned(ui, caption, width, |ui| {
        let combo = egui::ComboBox::from_id_salt(label).selected_text(value);
        let response = combo.show_ui(ui, |ui| {
            for (value, text) in options {
                if ui.selectable_label(*value == current, *text).clicked() && *value != current {
                    chosen = Some(*value);
                }
            }
        });
        response.response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::ComboBox, true, label));
        if !said.is_empty() {
            response.response.on_hover_text(said);
        }
    });
    chosen
}

/// Text whose lines end where they end: menus and columns would stretch them.
pub fn ragged<R>(ui: &mut egui::Ui, add: impl FnOnce(&mut egui::Ui) -> R) -> R {
    ui.with_layout(egui::Layout::top_down(egui::Align::Min), add).inner
}

/// Controls: what can be pressed, dragged and typed in. There are none where a view is printed.
pub fn controls(ui: &mut egui::Ui, add: impl FnOnce(&mut egui::Ui)) {
    if !is_plate(ui.ctx()) {
        add(ui);
    }
}

/// A line of text, cut where there is no room for it, with something at the right that keeps its place.
pub fn line_with<R>(ui: &mut egui::Ui, text: RichText, right: impl FnOnce(&mut egui::Ui) -> R) -> R {
    let size = egui::vec2(ui.available_width(), ui.spacing().interact_size.y);
    let backwards = egui::Layout::right_to_left(egui::Align::Center);
    ui.allocate_ui_with_layout(size, backwards, |ui| {
        let made = right(ui);
        ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
            ui.add(egui::Label::new(text).truncate());
        });
        made
    })
    .inner
}

/// A caption and its widget as one piece, `width` of it the widget's: rows that are broken where they are full are not
/// broken between them.
pub fn captioned<R>(ui: &mut egui::Ui, caption: RichText, width: f32, add: impl FnOnce(&mut egui::Ui) -> R) -> R {
    let caption = egui::WidgetText::from(caption);
    let text = caption.clone().into_galley(ui, Some(egui::TextWrapMode::Extend), f32::INFINITY, egui::TextStyle::Small);
    let size = egui::vec2(text.size().x + ui.spacing().item_spacing.x + width, ui.spacing().interact_size.y);
    let line = egui::Layout::left_to_right(egui::Align::Center);
    ui.allocate_ui_with_layout(size, line, |ui| {
        ui.add(egui::Label::new(caption).extend());
        add(ui)
    })
    .inner
}
