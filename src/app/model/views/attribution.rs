//! Direct attribution: layer × component, and the largest parts as bars.

use crate::app::model::ModelAction;
use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace, compared, numbers, ready};
use eframe::egui::{self, RichText, vec2};

use crate::analysis::component::Component;
use crate::analysis::direct_attribution::Attribution;
use crate::analysis::subject::Compared;
use crate::app::look::theme;
use crate::app::widgets::bars;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::app::widgets::reach::{self, Reach, Reached, Reaching};
use crate::gpu::{HeatData, NOTHING};
use crate::session::desk::Focus;

#[derive(Default)]
pub struct AttributionView {
    data: Cached<u64>,
    reaching: Reaching<u64>,
}

/// One part of the sum.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Head(usize, usize),
    Mlp(usize),
    Embed,
    PosEmbed,
    Biases,
    Edits,
}

impl Part {
    fn component(self) -> Option<Component> {
        match self {
            Self::Head(layer, head) => Some(Component::Head { layer, head }),
            Self::Mlp(layer) => Some(Component::Mlp { layer }),
            _ => None,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Head(l, h) => format!("a{l}.h{h}"),
            Self::Mlp(l) => format!("m{l}"),
            Self::Embed => "embed".to_owned(),
            Self::PosEmbed => "pos_embed".to_owned(),
            Self::Biases => "biases".to_owned(),
            Self::Edits => "edits".to_owned(),
        }
    }
}

fn parts(a: &Attribution) -> Vec<(Part, f32)> {
    let heads =
        a.heads.iter().enumerate().flat_map(|(l, r)| r.iter().enumerate().map(move |(h, v)| (Part::Head(l, h), *v)));
    let mlps = a.mlps.iter().enumerate().map(|(l, v)| (Part::Mlp(l), *v));
    let mut all: Vec<(Part, f32)> = heads.chain(mlps).collect();
    all.extend([
        (Part::Embed, a.embed),
        (Part::PosEmbed, a.pos_embed),
        (Part::Biases, a.biases()),
        (Part::Edits, a.edits),
    ]);
    all.retain(|(_, v)| *v != 0.0);
    all.sort_by(|x, y| y.1.abs().total_cmp(&x.1.abs()));
    all
}

/// The parts, or how they differ from the other run's.
fn differences(a: &Compared<Attribution>) -> Vec<(Part, f32)> {
    let now = parts(&a.now);
    let Some(minus) = a.minus.as_ref().map(parts) else { return now };
    let of = |list: &[(Part, f32)], part: Part| list.iter().find(|(p, _)| *p == part).map_or(0.0, |(_, v)| *v);
    // What is zero in one run, such as an ablated head, is in the other's list alone.
    let gone = minus.iter().filter(|(p, _)| !now.iter().any(|(n, _)| n == p));
    let mut all: Vec<(Part, f32)> = now.iter().chain(gone).map(|(p, _)| (*p, of(&now, *p) - of(&minus, *p))).collect();
    all.sort_by(|x, y| y.1.abs().total_cmp(&x.1.abs()));
    all
}

/// Heads, then a gap, then the MLP.
fn matrix(a: &Attribution) -> HeatData {
    let heads = a.heads.first().map_or(0, Vec::len);
    let extra = if a.mlps.is_empty() { 0 } else { 2 };
    let mut values = Vec::new();
    for (l, row) in a.heads.iter().enumerate() {
        values.extend(row);
        if extra > 0 {
            values.extend([NOTHING, a.mlps.get(l).copied().unwrap_or(NOTHING)]);
        }
    }
    HeatData::new(a.heads.len(), heads + extra, values)
}

impl View for AttributionView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.attribution;
        if !ready(ui, cx, slot) {
            return;
        }
        let Some(result) = slot.get().cloned() else { return };
        let a = &*result.value;
        let data = self.data.get(result.stamp, || compared(a, false, false, matrix));
        let reach = cx.settings::<Option<Reach>>(&VIEW).unwrap_or(Reach::All).among(false);
        let Reached { painted, largest, end } = self.reaching.of(result.stamp, reach, &data).clone();
        let colors = diverging(&cx.palette, largest, result.fresh);
        let what = match a.wrong {
            Some(w) => format!("{} − {}", cx.text_of(a.answer), cx.text_of(w)),
            None => cx.text_of(a.answer),
        };
        ui.horizontal(|ui| {
            ui.label(RichText::new("logit").font(theme::small()).color(cx.palette.weak));
            let explained = format!("as predicted after {} ({})", cx.token(a.pos), a.pos);
            ui.label(RichText::new(what).font(theme::mono()).color(cx.palette.accent)).on_hover_text(&explained);
            let logit = a.logit - a.minus.as_ref().map_or(0.0, |m| m.logit);
            let text = if a.minus.is_some() { format!("Δ {logit:+.2}") } else { format!("{logit:+.2}") };
            ui.label(RichText::new(text).font(theme::mono())).on_hover_text(explained);
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if let Some(reach) = reach::bar(ui, &colors, (&format!("−{end}"), &end), reach, false) {
                    cx.set(&VIEW, &reach);
                }
            });
        });
        let available = ui.available_size();
        let bars_width = (available.x * 0.5).clamp(170.0, 340.0);
        ui.horizontal_top(|ui| {
            ui.allocate_ui(vec2((available.x - bars_width - 8.0).max(60.0), available.y), |ui| {
                self.grid(ui, cx, a, &data, painted.as_ref(), colors);
            });
            ui.vertical(|ui| {
                egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
                    ui.spacing_mut().item_spacing.y = 1.0;
                    let parts = differences(a);
                    let max = parts.first().map_or(1.0, |p| p.1.abs());
                    let p = cx.pinned();
                    for (part, v) in parts.iter().take(60) {
                        let strong = matches!(part, Part::Head(l, h) if p.layer == *l && p.head == Some(*h));
                        let bar = Bar { label: part.name(), value: *v, text: format!("{v:+.2}"), strong };
                        let response =
                            bars::bar(ui, &bar, max, true, 56.0).on_hover_text("right click: into the circuit, or out");
                        if response.secondary_clicked()
                            && let Some(component) = part.component()
                        {
                            cx.push(ModelAction::Collect(component.into()));
                        }
                        if let Part::Head(l, h) = *part {
                            if response.hovered() {
                                cx.hovered.head = Some((l, h));
                            }
                            if response.clicked() {
                                cx.pin(|p| {
                                    (p.layer, p.head, p.all_heads, p.focus) = (l, Some(h), false, Focus::Head);
                                });
                            }
                        }
                    }
                });
            });
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let a = cx.state.results.attribution.get().cloned()?;
        let d = self.data.last()?;
        let heads = a.value.heads.first().map_or(0, Vec::len);
        let mut cols = numbers(heads);
        cols.extend((d.cols > heads).then(|| "mlp".to_owned()));
        let mut table =
            Table::grid("direct-attribution", ("layer", "head"), d, numbers(d.rows), cols).in_unit("logits");
        // On the screen a gap stands between heads and MLP.
        for row in table.values.iter_mut().filter(|row| row.len() > heads) {
            row.remove(heads);
        }
        let parts = differences(&a.value);
        let others = parts.iter().filter(|p| !matches!(p.0, Part::Head(..) | Part::Mlp(_)));
        let sum = ("sum of all parts".to_owned(), parts.iter().map(|p| p.1).sum::<f32>());
        let rest: Vec<(String, f32)> = others.map(|(p, v)| (p.name(), *v)).chain([sum]).collect();
        table.more.push(Table {
            name: "direct-attribution-rest".to_owned(),
            row_axis: "part",
            col_axis: "value",
            rows: rest.iter().map(|r| r.0.clone()).collect(),
            cols: vec!["logits".to_owned()],
            values: rest.iter().map(|r| vec![Some(r.1)]).collect(),
            ..Table::default()
        });
        Some(table)
    }
}

impl AttributionView {
    fn grid(
        &self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        a: &Compared<Attribution>,
        data: &HeatData,
        painted: Option<&HeatData>,
        colors: crate::gpu::heatmap::Coloring,
    ) {
        let heads = a.heads.first().map_or(0, Vec::len);
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let name = |r: usize, c: usize| match c {
            c if c < heads => format!("{r}.{c}"),
            c if c == heads + 1 => format!("MLP {r}"),
            _ => String::new(),
        };
        let outcome = Heatmap {
            name: "direct attribution",
            axes: ("layer", "head"),
            turns: (None, None),
            data,
            coloring: colors,
            row_label: &|r| r.to_string(),
            col_label: &|c| {
                if c < heads {
                    c.to_string()
                } else if c == heads + 1 {
                    "mlp".to_owned()
                } else {
                    String::new()
                }
            },
            row_label_width: 24.0,
            flip: true,
            square: false,
            least_row: 0.0,
            painted,
            pinned: (Some(p.layer), p.head),
            hovered: (h.head.map(|x| x.0).or(h.layer), h.head.map(|x| x.1)),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(|v| format!("{v:+.2}"))),
            tooltip: &|ui, r, c| {
                if let Some(v) = data.get(r, c) {
                    ui.label(name(r, c));
                    ui.label(RichText::new(format!("{v:+.4}")).font(theme::title()));
                }
            },
        }
        .show(ui);
        if let Some((r, c)) = outcome.hovered {
            cx.hovered.layer = Some(r);
            if c < heads {
                cx.hovered.head = Some((r, c));
            }
        }
        if let Some((r, c)) = outcome.clicked
            && c < heads
        {
            cx.pin(|p| {
                (p.layer, p.head, p.all_heads, p.focus) = (r, Some(c), false, Focus::Head);
            });
        }
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "attribution",
    title: "Direct attribution",
    workspace: Workspace::Model,
    area: Area::Middle,
    make: || Box::new(AttributionView::default()),
};
