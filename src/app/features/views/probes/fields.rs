//! What is typed and chosen for the next probes and the next interchange, and the buttons that ask for them.

use eframe::egui::{self, RichText};

use super::ProbesView;
use super::settings::{Interchanged, ProbesSettings, directions};
use crate::app::features::views::{layer_field, weak};
use crate::app::view::Context;
use crate::app::widgets::{captioned, choice, explained_choice};
use crate::engine::SiteKind;
use crate::features::direction::concept::Pool;
use crate::jobs::Slot;
use crate::probes::interchange;
use crate::probes::question::{Kind, Recipe, site_name, sites};
use crate::probes::set::{SHIPPED, Texts};
use crate::question::Question;

/// Where the next texts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Shipped(usize),
    File,
    Typed,
}

/// The layers of the next probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    All,
    Each(usize),
    Pinned,
    /// As the document says.
    These,
}

/// The fields, once they differ from what was asked for last.
pub struct Fields {
    from: From,
    file: String,
    typed: String,
    recipe: Recipe,
    layers: Layers,
    sparse: bool,
    k: usize,
    answers: String,
    /// The tokens at which the source's part is put in.
    put: Pool,
    rank: usize,
    pairs: usize,
    direction: Option<String>,
}

/// What the file of texts looks like, in the empty field.
const EXAMPLE: &str = "label\ttext\nglad\tWhat a lovely day\nsad\tWhat an awful day\n… also columns group and split";

impl Fields {
    pub fn of(settings: &ProbesSettings) -> Self {
        let swap = settings.interchange.clone().unwrap_or_default();
        // The texts, the site and what is read are the same for both.
        let recipe = settings.fit.clone().unwrap_or_else(|| {
            let interchange::Recipe { texts, site, kind, seed, .. } = swap.recipe.clone();
            Recipe { texts, site, kind, seed, ..Recipe::default() }
        });
        let (mut from, mut file, mut typed) = (From::File, String::new(), String::new());
        match &recipe.texts {
            Texts::Typed(text) => (from, typed) = (From::Typed, text.clone()),
            Texts::Set(spec) => match SHIPPED.iter().position(|(n, _)| n == spec) {
                Some(i) => from = From::Shipped(i),
                None => file.clone_from(spec),
            },
        }
        let (sparse, k) = match recipe.kind {
            Kind::Linear => (false, 16),
            Kind::Sparse(k) => (true, k),
        };
        let layers = if recipe.layers.is_empty() { Layers::All } else { Layers::These };
        let interchange::Recipe { answers, pool: put, rank, pairs, .. } = swap.recipe;
        let (answers, direction) = (answers.join(","), swap.direction.filter(|_| swap.recipe.site == recipe.site));
        Self { from, file, typed, recipe, layers, sparse, k, answers, put, rank, pairs, direction }
    }

    fn texts(&self) -> Texts {
        match self.from {
            From::Shipped(i) => Texts::Set(SHIPPED[i.min(SHIPPED.len() - 1)].0.to_owned()),
            From::File => Texts::Set(self.file.trim().to_owned()),
            From::Typed => Texts::Typed(self.typed.clone()),
        }
    }

    /// The texts may be asked about.
    fn is_ready(&self) -> bool {
        match self.from {
            From::Shipped(_) => true,
            From::File => !self.file.trim().is_empty(),
            From::Typed => !self.typed.trim().is_empty(),
        }
    }

    fn recipe(&self, pinned: usize, n_layers: usize) -> Recipe {
        let layers = match self.layers {
            Layers::All => Vec::new(),
            Layers::Each(n) => (0..n_layers).step_by(n).collect(),
            Layers::Pinned => vec![pinned.min(n_layers - 1)],
            Layers::These => self.recipe.layers.clone(),
        };
        Recipe { texts: self.texts(), kind: self.kind(), layers, ..self.recipe.clone() }
    }

    fn kind(&self) -> Kind {
        if self.sparse { Kind::Sparse(self.k) } else { Kind::Linear }
    }

    fn interchange(&self, pinned: usize) -> Interchanged {
        let (rank, pairs, seed) = (self.rank, self.pairs, self.recipe.seed);
        let answers = super::super::directions::tokens(&self.answers);
        let (texts, kind) = (self.texts(), self.kind());
        let (site, pool) = (self.recipe.site, self.put);
        let recipe = interchange::Recipe { texts, answers, site, layer: pinned, pool, kind, rank, pairs, seed };
        Interchanged { recipe, direction: self.direction.clone() }
    }

    /// The texts, and where they are written.
    fn texts_ui(&mut self, ui: &mut egui::Ui, cx: &Context<'_>) {
        let mut options: Vec<(From, &str)> =
            SHIPPED.iter().enumerate().map(|(i, (name, _))| (From::Shipped(i), *name)).collect();
        options.extend([(From::File, "a file"), (From::Typed, "my own")]);
        if let Some(from) = choice(ui, "texts", self.from, &options) {
            self.from = from;
        }
        if self.from == From::File {
            captioned(ui, weak(cx, "file"), 150.0, |ui| {
                ui.add(egui::TextEdit::singleline(&mut self.file).desired_width(150.0).hint_text("texts.tsv"))
                    .on_hover_text("columns label and text, and perhaps group and split, between tabs")
                    .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "file of labelled texts"));
            });
        }
        let pools = [(Pool::Mean, "the mean of its tokens"), (Pool::Last, "its last token")];
        let said = "the first token is left out, since models keep things there that are unlike all else; where some text of a \
                    set is a single token, all are read behind the word The";
        if let Some(p) = explained_choice(ui, ("each text as", said), self.recipe.pool, &pools) {
            self.recipe.pool = p;
        }
    }

    /// What is read, where.
    fn reads_ui(&mut self, ui: &mut egui::Ui, cx: &Context<'_>) {
        let config = cx.state.model.as_ref().map(|m| &m.config);
        let sites: Vec<(SiteKind, &str)> =
            sites().filter(|s| config.is_none_or(|c| s.exists(c))).map(|s| (s, site_name(s))).collect();
        if let Some(site) = choice(ui, "at", self.recipe.site, &sites) {
            self.recipe.site = site;
            // A direction lies at one site.
            self.direction = None;
        }
        let mut layers = vec![
            (Layers::All, "all"),
            (Layers::Each(2), "every second"),
            (Layers::Each(4), "every fourth"),
            (Layers::Pinned, "the pinned one"),
        ];
        if !self.recipe.layers.is_empty() {
            layers.push((Layers::These, "as before"));
        }
        if let Some(l) = choice(ui, "layers", self.layers, &layers) {
            self.layers = l;
        }
        if let Some(s) = choice(ui, "reads", self.sparse, &[(false, "all coordinates"), (true, "k coordinates")]) {
            self.sparse = s;
        }
        let (number, name, help) = if self.sparse {
            (&mut self.k, "k", "coordinates that are read: those that tell the classes apart most")
        } else {
            (&mut self.recipe.random, "control's k", "coordinates of the control that reads random ones")
        };
        captioned(ui, weak(cx, name), 40.0, |ui| {
            ui.add(egui::DragValue::new(number).range(1..=100_000)).on_hover_text(help).accessible_name(name);
        });
        captioned(ui, weak(cx, "seed"), 40.0, |ui| {
            ui.add(egui::DragValue::new(&mut self.recipe.seed).range(0..=u64::from(u32::MAX)).speed(0.1))
                .on_hover_text("draws which texts are held out, where they do not say it themselves, and the controls")
                .accessible_name("seed of the split");
        });
    }
}

/// The button of a question and how far it is; true where it is asked for.
fn button<Q: Question>(ui: &mut egui::Ui, cx: &Context<'_>, slot: &mut Slot<Q>, name: &str, why_not: &str) -> bool {
    if slot.is_running() {
        if ui.button("Stop").clicked() {
            slot.stop();
            return false;
        }
        if let Some(p) = slot.progress() {
            let left = p.seconds_left().map_or(String::new(), |s| format!(", {s:.0} s left"));
            ui.label(weak(cx, format!("{:.0} %{left}", 100.0 * p.fraction())));
        }
        return false;
    }
    let text = RichText::new(name).color(if why_not.is_empty() { cx.palette.base } else { cx.palette.weak });
    let fill = if why_not.is_empty() { cx.palette.accent } else { cx.palette.raised };
    let asked = ui.add_enabled(why_not.is_empty(), egui::Button::new(text).fill(fill));
    asked.on_disabled_hover_text(why_not).clicked()
}

impl ProbesView {
    /// The fields above the pictures.
    pub(super) fn fields(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, new: &mut ProbesSettings) {
        let Some(n_layers) = cx.state.model.as_ref().map(|m| m.config.n_layers) else { return };
        let pinned = cx.pinned().layer.min(n_layers - 1);
        // What another hand has changed, or another document, fills them anew.
        let asked = |of: &ProbesSettings| of.fit == new.fit && of.interchange == new.interchange;
        let filled = self.fields.take().filter(|(_, of)| asked(of)).map(|(fields, _)| fields);
        let mut fields = filled.unwrap_or_else(|| Fields::of(new));
        ui.horizontal_wrapped(|ui| {
            fields.texts_ui(ui, cx);
            fields.reads_ui(ui, cx);
            let why_not = if fields.is_ready() { "" } else { "give texts of two or more classes" };
            if button(ui, cx, &mut self.probes, "Fit", why_not) {
                new.fit = Some(fields.recipe(pinned, n_layers));
                self.probes.again();
                self.probes.want(&cx.state.pool, new.probes(cx.state));
            }
        });
        if fields.from == From::Typed {
            let edit = egui::TextEdit::multiline(&mut fields.typed).desired_width(f32::INFINITY).desired_rows(3);
            egui::ScrollArea::vertical().id_salt("labelled texts").max_height(90.0).show(ui, |ui| {
                ui.add(edit.hint_text(EXAMPLE)).accessible_name("labelled texts");
            });
        }
        ui.horizontal_wrapped(|ui| {
            let classes = self.probes.value().map(|p| p.classes.join(", ")).unwrap_or_default();
            captioned(ui, weak(cx, "answers"), 110.0, |ui| {
                let hint = if classes.is_empty() { "a token a class" } else { classes.as_str() };
                ui.add(egui::TextEdit::singleline(&mut fields.answers).desired_width(110.0).hint_text(hint))
                    .on_hover_text(
                        "what the model answers for each class, between commas, in the classes' order; a space before a \
                         word belongs to it",
                    )
                    .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "answers of the classes"));
            });
            layer_field(ui, cx, n_layers - 1);
            let tokens = [(Pool::Last, "the last token"), (Pool::Mean, "all but the first")];
            let said = "where the other text's part is put in, at the site above: at the last token, or at every token but the \
                        first by the difference of the texts' means; the probe reads the same tokens";
            if let Some(p) = explained_choice(ui, ("tokens", said), fields.put, &tokens) {
                fields.put = p;
            }
            captioned(ui, weak(cx, "rank"), 32.0, |ui| {
                ui.add(egui::DragValue::new(&mut fields.rank).range(1..=1_000).speed(0.1))
                    .on_hover_text("dimensions of the subspace that is searched")
                    .accessible_name("rank of the subspace");
            });
            captioned(ui, weak(cx, "pairs"), 40.0, |ui| {
                ui.add(egui::DragValue::new(&mut fields.pairs).range(1..=100_000))
                    .on_hover_text("pairs of held-out texts that are judged")
                    .accessible_name("pairs of texts");
            });
            let names: Vec<String> = directions(cx.state, fields.recipe.site).map(|c| c.name.clone()).collect();
            if !names.is_empty() {
                let mut options: Vec<(Option<usize>, &str)> = vec![(None, "–")];
                options.extend(names.iter().enumerate().map(|(i, n)| (Some(i), n.as_str())));
                let now = fields.direction.as_ref().and_then(|d| names.iter().position(|n| n == d));
                if let Some(i) = choice(ui, "direction", now, &options) {
                    fields.direction = i.map(|i| names[i].clone());
                }
            }
            let why_not = match (fields.is_ready(), fields.answers.trim().is_empty()) {
                (false, _) => "give texts of two or more classes",
                (true, true) => "say what the model answers for each class",
                _ => "",
            };
            if button(ui, cx, &mut self.interchange, "Interchange", why_not) {
                new.interchange = Some(fields.interchange(pinned));
                self.interchange.again();
                self.interchange.want(&cx.state.pool, new.interchanges(cx.state));
            }
        });
        self.fields = Some((fields, new.clone()));
    }
}
