//! What is asked of one model.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::features::FeaturesDesk;
use crate::analysis::feature_geometry::Directions;
use crate::analysis::metric::MetricKind;
use crate::analysis::neurons::Statistic;
use crate::analysis::patching::Ablation;
use crate::analysis::patterns::PatternChoice;
use crate::analysis::projection;
use crate::analysis::sweep::Axes;
use crate::circuit::draft::Draft;
use crate::engine::generate::Sampling;
use crate::engine::resolve::Alignment;
use crate::engine::{EditStack, SiteKind};
use crate::features::direction::Concept;
use crate::graph::SILENT;
use crate::graph::layout::Cut;
use crate::graph::marks::Marks;
use crate::graph::readers::Attention;
use crate::model::chat::Conversation;
use crate::model::matrix::Held;

/// Everything the user decided about one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Desk {
    /// What the model is opened by.
    pub model: String,
    /// How its weights are held in memory.
    pub weights: Held,
    /// Hash of its weights; `None` until it has been opened.
    #[serde(with = "hex")]
    pub hash: Option<u64>,
    pub prompt: String,
    /// Token ids that take the prompt's place; typing a prompt takes theirs.
    pub ids: Option<Vec<u32>>,
    /// A conversation that takes the prompt's place; the prompt then says what was said last.
    pub conversation: Option<Conversation>,
    /// The conversation that was there before the plain prompt; it comes back when one is held again.
    pub closed: Option<Conversation>,
    /// Thinking in a conversation is folded away.
    pub folds_thinking: bool,
    /// Token to explain; empty for the model's own favourite.
    pub answer: String,
    /// Token to compare it with; may be empty.
    pub wrong: String,
    /// The prompt to compare with; empty for none.
    pub corrupted: String,
    /// For each token of the prompt its counterpart in the corrupted one, where the user has changed what was found.
    pub alignment: Option<Alignment>,
    /// What is changed while the model runs.
    #[serde(with = "shared")]
    pub stack: Arc<EditStack>,
    /// Which run the views show.
    pub show: Show,
    pub pinned: Pinned,
    /// A head was chosen by hand. Until then the one that adds most to the answer is pinned.
    pub chose_head: bool,
    /// That head has been found.
    pub found_head: bool,
    /// A position was chosen that is not the end. Until then the end is pinned, and stays so while the run grows.
    pub chose_pos: bool,
    /// The circuit that is being collected.
    pub draft: Draft,
    /// Another circuit to compare it with, and what it is called.
    pub compared: Option<(String, Draft)>,
    pub circuit: CircuitSettings,
    pub graph: GraphSettings,
    pub patching: PatchSettings,
    pub statistic: Statistic,
    pub projection: projection::Settings,
    /// The directions whose geometry is shown.
    pub geometry: Directions,
    /// How text is generated.
    pub sampling: Sampling,
    /// Most tokens that are generated.
    pub limit: Limit,
    pub features: FeaturesDesk,
    /// Settings of views that keep their own, by the view's name.
    pub views: BTreeMap<String, Value>,
    /// What the user wrote beside views, by the view's name.
    pub notes: BTreeMap<String, String>,
}

impl Desk {
    /// True if there is nothing to run: neither a prompt nor what takes its place.
    pub fn is_blank(&self) -> bool {
        self.prompt.is_empty() && self.ids.is_none() && self.conversation.is_none()
    }

    /// Makes the prompt a plain text again: what was of its tokens goes.
    pub fn ask_plainly(&mut self) {
        (self.alignment, self.ids) = (None, None);
        self.converse(None);
    }

    /// Puts another conversation, or none, in the prompt's place. One that goes is kept.
    pub fn converse(&mut self, conversation: Option<Conversation>) {
        let before = std::mem::replace(&mut self.conversation, conversation);
        if self.conversation.is_none() && before.is_some() {
            self.closed = before;
        }
    }
}

/// What is shared is written as what it is.
pub(super) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        (**value).serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// A hash is written in hexadecimal, as everywhere else: readers of JSON lose digits of numbers above 2^53.
pub(super) mod hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        hash.map(super::key).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|t| u64::from_str_radix(&t, 16).map_err(D::Error::custom)).transpose()
    }
}

/// How a parked desk is found.
pub fn key(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Most tokens that are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit(pub usize);

impl Default for Limit {
    fn default() -> Self {
        Self(30)
    }
}

/// Which run the views show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    #[default]
    Clean,
    Corrupted,
    Edited,
    /// Edited − base where there are edits, else clean − corrupted.
    Difference,
}

impl Show {
    pub const ALL: [Self; 4] = [Self::Clean, Self::Corrupted, Self::Edited, Self::Difference];

    pub fn label(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Corrupted => "corrupted",
            Self::Edited => "edited",
            Self::Difference => "difference",
        }
    }
}

/// What is pinned by clicks and keys, and kept until changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pinned {
    /// Position in the prompt.
    pub pos: usize,
    pub layer: usize,
    /// `None`: the mean over the layer's heads.
    pub head: Option<usize>,
    /// Mean over all heads of the model instead of one layer.
    pub all_heads: bool,
    /// Position attended to.
    pub key: Option<usize>,
    pub neuron: Option<usize>,
    /// What was chosen last, which the inspector puts first.
    pub focus: Focus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Focus {
    #[default]
    Token,
    Head,
    Neuron,
}

impl Pinned {
    /// The pattern that is shown large.
    pub fn which(&self) -> PatternChoice {
        match self.head {
            _ if self.all_heads => PatternChoice::ModelMean,
            Some(h) => PatternChoice::Head(self.layer, h),
            None => PatternChoice::LayerMean(self.layer),
        }
    }
}

/// What a sweep does at each cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intervention {
    Patch,
    Ablate(Ablation),
}

/// Which numbers the patching view draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    #[default]
    Exact,
    /// Attribution patching: an approximation.
    Approximate,
    /// Approximate − exact.
    Gap,
}

/// What the patching view asks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PatchSettings {
    /// `None`: patching where there are two prompts, else zero ablation.
    pub intervention: Option<Intervention>,
    pub site: SiteKind,
    pub by: Axes,
    pub metric: MetricKind,
    pub source: Source,
}

impl Default for PatchSettings {
    fn default() -> Self {
        Self {
            intervention: None,
            site: SiteKind::Z,
            by: Axes::LayerHead,
            metric: MetricKind::LogitDifference,
            source: Source::Exact,
        }
    }
}

/// Which prediction the graph view traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GraphTarget {
    /// The answer against the wrong answer where both are given, else the answer, else the top logits.
    #[default]
    Auto,
    Top,
    Answer,
    /// Tokens that are listed; on features.
    Tokens,
    /// A direction behind the final norm; on features.
    Direction,
}

/// A direction that a graph explains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GraphDirection {
    /// In a file.
    File(String),
    /// One that was found or opened, at a layer.
    Found {
        #[serde(with = "shared")]
        concept: Arc<Concept>,
        layer: usize,
    },
}

impl GraphTarget {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Auto, "answer − wrong"), (Self::Answer, "answer"), (Self::Top, "top logits")];
    /// What else can be traced to features.
    pub const ON_FEATURES: [(Self, &'static str); 2] = [(Self::Tokens, "tokens"), (Self::Direction, "a direction")];
}

/// What the graph view shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphSettings {
    pub target: GraphTarget,
    /// Tokens that are explained, with commas between them; the space before each is part of it.
    pub tokens: String,
    pub direction: Option<GraphDirection>,
    /// Features that are traced at most; `None` for all where they fit.
    pub most: Option<usize>,
    pub attention: Attention,
    pub cut: Cut,
    /// The graph is of a file.
    pub file: Option<String>,
    /// Predictions are traced to the features of this set of transcoders.
    pub set: Option<String>,
    /// First positions whose features and errors are left out, where it is not the usual number.
    pub silent: Option<usize>,
    /// The strongest links between features that are drawn are put to the test.
    pub audit: bool,
    /// What was said about the nodes of a graph, by what the graph is of: a file's path, or the tokens of a prompt.
    pub marks: BTreeMap<String, Marks>,
}

impl GraphSettings {
    /// First positions whose features and errors are left out.
    pub fn silent(&self) -> usize {
        self.silent.unwrap_or(SILENT)
    }
}

/// How circuits are tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CircuitSettings {
    /// What stands in for everything outside the circuit.
    pub outside: Ablation,
    /// The prompt set that circuits are tried on as well.
    pub set: Option<String>,
    pub curve: bool,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self { outside: Ablation::Resample, set: None, curve: false }
    }
}
