//! What can be done with what a cell reads: steer towards it, take it out, swap it, as edits of the stack.

use eframe::egui::{self, RichText};

use super::VIEW;
use super::settings::{LensSettings, Through};
use crate::analysis::logit_lens::Cell;
use crate::analysis::transport::Transport;
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::view::Context;
use crate::app::widgets::{captioned, choice, token_text};
use crate::engine::RunSide;
use crate::engine::edit::{Action as Do, Direction, Edit, Positions};
use crate::lenses::edit::Intervention;
use crate::session::desk::Show;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verb {
    #[default]
    Steer,
    Ablate,
    Swap,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Here,
    All,
    Generated,
}

/// The line below the heatmap, about the pinned cell.
#[derive(Default)]
pub struct Touch {
    verb: Verb,
    place: Place,
    /// Which of the cell's tokens is meant, and where it was chosen.
    nth: usize,
    chosen_in: Option<(usize, usize)>,
    /// What it is swapped with.
    other: String,
    alpha: f32,
    /// Layers on either side of the pinned one that are changed as well.
    around: usize,
    clamped: bool,
}

impl Touch {
    pub fn ui(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        settings: &LensSettings,
        lens: Option<&Transport>,
        cell: Option<&Cell>,
    ) {
        let Some(model) = cx.state.model.clone() else { return };
        let p = cx.pinned();
        if self.chosen_in != Some((p.layer, p.pos)) {
            (self.chosen_in, self.nth) = (Some((p.layer, p.pos)), 0);
        }
        if self.alpha == 0.0 {
            self.alpha = 1.0;
        }
        let Some(cell) = cell.filter(|c| !c.top.is_empty()) else { return };
        // Whether the strength was changed in this frame.
        let mut moved = false;
        ui.horizontal_wrapped(|ui| {
            let weak = cx.palette.weak;
            let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
            ui.label(small(format!("layer {}, {}:", p.layer, cx.token(p.pos))));
            let names: Vec<String> = cell.top.iter().map(|t| token_text::short(&cx.text_of(t.id), 12)).collect();
            let options: Vec<(usize, &str)> = names.iter().map(String::as_str).enumerate().collect();
            self.nth = self.nth.min(options.len() - 1);
            if let Some(n) = choice(ui, "reads", self.nth, &options) {
                self.nth = n;
            }
            let verbs =
                [(Verb::Steer, "steer towards it"), (Verb::Ablate, "take it out"), (Verb::Swap, "swap it with")];
            if let Some(v) = choice(ui, "do", self.verb, &verbs) {
                self.verb = v;
            }
            let answer = cx.state.clean().and_then(|r| r.answer).map(|id| model.token_text(id)).unwrap_or_default();
            if self.verb == Verb::Swap {
                let field = egui::TextEdit::singleline(&mut self.other).hint_text(answer.as_str()).desired_width(80.0);
                ui.add(field)
                    .accessible_name("Token to swap with")
                    .on_hover_text("a token; the answer where it is empty");
                let clamped = ui.checkbox(&mut self.clamped, RichText::new("clamped").font(theme::small()));
                moved |= clamped.changed();
                clamped.on_hover_text(
                    "towards the unedited run's coordinates, so that several layers do not undo each other",
                );
            }
            if self.verb != Verb::Ablate {
                captioned(ui, small("α".to_owned()), 130.0, |ui| {
                    let slider = egui::Slider::new(&mut self.alpha, -4.0..=4.0).step_by(0.05);
                    let slider = ui.add(slider);
                    moved |= slider.changed();
                    slider.accessible_name("α").on_hover_text("steering: times the usual length of the stream there");
                });
            }
            let places =
                [(Place::Here, "this token"), (Place::All, "all tokens"), (Place::Generated, "generated tokens")];
            if let Some(place) = choice(ui, "on", self.place, &places) {
                self.place = place;
            }
            captioned(ui, small("± layers".to_owned()), 40.0, |ui| {
                ui.add(egui::DragValue::new(&mut self.around).range(0..=model.config.n_layers))
                    .accessible_name("Layers on either side");
            });
            let other = if self.other.is_empty() { answer } else { self.other.clone() };
            let made = self.edits(cx, settings, lens, cell.top[self.nth].id, &other);
            let told = made
                .as_ref()
                .map_or_else(Clone::clone, |e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            let add = ui.add_enabled(made.is_ok(), egui::Button::new("Edit"));
            let add = add.on_hover_text(&told).on_disabled_hover_text(&told);
            // A slider that is drawn changes the edit that stands there already.
            let side = self.side(cx);
            if let Ok(edits) = made
                && (add.clicked() || moved && edits.iter().all(|e| stands(cx, side, e)))
            {
                cx.push(ModelAction::Put(side, edits));
            }
            if cx.state.desk().stack.is_active()
                && ui.small_button("Generate").on_hover_text("text without and with the edits").clicked()
            {
                cx.push(ModelAction::Generate);
            }
        });
    }

    /// The run that is looked at is the one that is edited.
    fn side(&self, cx: &Context<'_>) -> RunSide {
        match cx.state.desk().show {
            Show::Corrupted => RunSide::Corrupted,
            Show::Edited => cx.state.desk().stack.base,
            _ => RunSide::Clean,
        }
    }

    fn edits(
        &self,
        cx: &Context<'_>,
        settings: &LensSettings,
        lens: Option<&Transport>,
        token: u32,
        other: &str,
    ) -> Result<Vec<Edit>, String> {
        let model = cx.state.model.as_ref().ok_or("no model is open")?;
        let p = cx.pinned();
        let n = model.config.n_layers;
        let positions = match self.place {
            Place::Here => Positions::At(vec![p.pos]),
            Place::All => Positions::All,
            Place::Generated => Positions::Generated,
        };
        let what = match self.verb {
            Verb::Steer => Intervention::Steer { token, alpha: self.alpha },
            Verb::Ablate => Intervention::Ablate { tokens: vec![token] },
            Verb::Swap => {
                let to = model.single_token(other).map_err(|e| e.to_string())?;
                Intervention::Swap { from: token, to, alpha: self.alpha, clamped: self.clamped }
            }
        };
        if settings.through != Through::Logit && lens.is_none() {
            return Err(format!("the {} is not open", settings.through.name()));
        }
        let layers = p.layer.saturating_sub(self.around)..=(p.layer + self.around).min(n - 1);
        let mut edits = Vec::new();
        for layer in layers.filter(|l| lens.is_none_or(|t| t.reads(*l, n))) {
            edits.extend(what.edits(model, lens, layer, &positions).map_err(|e| e.to_string())?);
        }
        let len = cx.state.run().map_or(1, |r| r.trace.len());
        edits.iter().try_for_each(|e| e.check(&model.config, len)).map_err(|e| e.to_string())?;
        Ok(edits)
    }
}

/// The directions of an edit that has a strength.
fn along(edit: &Edit) -> Option<(&Direction, Option<&Direction>)> {
    match &edit.action {
        Do::Steer { direction, .. } => Some((direction, None)),
        Do::Exchange { from, to, .. } => Some((from, Some(to))),
        _ => None,
    }
}

/// True where the same edit of this run stands in the stack with some strength.
fn stands(cx: &Context<'_>, side: RunSide, edit: &Edit) -> bool {
    let same = |e: &&Edit| e.site == edit.site && e.positions == edit.positions && along(e) == along(edit);
    along(edit).is_some() && cx.state.desk().stack.base == side && cx.state.desk().stack.edits.iter().any(|e| same(&e))
}

/// Says what the view is about where the chosen lens is not there.
pub fn missing(ui: &mut egui::Ui, cx: &mut Context<'_>, settings: &LensSettings, kind: Through) {
    ui.vertical_centered(|ui| {
        ui.add_space(24.0);
        let text = match kind {
            Through::Jacobian => "There is no Jacobian lens of this model yet: fit one on a text, or open a file.",
            _ => "Open a tuned lens: a params.pt, its folder, or safetensors.",
        };
        ui.label(RichText::new(text).color(cx.palette.weak));
        if kind == Through::Jacobian && !settings.fits && ui.button("Fit a lens").clicked() {
            cx.set(&VIEW, &LensSettings { fits: true, ..settings.clone() });
        }
        if ui.button("Open…").clicked() {
            cx.push(crate::app::action::Action::Load(crate::app::action::Load::Lens));
        }
    });
}
