//! How the prompt goes on, without and with the edits.

use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace, here};
use eframe::egui::{self, RichText, text::LayoutJob};

use crate::app::look::theme;
use crate::app::widgets::{ragged, token_text};
use crate::engine::generate::{Generated, Stopped};
use crate::gpu::ColorMap;
use crate::gpu::colormap::ink_on;

#[derive(Default)]
pub struct GenerationView;

impl View for GenerationView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let now = (cx.state.desk().sampling, cx.state.desk().limit.0);
        let (mut s, mut limit) = now;
        ui.horizontal_wrapped(|ui| {
            let number = |ui: &mut egui::Ui, drag: egui::DragValue<'_>, help: &str| {
                ui.add(drag).on_hover_text(help.to_owned());
            };
            number(ui, egui::DragValue::new(&mut limit).range(1..=512).suffix(" tokens"), "most tokens to write");
            number(
                ui,
                egui::DragValue::new(&mut s.temperature).range(0.0..=3.0).speed(0.02).prefix("temperature "),
                "0 always takes the most probable token",
            );
            number(
                ui,
                egui::DragValue::new(&mut s.top_k).range(0..=1000).prefix("top-k "),
                "only the k most probable tokens; 0 for all",
            );
            number(
                ui,
                egui::DragValue::new(&mut s.top_p).range(0.01..=1.0).speed(0.01).prefix("top-p "),
                "only the most probable tokens that together reach this probability; 1 for all",
            );
            number(ui, egui::DragValue::new(&mut s.seed).prefix("seed "), "the same seed gives the same text");
            if !is_plate(ui.ctx()) && ui.button("Generate").on_hover_text("Ctrl+G").clicked() {
                cx.push(ModelAction::Generate);
            }
        });
        if (s, limit) != now {
            // Before the button's action, so that it uses what is shown.
            cx.actions.insert(0, ModelAction::Sampling(s, limit).into());
        }
        let slot = &cx.state.results.generated;
        if slot.get().is_none() && slot.error().is_none() && cx.state.run().is_some() && !slot.is_running() {
            ui.add_space(8.0);
            ui.label(
                RichText::new("Generate shows how the prompt goes on, and how it would with the edits of the stack.")
                    .color(cx.palette.weak),
            );
            return;
        }
        if !here(ui, cx, slot) {
            return;
        }
        let Some(result) = slot.get().cloned() else { return };
        egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let Some(edited) = result.value.edited.clone() else {
                let title = ended(cx, "the prompt goes on", result.value.base_stopped);
                text(ui, cx, &title, &result.value.base, result.fresh);
                return;
            };
            let n = cx.state.desk().stack.active().count();
            let title = if n == 1 { "with the edit".to_owned() } else { format!("with {n} edits") };
            let title = ended(cx, &title, result.value.edited_stopped);
            let without = ended(cx, "without", result.value.base_stopped);
            let both = [(without.as_str(), &result.value.base), (title.as_str(), &edited)];
            // Side by side where there is room for lines of text.
            if ui.available_width() > 420.0 {
                ui.columns(2, |columns| {
                    for (ui, (title, tokens)) in columns.iter_mut().zip(both) {
                        text(ui, cx, title, tokens, result.fresh);
                    }
                });
            } else {
                for (title, tokens) in both.into_iter().rev() {
                    text(ui, cx, title, tokens, result.fresh);
                }
            }
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let g = cx.state.results.generated.get()?;
        let lists: Vec<(&str, &[Generated])> = std::iter::once(("base", &g.value.base[..]))
            .chain(g.value.edited.as_deref().map(|e| ("edited", e)))
            .collect();
        let rows = lists
            .iter()
            .flat_map(|(name, list)| {
                list.iter().enumerate().map(move |(i, t)| format!("{name} {i} {}", cx.text_of(t.id)))
            })
            .collect();
        let values = lists.iter().flat_map(|(_, l)| l.iter().map(|t| vec![Some(t.prob)])).collect();
        Some(Table {
            name: "generation".to_owned(),
            row_axis: "token",
            col_axis: "probability",
            rows,
            cols: vec!["probability".to_owned()],
            values,
            ..Table::default()
        })
    }
}

/// A title that says why the text ends, where it does so by itself.
fn ended(cx: &Context<'_>, title: &str, stopped: Option<Stopped>) -> String {
    let model = cx.state.run().map(|r| &r.trace.model);
    match (stopped, model) {
        (Some(stopped @ (Stopped::End(_) | Stopped::Context)), Some(model)) => {
            format!("{title} (stopped {})", stopped.words(model))
        }
        _ => title.to_owned(),
    }
}

fn text(ui: &mut egui::Ui, cx: &Context<'_>, title: &str, tokens: &[Generated], fresh: bool) {
    ui.add_space(6.0);
    ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak));
    let mut job = LayoutJob::default();
    job.wrap.max_width = ui.available_width();
    for token in tokens {
        let shown = cx.text_of(token.id);
        // Sure tokens are quiet, surprising ones bright: as in the token strip.
        let back = ColorMap::Magma.at(0.12 + 0.78 * (1.0 - token.prob.clamp(0.0, 1.0)));
        let (color, background) = if fresh { (ink_on(back), back) } else { (cx.palette.text, cx.palette.stale(back)) };
        let format = egui::TextFormat { font_id: theme::mono(), color, background, ..Default::default() };
        job.append(&shown, 0.0, format);
    }
    let plain: String = tokens.iter().map(|t| token_text::short(&cx.text_of(t.id), 20)).collect();
    let response = ragged(ui, |ui| ui.label(job));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, format!("{title}: {plain}")));
    response.on_hover_text("dark: the model was sure of the token; bright: it was not");
}

pub const VIEW: ViewDef = ViewDef {
    name: "generation",
    title: "Generation",
    workspace: Workspace::Model,
    area: Area::BottomRight,
    make: || Box::new(GenerationView),
};
