//! How far a heatmap's colours reach: one large position or row would leave all the rest of one colour.

use eframe::egui::{self, RichText};
use serde::{Deserialize, Serialize};

use crate::app::export::plate::is_plate;
use crate::app::look::theme;
use crate::app::widgets::colorbar::{self, number};
use crate::gpu::HeatData;
use crate::gpu::heatmap::Coloring;

/// Share of the values that the colours of [`Reach::Most`] tell apart.
const MOST: f32 = 0.99;

/// Which values the colours are made for. Those beyond have the colour of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    All,
    /// Those of all positions but the first, where many models put what they do not need.
    #[default]
    WithoutFirst,
    /// 99 % of them.
    Most,
    /// Each row has colours of its own.
    ByRow,
}

/// The values as they are coloured, and the ends of the scale.
#[derive(Clone)]
pub struct Reached {
    /// What is painted, where it is not the values themselves.
    pub painted: Option<HeatData>,
    /// Largest absolute value that has a colour of its own.
    pub largest: f32,
    /// The end of the scale in words.
    pub end: String,
}

/// A scale, found again when its values change.
pub struct Reaching<K>(Option<((K, Reach), Reached)>);

impl<K> Default for Reaching<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> Reaching<K> {
    /// Returns the scale for the values of this key.
    pub fn of(&mut self, key: K, reach: Reach, data: &HeatData) -> &Reached {
        let key = (key, reach);
        let known = self.0.take().filter(|(k, _)| *k == key);
        &self.0.insert(known.unwrap_or_else(|| (key, reach.of(data)))).1
    }
}

impl Reach {
    const ALL: [(Self, &str); 4] = [
        (Self::All, "all"),
        (Self::WithoutFirst, "all but the first token"),
        (Self::Most, "99 % of all"),
        (Self::ByRow, "each row by itself"),
    ];

    /// The same among columns that may be no positions, of which none is the first.
    #[must_use]
    pub fn among(self, positions: bool) -> Self {
        if self == Self::WithoutFirst && !positions { Self::All } else { self }
    }

    /// Finds the scale for [rows, cols] values; their columns are positions where the first is to be left out.
    pub fn of(self, data: &HeatData) -> Reached {
        let sizes = |from: usize| {
            let cells = (0..data.rows).flat_map(move |r| (from..data.cols).map(move |c| (r, c)));
            cells.filter_map(|(r, c)| data.get(r, c)).map(f32::abs).filter(|v| v.is_finite())
        };
        let largest = match self {
            Self::All => data.max_abs(),
            // Of a single token there is nothing but the first.
            Self::WithoutFirst => sizes(usize::from(data.cols > 1)).fold(0.0, f32::max),
            Self::Most => {
                let mut all: Vec<f32> = sizes(0).collect();
                let at = ((all.len() as f32 * MOST) as usize).min(all.len().saturating_sub(1));
                if all.is_empty() { 0.0 } else { *all.select_nth_unstable_by(at, f32::total_cmp).1 }
            }
            Self::ByRow => {
                let of_row = |r: usize| (0..data.cols).filter_map(|c| data.get(r, c)).map(f32::abs).fold(0.0, f32::max);
                let scaled = (0..data.rows).flat_map(|r| {
                    let most = of_row(r).max(f32::MIN_POSITIVE);
                    (0..data.cols).map(move |c| data.get(r, c).map_or(crate::gpu::NOTHING, |v| v / most))
                });
                let painted = HeatData::new(data.rows, data.cols, scaled.collect());
                return Reached { painted: Some(painted), largest: 1.0, end: "row's largest".to_owned() };
            }
        };
        Reached { painted: None, largest, end: number(largest) }
    }
}

/// The colour bar of a heatmap, with a menu of what the colours are made for; returns what was chosen. `positions` says
/// whether the columns are positions, of which the first can be left out.
pub fn bar(
    ui: &mut egui::Ui,
    coloring: &Coloring,
    (low, high): (&str, &str),
    reach: Reach,
    positions: bool,
) -> Option<Reach> {
    let said = Reach::ALL.iter().find(|o| o.0 == reach).map_or("", |o| o.1);
    if is_plate(ui.ctx()) {
        colorbar::colorbar(ui, coloring, low, high);
        // The choice is part of what is shown.
        if reach != Reach::All {
            let text = RichText::new(format!("colours for {said}")).font(theme::small());
            ui.label(text.color(ui.visuals().weak_text_color()));
        }
        return None;
    }
    let response = colorbar::draw(ui, coloring, low, high, egui::Sense::click())?;
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("colours for {said}")));
    let mut chosen = None;
    egui::Popup::menu(&response).show(|ui| {
        ui.label(RichText::new("colours for").font(theme::small()).color(ui.visuals().weak_text_color()));
        for (kind, text) in Reach::ALL.into_iter().filter(|o| positions || o.0 != Reach::WithoutFirst) {
            if ui.selectable_label(kind == reach, text).clicked() && kind != reach {
                chosen = Some(kind);
            }
        }
    });
    response.on_hover_text(format!("which colour means which value; made for {said}, click for others"));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_large_token_does_not_drown_the_rest() {
        let data = HeatData::new(2, 3, vec![-900.0, 1.0, -2.0, 400.0, 0.5, 0.25]);
        assert_eq!(Reach::All.of(&data).largest, 900.0);
        assert_eq!(Reach::WithoutFirst.of(&data).largest, 2.0);
        let rows = Reach::ByRow.of(&data).painted.unwrap();
        assert_eq!((rows.get(0, 0), rows.get(1, 0), rows.get(1, 1)), (Some(-1.0), Some(1.0), Some(0.5 / 400.0)));
        let many = HeatData::new(1, 200, (0..200).map(|v| v as f32).collect());
        assert_eq!(Reach::Most.of(&many).largest, 198.0);
        let one = HeatData::new(1, 1, vec![3.0]);
        assert_eq!(Reach::WithoutFirst.of(&one).largest, 3.0);
    }
}
