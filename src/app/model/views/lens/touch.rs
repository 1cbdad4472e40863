//! What can be done with what a cell reads: steer towards it, take it out, swap it, as edits of the stack.

use std::sync::Arc;

use eframe::egui::{self, RichText};

use super::settings::{LensSettings, Through};
use crate::analysis::logit_lens::Cell;
use crate::analysis::transport::Transport;
use crate::app::action::{Action, Load};
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::model::views::generation;
use crate::app::view::{Asking, Context};
use crate::app::widgets::{captioned, choice, token_text};
use crate::engine::RunSide;
use crate::engine::edit::{Action as Do, Direction, Edit, Positions};
use crate::jobs::Slot;
use crate::lenses::edit::{EditsOf, Intervention, with_strength};
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
pub struct Touch {
    verb: Verb,
    place: Place,
    /// The token that is meant, where it is not the first that is read, and where it was chosen.
    token: Option<u32>,
    chosen_in: Option<(usize, usize)>,
    /// What it is swapped with.
    other: String,
    alpha: f32,
    /// Layers on either side of the pinned one that are changed as well.
    around: usize,
    clamped: bool,
    /// What is asked for now, and its edits, of strength 1.
    wanted: Option<EditsOf>,
    pub made: Slot<EditsOf>,
    /// What was changed by hand waits for its edits, to change those that stand there.
    waits: bool,
}

impl Default for Touch {
    fn default() -> Self {
        Self {
            verb: Verb::default(),
            place: Place::default(),
            token: None,
            chosen_in: None,
            other: String::new(),
            alpha: 1.0,
            around: 0,
            clamped: false,
            wanted: None,
            made: Slot::default(),
            waits: false,
        }
    }
}

impl Touch {
    pub fn ask(&mut self, asking: &Asking<'_>) {
        self.made.want(&asking.state.pool, self.wanted.clone().filter(|_| asking.seen));
    }

    pub fn ui(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        settings: &LensSettings,
        lens: Option<&Arc<Transport>>,
        cell: Option<&Cell>,
    ) {
        let Some(model) = cx.state.model.clone() else { return };
        let p = cx.pinned();
        if self.chosen_in != Some((p.layer, p.pos)) {
            (self.chosen_in, self.token) = (Some((p.layer, p.pos)), None);
        }
        let Some(cell) = cell.filter(|c| !c.top.is_empty()) else { return };
        let mut ids: Vec<u32> = cell.top.iter().map(|t| t.id).collect();
        // Under an edit the cell may read something else: what was edited is edited on.
        self.token = self.token.filter(|t| ids.contains(t) || cx.state.desk().stack.is_active());
        if let Some(token) = self.token.filter(|t| !ids.contains(t)) {
            ids.insert(0, token);
        }
        let token = self.token.unwrap_or(ids[0]);
        // Whether the strength was changed in this frame.
        let mut moved = false;
        ui.horizontal_wrapped(|ui| {
            let weak = cx.palette.weak;
            let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
            ui.label(small(format!("layer {}, {}:", p.layer, cx.token(p.pos))));
            let names: Vec<String> = ids.iter().map(|id| token_text::short(&cx.text_of(*id), 12)).collect();
            let options: Vec<(u32, &str)> = ids.iter().copied().zip(names.iter().map(String::as_str)).collect();
            if let Some(chosen) = choice(ui, "reads", token, &options) {
                self.token = Some(chosen);
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
            let made = self.edits(cx, settings, lens, token, &other);
            let told = made
                .as_ref()
                .map_or_else(Clone::clone, |e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            let add = ui.add_enabled(made.is_ok(), egui::Button::new("Edit"));
            let add = add.on_hover_text(&told).on_disabled_hover_text(&told);
            // A slider that is drawn changes the edit that stands there already.
            let side = self.side(cx);
            moved |= self.waits;
            self.waits = moved && self.made.is_running();
            if let Ok(edits) = made
                && (add.clicked() || moved && edits.iter().all(|e| stands(cx, side, e)))
            {
                self.token = Some(token);
                cx.push(ModelAction::Put(side, edits));
            }
            if cx.state.desk().stack.is_active()
                && ui.small_button("Generate").on_hover_text("text without and with the edits").clicked()
            {
                cx.push(ModelAction::Generate);
                // Beside the lenses, in its own place.
                cx.push(Action::Show(generation::VIEW.name));
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

    /// The edits of what is chosen, once they are known; otherwise why there are none.
    fn edits(
        &mut self,
        cx: &Context<'_>,
        settings: &LensSettings,
        lens: Option<&Arc<Transport>>,
        token: u32,
        other: &str,
    ) -> Result<Vec<Edit>, String> {
        self.wanted = None;
        let question = self.question(cx, settings, lens, token, other)?;
        let model = question.model.clone();
        self.made.want(&cx.state.pool, Some(question.clone()));
        let known = self.made.fresh().filter(|a| a.question == question).map(|a| with_strength(a, self.alpha));
        self.wanted = Some(question);
        if let Some(error) = self.made.error() {
            return Err(error.clone());
        }
        let edits = known.ok_or("computing …")?;
        let len = cx.state.run().map_or(1, |r| r.trace.len());
        edits.iter().try_for_each(|e| e.check(&model.config, len)).map_err(|e| e.to_string())?;
        Ok(edits)
    }

    fn question(
        &self,
        cx: &Context<'_>,
        settings: &LensSettings,
        lens: Option<&Arc<Transport>>,
        token: u32,
        other: &str,
    ) -> Result<EditsOf, String> {
        let model = cx.state.model.clone().ok_or("no model is open")?;
        let p = cx.pinned();
        let n = model.config.n_layers;
        let positions = match self.place {
            Place::Here => Positions::At(vec![p.pos]),
            Place::All => Positions::All,
            Place::Generated => Positions::Generated,
        };
        let what = match self.verb {
            Verb::Steer => Intervention::Steer { token, alpha: 1.0 },
            Verb::Ablate => Intervention::Ablate { tokens: vec![token] },
            Verb::Swap => {
                let to = model.single_token(other).map_err(|e| e.to_string())?;
                Intervention::Swap { from: token, to, alpha: 1.0, clamped: self.clamped }
            }
        };
        if settings.through != Through::Logit && lens.is_none() {
            return Err(format!("the {} is not open", settings.through.name()));
        }
        let layers = p.layer.saturating_sub(self.around)..=(p.layer + self.around).min(n - 1);
        let layers = layers.filter(|l| lens.is_none_or(|t| t.reads(*l, n))).collect();
        let stack = &cx.state.desk().stack;
        let takes_out = |e: &&Edit| matches!(e.action, Do::Project { .. }) && self.verb == Verb::Ablate;
        let standing =
            if stack.base == self.side(cx) { stack.active().filter(takes_out).cloned().collect() } else { vec![] };
        Ok(EditsOf { model, lens: lens.cloned(), layers, positions, what, standing })
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

/// Says what the view is about where the chosen lens is not there; true where one is to be fitted.
pub fn missing(ui: &mut egui::Ui, cx: &mut Context<'_>, kind: Through, fits: bool) -> bool {
    let mut begins = false;
    ui.vertical_centered(|ui| {
        ui.add_space(24.0);
        let text = match kind {
            Through::Jacobian => "There is no Jacobian lens of this model yet: fit one on a text, or open a file.",
            _ => "Open a tuned lens: a params.pt, its folder, or safetensors.",
        };
        ui.label(RichText::new(text).color(cx.palette.weak));
        begins = kind == Through::Jacobian && !fits && ui.button("Fit a lens").clicked();
        if ui.button("Open…").clicked() {
            cx.push(Action::Load(Load::Lens));
        }
    });
    begins
}
