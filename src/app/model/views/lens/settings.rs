//! What the lens view keeps in the document: which lens is read, which files are open, what is fitted.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lenses::fit::{SKIP, Settings, TOKENS};
use crate::lenses::open::{LensSource, shipped};
use crate::lenses::question::FitOf;
use crate::model::Model;

/// A kind of lens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    #[default]
    Logit,
    Jacobian,
    Tuned,
}

impl Through {
    pub const ALL: [Self; 3] = [Self::Logit, Self::Jacobian, Self::Tuned];

    pub fn name(self) -> &'static str {
        match self {
            Self::Logit => "logit lens",
            Self::Jacobian => "Jacobian lens",
            Self::Tuned => "tuned lens",
        }
    }

    pub fn help(self) -> &'static str {
        match self {
            Self::Logit => "reads each layer as if it were the last one",
            Self::Jacobian => {
                "takes each layer to the last one by its average effect there: reads what the model is about to say"
            }
            Self::Tuned => {
                "takes each layer to the last one by a map that was trained to give the model's own prediction"
            }
        }
    }
}

/// The cells whose faithfulness is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    #[default]
    None,
    Layer,
    Token,
    All,
}

impl Scope {
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::None, "–"), (Self::Layer, "this layer"), (Self::Token, "this token"), (Self::All, "all cells")];
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LensSettings {
    pub through: Through,
    /// The lens whose numbers are taken away.
    pub minus: Option<Through>,
    /// Files, or names of lenses that ship.
    pub jacobian: Option<String>,
    pub tuned: Option<String>,
    pub faithful: Scope,
    /// Faithfulness is that of a swap with the answer, not of taking out.
    pub swapped: bool,
    /// Texts that a lens is fitted on, and prompts of them.
    pub text: String,
    pub prompts: usize,
}

impl Default for LensSettings {
    fn default() -> Self {
        Self {
            through: Through::default(),
            minus: None,
            jacobian: None,
            tuned: None,
            faithful: Scope::default(),
            swapped: false,
            text: "mixed".to_owned(),
            prompts: 64,
        }
    }
}

impl LensSettings {
    /// True where the kind is looked at.
    pub fn shows(&self, kind: Through) -> bool {
        self.through == kind || self.minus == Some(kind)
    }

    /// The file of a kind.
    pub fn file(&self, kind: Through) -> Option<&String> {
        match kind {
            Through::Logit => None,
            Through::Jacobian => self.jacobian.as_ref(),
            Through::Tuned => self.tuned.as_ref(),
        }
    }

    /// Where a kind's lens is from: a file, or what ships for the model.
    pub fn source(&self, kind: Through, model: &Model) -> Option<LensSource> {
        let file = self.file(kind).map(|f| LensSource::of(f));
        file.or_else(|| (kind == Through::Jacobian).then(|| shipped(model)).flatten())
    }

    /// The fit that these settings ask for.
    pub fn fit(&self, model: &Arc<Model>, folder: &Path) -> FitOf {
        let texts = vec![self.text.trim().to_owned()];
        let settings = Settings { layers: Vec::new(), skip: SKIP, tokens: TOKENS, texts: texts.clone(), shard: (0, 1) };
        FitOf { model: model.clone(), texts, settings, limit: Some(self.prompts), folder: folder.to_owned() }
    }
}
