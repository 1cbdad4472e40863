//! Lenses: layer × position, as the logit lens, a Jacobian lens or a tuned lens reads it, or the difference of two.

mod fitting;
mod grid;
mod reading;
mod settings;
mod touch;

use crate::app::view::{
    Area, Asking, Cached, Context, Table, View, ViewDef, Workspace, numbers, position_labels, ready,
};
use eframe::egui;

use self::reading::Reading;
use self::settings::{LensSettings, Scope, Through};
use self::touch::Touch;
use crate::analysis::logit_lens::{Cell, Lens};
use crate::app::widgets::{controls, message};
use crate::gpu::{HeatData, NOTHING};
use crate::jobs::AnySlot;
use crate::lenses::faithful::{Effect, Target};
use crate::lenses::open::{Kind, LensSource};
use crate::model::Model;
use crate::session::Desk;

/// What the cells' colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Quantity {
    #[default]
    TopProbability,
    ActualProbability,
    ActualRank,
    Entropy,
    AnswerProbability,
    AnswerRank,
    AnswerDifference,
}

impl Quantity {
    fn unit(self) -> &'static str {
        match self {
            Self::Entropy => "nats",
            Self::AnswerDifference => "logits",
            Self::ActualRank | Self::AnswerRank => "−log10 of the rank, which begins at 1",
            Self::TopProbability | Self::ActualProbability | Self::AnswerProbability => "probability",
        }
    }

    /// Name of an export.
    fn name(self) -> &'static str {
        match self {
            Self::TopProbability => "logit-lens-top-probability",
            Self::ActualProbability => "logit-lens-actual-probability",
            Self::ActualRank => "logit-lens-minus-log10-actual-rank",
            Self::Entropy => "logit-lens-entropy",
            Self::AnswerProbability => "logit-lens-answer-probability",
            Self::AnswerRank => "logit-lens-minus-log10-answer-rank",
            Self::AnswerDifference => "logit-lens-logit-difference",
        }
    }
}

#[derive(Default)]
pub struct LensView {
    quantity: Quantity,
    data: Cached<Key>,
    reading: Reading,
    touch: Touch,
    /// The fields for fitting are open, and what is typed there.
    fits: bool,
    typed: fitting::Typed,
    /// The lens that is read.
    through: Through,
    minus: Option<Through>,
}

/// What the numbers are of: the answers, and the quantity.
type Key = (u64, Option<u64>, Quantity, Through, Option<Through>);

/// What the view keeps on a desk.
fn settings_of(desk: &Desk) -> LensSettings {
    desk.views.get(VIEW.name).and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
}

/// True where the view reads the logit lens.
pub fn reads_logits(desk: &Desk) -> bool {
    settings_of(desk).shows(Through::Logit)
}

/// What the view reads, as the command line can.
pub struct Read {
    /// A file, or the name of a lens that ships; none is the logit lens.
    pub lens: Option<String>,
    pub faithful: bool,
    /// Faithfulness is that of a swap with the answer.
    pub swapped: bool,
}

/// What the view reads, but for the difference of two lenses, which no command reads.
pub fn read(desk: &Desk, model: &Model) -> Option<Read> {
    let settings = settings_of(desk);
    if settings.minus.is_some() {
        return None;
    }
    let faithful = settings.faithful != Scope::None;
    let lens = match settings.source(settings.through, model) {
        None if settings.through != Through::Logit => return None,
        None => None,
        Some(LensSource::Shipped(name)) => Some(name.to_owned()),
        Some(LensSource::File(path)) => Some(path.display().to_string()),
    };
    Some(Read { lens, faithful, swapped: faithful && settings.swapped })
}

/// The view's settings with the file of a lens opened.
pub fn opened(desk: &Desk, path: &std::path::Path, kind: Kind) -> serde_json::Value {
    let mut settings = settings_of(desk);
    let file = Some(path.display().to_string());
    match kind {
        Kind::Jacobian => (settings.through, settings.jacobian) = (Through::Jacobian, file),
        Kind::Tuned => (settings.through, settings.tuned) = (Through::Tuned, file),
    }
    serde_json::to_value(settings).unwrap_or_default()
}

fn value(cell: &Cell, quantity: Quantity) -> Option<f32> {
    match quantity {
        Quantity::TopProbability => cell.top.first().map(|t| t.prob),
        Quantity::ActualProbability => cell.actual_prob,
        // Ranks span orders of magnitude; 0 is the best.
        Quantity::ActualRank => cell.actual_rank.map(|r| -((r + 1) as f32).log10()),
        Quantity::Entropy => Some(cell.entropy),
        Quantity::AnswerProbability => cell.answer.map(|a| a.prob),
        Quantity::AnswerRank => cell.answer.map(|a| -((a.rank + 1) as f32).log10()),
        Quantity::AnswerDifference => cell.answer.and_then(|a| a.logit_difference),
    }
}

fn matrix(lens: &Lens, quantity: Quantity) -> HeatData {
    let n = lens.positions.len();
    let values = lens
        .cells
        .iter()
        .flat_map(|row| row.iter().map(|c| c.as_ref().and_then(|c| value(c, quantity)).unwrap_or(NOTHING)))
        .collect();
    HeatData::new(lens.n_layers, n, values)
}

impl View for LensView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let settings = asking.settings(&VIEW);
        self.reading.ask(asking, &settings);
        self.touch.ask(asking);
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        let mut slots = self.reading.slots();
        slots.push(&mut self.touch.made);
        slots
    }

    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let settings: LensSettings = cx.settings(&VIEW);
        (self.through, self.minus) = (settings.through, settings.minus);
        controls(ui, |ui| self.lenses(ui, cx, &settings));
        if let Some(error) =
            [Some(settings.through), settings.minus].into_iter().flatten().find_map(|k| self.reading.error(k))
        {
            message(ui, error, true);
            return;
        }
        let absent = |k: &Through| self.reading.lens(*k).is_none() && self.reading.read(cx.state, *k).get().is_none();
        let open = |k: &Through| settings.file(*k).is_some() || self.reading.is_opening(*k);
        let missing = [Some(settings.through), settings.minus].into_iter().flatten().find(|k| absent(k) && !open(k));
        if let Some(kind) = missing.filter(|_| cx.state.model.is_some()) {
            if touch::missing(ui, cx, kind, self.reading.begun.is_some()) {
                fitting::begin(cx, &mut self.reading, &settings);
            }
            return;
        }
        let slot = self.reading.read(cx.state, settings.through);
        let Some(lens) = slot.get().cloned().filter(|_| slot.error().is_none()) else {
            ready(ui, cx, slot);
            return;
        };
        if !ready(ui, cx, slot) {
            return;
        }
        let minus = settings.minus.map(|kind| self.reading.read(cx.state, kind).get().cloned());
        let Some(minus) = minus.map_or(Some(None), |m| m.map(Some)) else {
            message(ui, "computing …", false);
            return;
        };
        self.grid(ui, cx, &settings, &lens, minus.as_ref());
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let d = self.data.last()?;
        let lens = self.reading.read(cx.state, self.through).value()?.clone();
        let top = |layer: usize, pos: usize| {
            let best = lens.now.cell(layer, pos).and_then(|c| c.top.first());
            best.map_or_else(String::new, |t| cx.state.model.as_ref().map_or_else(String::new, |m| m.token_text(t.id)))
        };
        let name = match (self.minus, self.through) {
            (Some(_), _) => "difference-of-lenses",
            (None, Through::Logit) => self.quantity.name(),
            (None, Through::Jacobian) => "jacobian-lens",
            (None, Through::Tuned) => "tuned-lens",
        };
        let grid = |name: &str, data: &HeatData| {
            Table::grid(name, ("layer", "pos"), data, numbers(d.rows), position_labels(cx, d.cols))
        };
        let mut table = grid(name, d).in_unit(self.quantity.unit()).with_texts(top);
        // What comes of the cells, where that was asked for.
        if let Some(found) = self.reading.faithful.fresh().filter(|found| !found.is_empty()) {
            let of = |number: fn(&Effect) -> Option<f32>| {
                let mut values = vec![NOTHING; d.rows * d.cols];
                for effect in found.iter() {
                    let Target { layer, pos, .. } = effect.target;
                    if let Some(cell) = values.get_mut(layer * d.cols + pos).filter(|_| pos < d.cols) {
                        *cell = number(effect).unwrap_or(NOTHING);
                    }
                }
                HeatData::new(d.rows, d.cols, values)
            };
            table.more = vec![
                grid("faithfulness", &of(Effect::faithfulness)),
                grid("what-comes-of-it", &of(|e| Some(e.real))).in_unit(Effect::UNIT),
                grid("what-the-lens-says", &of(|e| Some(e.said))).in_unit(Effect::UNIT),
            ];
        }
        Some(table)
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "lens",
    title: "Lenses",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(LensView::default()),
};
