//! Patching and ablation: what each place causes.

use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace, here};
use std::sync::Arc;

use eframe::egui::{self, RichText, vec2};

use crate::analysis::audit::{Audit, audit};
use crate::analysis::component::Component;
use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::analysis::run::Run;
use crate::analysis::sweep::{Axes, SITES, SweepResult};
use crate::app::look::theme;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::app::widgets::reach::{self, Reach, Reaching};
use crate::app::widgets::{bars, choice, message};
use crate::engine::{RunSide, SiteKind};
use crate::gpu::{HeatData, NOTHING};
use crate::memory::{self, needs};
use crate::session::desk::{Focus, Intervention, Source};

/// Cells that "run the top exactly" runs.
const TOP: usize = 20;

/// What is drawn, computed once from the results.
struct Drawn {
    /// Stamps of the exact and the approximate result it was made from.
    stamps: (u64, u64),
    source: Source,
    /// Row-major over the axes; NaN where nothing is known.
    values: Vec<f32>,
    /// Cells by |value|, largest first, without zeros.
    order: Vec<usize>,
    /// Cells that are NaN.
    unknown: usize,
    data: HeatData,
    audit: Option<Audit>,
}

#[derive(Default)]
pub struct PatchingView {
    drawn: Option<Drawn>,
    reaching: Reaching<((u64, u64), Source)>,
}

/// True where the columns of a sweep are positions.
fn positions(found: &SweepResult) -> bool {
    matches!(found.axes.last(), Some((name, _)) if is_position(name))
}

/// Cells to be drawn.
#[derive(Clone)]
struct Cells {
    found: Arc<SweepResult>,
    fresh: bool,
    stamp: u64,
}

impl Cells {
    fn exact(cx: &Context<'_>) -> Option<Self> {
        let answer = cx.state.results.sweep.get()?;
        Some(Self { found: answer.found.clone()?, fresh: answer.fresh, stamp: answer.stamp })
    }

    fn approximate(cx: &Context<'_>) -> Option<Self> {
        let answer = cx.state.results.approximation.get()?;
        Some(Self { found: answer.value.clone(), fresh: answer.fresh, stamp: answer.stamp })
    }
}

/// A site's short name.
pub fn short_name(site: SiteKind) -> &'static str {
    site.hook().rsplit("hook_").next().unwrap_or_default()
}

/// Whether a sweep brings the clean run's values into the corrupted one.
fn patches(found: &SweepResult) -> bool {
    found.settings.base == RunSide::Corrupted
}

/// What the cells show: patching is normalised, ablation is the change from the unedited run.
fn values(found: &SweepResult) -> Result<Vec<f32>, String> {
    if patches(found) {
        found.normalised().map_err(|e| e.to_string())
    } else {
        Ok(found.values.iter().map(|v| v - found.baseline).collect())
    }
}

/// Rows and columns of a grid: the last axis goes across, the others down.
fn extent(found: &SweepResult) -> (usize, usize) {
    match found.axes[..] {
        [(_, rows)] => (rows, 1),
        [(_, rows), (_, cols)] => (rows, cols),
        [(_, a), (_, b), (_, c)] => (a * b, c),
        _ => (0, 0),
    }
}

fn cell_name(found: &SweepResult, index: usize) -> String {
    let cell = found.cell(index);
    let site = short_name(found.settings.site);
    match (found.settings.by, &cell[..]) {
        (Axes::LayerHead, [l, h]) => format!("{l}.{h}"),
        (Axes::LayerHeadPos, [l, h, p]) => format!("{l}.{h} @{p}"),
        (Axes::LayerPos, [l, p]) => format!("{l} @{p}"),
        (Axes::DestSrc { .. }, [d, s]) => format!("{d} ← {s}"),
        (_, [l, ..]) => format!("{site} {l}"),
        _ => String::new(),
    }
}

impl View for PatchingView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        self.controls(ui, cx);
        let source = cx.state.desk().patching.source;
        let results = &cx.state.results;
        if cx.state.lacks_corrupted() {
            let text = "patching compares two prompts: type a corrupted one at the top, beside the prompt; or choose zero or mean ablation";
            message(ui, text, false);
            return;
        }
        if let Some(error) = results.corrupted.error().filter(|_| cx.state.needs_corrupted()) {
            message(ui, &format!("the corrupted prompt cannot be run: {error}"), true);
            return;
        }
        let needs_exact = source != Source::Approximate;
        if needs_exact && self.estimate(ui, cx) {
            return;
        }
        if needs_exact && !here(ui, cx, &results.sweep) {
            return;
        }
        if source != Source::Exact && !here(ui, cx, &results.approximation) {
            return;
        }
        let (exact, close) = (Cells::exact(cx), Cells::approximate(cx));
        let Some(shown) = (if needs_exact { exact.clone() } else { close.clone() }) else { return };
        // The two can be compared only once both answer the same question.
        let exact = exact.filter(|e| close.as_ref().is_none_or(|c| c.found.settings == e.found.settings));
        if source == Source::Gap && exact.is_none() {
            message(ui, "computing …", false);
            return;
        }
        if let Err(error) = self.compute(&shown, exact.as_ref(), close.as_ref(), source) {
            message(ui, &error, true);
            return;
        }
        let Some(drawn) = &self.drawn else { return };
        let reach = cx.settings::<Option<Reach>>(&VIEW).unwrap_or(Reach::All).among(positions(&shown.found));
        let reached = self.reaching.of((drawn.stamps, drawn.source), reach, &drawn.data).clone();
        let colors = diverging(&cx.palette, reached.largest, shown.fresh);
        self.caption(ui, cx, &shown.found, colors, reach, &reached.end);
        let available = ui.available_size();
        let side = (available.x * 0.34).clamp(150.0, 260.0);
        ui.horizontal_top(|ui| {
            ui.allocate_ui(vec2((available.x - side - 8.0).max(80.0), available.y), |ui| {
                grid(ui, cx, &shown.found, &drawn.data, reached.painted.as_ref(), colors);
            });
            ui.vertical(|ui| {
                egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
                    ui.spacing_mut().item_spacing.y = 1.0;
                    if let Some(report) = &drawn.audit {
                        audited(ui, cx, &shown.found, report);
                    }
                    strongest(ui, cx, &shown.found, drawn);
                });
            });
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let source = cx.state.desk().patching.source;
        let found = if source == Source::Approximate { Cells::approximate(cx)? } else { Cells::exact(cx)? }.found;
        let d = &self.drawn.as_ref()?.data;
        let q = &found.settings;
        let name = match source {
            Source::Approximate => "attribution-patching",
            Source::Gap => "attribution-patching-minus-exact",
            Source::Exact if patches(&found) => "patching",
            Source::Exact => "ablation",
        };
        let axes = &found.axes;
        let (row_axis, col_axis) = match axes[..] {
            [(a, _), (b, _)] => (a, b),
            [_, _, (c, _)] => ("layer.head", c),
            _ => ("layer", "all"),
        };
        let rows = (0..d.rows).map(|r| row_label(&found, r)).collect();
        let cols = (0..d.cols).map(|c| col_label(cx, &found, c)).collect();
        Some(Table::grid(&format!("{name}-{}", short_name(q.site)), (row_axis, col_axis), d, rows, cols))
    }
}

fn row_label(found: &SweepResult, r: usize) -> String {
    match found.axes[..] {
        [_, (_, heads), _] => format!("{}.{}", r / heads.max(1), r % heads.max(1)),
        _ => r.to_string(),
    }
}

fn is_position(name: &str) -> bool {
    matches!(name, "pos" | "dest" | "src")
}

/// What rows and columns are.
fn axes_of(found: &SweepResult) -> (&'static str, &'static str) {
    match found.settings.by {
        Axes::LayerHead => ("layer", "head"),
        Axes::LayerHeadPos => ("head", "token"),
        Axes::DestSrc { .. } => ("query", "key"),
        _ if found.axes.len() > 1 => ("layer", "token"),
        _ => ("layer", ""),
    }
}

/// Tokens are those of the run that the sweep edits.
fn col_label(cx: &Context<'_>, found: &SweepResult, c: usize) -> String {
    match found.axes[..] {
        [.., (name, _)] if found.axes.len() > 1 && is_position(name) => format!("{c} {}", base_token(cx, found, c)),
        [_] => "all".to_owned(),
        _ => c.to_string(),
    }
}

fn base_run<'a>(cx: &'a Context<'_>, found: &SweepResult) -> Option<&'a Arc<Run>> {
    match found.settings.base {
        RunSide::Clean => cx.state.clean(),
        RunSide::Corrupted => cx.state.corrupted(),
    }
}

fn base_token(cx: &Context<'_>, found: &SweepResult, pos: usize) -> String {
    base_run(cx, found)
        .and_then(|r| r.texts.get(pos))
        .map_or_else(String::new, |t| crate::app::widgets::token_text::short(t, 10))
}

impl PatchingView {
    /// Brings what is drawn up to date with the results.
    fn compute(
        &mut self,
        shown: &Cells,
        exact: Option<&Cells>,
        close: Option<&Cells>,
        source: Source,
    ) -> Result<(), String> {
        let stamps = (exact.map_or(0, |e| e.stamp), close.filter(|_| source != Source::Exact).map_or(0, |c| c.stamp));
        let stamps = if source == Source::Exact { (shown.stamp, 0) } else { stamps };
        if self.drawn.as_ref().is_some_and(|d| d.stamps == stamps && d.source == source) {
            return Ok(());
        }
        let mut audit_report = None;
        let mut drawn = values(&shown.found)?;
        if let (Some(e), Some(c), true) = (exact, close, source != Source::Exact) {
            let (e, c) = (values(&e.found)?, values(&c.found)?);
            audit_report = audit(&c, &e).ok().filter(|a| a.cells > 0);
            if source == Source::Gap {
                drawn = c.iter().zip(&e).map(|(c, e)| c - e).collect();
            }
        }
        let (rows, cols) = extent(&shown.found);
        let cells = drawn.iter().map(|v| if v.is_nan() { NOTHING } else { *v }).collect();
        let mut order: Vec<usize> = (0..drawn.len()).filter(|i| drawn[*i].is_finite() && drawn[*i] != 0.0).collect();
        order.sort_by(|a, b| drawn[*b].abs().total_cmp(&drawn[*a].abs()));
        let data = HeatData::new(rows, cols, cells);
        self.drawn = Some(Drawn {
            stamps,
            source,
            unknown: drawn.iter().filter(|v| v.is_nan()).count(),
            values: drawn,
            order,
            data,
            audit: audit_report,
        });
        Ok(())
    }

    fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = cx.state.desk().patching;
        let mut new = s;
        ui.horizontal_wrapped(|ui| {
            let what = [
                (Intervention::Patch, "patch clean → corrupted"),
                (Intervention::Ablate(Ablation::Zero), "zero ablation"),
                (Intervention::Ablate(Ablation::Mean), "mean ablation"),
                (Intervention::Ablate(Ablation::Resample), "resample ablation"),
            ];
            if let Some(i) = choice(ui, "do", cx.state.intervention(), &what) {
                new.intervention = Some(i);
            }
            let exists = |k: &SiteKind| cx.state.model.as_ref().is_none_or(|m| k.exists(&m.config));
            let sites: Vec<(SiteKind, &str)> = SITES.into_iter().filter(exists).map(|k| (k, short_name(k))).collect();
            if let Some(site) = choice(ui, "at", s.site, &sites) {
                new.site = site;
                new.by = Axes::choices(site).first().copied().unwrap_or(Axes::Layer);
            }
            let p = cx.pinned();
            let by: Vec<(Axes, &str)> = Axes::choices(new.site)
                .into_iter()
                .map(|b| match b {
                    Axes::DestSrc { .. } => (Axes::DestSrc { layer: p.layer, head: p.head.unwrap_or(0) }, b.name()),
                    b => (b, b.name()),
                })
                .collect();
            let current = match s.by {
                // The head of an edge sweep follows the pinned head.
                Axes::DestSrc { .. } => Axes::DestSrc { layer: p.layer, head: p.head.unwrap_or(0) },
                b => b,
            };
            if let Some(b) = choice(ui, "by", current, &by) {
                new.by = b;
            } else if current != s.by {
                new.by = current;
            }
            let metrics = MetricKind::ALL.map(|m| (m, m.label()));
            if let Some(m) = choice(ui, "metric", s.metric, &metrics) {
                new.metric = m;
            }
            if cx.state.intervention() == Intervention::Patch {
                let sources = [
                    (Source::Exact, "exact"),
                    (Source::Approximate, "attribution patching"),
                    (Source::Gap, "approximate − exact"),
                ];
                if let Some(source) = choice(ui, "show", s.source, &sources) {
                    new.source = source;
                }
            } else {
                new.source = Source::Exact;
            }
        });
        if new != s {
            cx.push(ModelAction::Patch(new));
        }
    }

    /// A sweep that waits for a word; true if that is all there is to show.
    fn estimate(&self, ui: &mut egui::Ui, cx: &mut Context<'_>) -> bool {
        let Some(e) = cx.state.results.sweep.fresh().filter(|s| s.found.is_none()).map(|s| s.estimate) else {
            return false;
        };
        ui.add_space(24.0);
        ui.vertical_centered(|ui| {
            let needs = needs(e.bytes as u64, e.seconds);
            ui.label(format!("A sweep of {} cells, {} of them to run, {needs}.", e.cells, e.to_run));
            if ui.button("Run the sweep").clicked() {
                cx.push(ModelAction::Sweep(None));
            }
        });
        true
    }

    fn caption(
        &self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        found: &SweepResult,
        colors: crate::gpu::heatmap::Coloring,
        reach: Reach,
        end: &str,
    ) {
        ui.horizontal(|ui| {
            let weak = |text: String| RichText::new(text).font(theme::small()).color(cx.palette.weak);
            let metric = found.settings.metric.kind();
            if let Some(c) = found.corrupted.filter(|_| patches(found)) {
                ui.label(weak(format!("0 = corrupted {c:+.2}, 1 = clean {:+.2}", found.clean)))
                    .on_hover_text(metric.explain());
            } else {
                ui.label(weak(format!("change of the {} from {:+.2}", metric.label(), found.baseline)))
                    .on_hover_text(metric.explain());
            }
            let state = match cx.state.desk().patching.source {
                Source::Exact if found.done => {
                    format!("{} exact runs, {} cells provably 0", found.run, found.skipped)
                }
                Source::Exact => match cx.state.results.sweep.get().map(|s| s.estimate) {
                    Some(e) => format!(
                        "{} of {} runs; about {:.1} s and {} in all",
                        found.run,
                        e.to_run,
                        e.seconds,
                        memory::bytes(e.bytes as u64)
                    ),
                    None => format!("{} runs so far …", found.run),
                },
                Source::Approximate => "an approximation: first order".to_owned(),
                Source::Gap => "error of the approximation".to_owned(),
            };
            let color =
                if cx.state.desk().patching.source == Source::Exact { cx.palette.weak } else { cx.palette.accent };
            // The time is the machine's, not the finding's.
            ui.label(RichText::new(state).font(theme::small()).color(color))
                .on_hover_text(format!("run in {:.2} s on this machine", found.seconds));
            let drawn = self.drawn.as_ref();
            if is_plate(ui.ctx()) {
                // Nothing can be pressed there.
            } else if cx.state.desk().patching.source == Source::Approximate {
                let text = format!("run the top {TOP} exactly");
                if ui.small_button(text).on_hover_text("activation patching of the strongest cells").clicked() {
                    let top = drawn.map_or_else(Vec::new, |d| d.order.iter().copied().take(TOP).collect());
                    cx.push(ModelAction::Sweep(Some(top)));
                }
            } else if found.done && drawn.is_some_and(|d| d.unknown > found.unaligned) {
                let button = ui.small_button("run the rest").on_hover_text("all cells that have not been run");
                if button.clicked() {
                    cx.push(ModelAction::Sweep(None));
                }
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if let Some(reach) = reach::bar(ui, &colors, (&format!("−{end}"), end), reach, positions(found)) {
                    cx.set(&VIEW, &reach);
                }
            });
        });
    }
}

fn grid(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    found: &SweepResult,
    data: &HeatData,
    painted: Option<&HeatData>,
    colors: crate::gpu::heatmap::Coloring,
) {
    let p = cx.pinned();
    let h = cx.state.hovered;
    let heads = found.axes.get(1).filter(|(n, _)| n.contains("head")).map(|(_, n)| *n);
    let row_of = |layer: usize, head: Option<usize>| match (found.settings.by, heads) {
        (Axes::LayerHeadPos, Some(n)) => head.map(|h| layer * n + h.min(n - 1)),
        (Axes::DestSrc { .. }, _) => None,
        _ => Some(layer),
    };
    let pinned_col = match found.settings.by {
        Axes::LayerHead => p.head.filter(|_| !p.all_heads),
        _ => None,
    };
    let stack = &cx.state.desk().stack;
    let active: Vec<usize> =
        stack.active().filter(|_| stack.base == found.settings.base).filter_map(|e| found.index_of(e)).collect();
    let index = |r: usize, c: usize| r * data.cols + c;
    let over_positions = found.axes.len() > 1 && found.axes.last().is_some_and(|(name, _)| is_position(name));
    let turns = base_run(cx, found).filter(|_| over_positions).map(|r| cx.turns_of(r));
    let outcome = Heatmap {
        name: "patching",
        axes: axes_of(found),
        turns: (turns.as_ref().filter(|_| matches!(found.settings.by, Axes::DestSrc { .. })), turns.as_ref()),
        data,
        coloring: colors,
        row_label: &|r| row_label(found, r),
        col_label: &|c| {
            let label = col_label(cx, found, c);
            label.split_once(' ').map_or(label.clone(), |(_, t)| t.to_owned())
        },
        row_label_width: if found.axes.len() > 2 { 38.0 } else { 24.0 },
        flip: !matches!(found.settings.by, Axes::DestSrc { .. }),
        square: false,
        least_row: 0.0,
        painted,
        pinned: (row_of(p.layer, p.head).filter(|_| pinned_col.is_some()), pinned_col),
        hovered: (h.head.map(|x| x.0).or(h.layer).and_then(|l| row_of(l, h.head.map(|x| x.1))), None),
        isolate: Isolate::Nothing,
        cell_text: Some(&|r, c| {
            let mark = if active.contains(&index(r, c)) { "●" } else { "" };
            // What rounds to nothing stays quiet, so that the rest can be read.
            data.get(r, c).map(|v| if v.abs() < 0.005 { mark.to_owned() } else { format!("{mark}{v:+.2}") })
        }),
        tooltip: &|ui, r, c| {
            let i = index(r, c);
            let edit = found.settings.edit(&found.cell(i));
            ui.label(RichText::new(edit.to_string()).font(theme::title()));
            match data.get(r, c) {
                Some(v) => {
                    ui.monospace(format!("{v:+.4}"));
                    let metric = found.settings.metric.kind().label();
                    ui.label(format!("{metric} {:+.4}", found.values.get(i).copied().unwrap_or(f32::NAN)));
                    ui.weak("Click: this edit joins the stack (again: leaves it).");
                }
                None if found.done && found.unaligned > 0 => {
                    drop(ui.label("not run: this position may have no counterpart"));
                }
                None => drop(ui.label("not run yet")),
            }
        },
    }
    .show(ui);
    if let Some((r, c)) = outcome.hovered {
        let cell = found.cell(index(r, c));
        match (found.settings.by, &cell[..]) {
            (Axes::LayerHead, [l, h]) => (cx.hovered.layer, cx.hovered.head) = (Some(*l), Some((*l, *h))),
            (Axes::LayerHeadPos, [l, h, p]) => {
                (cx.hovered.layer, cx.hovered.head, cx.hovered.pos) = (Some(*l), Some((*l, *h)), Some(*p));
            }
            (Axes::LayerPos, [l, p]) => (cx.hovered.layer, cx.hovered.pos) = (Some(*l), Some(*p)),
            (Axes::DestSrc { .. }, [d, _]) => cx.hovered.pos = Some(*d),
            (_, [l, ..]) => cx.hovered.layer = Some(*l),
            _ => {}
        }
    }
    if let Some((r, c)) = outcome.clicked {
        click(cx, found, index(r, c));
    }
}

/// The edit joins or leaves the stack, and its head is pinned.
fn click(cx: &mut Context<'_>, found: &SweepResult, index: usize) {
    let cell = found.cell(index);
    let edit = found.settings.edit(&cell);
    let query_heads = matches!(found.settings.site, SiteKind::Z | SiteKind::Q | SiteKind::Pattern);
    if query_heads && let (Axes::LayerHead | Axes::LayerHeadPos, [l, h, ..]) = (found.settings.by, &cell[..]) {
        let (l, h) = (*l, *h);
        cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (l, Some(h), false, Focus::Head));
    }
    cx.push(ModelAction::Toggle(found.settings.base, vec![edit]));
}

/// The head or MLP that a cell is of.
fn component(found: &SweepResult, index: usize) -> Option<Component> {
    let cell = found.cell(index);
    match (found.settings.by, &cell[..]) {
        (Axes::LayerHead | Axes::LayerHeadPos, [layer, head, ..])
            if matches!(found.settings.site, SiteKind::Z | SiteKind::Q | SiteKind::Pattern) =>
        {
            Some(Component::Head { layer: *layer, head: *head })
        }
        (Axes::Layer | Axes::LayerPos, [layer, ..]) if found.settings.site == SiteKind::MlpOut => {
            Some(Component::Mlp { layer: *layer })
        }
        _ => None,
    }
}

fn strongest(ui: &mut egui::Ui, cx: &mut Context<'_>, found: &SweepResult, drawn: &Drawn) {
    let values = &drawn.values;
    let max = drawn.order.first().map_or(1.0, |i| values[*i].abs());
    for i in drawn.order.iter().copied().take(40) {
        let edit = found.settings.edit(&found.cell(i));
        let strong = cx.state.desk().stack.active().any(|e| *e == edit);
        let b = Bar { label: cell_name(found, i), value: values[i], text: format!("{:+.2}", values[i]), strong };
        let hint = format!("{edit}; click adds or removes it, right click takes the component into the circuit");
        let response = bars::bar(ui, &b, max, true, 62.0).on_hover_text(hint);
        if response.clicked() {
            click(cx, found, i);
        }
        if response.secondary_clicked()
            && let Some(component) = component(found, i)
        {
            cx.push(ModelAction::Collect(component.into()));
        }
    }
}

fn audited(ui: &mut egui::Ui, cx: &Context<'_>, found: &SweepResult, report: &Audit) {
    let line = |ui: &mut egui::Ui, name: &str, value: String| {
        ui.horizontal(|ui| {
            ui.label(RichText::new(name).font(theme::small()).color(cx.palette.weak));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                ui.label(RichText::new(value).font(theme::mono()));
            });
        });
    };
    ui.label(RichText::new("Against exact runs").font(theme::title()).color(cx.palette.accent));
    line(ui, "cells compared", report.cells.to_string());
    line(ui, "correlation", format!("{:.3}", report.correlation));
    line(ui, "rank correlation of sizes", format!("{:.3}", report.rank_correlation));
    line(ui, "mean |difference|", format!("{:.4}", report.mean));
    ui.label(RichText::new("worst cells: approximate, exact").font(theme::small()).color(cx.palette.weak));
    for (i, a, e) in report.disagreements.iter().take(5) {
        line(ui, &cell_name(found, *i), format!("{a:+.2} {e:+.2}"));
    }
    ui.add_space(6.0);
    ui.label(RichText::new("strongest cells").font(theme::small()).color(cx.palette.weak));
}

pub const VIEW: ViewDef = ViewDef {
    name: "patching",
    title: "Patching",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(PatchingView::default()),
};
