//! The circuit draft: what was collected or found, and whether it carries the prediction.

use crate::app::action::Load;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace, here};
use std::collections::HashMap;

use eframe::egui::containers::menu::{MenuButton, MenuConfig};
use eframe::egui::{self, RichText, vec2};
use egui_plot::{Legend, Line, Plot, PlotPoints};

use crate::analysis::component::Component;
use crate::analysis::patching::Ablation;
use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::controls;
use crate::app::widgets::names::counted;
use crate::app::widgets::{bars, choice, message, token_text};
use crate::circuit::Member;
use crate::circuit::eap::{Path, STEPS};
use crate::circuit::prompt_set::{PromptSet, SHIPPED};
use crate::circuit::quality::{Comparison, Curve, Tried};
use crate::circuit::search::{Search, Searching};
use crate::session::desk::{CircuitSettings, Focus};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Method {
    #[default]
    Exact,
    EapIg,
    Eap,
    Acdc,
}

const METHODS: [(Method, &str); 4] = [
    (Method::Exact, "EAP-IG, re-scored exactly"),
    (Method::EapIg, "EAP-IG"),
    (Method::Eap, "EAP"),
    (Method::Acdc, "ACDC"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum List {
    #[default]
    Components,
    Edges,
}

pub struct CircuitView {
    method: Method,
    edges: usize,
    threshold: f32,
    list: List,
}

impl Default for CircuitView {
    fn default() -> Self {
        Self { method: Method::default(), edges: 200, threshold: 0.02, list: List::default() }
    }
}

impl View for CircuitView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        controls(ui, |ui| self.controls(ui, cx));
        let r = &cx.state.results;
        if let Some(Searching::Step(step)) = r.search.value().map(|v| &**v).filter(|_| r.search.is_running()) {
            let f = step.faithfulness;
            let text = if f.is_finite() {
                format!("searching: {} edges left, faithfulness {f:.3}", step.edges)
            } else {
                format!("searching: {} edges left", step.edges)
            };
            ui.label(RichText::new(text).font(theme::mono()).color(cx.palette.accent));
        }
        if let Some(error) = r.search.error() {
            ui.label(RichText::new(error).color(cx.palette.error));
        }
        if cx.state.desk().draft.is_empty() {
            let text = "nothing collected yet: press C on a head or neuron, right-click a node of the graph or a bar, or let a search find a circuit";
            let searches = !cx.state.desk().corrupted.is_empty();
            let needs = if searches { "" } else { ". A search needs a corrupted prompt: type one after vs." };
            message(ui, &format!("{text}{needs}"), false);
            return;
        }
        let tried = r.tried.get().cloned();
        let available = ui.available_size();
        let side = (available.x * 0.46).clamp(170.0, 320.0);
        ui.horizontal_top(|ui| {
            let size = vec2((available.x - side - 8.0).max(80.0), available.y);
            ui.allocate_ui_with_layout(size, egui::Layout::top_down(egui::Align::Min), |ui| {
                egui::ScrollArea::vertical().id_salt("numbers").auto_shrink([false, false]).show(ui, |ui| {
                    if !here(ui, cx, &cx.state.results.tried) {
                        return;
                    }
                    if let Some(t) = &tried {
                        numbers(ui, cx, &t.value, t.fresh);
                        if let (Some((name, _)), Some(c)) = (&t.value.question.compared, &t.value.compared) {
                            comparison(ui, cx, name, c);
                        }
                    }
                });
            });
            ui.vertical(|ui| {
                egui::ScrollArea::vertical().id_salt("members").auto_shrink([false, false]).show(ui, |ui| {
                    self.members(ui, cx, tried.as_ref().map(|t| &*t.value));
                });
            });
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let t = cx.state.results.tried.get()?;
        let q = &t.value.quality;
        let wiring = cx.state.wiring()?;
        let list: Vec<(String, f32)> = match self.list {
            List::Components => q.members.iter().map(|(c, d)| (c.to_string(), *d)).collect(),
            List::Edges => q.edges.iter().map(|(e, d)| (wiring.name(*e), *d)).collect(),
        };
        Some(Table {
            name: "circuit".to_owned(),
            row_axis: "member",
            col_axis: "loss of faithfulness",
            rows: list.iter().map(|m| m.0.clone()).collect(),
            cols: vec!["drop".to_owned()],
            values: list.iter().map(|m| vec![Some(m.1)]).collect(),
            ..Table::default()
        })
    }
}

impl CircuitView {
    fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        ui.horizontal_wrapped(|ui| {
            let compares = !cx.state.desk().corrupted.is_empty();
            if let Some(m) = choice(ui, "find by", self.method, &METHODS) {
                self.method = m;
            }
            let search = match self.method {
                Method::Acdc => {
                    ui.add(egui::DragValue::new(&mut self.threshold).range(0.0001..=5.0).speed(0.001).prefix("KL < "))
                        .on_hover_text("an edge goes if that raises the KL divergence by less");
                    Search::Acdc { threshold: self.threshold }
                }
                method => {
                    ui.add(egui::DragValue::new(&mut self.edges).range(1..=100_000).speed(5).suffix(" edges"));
                    let path = if method == Method::Eap { Path::Clean } else { Path::Integrated(STEPS) };
                    Search::Scores { path, edges: self.edges, rescore: method == Method::Exact }
                }
            };
            let hint = if compares {
                "search a circuit for this pair of prompts"
            } else {
                "a search compares two prompts: type a corrupted one at the top"
            };
            if ui
                .add_enabled(compares, egui::Button::new(RichText::new("find").font(theme::small())))
                .on_hover_text(hint)
                .on_disabled_hover_text(hint)
                .clicked()
            {
                cx.push(ModelAction::Search(search));
            }
            let settings = cx.state.desk().circuit.clone();
            let options = Ablation::ALL.map(|o| (o, o.label()));
            if let Some(outside) = choice(ui, "outside", settings.outside, &options) {
                cx.push(ModelAction::CircuitSettings(CircuitSettings { outside, ..settings.clone() }));
            }
            self.sets(ui, cx);
            let mut curve = settings.curve;
            if ui
                .toggle_value(&mut curve, RichText::new("curve").font(theme::small()))
                .on_hover_text("faithfulness of EAP-IG's circuits from 0.1 % of all edges to all")
                .changed()
            {
                cx.push(ModelAction::CircuitSettings(CircuitSettings { curve, ..settings }));
            }
            ui.menu_button(RichText::new("file").font(theme::small()), |ui| {
                if ui.button("Open a circuit (JSON)…").clicked() {
                    cx.push(Action::Load(Load::Graph));
                }
                if ui.button("Save this circuit (JSON)…").clicked() {
                    cx.push(Action::SaveCircuit);
                }
                ui.separator();
                if ui.button("Compare with a circuit (JSON)…").clicked() {
                    cx.push(Action::Load(Load::Compared));
                }
                let draft = &cx.state.desk().draft;
                let keep = egui::Button::new("Keep this one to compare with");
                let keep = ui.add_enabled(!draft.is_empty(), keep);
                if keep.on_disabled_hover_text("the circuit is empty; put something into it first").clicked() {
                    let name = if draft.origin.is_empty() { "the one kept before" } else { &draft.origin };
                    cx.push(ModelAction::Compare(Some((name.to_owned(), draft.clone()))));
                }
                if cx.state.desk().compared.is_some() && ui.button("Compare with nothing").clicked() {
                    cx.push(ModelAction::Compare(None));
                }
                ui.separator();
                let undo = egui::Button::new("Undo the last change");
                let undo = ui.add_enabled(cx.state.history.undoable().is_some(), undo);
                if undo.on_disabled_hover_text("nothing has been changed yet").clicked() {
                    cx.push(Action::Undo);
                }
                if ui.button("Empty the circuit").clicked() {
                    cx.push(Action::Do(Command::ClearDraft));
                }
            });
        });
    }

    /// The menu of prompt sets.
    fn sets(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let settings = cx.state.desk().circuit.clone();
        let name = settings.set.as_deref().unwrap_or("no prompt set").to_owned();
        let short = name.rsplit(['/', '\\']).next().unwrap_or(&name).to_owned();
        // A click into the text field does not close it.
        let stays = MenuConfig::new().close_behavior(egui::PopupCloseBehavior::CloseOnClickOutside);
        MenuButton::new(RichText::new(short).font(theme::small())).config(stays).ui(ui, |ui| {
            ui.set_max_width(360.0);
            let mut chosen = None;
            if ui.selectable_label(settings.set.is_none(), "no prompt set").clicked() {
                chosen = Some(None);
            }
            for shipped in SHIPPED {
                let about = PromptSet::open(shipped.name).map(|s| s.about).unwrap_or_default();
                if ui
                    .selectable_label(settings.set.as_deref() == Some(shipped.name), shipped.name)
                    .on_hover_text(about)
                    .clicked()
                {
                    chosen = Some(Some(shipped.name.to_owned()));
                }
            }
            ui.separator();
            if ui.button("Open a file…").on_hover_text("a .toml file of prompts").clicked() {
                cx.push(Action::Load(Load::Prompts));
                ui.close();
            }
            if let Some(set) = chosen {
                cx.push(ModelAction::CircuitSettings(CircuitSettings { set, ..settings.clone() }));
                ui.close();
            }
        });
    }

    /// What the circuit is made of, with what each member is worth.
    fn members(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, tried: Option<&Tried>) {
        ui.spacing_mut().item_spacing.y = 1.0;
        let draft = &cx.state.desk().draft;
        let q = tried.map(|t| &t.quality);
        ui.horizontal(|ui| {
            let edges = q.map_or(draft.edges.len(), |q| q.size);
            for (list, text) in
                [(List::Components, counted(draft.nodes.len(), "component")), (List::Edges, counted(edges, "edge"))]
            {
                if ui.selectable_label(self.list == list, RichText::new(text).font(theme::small())).clicked() {
                    self.list = list;
                }
            }
        });
        if !draft.origin.is_empty() {
            ui.label(RichText::new(&draft.origin).font(theme::small()).color(cx.palette.weak));
        }
        match self.list {
            List::Components => {
                let worth: HashMap<String, f32> =
                    q.map(|q| q.members.iter().map(|(c, d)| (c.to_string(), *d)).collect()).unwrap_or_default();
                let known = |n: &String| (n.clone(), worth.get(n).copied());
                let mut rows: Vec<(String, Option<f32>)> = draft.nodes.iter().map(known).collect();
                rows.sort_by(|a, b| b.1.map_or(-1.0, f32::abs).total_cmp(&a.1.map_or(-1.0, f32::abs)));
                let max = rows.first().and_then(|r| r.1).map_or(1.0, f32::abs);
                for (name, drop) in rows {
                    self.member(ui, cx, &name, drop, max);
                }
            }
            List::Edges => {
                let (Some(q), Some(wiring)) = (q, cx.state.wiring()) else { return };
                let max = q.edges.first().map_or(1.0, |e| e.1.abs());
                for (edge, drop) in q.edges.iter().take(300) {
                    let b = Bar { label: wiring.name(*edge), value: *drop, text: format!("{drop:+.3}"), strong: false };
                    let response = bars::bar(ui, &b, max, true, 150.0)
                        .on_hover_text("loss of faithfulness without this edge; right click removes it");
                    if response.secondary_clicked() {
                        cx.push(ModelAction::RemoveEdge(*edge));
                    }
                }
            }
        }
    }

    fn member(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, name: &str, drop: Option<f32>, max: f32) {
        let member = Member::parse(name);
        let p = cx.pinned();
        let strong = member == p.head.map(|head| Component::Head { layer: p.layer, head }.into())
            || member == p.neuron.map(|neuron| Member::Neuron { layer: p.layer, neuron });
        let text = drop.map_or("–".to_owned(), |d| format!("{d:+.3}"));
        let b = Bar { label: name.to_owned(), value: drop.unwrap_or(0.0), text, strong: strong && member.is_some() };
        let response = bars::bar(ui, &b, max, true, 60.0)
            .on_hover_text("loss of faithfulness without it; click shows it, right click removes it");
        let Some(member) = member else { return };
        match member {
            Member::Component(Component::Head { layer, head }) => {
                if response.hovered() {
                    cx.hovered.head = Some((layer, head));
                }
                if response.clicked() {
                    cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
                }
            }
            Member::Neuron { layer, neuron } if response.clicked() => {
                cx.pin(|p| (p.layer, p.neuron, p.focus) = (layer, Some(neuron), Focus::Neuron));
            }
            _ => {}
        }
        if response.secondary_clicked() {
            cx.push(ModelAction::Collect(member));
        }
    }
}

/// How the draft stands to another circuit.
fn comparison(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, compared: &Result<Comparison, String>) {
    ui.add_space(6.0);
    match compared {
        Err(e) => _ = ui.label(RichText::new(format!("{name}: {e}")).font(theme::small()).color(cx.palette.error)),
        Ok(c) => {
            let o = c.overlap;
            let title = format!("compared with {name}");
            ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak));
            let share = |v: f64| format!("{:.0} %", 100.0 * v);
            let rows = [
                (
                    format!("{} shared edges", o.shared_edges),
                    o.edge_jaccard as f32,
                    share(o.edge_jaccard),
                    "of all edges in either circuit",
                ),
                (
                    format!("{} shared nodes", o.shared_nodes),
                    o.node_jaccard as f32,
                    share(o.node_jaccard),
                    "of all nodes in either circuit",
                ),
                (
                    format!("its {} edges", c.other_edges),
                    c.other_faithfulness,
                    format!("{:.3}", c.other_faithfulness),
                    "faithfulness of the other circuit",
                ),
                (
                    "what both have".to_owned(),
                    c.shared_faithfulness,
                    format!("{:.3}", c.shared_faithfulness),
                    "faithfulness of the shared edges alone",
                ),
            ];
            for (label, value, text, hint) in rows {
                let b = Bar { label, value, text, strong: false };
                bars::bar(ui, &b, 1.0, true, 110.0).on_hover_text(hint);
            }
        }
    }
}

/// A label that never breaks.
fn plain(ui: &mut egui::Ui, text: RichText) -> egui::Response {
    ui.add(egui::Label::new(text).extend())
}

fn numbers(ui: &mut egui::Ui, cx: &mut Context<'_>, tried: &Tried, fresh: bool) {
    let q = &tried.quality;
    let strength = if fresh { 1.0 } else { 0.5 };
    let outside = tried.question.outside.label();
    ui.horizontal_wrapped(|ui| {
        for (name, value, hint) in [
            (
                "faithfulness",
                q.faithfulness,
                "share of the metric's distance that the circuit alone covers; 1 is the whole model",
            ),
            (
                "completeness",
                q.completeness,
                "the same for everything but the circuit; 0 if nothing that matters is left out",
            ),
        ] {
            ui.vertical(|ui| {
                plain(ui, RichText::new(name).font(theme::small()).color(cx.palette.weak));
                let color = if name == "faithfulness" { cx.palette.accent } else { cx.palette.text };
                plain(ui, RichText::new(format!("{value:.3}")).size(20.0).color(color.gamma_multiply(strength)));
            })
            .response
            .on_hover_text(format!("{hint} ({outside} outside)"));
            ui.add_space(12.0);
        }
        ui.vertical(|ui| {
            plain(ui, RichText::new("edges").font(theme::small()).color(cx.palette.weak));
            plain(ui, RichText::new(q.size.to_string()).size(20.0).color(cx.palette.text.gamma_multiply(strength)))
                .on_hover_text("edges on a path from the embedding to the logits");
        });
    });
    if let Some((_, scale)) = q.prompts.first() {
        let text = format!(
            "{} {:+.2} whole, {:+.2} with everything {}",
            tried.question.metric.label(),
            scale.full,
            scale.empty,
            match tried.question.outside {
                Ablation::Resample => "resampled",
                Ablation::Mean => "at its mean",
                Ablation::Zero => "zero",
            }
        );
        ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
    }
    if let Some(error) = &tried.set_error {
        ui.label(RichText::new(error).color(cx.palette.error));
    }
    if !tried.set.is_empty() {
        let known: Vec<f32> = tried.set.iter().map(|s| s.1).filter(|f| f.is_finite()).collect();
        let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
        ui.add_space(6.0);
        let name = tried.question.set.as_ref().map_or("", |s| s.0.as_str());
        ui.label(
            RichText::new(format!(
                "{name}: mean faithfulness {mean:.3} over {}{}",
                counted(known.len(), "prompt"),
                if tried.done { "" } else { " so far" }
            ))
            .font(theme::small())
            .color(cx.palette.weak),
        );
        for (prompt, f) in &tried.set {
            let text = if f.is_finite() { format!("{f:+.2}") } else { "–".to_owned() };
            let b = Bar { label: token_text::short(&prompt.clean, 48), value: *f, text, strong: false };
            let width = (ui.available_width() * 0.6).max(90.0);
            let hint = format!(
                "{} → {:?}\nagainst {} → {:?}\nclick: work on this pair",
                prompt.clean,
                prompt.answer.as_deref().unwrap_or(""),
                prompt.corrupt,
                prompt.wrong.as_deref().unwrap_or("")
            );
            if bars::bar(ui, &b, 1.0, true, width).on_hover_text(hint).clicked() {
                cx.push(ModelAction::Prompt(prompt.clean.clone()));
                cx.push(ModelAction::Corrupted(prompt.corrupt.clone()));
                cx.push(ModelAction::Answer(prompt.answer.clone().unwrap_or_default()));
                cx.push(ModelAction::Wrong(prompt.wrong.clone().unwrap_or_default()));
            }
        }
    }
    if let Some(curve) = &tried.curve {
        plot(ui, cx, curve, q.size, q.faithfulness);
    } else if let Some(error) = &tried.curve_error {
        ui.label(RichText::new(error).font(theme::small()).color(cx.palette.error));
    } else if !tried.done && tried.question.curve && cx.state.results.tried.is_running() {
        ui.label(RichText::new("computing the curve …").font(theme::small()).color(cx.palette.weak));
    }
}

/// Faithfulness over the number of edges, with this circuit as a point.
fn plot(ui: &mut egui::Ui, cx: &Context<'_>, curve: &Curve, size: usize, faithfulness: f32) {
    ui.add_space(6.0);
    let text = format!("EAP-IG's circuits by size: CPR {:.3}, CMD {:.3}", curve.cpr, curve.cmd);
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
        .on_hover_text("CPR: area under faithfulness; CMD: area between it and 1 [MIB]");
    let log = |n: usize| (n.max(1) as f64).log10();
    let points: PlotPoints<'_> = curve.points.iter().map(|(_, n, f)| [log(*n), f64::from(*f)]).collect();
    let own = [[log(size), f64::from(faithfulness)]];
    Plot::new("curve")
        .height(150.0)
        .allow_scroll(false)
        .allow_drag(false)
        .allow_zoom(false)
        .x_axis_label("edges (log₁₀)")
        .y_axis_label("faithfulness")
        .legend(Legend::default())
        .show(ui, |plot| {
            plot.line(Line::new("by size", points).color(cx.palette.bar));
            plot.points(egui_plot::Points::new("this circuit", own.to_vec()).radius(4.0).color(cx.palette.accent));
        });
}

pub const VIEW: ViewDef = ViewDef {
    name: "circuit",
    title: "Circuit",
    workspace: Workspace::Model,
    area: Area::Middle,
    make: || Box::new(CircuitView::default()),
};
