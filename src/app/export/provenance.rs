//! What numbers and pictures are of: model, prompt, answer, run, edits, program.

use serde::Serialize;

use crate::app::model::views;
use crate::app::state::State;
use crate::app::view::{ViewDef, Workspace};
use crate::app::widgets::token_text;
use crate::session::desk::{self, Intervention, Show};

/// What a view's numbers are of. What does not concern them is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Provenance {
    /// Name and version.
    pub program: String,
    pub view: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it was opened by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<String>,
    /// The file that is shown, where it is not of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Hash of the model's weights, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Token ids of the prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Which run is shown: clean, corrupted, edited, difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<String>,
    /// Position, layer and head that are pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// What a sweep does at each cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervention: Option<String>,
    /// What it is measured by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<String>,
    /// The recipe of a training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
}

impl Provenance {
    /// What a view's numbers are of now.
    pub fn of(state: &State, view: &ViewDef) -> Self {
        let own = Self {
            program: format!("circuitscope {}", env!("CARGO_PKG_VERSION")),
            view: view.title.to_owned(),
            ..Self::default()
        };
        match view.workspace {
            Workspace::Model | Workspace::Features => own.of_model(state, view),
            Workspace::Superposition => {
                let recipe = state.superposition.setup().map(|s| {
                    let n = s.instances.len();
                    format!("{n} toy models of {} features in {} dimensions, tied {}", s.features, s.hidden, s.tied)
                });
                Self { recipe, ..own }
            }
            Workspace::Training => Self { recipe: Some(state.training.task.name.to_owned()), ..own },
        }
    }

    fn of_model(self, state: &State, view: &ViewDef) -> Self {
        let desk = state.desk();
        let is = |def: &ViewDef| view.name == def.name;
        if let (Some(file), true) = (&desk.graph.file, is(&views::graph::VIEW)) {
            // Somebody else's graph has nothing to do with the model that is open.
            let title = state.results.graph.value().map(|g| g.title.clone());
            return Self { file: Some(file.clone()), prompt: title, ..self };
        }
        let model = state.model.as_ref();
        // What is shown is of the runs that are there, which may be those before the text that is being typed.
        let (clean, shown) = (state.clean(), state.shown_run());
        let show = shown.map(|s| s.stamp.0);
        let edited = matches!(show, Some(Show::Edited));
        let edits = edited.then(|| desk.stack.words());
        let token = |id: Option<u32>| id.zip(model).map(|(id, m)| token_text::visible(&m.token_text(id)));
        let p = desk.pinned;
        let head = p.head.map_or_else(|| format!("layer {}", p.layer), |h| format!("head {}.{h}", p.layer));
        let sweeps = is(&views::patching::VIEW);
        let run = match (desk.show, show) {
            (Show::Difference, Some(Show::Edited)) => Some("difference: edited − base".to_owned()),
            (Show::Difference, _) => Some("difference: clean − corrupted".to_owned()),
            (_, Some(Show::Edited)) => Some(format!("edited, from the {} run", desk.stack.base.name())),
            (_, show) => show.map(|s| s.label().to_owned()),
        };
        Self {
            model: model.map(|m| m.config.name.clone()),
            opened: model.map(|m| m.spec.clone()),
            weights: desk.hash.map(desk::key),
            prompt: clean.map(|r| r.prompt.clone()),
            ids: clean.map_or_else(Vec::new, |r| r.trace.ids.clone()),
            corrupted: state.corrupted().map(|r| r.prompt.clone()),
            answer: token(clean.and_then(|r| r.answer)),
            against: token(clean.and_then(|r| r.wrong)),
            run,
            edits: edits.unwrap_or_default(),
            pinned: Some(format!("position {}, {head}", p.pos)),
            intervention: sweeps.then(|| match state.intervention() {
                Intervention::Patch => "activation patching, clean into corrupted".to_owned(),
                Intervention::Ablate(with) => format!("{} ablation", with.label()),
            }),
            metric: sweeps.then(|| desk.patching.metric.label().to_owned()),
            dictionary: state
                .features
                .dictionary()
                .filter(|_| view.workspace == Workspace::Features)
                .map(|d| d.name.clone()),
            ..self
        }
    }

    /// Every fact with its name, for reading.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let some = |name, text: &Option<String>| text.clone().map(|t| (name, t));
        let list = |name, list: &[String]| (!list.is_empty()).then(|| (name, list.join("; ")));
        let ids: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        let ids = (!ids.is_empty()).then(|| ("token ids", ids.join(" ")));
        let facts = [
            Some(("program", self.program.clone())),
            Some(("view", self.view.clone())),
            some("model", &self.model),
            some("opened by", &self.opened),
            some("file", &self.file),
            some("weights", &self.weights),
            some("prompt", &self.prompt),
            ids,
            some("corrupted prompt", &self.corrupted),
            some("answer", &self.answer),
            some("against", &self.against),
            some("run", &self.run),
            list("edits", &self.edits),
            some("pinned", &self.pinned),
            some("intervention", &self.intervention),
            some("metric", &self.metric),
            some("dictionary", &self.dictionary),
            some("recipe", &self.recipe),
        ];
        facts.into_iter().flatten().collect()
    }

    /// The facts that a reader of a picture needs, in one line.
    pub fn caption(&self) -> String {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let weights = self.weights.as_ref().map_or_else(String::new, |w| format!("weights {}", &w[..w.len().min(8)]));
        let mut parts = vec![text(&self.model), weights, text(&self.file), text(&self.recipe)];
        parts.push(
            self.prompt
                .as_ref()
                .map_or_else(String::new, |p| format!("“{}”", token_text::cut(&p.replace(char::is_control, " "), 90))),
        );
        parts.push(match (&self.answer, &self.against) {
            (Some(a), Some(b)) => format!("answer {a} − {b}"),
            (Some(a), None) => format!("answer {a}"),
            _ => String::new(),
        });
        parts.push(self.run.as_ref().filter(|r| *r != "clean").map_or_else(String::new, |r| format!("{r} run")));
        parts.push(self.edits.join("; "));
        parts.push(self.program.clone());
        parts.retain(|p| !p.is_empty());
        parts.join(" · ")
    }
}
