//! Lessons: guided tours in plain files, `assets/lessons/*.toml`. A new lesson is a new file there.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;

use super::recent;
use crate::error::{Error, Result};

mod files {
    include!(concat!(env!("OUT_DIR"), "/lessons.rs"));
}

/// A guided tour.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lesson {
    pub title: String,
    /// What one will have seen, in one sentence.
    pub summary: String,
    pub minutes: u32,
    /// Place in the list.
    pub order: u32,
    /// Part of the name of a model that must be there.
    pub needs: Option<String>,
    #[serde(default)]
    pub references: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub title: String,
    /// Paragraphs, separated by empty lines.
    pub text: String,
    /// A view or a control to be outlined.
    pub highlight: Option<String>,
    #[serde(default)]
    pub state: Prepared,
    pub question: Option<Question>,
}

/// What the program shows when a step is entered.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// `model`, `features`, `superposition` or `scratch`.
    pub workspace: Option<String>,
    /// Name of a view.
    pub view: Option<String>,
    /// A preset of the superposition lab, which is trained.
    pub preset: Option<String>,
    /// The toy model to select.
    pub instance: Option<usize>,
    /// A built-in model, or part of the name of one that must be there.
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub answer: Option<String>,
    pub wrong: Option<String>,
    pub corrupted: Option<String>,
    /// LAYER.HEAD
    pub head: Option<String>,
    pub layer: Option<usize>,
    pub pos: Option<usize>,
    pub neuron: Option<usize>,
    /// LAYER.HEAD whose output is set to zero.
    pub zero_head: Option<String>,
    #[serde(default)]
    pub no_edits: bool,
    /// `clean`, `corrupted`, `edited` or `difference`.
    pub show: Option<String>,
    #[serde(default)]
    pub graph: bool,
    /// A model to be grown from scratch.
    pub lab: Option<String>,
    /// A dictionary that ships.
    pub dictionary: Option<String>,
    /// The feature of it whose page is shown.
    pub feature: Option<u32>,
    /// A shipped text that is scanned for examples of its features, unless there are some.
    pub scan: Option<String>,
}

/// Predict, then see.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub ask: String,
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub right: usize,
    pub reveal: String,
}

/// Controls that can be outlined, beside the views.
pub const CONTROLS: [&str; 8] =
    ["dictionary", "transport", "settings", "prompt", "answer", "strip", "inspector", "status"];

/// LAYER.HEAD as two numbers.
pub fn head(text: &str) -> Option<(usize, usize)> {
    text.split_once('.').and_then(|(l, h)| Some((l.parse().ok()?, h.parse().ok()?)))
}

impl Lesson {
    /// # Errors
    /// [`Error::Request`] that names the file and says what is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let bad = |what: String| Error::request(format!("the lesson {name} cannot be used: {what}"));
        let lesson: Self = toml::from_str(text).map_err(|e| bad(e.to_string().replace('\n', " ")))?;
        if lesson.steps.is_empty() {
            return Err(bad("it has no steps".to_owned()));
        }
        for (k, step) in lesson.steps.iter().enumerate() {
            let bad = |what: String| bad(format!("step {}: {what}", k + 1));
            if let Some(q) = &step.question
                && q.right >= q.choices.len()
            {
                return Err(bad(format!("choice {} does not exist", q.right)));
            }
            let s = &step.state;
            for h in [&s.head, &s.zero_head].into_iter().flatten() {
                head(h).ok_or_else(|| bad(format!("`{h}` is not LAYER.HEAD")))?;
            }
        }
        Ok(lesson)
    }
}

/// The lessons that ship, in their order. A file that cannot be used is left out; a test finds it.
pub fn shipped() -> &'static [Lesson] {
    static ALL: OnceLock<Vec<Lesson>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut list: Vec<Lesson> = files::FILES.iter().filter_map(|(n, t)| Lesson::parse(n, t).ok()).collect();
        list.sort_by_key(|l| l.order);
        list
    })
}

/// Looks for a model whose file or folder has `part` in its name: among those opened lately, and where
/// `scripts/fetch-models` puts them.
pub fn find_model(part: &str) -> Option<PathBuf> {
    let part = part.to_lowercase();
    let fits = |p: &PathBuf| p.exists() && p.to_string_lossy().to_lowercase().contains(&part);
    let lately = recent::load(recent::MODELS).into_iter().map(PathBuf::from);
    let cache = std::env::var_os("CIRCUITSCOPE_MODELS").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| directories::BaseDirs::new().map(|d| d.home_dir().join(".cache")))?;
        Some(base.join("circuitscope/models"))
    });
    let fetched =
        cache.into_iter().filter_map(|c| std::fs::read_dir(c).ok()).flatten().filter_map(|e| Some(e.ok()?.path()));
    let is_model = |p: &PathBuf| p.is_dir() || p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    lately.chain(fetched.filter(is_model)).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lesson_can_be_used() {
        assert!(files::FILES.len() >= 5);
        for (name, text) in files::FILES {
            let lesson = Lesson::parse(name, text).unwrap();
            assert!(lesson.steps.len() >= 4, "{name} is short");
            assert!(lesson.steps.iter().any(|s| s.question.is_some()), "{name} asks nothing");
            assert!(!lesson.references.is_empty(), "{name} names no source");
        }
        assert_eq!(shipped().len(), files::FILES.len());
    }

    #[test]
    fn bad_lessons_are_one_sentence() {
        let head = "title = 'a'\nsummary = 'b'\nminutes = 1\norder = 1\n";
        for (text, part) in [
            ("title = 'a'", "cannot be used"),
            (&format!("{head}steps = []"), "no steps"),
            (&format!("{head}[[steps]]\ntitle = 'x'\ntext = 'y'\ncolour = 1"), "colour"),
            (
                &format!(
                    "{head}[[steps]]\ntitle = 'x'\ntext = 'y'\n[steps.question]\nask = 'q'\nchoices = ['a']\nright = 1\nreveal = 'r'"
                ),
                "step 1",
            ),
            (&format!("{head}[[steps]]\ntitle = 'x'\ntext = 'y'\n[steps.state]\nhead = 'one'"), "LAYER.HEAD"),
        ] {
            let error = Lesson::parse("x.toml", text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("x.toml") && !error.contains('\n'), "{error}");
        }
    }
}
