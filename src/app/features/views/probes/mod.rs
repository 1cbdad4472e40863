//! Probes: what can be read off the model's activations, layer by layer beside controls; and whether it is used.

mod fields;
mod pictures;
mod settings;

use eframe::egui::{self, RichText};

use self::fields::Fields;
use self::pictures::CURVES;
use self::settings::By;
pub use self::settings::ProbesSettings;
use super::weak;
use crate::app::view::{Area, Asking, Context, Table, View, ViewDef, Workspace, cut_off};
use crate::app::widgets::{choice, controls, message};
use crate::jobs::{AnySlot, Slot};
use crate::probes::interchange::{Interchange, InterchangeOf};
use crate::probes::question::{Probes, ProbesOf, SaidOf};
use crate::question::Question;
use crate::session::Desk;

/// Below this width the pictures stand on top of each other.
const BESIDE: f32 = 420.0;

#[derive(Default)]
pub struct ProbesView {
    probes: Slot<ProbesOf>,
    interchange: Slot<InterchangeOf>,
    /// What the fitted probes say of the prompt.
    said: Slot<SaidOf>,
    /// The fields, and the settings of the document that they were filled from.
    fields: Option<(Fields, ProbesSettings)>,
}

/// What the view keeps on a desk.
pub fn settings_of(desk: &Desk) -> ProbesSettings {
    desk.views.get(VIEW.name).and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
}

/// Asks for what is looked at. What was begun goes on while the view is hidden: it is the user who stops it.
fn follow<Q: Question>(slot: &mut Slot<Q>, asking: &Asking<'_>, question: Option<Q>) {
    match question {
        None => slot.forget(),
        question => slot.ask(&asking.state.pool, question, asking.seen || slot.is_running()),
    }
}

impl View for ProbesView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let settings: ProbesSettings = asking.settings(&VIEW);
        follow(&mut self.probes, asking, settings.probes(asking.state));
        follow(&mut self.interchange, asking, settings.interchanges(asking.state));
        let found = self.probes.fresh().filter(|found| found.whole);
        let question = found.zip(asking.state.clean()).map(|(found, run)| SaidOf {
            probes: found.question.clone(),
            found: found.value.clone(),
            ids: run.trace.ids.clone(),
        });
        self.said.ask(&asking.state.pool, question, asking.seen);
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.probes, &mut self.interchange, &mut self.said]
    }

    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if cx.state.model.is_none() {
            message(ui, "open a model to begin", false);
            return;
        }
        let settings: ProbesSettings = cx.settings(&VIEW);
        let mut new = settings.clone();
        controls(ui, |ui| self.fields(ui, cx, &mut new));
        let lost = settings.lost(cx.state);
        let errors = [lost.as_ref(), self.probes.error(), self.interchange.error(), self.said.error()];
        for error in errors.into_iter().flatten() {
            ui.add(egui::Label::new(RichText::new(error).color(cx.palette.error)).wrap());
        }
        if new != settings {
            cx.set(&VIEW, &new);
        }
        self.answers(ui, cx, &settings);
    }

    fn table(&self, _: &Context<'_>) -> Option<Table> {
        let read = self.probes.value().map(|p| read(p));
        let used = self.interchange.value().map(|i| used(i));
        let said = self.said.fresh().map(|s| said(&s.question.found, s));
        match read {
            Some(read) => Some(Table { more: used.into_iter().chain(said).collect(), ..read }),
            None => used,
        }
    }
}

impl ProbesView {
    /// What is known so far.
    fn answers(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, settings: &ProbesSettings) {
        let (probes, interchange) = (self.probes.get().cloned(), self.interchange.get().cloned());
        if probes.is_none() && interchange.is_none() {
            let failed = self.probes.error().is_some() || self.interchange.error().is_some();
            let text = if self.probes.is_running() || self.interchange.is_running() {
                "reading the texts …"
            } else {
                "fit probes on labelled texts to see at which layer a property can be read; interchange it to see where it is \
                 used"
            };
            if !failed {
                message(ui, text, false);
            }
            return;
        }
        cut_off(ui, cx, &self.probes);
        cut_off(ui, cx, &self.interchange);
        if probes.is_some()
            && let Some(by) = ui.horizontal(|ui| choice(ui, "height", settings.by, &By::ALL)).inner
        {
            cx.set(&VIEW, &ProbesSettings { by, ..settings.clone() });
        }
        let height = ui.available_height();
        let both = probes.is_some() && interchange.is_some();
        let reads = |ui: &mut egui::Ui, cx: &mut Context<'_>, height: f32| {
            if let Some(a) = &probes {
                let top = ui.cursor().top();
                for warning in &a.value.warnings {
                    ui.add(egui::Label::new(RichText::new(warning).color(cx.palette.warning)).wrap());
                }
                if let Some(said) = self.said.fresh() {
                    pictures::said(ui, cx, &said.question.found.classes, said);
                }
                pictures::read(
                    ui,
                    cx,
                    (&a.question.recipe, &a.value),
                    settings.by,
                    a.fresh,
                    height - (ui.cursor().top() - top),
                );
            }
        };
        let uses = |ui: &mut egui::Ui, cx: &mut Context<'_>| match &interchange {
            Some(a) => pictures::used(ui, cx, a),
            None if self.interchange.is_running() => {
                ui.label(weak(cx, "interchanging …"));
            }
            None => {}
        };
        if both && ui.available_width() > BESIDE {
            ui.columns_const(|[left, right]| {
                reads(left, cx, height);
                right.set_max_height(height);
                uses(right, cx);
            });
        } else {
            reads(ui, cx, if both { 0.5 * height } else { height });
            uses(ui, cx);
        }
    }
}

/// The scores of each layer: a number and the ends of its interval, of the probe and of each control.
fn read(found: &Probes) -> Table {
    let mut cols = Vec::new();
    for (name, _) in CURVES {
        for (_, by) in By::ALL {
            cols.extend([format!("{name}: {by}"), format!("{name}: {by}, low"), format!("{name}: {by}, high")]);
        }
    }
    let row = |l: &crate::probes::question::AtLayer| {
        CURVES
            .iter()
            .flat_map(|(_, get)| By::ALL.map(|(by, _)| by.of(get(l))))
            .flat_map(|(value, [low, high])| [value, low, high].map(Some))
            .collect()
    };
    Table {
        name: format!("probes-{}", found.set),
        row_axis: "layer",
        col_axis: "score",
        rows: found.layers.iter().map(|l| l.layer.to_string()).collect(),
        cols,
        values: found.layers.iter().map(row).collect(),
        ..Table::default()
    }
}

/// The probability of each class of the prompt, layer by layer.
fn said(found: &Probes, said: &[(usize, Vec<f32>)]) -> Table {
    Table {
        name: "probes-at-the-prompt".to_owned(),
        unit: "probability",
        row_axis: "layer",
        col_axis: "class",
        rows: said.iter().map(|(layer, _)| layer.to_string()).collect(),
        cols: found.classes.clone(),
        values: said.iter().map(|(_, shares)| shares.iter().copied().map(Some).collect()).collect(),
        ..Table::default()
    }
}

/// The shares of an interchange with the ends of their intervals.
fn used(found: &Interchange) -> Table {
    let shares = found.shares();
    let row = |share: f32| {
        let [low, high] = found.interval(share);
        vec![Some(share), Some(low), Some(high)]
    };
    Table {
        name: format!("interchange-{}-{}-{}-layer-{}", found.set, found.pool.name(), found.site, found.layer),
        row_axis: "interchanged",
        col_axis: "share",
        rows: shares.iter().map(|(name, ..)| name.clone()).collect(),
        cols: ["share", "low", "high"].map(str::to_owned).to_vec(),
        values: shares.iter().map(|(_, share, _)| row(*share)).collect(),
        ..Table::default()
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "probes",
    title: "Probes",
    workspace: Workspace::Features,
    area: Area::BottomLeft,
    make: || Box::new(ProbesView::default()),
};
