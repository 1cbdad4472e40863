//! The trust line: what was checked of the model and the dictionary that are open, beside the model's name. What speaks
//! against them is amber.

use std::sync::Arc;

use eframe::egui::{self, RichText};

use crate::analysis::trust::TrustOf;
use crate::app::look::theme;
use crate::app::state::State;
use crate::app::view::Context;
use crate::error::one_line;
use crate::features::trust::{DictionaryTrustOf, SetTrustOf, means};
use crate::features::{Dictionary, DictionarySet};
use crate::graph::layout::Origin;
use crate::jobs::Pool;
use crate::jobs::slot::{AnySlot, Slot};
use crate::model::Model;

/// Warnings of a set's layers that are said one by one.
const LAYERS: usize = 3;

/// What was checked, in slots that follow what is open.
#[derive(Default)]
pub struct TrustState {
    pub model: Slot<TrustOf>,
    pub dictionary: Slot<DictionaryTrustOf>,
    /// Of the set that the graph is on.
    pub set: Slot<SetTrustOf>,
    /// What the opening of the model said.
    said: Vec<String>,
}

impl TrustState {
    /// Asks for the checks of what is open. A built-in model was checked when it was made.
    pub fn ask(
        &mut self,
        pool: &Pool,
        model: Option<&Arc<Model>>,
        dictionary: Option<&Arc<Dictionary>>,
        set: Option<Arc<DictionarySet>>,
    ) {
        self.said = model.map_or_else(Vec::new, |m| m.warnings.clone());
        let own = model.filter(|m| m.format != "built-in");
        self.model.ask(pool, own.map(|m| TrustOf { model: m.clone() }), own.is_some());
        let fits = |m: &Arc<Model>, d: &Arc<Dictionary>| m.tokenizer.is_some() && d.check(&m.config).is_ok();
        let both = model.zip(dictionary).filter(|(m, d)| fits(m, d));
        let question = both.map(|(m, d)| DictionaryTrustOf { model: m.clone(), dictionary: d.clone() });
        self.dictionary.ask(pool, question.clone(), question.is_some());
        let both = model.filter(|m| m.tokenizer.is_some()).zip(set);
        let question = both.map(|(m, set)| SetTrustOf { model: m.clone(), set });
        self.set.ask(pool, question.clone(), question.is_some());
    }

    pub fn slots(&mut self) -> [&mut dyn AnySlot; 3] {
        [&mut self.model, &mut self.dictionary, &mut self.set]
    }

    /// What speaks against the model, in sentences.
    pub fn of_model(&self) -> Vec<String> {
        let found = self.model.fresh().map_or_else(Vec::new, |t| t.warnings.clone());
        let failed = self.model.error().map(|e| format!("The model could not be checked: {e}."));
        // They tell words of the model's files.
        self.said.iter().cloned().chain(found).chain(failed).map(|w| one_line(&w)).collect()
    }

    /// What speaks against the dictionary.
    pub fn of_dictionary(&self) -> Vec<String> {
        let found = self.dictionary.fresh().map_or_else(Vec::new, |t| t.warnings.clone());
        found
            .into_iter()
            .chain(self.dictionary.error().map(|e| format!("The dictionary could not be checked: {e}.")))
            .map(|w| one_line(&w))
            .collect()
    }

    /// What speaks against the set that the graph is on: of many layers the first few.
    pub fn of_set(&self) -> Vec<String> {
        let found = self.set.fresh().map_or(&[][..], |t| t.value.as_slice());
        let mut all: Vec<String> = Vec::new();
        found.iter().flat_map(|c| &c.warnings).for_each(|w| {
            if !all.contains(w) {
                all.push(w.clone());
            }
        });
        let more = all.len().saturating_sub(LAYERS);
        all.truncate(LAYERS);
        let more = (more > 0).then(|| format!("{more} more warnings are of other layers of the set."));
        all.into_iter()
            .chain(more)
            .chain(self.set.error().map(|e| format!("The set could not be checked: {e}.")))
            .collect()
    }

    /// What the set explains on ordinary text, in words.
    pub fn set_words(&self) -> Option<String> {
        let (explained, l0) = means(self.set.fresh()?)?;
        Some(format!("the set explains {explained:.2} of ordinary English at L0 {l0:.1}"))
    }

    /// Everything that speaks against what is open.
    pub fn warnings(&self) -> Vec<String> {
        self.of_model().into_iter().chain(self.of_dictionary()).chain(self.of_set()).collect()
    }
}

impl State {
    /// The set that is to be checked: once a graph on it is there, so that the graph need not wait.
    pub(in crate::app) fn set_trusted(&self) -> Option<Arc<DictionarySet>> {
        let set = self.results.set.fresh()?.value.clone();
        let asked = self.trust.set.wanted().is_some_and(|q| q.set == set);
        let shown = self.results.graph.get().filter(|g| g.whole);
        let is_on = shown.is_some_and(|g| match &g.value.source {
            Origin::Features { set: own, .. } => *own == set,
            Origin::File(_) => self.of_file(&g.value).is_some(),
            Origin::Traced { .. } => false,
        });
        (asked || is_on).then_some(set)
    }
}

/// Draws the line: quiet while all is well.
pub fn line(ui: &mut egui::Ui, cx: &Context<'_>, narrow: bool) {
    let trust = &cx.state.trust;
    let warnings = trust.warnings();
    let (text, color) = match warnings.len() {
        // Where there is little room, only what is wrong is said.
        0 if narrow => return,
        n if narrow => (format!("⚠ {n}"), cx.palette.warning),
        0 if trust.model.is_running() => ("checking …".to_owned(), cx.palette.weak),
        0 => match trust.model.fresh().and_then(|t| t.loss) {
            Some(loss) => (format!("{:.2} nats", loss.nats_per_token), cx.palette.weak),
            None => return,
        },
        1 => ("⚠ 1 warning".to_owned(), cx.palette.warning),
        n => (format!("⚠ {n} warnings"), cx.palette.warning),
    };
    let name = format!("trust: {}", if warnings.is_empty() { text.clone() } else { warnings.join(" ") });
    let label = egui::Label::new(RichText::new(text).font(theme::small()).color(color)).sense(egui::Sense::hover());
    let response = ui.add(label);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &name));
    response.on_hover_ui(|ui| {
        ui.set_max_width(420.0);
        report(ui, cx);
    });
}

/// What was checked, in full.
pub fn report(ui: &mut egui::Ui, cx: &Context<'_>) {
    let trust = &cx.state.trust;
    for warning in trust.warnings() {
        ui.add(egui::Label::new(RichText::new(warning).font(theme::small()).color(cx.palette.warning)).wrap());
    }
    let mut lines = Vec::new();
    if let Some(t) = trust.model.fresh() {
        lines.push(format!("On ordinary English: {}.", t.line()));
        lines.extend(t.remarks.iter().cloned());
    }
    if let Some(d) = trust.dictionary.fresh() {
        let explained = d.explained_variance.map(|v| format!("explained variance {v:.3}, ")).unwrap_or_default();
        lines.push(format!("Dictionary at {}: {explained}L0 {:.1}.", d.output, d.l0));
    }
    lines.extend(trust.set_words().map(|words| format!("In the graph {words}.")));
    for line in lines {
        ui.add(egui::Label::new(RichText::new(line).font(theme::small()).color(cx.palette.weak)).wrap());
    }
}
