//! Training a dictionary in the window.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText, vec2};
use egui_plot::{Corner, Legend, Line, PlotPoints};

use super::{act, layer_field, weak};
use crate::app::features::FeatureAction;
use crate::app::look::theme;
use crate::app::widgets::plots::over_steps;
use crate::app::widgets::{captioned, choice, message};
use crate::engine::{Site, SiteKind};
use crate::features::Place;
use crate::features::train::recipe::Recipe;
use crate::features::train::set::places;
use crate::features::train::shelf::SetTraining;
use crate::features::train::{Method, Point, Settings};
use crate::memory;
use crate::model::config::ModelConfig;

pub struct Training;

/// Whether a set for all layers is to be trained.
#[derive(Clone, Copy, Default)]
struct Whole(bool);

/// The layer whose curves are shown; `None` follows the training.
#[derive(Clone, Copy, Default)]
struct Layer(Option<usize>);

/// The file of captured activations that was taken up last.
#[derive(Clone, Default)]
struct Dropped(Option<String>);

/// Said once, when a training was asked for.
#[derive(Clone, Copy, Default)]
struct Begun;

impl View for Training {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(model) = cx.state.model.clone() else {
            message(ui, "open a model to begin", false);
            return;
        };
        let s = &cx.state.features;
        let id = egui::Id::unique("dictionary to train");
        let mut ask = ui.data_mut(|d| d.get_temp::<Recipe>(id)).unwrap_or_else(|| s.desk.recipe.clone());
        // A file that is dropped takes the text's place, once.
        let file = s.desk.captured.as_ref().map(|c| c.0.clone());
        if ui.data_mut(|d| d.get_temp::<Dropped>(id)).unwrap_or_default().0 != file {
            ask.text.extend(file.clone());
            ask.text.drain(..ask.text.len().saturating_sub(1));
            ui.data_mut(|d| d.insert_temp(id, Dropped(file.clone())));
        }
        let is_captured = file.is_some() && ask.text.first() == file.as_ref();
        let mut keep = ui.data_mut(|d| d.get_temp::<bool>(id)).unwrap_or_default();
        let mut whole = ui.data_mut(|d| d.get_temp::<Whole>(id)).unwrap_or_default().0;
        let layer = cx.pinned().layer;
        let captured = is_captured.then(|| s.captured.value().map_or(&[][..], |places| &places[..]));
        let Offered { sites, mlp, set } = Offered::of(&model.config, layer, captured);
        let kind = |p: &Place| p.site.kind == ask.site.site.kind;
        let current = sites.iter().position(|p| *p == ask.site).or_else(|| sites.iter().position(kind)).unwrap_or(0);
        let reads = Place::mlp_input(layer);
        let writes = mlp;
        whole &= set;
        let mut transcoder = whole || (ask.target.is_some() || sites.is_empty()) && writes.is_some();
        ask.site = sites.get(current).copied().unwrap_or(reads);
        let (running, stopping) = (s.is_training(), s.is_stopping());
        ui.add_enabled_ui(!running, |ui| {
            ui.horizontal_wrapped(|ui| {
                layer_field(ui, cx, model.config.n_layers.saturating_sub(1));
                let chosen = if transcoder { sites.len() + usize::from(whole) } else { current };
                if let Some(k) = site_choice(ui, &sites, (writes.is_some(), set), chosen) {
                    (transcoder, whole) = (k >= sites.len(), k > sites.len());
                    ask.site = sites.get(k).copied().unwrap_or(ask.site);
                }
                // SAELens has transcoders of these architectures.
                let fits = |m: &Method| !transcoder || !matches!(m, Method::TopK | Method::Gated);
                if !fits(&ask.settings.method) {
                    ask.settings.method = Method::BatchTopK;
                }
                let methods: Vec<(Method, &str)> =
                    Method::ALL.into_iter().filter(fits).map(|m| (m, m.name())).collect();
                if let Some(m) = choice(ui, "method", ask.settings.method, &methods) {
                    ask.settings.method = m;
                }
                if transcoder {
                    let hint = "the input is passed on by a matrix of its own, beside the features";
                    ui.checkbox(&mut ask.settings.skip, RichText::new("skip path").font(theme::small()))
                        .on_hover_text(hint);
                }
                ask.settings.skip &= transcoder;
                usual(ui, cx, &mut ask, is_captured);
            });
            let more = egui::CollapsingHeader::new(RichText::new("more settings").font(theme::small()));
            // When a training begins the curves need the room.
            let more = more.open(ui.data_mut(|d| d.remove_temp::<Begun>(id)).map(|Begun| false));
            more.show(ui, |ui| {
                ui.horizontal_wrapped(|ui| further(ui, cx, &mut ask.settings));
                ui.horizontal_wrapped(|ui| activations(ui, cx, &mut keep, stopping));
            });
        })
        .response
        .on_disabled_hover_text("stop the training first");
        ask.target = writes.filter(|_| transcoder);
        if transcoder {
            ask.site = reads;
        }
        let layers = if whole { model.config.n_layers } else { 1 };
        let bytes = ask.tokens.unwrap_or(0) as f64 * (layers * ask.width(&model.config)) as f64 * 4.0;
        if let Some(e) = s.captured.error().filter(|_| is_captured) {
            message(ui, e, true);
        } else if start_or_stop(ui, cx, &ask, (keep, whole), (!is_captured).then_some(bytes)) {
            ui.data_mut(|d| d.insert_temp(id, Begun));
        }
        ui.data_mut(|d| {
            d.insert_temp(id, ask);
            d.insert_temp(id, keep);
            d.insert_temp(id, Whole(whole));
        });
        if let Some(set) = cx.state.features.set_training.value().cloned() {
            set_curves(ui, cx, id, &set);
            return;
        }
        let points = s.training.value().map_or(&[][..], |t| &t.curve);
        if points.is_empty() {
            let text = if running {
                "harvesting activations …"
            } else {
                "train a dictionary on what a site of this model holds, or on captured activations that are dropped here"
            };
            message(ui, text, false);
            return;
        }
        curves(ui, cx, points);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.features;
        let of_set = s.set_training.value().map_or(&[][..], |t| &t.curves);
        let of_set =
            of_set.iter().flat_map(|(layer, curve)| curve.iter().map(move |p| (format!("{layer}:{}", p.step), p)));
        let of_one = s.training.value().map_or(&[][..], |t| &t.curve);
        let (rows, points): (Vec<String>, Vec<&Point>) =
            of_set.chain(of_one.iter().map(|p| (p.step.to_string(), p))).unzip();
        (!points.is_empty()).then(|| Table {
            name: "dictionary-training".to_owned(),
            row_axis: if s.set_training.value().is_some() { "layer:step" } else { "step" },
            col_axis: "measure",
            rows,
            cols: ["mse", "l0", "explained", "dead", "ce_score"].map(str::to_owned).to_vec(),
            values: points
                .iter()
                .map(|p| vec![Some(p.mse), Some(p.l0), Some(p.explained), Some(p.dead), p.ce_score])
                .collect(),
            ..Table::default()
        })
    }
}

/// What can be trained on: sites for an autoencoder, what a layer's MLP writes if it can be, and whether all layers' MLPs can.
struct Offered {
    sites: Vec<Place>,
    mlp: Option<Place>,
    set: bool,
}

impl Offered {
    /// Of a model at a layer, or of captured activations.
    fn of(model: &ModelConfig, layer: usize, captured: Option<&[Place]>) -> Self {
        let out = |kind| Place::from(Site::new(kind, layer));
        let Some(captured) = captured else {
            let there = [(SiteKind::ResidPost, true), (SiteKind::MlpOut, model.has_mlp()), (SiteKind::Z, true)];
            let sites = there.into_iter().filter(|s| s.1).map(|(kind, _)| out(kind)).collect();
            return Self { sites, mlp: model.has_mlp().then(|| out(SiteKind::MlpOut)), set: model.has_mlp() };
        };
        let has = |p: &Place| captured.contains(p);
        let written = [SiteKind::MlpResult, SiteKind::MlpOut].map(out).into_iter().find(has);
        let of_set = |layer| places(layer).is_ok_and(|both| both.iter().all(has));
        Self {
            sites: captured.iter().copied().filter(|p| !p.mlp_input).collect(),
            mlp: written.filter(|_| has(&Place::mlp_input(layer))),
            set: model.n_layers > 0 && (0..model.n_layers).all(of_set),
        }
    }
}

/// What is trained on: a site by its place in the list; behind them a layer's MLP, and the MLPs of all layers.
fn site_choice(ui: &mut egui::Ui, sites: &[Place], (mlp, set): (bool, bool), chosen: usize) -> Option<usize> {
    let names: Vec<String> = sites.iter().map(ToString::to_string).collect();
    let mut options: Vec<(usize, &str)> = names.iter().map(String::as_str).enumerate().collect();
    if mlp {
        options.push((sites.len(), "MLP, in to out (transcoder)"));
    }
    if set {
        options.push((sites.len() + 1, "all layers' MLPs (a set)"));
    }
    choice(ui, "site", chosen, &options)
}

/// Settings that every training needs.
fn usual(ui: &mut egui::Ui, cx: &Context<'_>, ask: &mut Recipe, captured: bool) {
    let t = &mut ask.settings;
    number_field(ui, cx, "features", &mut t.features, 16..=262_144);
    if t.method.counts() {
        number_field(ui, cx, "k", &mut t.k, 1..=4096);
    } else {
        real_field(ui, cx, "penalty", &mut t.sparsity, 1000.0, 0.05);
    }
    number_field(ui, cx, "steps", &mut t.steps, 1..=1_000_000);
    if !captured {
        let mut tokens = ask.tokens.unwrap_or(100_000);
        number_field(ui, cx, "tokens", &mut tokens, 1_000..=1_000_000_000);
        ask.tokens = Some(tokens);
    }
    ask.text.resize(1, String::new());
    // A captured file is named by its path.
    let (caption, width) = if captured { ("activations", 260.0) } else { ("text", 90.0) };
    captioned(ui, weak(cx, caption), width, |ui| {
        ui.add(egui::TextEdit::singleline(&mut ask.text[0]).desired_width(width))
            .on_hover_text(
                "a text file, a folder of them, or a shipped text: mixed, prose; or captured activations: safetensors with \
                 TransformerLens' names, or SAELens' cached ones",
            )
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "text to train on"));
    });
}

/// The button, and what will be done with how many `bytes` of activations that are harvested; true when a training was asked
/// for.
fn start_or_stop(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    ask: &Recipe,
    (keep, whole): (bool, bool),
    bytes: Option<f64>,
) -> bool {
    let s = &cx.state.features;
    let mut asked = false;
    let kept = s.kept_activations.value().map_or(0, |bytes| **bytes);
    let kept = if kept > 0 { format!(", {} kept", memory::bytes(kept)) } else { String::new() };
    ui.horizontal(|ui| {
        if s.is_training() {
            if ui.add(egui::Button::new("Stop").min_size(vec2(90.0, 24.0))).clicked() {
                act(cx, FeatureAction::StopTraining);
            }
        } else {
            let text = RichText::new("Train").color(cx.palette.base);
            let button = egui::Button::new(text).fill(cx.palette.accent).min_size(vec2(90.0, 24.0));
            let help = "a training that was stopped goes on when the same is asked for again";
            if ui.add(button).on_hover_text(help).clicked() {
                let ask = Box::new(ask.clone());
                act(cx, if whole { FeatureAction::TrainSet(ask) } else { FeatureAction::Train(ask, keep) });
                asked = true;
            }
        }
        let on = match bytes {
            Some(bytes) => format!("about {} of activations{kept}", memory::bytes(bytes as u64)),
            None => "on captured activations".to_owned(),
        };
        ui.label(weak(cx, format!("{}; {on}", ask.settings.method.explain())));
    });
    asked
}

/// Settings that are seldom changed.
fn further(ui: &mut egui::Ui, cx: &Context<'_>, s: &mut Settings) {
    number_field(ui, cx, "positions a step", &mut s.batch, 16..=65_536);
    number_field(ui, cx, "warm-up steps", &mut s.warmup, 0..=100_000);
    number_field(ui, cx, "dead after silent positions", &mut s.dead_after, 1_000..=1_000_000_000);
    if !s.method.counts() {
        number_field(ui, cx, "resample dead ones every … steps (0: never)", &mut s.resample, 0..=1_000_000);
    }
    real_field(ui, cx, "learning rate", &mut s.rate, 1.0, 1e-5);
    real_field(ui, cx, "share of steps it falls over", &mut s.fall, 1.0, 0.01);
    if s.method.counts() {
        real_field(ui, cx, "auxiliary loss", &mut s.auxiliary, 10.0, 0.001);
    } else {
        real_field(ui, cx, "share of steps the penalty rises over", &mut s.sparsity_warmup, 1.0, 0.01);
    }
    if s.method == Method::JumpRelu {
        real_field(ui, cx, "bandwidth", &mut s.bandwidth, 10.0, 0.01);
    }
    let seed = s.seed.to_string();
    field(ui, cx, "seed", &seed, egui::DragValue::new(&mut s.seed));
}

/// Whether the activations are kept, and those that are.
fn activations(ui: &mut egui::Ui, cx: &mut Context<'_>, keep: &mut bool, stopping: bool) {
    let s = &cx.state.features;
    let help = format!(
        "another training at the same site on as many tokens of the same text then begins at once; they lie in {}",
        s.folders.activations.display()
    );
    ui.checkbox(keep, "keep the activations on disk").on_hover_text(help);
    let bytes = s.kept_activations.value().map_or(0, |bytes| **bytes);
    if bytes > 0 {
        ui.label(weak(cx, format!("{} are kept", memory::bytes(bytes))));
        let delete = ui.add_enabled(!stopping, egui::Button::new("Delete"));
        let delete = delete.on_disabled_hover_text("a training that is being stopped still reads them");
        if delete.on_hover_text("takes away all activations that trainings kept; they can be made again").clicked() {
            act(cx, FeatureAction::ForgetActivations);
        }
    }
}

fn number_field(
    ui: &mut egui::Ui,
    cx: &Context<'_>,
    name: &str,
    value: &mut usize,
    range: std::ops::RangeInclusive<usize>,
) {
    let speed = (*value as f64 / 50.0).max(0.2);
    let shown = value.to_string();
    field(ui, cx, name, &shown, egui::DragValue::new(value).range(range).speed(speed));
}

fn real_field(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, value: &mut f32, most: f32, speed: f64) {
    let shown = value.to_string();
    field(ui, cx, name, &shown, egui::DragValue::new(value).range(0.0..=most).speed(speed).max_decimals(6));
}

/// A number, as `shown`, with its caption.
fn field(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, shown: &str, value: egui::DragValue<'_>) {
    let text = ui.painter().layout_no_wrap(shown.to_owned(), theme::body(), cx.palette.text).size().x;
    let width = (text + 2.0 * ui.spacing().button_padding.x).max(ui.spacing().interact_size.x);
    captioned(ui, weak(cx, name), width, |ui| {
        ui.add(value).accessible_name(name);
    });
}

/// The curves of one layer of a set, with which it is and what came of the others.
fn set_curves(ui: &mut egui::Ui, cx: &Context<'_>, id: egui::Id, set: &SetTraining) {
    let Some((last, _)) = set.curves.last() else {
        let text = if cx.state.features.set_training.is_running() {
            "harvesting the activations of all layers …"
        } else {
            "all layers were trained before"
        };
        message(ui, text, false);
        return;
    };
    let chosen = ui.data_mut(|d| d.get_temp::<Layer>(id)).unwrap_or_default().0;
    let shown = chosen.filter(|l| set.curves.iter().any(|c| c.0 == *l)).unwrap_or(*last);
    ui.horizontal_wrapped(|ui| {
        let doing = if set.folder.is_some() { "trained" } else { "training" };
        ui.label(weak(cx, format!("{doing} layer {} of {}:", last + 1, set.layers)));
        for (layer, curve) in &set.curves {
            let Some(p) = curve.last() else { continue };
            let text = RichText::new(format!("layer {layer}: {:.2}", p.explained)).font(theme::small());
            let button = ui.add(egui::Button::selectable(*layer == shown, text));
            let held_out = p.held_out.map_or(String::new(), |v| format!(", {v:.2} on held-out text"));
            let hint =
                format!("explained variance at step {}{held_out}, with L0 {:.1}; click shows its curves", p.step, p.l0);
            if button.on_hover_text(hint).clicked() {
                ui.data_mut(|d| d.insert_temp(id, Layer(Some(*layer).filter(|l| l != last))));
            }
        }
    });
    let curve = set.curves.iter().find(|c| c.0 == shown).map_or(&[][..], |c| &c.1);
    curves(ui, cx, curve);
}

/// A curve's name, colour, and its value at a point where it has one.
type Series<'a> = (&'a str, egui::Color32, &'a dyn Fn(&Point) -> Option<f32>);

/// Shares above sizes, or beside them where there is little height.
fn curves(ui: &mut egui::Ui, cx: &Context<'_>, points: &[Point]) {
    let shares: [Series<'_>; 3] = [
        ("explained variance", cx.palette.accent, &|p| Some(p.explained.max(-1.0))),
        ("CE-loss score", cx.palette.positive, &|p| p.ce_score),
        ("dead features", cx.palette.negative, &|p| Some(p.dead)),
    ];
    let sizes: [Series<'_>; 2] = [("L0", cx.palette.bar, &|p| Some(p.l0)), ("MSE", cx.palette.weak, &|p| Some(p.mse))];
    let group = ui.scope_id().with("steps");
    let space = ui.available_size();
    if space.y < 300.0 && space.x > 400.0 {
        ui.columns_const(|[left, right]| {
            plot(left, group, false, "step", space.y, &shares, points);
            plot(right, group, true, "step", space.y, &sizes, points);
        });
    } else {
        plot(ui, group, false, "", space.y * 0.55, &shares, points);
        plot(ui, group, true, "step", ui.available_height(), &sizes, points);
    }
}

/// Curves over the steps of all plots of a group, on a scale of powers of ten where that is `log`.
fn plot(
    ui: &mut egui::Ui,
    group: egui::Id,
    log: bool,
    below: &str,
    height: f32,
    series: &[Series<'_>],
    points: &[Point],
) {
    // Shares rise and sizes fall: the legend stands where the curves are not.
    let corner = if log { Corner::RightTop } else { Corner::RightBottom };
    over_steps(("training", log), below, log)
        .height(height.max(60.0))
        .link_axis(group, [true, false])
        .allow_scroll(false)
        .legend(Legend::default().position(corner))
        .show(ui, |p| {
            for (label, color, get) in series {
                let line: PlotPoints<'_> = points
                    .iter()
                    .filter_map(|q| {
                        let v = f64::from(get(q)?);
                        Some([q.step as f64, if log { v.max(1e-6).log10() } else { v }])
                    })
                    .collect();
                p.line(Line::new(*label, line).color(*color).width(2.0));
            }
        });
}

pub const VIEW: ViewDef = ViewDef {
    name: "dictionary-training",
    title: "Train a dictionary",
    workspace: Workspace::Features,
    area: Area::BottomLeft,
    make: || Box::new(Training),
};
