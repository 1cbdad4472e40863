//! Sets of texts that have a concept or lack it, and what a model holds at the end of each.

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::engine::hooks::Capture;
use crate::engine::kernels::with_values;
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result, short};
use crate::features::harvest::PASS;
use crate::features::rows::Rows;
use crate::files::{LARGE, read_text};
use crate::model::Model;
use crate::progress::Progress;

/// Example sets that ship with the program.
pub const SHIPPED: [(&str, &str); 3] = [
    ("sentiment", include_str!("../../../assets/directions/sentiment.tsv")),
    ("royalty", include_str!("../../../assets/directions/royalty.tsv")),
    ("code-vs-prose", include_str!("../../../assets/directions/code-vs-prose.tsv")),
];

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub text: String,
    /// Whether it has the concept.
    pub positive: bool,
    /// Whether it is held out from fitting.
    pub test: bool,
}

/// A set of texts with and without a concept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConceptSet {
    pub name: String,
    pub examples: Vec<Example>,
}

/// Of texts without a split every so many-th is held out.
const TEST_EVERY: usize = 4;

impl ConceptSet {
    /// A shipped set by name, or a file with columns `label` (1 or 0), `text`, and perhaps `split` (train or test),
    /// separated by tabs under a header line.
    ///
    /// # Errors
    /// A file that is none, or one class without texts.
    pub fn open(spec: &str) -> Result<Self> {
        if let Some((name, text)) = SHIPPED.iter().find(|(n, _)| *n == spec) {
            return Self::parse(name, text, Path::new(spec));
        }
        let path = Path::new(spec);
        let text = read_text(path, LARGE)?;
        let name = path.file_stem().map_or_else(|| spec.to_owned(), |s| s.to_string_lossy().into_owned());
        Self::parse(&name, &text, path)
    }

    fn parse(name: &str, text: &str, path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: "example set", what };
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        let column = |names: &[&str]| header.iter().position(|h| names.contains(&h.trim()));
        let (Some(label), Some(words)) = (column(&["label"]), column(&["text", "text_with_backslash_n"])) else {
            return Err(malformed(
                "its first line must name the columns label and text, separated by a tab".to_owned(),
            ));
        };
        let split = column(&["split"]);
        let (mut examples, mut counts) = (Vec::new(), [0usize; 2]);
        for (i, line) in lines.enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let cells: Vec<&str> = line.split('\t').collect();
            if let Some(wrong) = beyond(&cells, header.len()) {
                return Err(malformed(format!("line {} {wrong}", i + 2)));
            }
            let positive = match cells.get(label).map(|c| c.trim()) {
                Some("1") => true,
                Some("0") => false,
                other => {
                    let label = other.unwrap_or_default();
                    return Err(malformed(format!("line {} has the label `{label}`, not 1 or 0", i + 2)));
                }
            };
            let text = cells.get(words).map(|t| t.replace("\\n", "\n")).filter(|t| !t.trim().is_empty());
            let text = text.ok_or_else(|| malformed(format!("line {} has no text", i + 2)))?;
            counts[usize::from(positive)] += 1;
            let test = match split.and_then(|s| cells.get(s)) {
                Some(s) => s.trim() == "test",
                None => counts[usize::from(positive)].is_multiple_of(TEST_EVERY),
            };
            examples.push(Example { text, positive, test });
        }
        Self { name: name.to_owned(), examples }.checked()
    }

    /// From two lists, the first with the concept.
    ///
    /// # Errors
    /// A list with fewer than four texts.
    pub fn from_lists(name: &str, with: &[String], without: &[String]) -> Result<Self> {
        let side = |texts: &[String], positive| {
            let kept = texts.iter().filter(|t| !t.trim().is_empty());
            kept.enumerate()
                .map(|(i, text)| Example { text: text.clone(), positive, test: i % TEST_EVERY == TEST_EVERY - 1 })
                .collect::<Vec<_>>()
        };
        let examples = [side(with, true), side(without, false)].concat();
        Self { name: name.to_owned(), examples }.checked()
    }

    fn checked(self) -> Result<Self> {
        for (positive, test) in [(true, true), (true, false), (false, true), (false, false)] {
            if !self.examples.iter().any(|e| e.positive == positive && e.test == test) {
                return Err(Error::request(format!(
                    "the set {} has no {} text {} the concept; give at least four of each",
                    self.name,
                    if test { "held-out" } else { "training" },
                    if positive { "with" } else { "without" },
                )));
            }
        }
        Ok(self)
    }
}

/// What is wrong with a line that has more columns than the first line names; what stands there would be lost.
pub fn beyond(cells: &[&str], columns: usize) -> Option<String> {
    let more = cells.iter().skip(columns).find(|c| !c.trim().is_empty())?;
    Some(format!(
        "has more columns than the first line names: {:?} stands behind a tab; take the tab out of the text",
        short(more)
    ))
}

/// Which position stands for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The last token.
    Last,
    /// The mean over all tokens but the first.
    #[default]
    Mean,
}

/// What the model holds for each text, at a site of every layer.
pub struct Held {
    pub kind: SiteKind,
    /// By layer, of those that were asked for, [texts, width].
    pub layers: Vec<Tensor>,
}

impl Pool {
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Mean => "mean",
        }
    }

    /// The first of a text's positions that stand for it; all behind it do as well.
    pub fn first(self, len: usize) -> usize {
        match self {
            Self::Last => len.saturating_sub(1),
            // A single token is all there is.
            Self::Mean => usize::from(len > 1),
        }
    }
}

/// Runs every text of a set through the model. One step of progress a text.
///
/// # Errors
/// Texts that are too long, sites without a vector a position, or [`Error::Cancelled`].
pub fn held(model: &Model, set: &ConceptSet, kind: SiteKind, pool: Pool, progress: &Progress) -> Result<Held> {
    let layers: Vec<usize> = (0..model.config.n_layers).collect();
    held_of(model, begun(model, set)?, (kind, &layers), pool, progress)
}

/// As [`held`], at some layers, of texts as the model reads them, each with its document's number.
///
/// # Errors
/// As [`held`].
pub fn held_of(
    model: &Model,
    texts: Vec<(Vec<u32>, u32)>,
    (kind, layers): (SiteKind, &[usize]),
    pool: Pool,
    progress: &Progress,
) -> Result<Held> {
    let n = texts.len();
    let sites: Vec<Site> = layers.iter().map(|l| Site::new(kind, *l)).collect();
    sites.iter().try_for_each(|site| crate::features::Place::from(*site).check(&model.config))?;
    let width = crate::features::Place::from(Site::new(kind, 0)).width(&model.config);
    let last = layers.iter().copied().max().unwrap_or(0);
    progress.expect(n as u64);
    texts.iter().try_for_each(|(ids, _)| model.network().check(ids))?;
    let rows = Rows::new(texts);
    let mut all = vec![vec![0f32; n * width]; sites.len()];
    for batch in rows.batches(PASS) {
        let some = rows.some(&batch)?;
        let len = some.len;
        let mut capture = Capture::sites(sites.iter().copied());
        crate::features::harvest::run_to(model, &some.rows(), last, &mut capture, progress)?;
        for (site, out) in sites.iter().zip(&mut all) {
            let value = capture.values.get(site).ok_or_else(|| Error::failed("a layer was not run"))?;
            with_values(&value.contiguous()?, |v| {
                for (i, text) in batch.iter().zip(v.chunks_exact(len * width)) {
                    pooled(text, width, pool, &mut out[i * width..(i + 1) * width]);
                }
            })?;
        }
        progress.step(batch.len() as u64)?;
    }
    let layers = all
        .into_iter()
        .map(|v| Ok(Tensor::from_vec(v, (n, width), &candle_core::Device::Cpu)?))
        .collect::<Result<_>>()?;
    Ok(Held { kind, layers })
}

/// What words are read after.
pub const CARRIER: &str = "The";

/// Texts as the model reads them. The first position of a row is an outlier in many models, whatever stands there: where
/// some texts are single tokens, as words can be, all of them are read after [`CARRIER`]. Where texts begin with a token of
/// the tokenizer's own no word stands first.
pub fn begun(model: &Model, set: &ConceptSet) -> Result<Vec<(Vec<u32>, u32)>> {
    let encoded = |text: &str| Ok((model.encode(text, false)?, 0));
    let texts = set.examples.iter().map(|e| encoded(&e.text)).collect::<Result<Vec<_>>>()?;
    if texts.iter().all(|(ids, _)| ids.len() > 1) {
        return Ok(texts);
    }
    set.examples.iter().map(|e| encoded(&format!("{CARRIER} {}", e.text.trim_start()))).collect()
}

/// Says so where sentences are read after [`CARRIER`], because a text beside them is a single token.
///
/// # Errors
/// The tokenizer's.
pub fn carried(model: &Model, set: &ConceptSet) -> Result<Option<String>> {
    let sentence = |e: &Example| e.text.trim().contains(char::is_whitespace);
    if !set.examples.iter().any(sentence) {
        return Ok(None);
    }
    for e in &set.examples {
        if model.encode(&e.text, false)?.len() < 2 {
            return Ok(Some(format!(
                "{:?} is a single token, and the first token of a row is unlike all else: every text is read behind the word \
                 {CARRIER}, sentences as well.",
                short(&e.text)
            )));
        }
    }
    Ok(None)
}

fn pooled(text: &[f32], width: usize, pool: Pool, out: &mut [f32]) {
    let rows: Vec<&[f32]> = text.chunks_exact(width).collect();
    let rows = &rows[pool.first(rows.len())..];
    out.fill(0.0);
    for row in rows {
        out.iter_mut().zip(*row).for_each(|(o, v)| *o += v / rows.len() as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_sets_are_whole_and_bad_ones_refused() {
        for (name, _) in SHIPPED {
            let set = ConceptSet::open(name).unwrap();
            assert!(set.examples.len() >= 300, "{name}");
            let train: std::collections::HashSet<_> =
                set.examples.iter().filter(|e| !e.test).map(|e| &e.text).collect();
            assert!(set.examples.iter().filter(|e| e.test).all(|e| !train.contains(&e.text)), "{name}");
        }
        let parse = |t: &str| ConceptSet::parse("x", t, Path::new("x.tsv"));
        assert!(parse("text\nabc").unwrap_err().to_string().contains("label"));
        assert!(parse("label\ttext\n2\tabc").unwrap_err().to_string().contains("line 2"));
        assert!(parse("label\ttext\n1\tabc").unwrap_err().to_string().contains("at least four"));
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let set = ConceptSet::from_lists("w", &words("king queen crown throne"), &words("dog cat tree stone")).unwrap();
        assert_eq!(set.examples.iter().filter(|e| e.test).count(), 2);
        assert!(ConceptSet::from_lists("w", &words("king"), &words("dog")).is_err());
    }

    #[test]
    fn pooling_leaves_the_first_out() {
        let mut out = [0.0; 2];
        pooled(&[9.0, 9.0, 1.0, 2.0, 3.0, 4.0], 2, Pool::Mean, &mut out);
        assert_eq!(out, [2.0, 3.0]);
        pooled(&[9.0, 9.0, 1.0, 2.0, 3.0, 4.0], 2, Pool::Last, &mut out);
        assert_eq!(out, [3.0, 4.0]);
    }
}
