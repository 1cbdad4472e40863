//! Labelled texts: two or more classes, and which texts are held out.

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, short};
use crate::features::direction::concept::{self, ConceptSet, Example};
use crate::files::read_text;

/// Bytes of a file of labelled texts.
const MOST: u64 = 1 << 28;
/// Share of texts that is held out where the file does not say which.
const HELD_OUT: f64 = 0.25;

/// Labelled texts that ship with the program: the sets of directions, and one whose classes the model answers differently.
pub const SHIPPED: [(&str, &str); 4] = [
    concept::SHIPPED[0],
    concept::SHIPPED[1],
    concept::SHIPPED[2],
    ("number", include_str!("../../assets/probes/number.tsv")),
];

/// Where labelled texts come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Texts {
    /// A shipped set by its name, or a file.
    Set(String),
    /// What such a file would hold.
    Typed(String),
}

impl Texts {
    /// Reads them; see [`LabelledSet::open`].
    ///
    /// # Errors
    /// As [`LabelledSet::open`].
    pub fn open(&self, seed: u64) -> Result<LabelledSet> {
        match self {
            Self::Set(spec) => LabelledSet::open(spec, seed),
            Self::Typed(text) => LabelledSet::parse("typed", text, Path::new("the typed texts"), seed),
        }
    }
}

/// Texts with a class each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledSet {
    pub name: String,
    pub texts: Vec<String>,
    /// The number of each text's class.
    pub labels: Vec<usize>,
    /// The classes' names, sorted.
    pub classes: Vec<String>,
    /// Texts that are held out from fitting.
    pub test: Vec<bool>,
}

impl LabelledSet {
    /// A shipped set by name, or a file with a header line that names the columns `label` and `text`, and perhaps `group`
    /// and `split` (train or test), separated by tabs. Without a split a quarter of the texts is held out, drawn by `seed`,
    /// as many of each class as can be; texts of one group stay on one side.
    ///
    /// # Errors
    /// A file that is none, fewer than two classes, or a class that is missing on a side.
    pub fn open(spec: &str, seed: u64) -> Result<Self> {
        if let Some((name, text)) = SHIPPED.iter().find(|(n, _)| *n == spec) {
            return Self::parse(name, text, Path::new(spec), seed);
        }
        let path = Path::new(spec);
        let name = path.file_stem().map_or_else(|| spec.to_owned(), |s| s.to_string_lossy().into_owned());
        Self::parse(&name, &read_text(path, MOST)?, path, seed)
    }

    fn parse(name: &str, text: &str, path: &Path, seed: u64) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: "labelled texts", what };
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').map(str::trim).collect();
        let column = |name: &str| header.iter().position(|h| *h == name);
        let (Some(label), Some(words)) = (column("label"), column("text")) else {
            return Err(malformed(
                "its first line must name the columns label and text, separated by a tab".to_owned(),
            ));
        };
        let (group, split) = (column("group"), column("split"));
        let (mut texts, mut names, mut groups, mut sides) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, line) in lines.enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let cells: Vec<&str> = line.split('\t').collect();
            if let Some(wrong) = concept::beyond(&cells, header.len()) {
                return Err(malformed(format!("line {} {wrong}", i + 2)));
            }
            let cell = |at: Option<usize>| at.and_then(|at| cells.get(at)).map(|c| c.trim()).filter(|c| !c.is_empty());
            let name = cell(Some(label)).ok_or_else(|| malformed(format!("line {} has no label", i + 2)))?;
            let text = cells.get(words).map(|t| t.replace("\\n", "\n")).filter(|t| !t.trim().is_empty());
            texts.push(text.ok_or_else(|| malformed(format!("line {} has no text", i + 2)))?);
            names.push(name.to_owned());
            groups.push(cell(group).map_or_else(|| format!("\0{i}"), str::to_owned));
            sides.push(match cell(split) {
                Some("train") => Some(false),
                Some("test") => Some(true),
                Some(other) => {
                    return Err(malformed(format!("line {} has the split {}, not train or test", i + 2, short(other))));
                }
                None => None,
            });
        }
        let mut classes = names.clone();
        classes.sort();
        classes.dedup();
        let labels: Vec<usize> = names.iter().map(|n| classes.binary_search(n).unwrap_or(0)).collect();
        let test = match sides.iter().copied().collect::<Option<Vec<bool>>>() {
            Some(sides) if split.is_some() => sides,
            _ if sides.iter().any(Option::is_some) => {
                return Err(malformed("some lines have a split and others have none".to_owned()));
            }
            _ => drawn(&labels, classes.len(), &groups, seed),
        };
        Self { name: name.to_owned(), texts, labels, classes, test }.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.classes.len() < 2 {
            return Err(Error::request(format!("the set {} has a single class; give two or more", self.name)));
        }
        if let Some((class, side, there)) = lacking(&self.labels, self.classes.len(), &self.test) {
            return Err(Error::request(format!(
                "the set {} has {there} {} texts of the class {}; give two or more on each side, or smaller groups",
                self.name,
                if side { "held-out" } else { "training" },
                self.classes.get(class).map(|name| short(name)).unwrap_or_default()
            )));
        }
        Ok(self)
    }

    /// Texts that are held out.
    pub fn held_out(&self) -> usize {
        self.test.iter().filter(|t| **t).count()
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The texts as a set whose classes do not matter.
    pub(super) fn plain(&self) -> ConceptSet {
        let example = |text: &String| Example { text: text.clone(), positive: false, test: false };
        ConceptSet { name: self.name.clone(), examples: self.texts.iter().map(example).collect() }
    }
}

/// Texts of each class that a side must have.
const LEAST: usize = 2;
/// Orders of the groups that are tried.
const TRIES: usize = 32;

/// Draws the texts that are held out: groups in a random order, each taken where its classes still lack held-out texts; the
/// first order that leaves enough texts of each class on both sides.
fn drawn(labels: &[usize], classes: usize, groups: &[String], seed: u64) -> Vec<bool> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(i);
    }
    let mut all: Vec<Vec<usize>> = members.into_values().collect();
    let mut wanted = vec![0i64; classes];
    labels.iter().for_each(|l| wanted[*l] += 1);
    wanted.iter_mut().for_each(|w| *w = ((*w as f64 * HELD_OUT).round() as i64).max(LEAST as i64));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut test = Vec::new();
    for _ in 0..TRIES {
        all.shuffle(&mut rng);
        test = taken(labels, &all, wanted.clone());
        if lacking(labels, classes, &test).is_none() {
            break;
        }
    }
    test
}

/// Groups in this order, each held out where that brings the held-out counts nearer to what is wanted, or no further away
/// while there is none of a class.
fn taken(labels: &[usize], groups: &[Vec<usize>], mut wanted: Vec<i64>) -> Vec<bool> {
    let first = wanted.clone();
    let mut test = vec![false; labels.len()];
    for group in groups {
        let mut own: BTreeMap<usize, i64> = BTreeMap::new();
        group.iter().for_each(|i| *own.entry(labels[*i]).or_default() += 1);
        let gain: i64 = own.iter().map(|(class, n)| wanted[*class].abs() - (wanted[*class] - n).abs()).sum();
        let none_yet = group.iter().any(|i| wanted[labels[*i]] == first[labels[*i]]);
        if gain > 0 || gain == 0 && none_yet {
            own.iter().for_each(|(class, n)| wanted[*class] -= n);
            group.iter().for_each(|i| test[*i] = true);
        }
    }
    test
}

/// A class with too few texts on a side: the class, whether that side is held out, and how many there are.
fn lacking(labels: &[usize], classes: usize, test: &[bool]) -> Option<(usize, bool, usize)> {
    let mut there = vec![[0usize; 2]; classes];
    labels.iter().zip(test).for_each(|(label, held_out)| there[*label][usize::from(*held_out)] += 1);
    let sides = there.iter().enumerate().flat_map(|(class, n)| [(class, false, n[0]), (class, true, n[1])]);
    sides.into_iter().find(|(.., n)| *n < LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_together_and_classes_are_spread() {
        let mut text = "label\tgroup\ttext\n".to_owned();
        for i in 0..60 {
            text.push_str(&format!("{}\tg{}\ttext {i}\n", ["x", "y", "z"][i % 3], i / 6));
        }
        let set = LabelledSet::parse("t", &text, Path::new("t.tsv"), 4).unwrap();
        assert_eq!((set.len(), set.classes.len()), (60, 3));
        for group in 0..10 {
            let sides = &set.test[6 * group..6 * (group + 1)];
            assert!(sides.iter().all(|t| *t == sides[0]));
        }
        let held = set.test.iter().filter(|t| **t).count();
        assert!((12..=18).contains(&held), "{held}");
        assert!(set != LabelledSet::parse("t", &text, Path::new("t.tsv"), 5).unwrap());
        // Whatever the order of large and small groups, both sides have some of each class.
        for sizes in [&[6, 6][..], &[9, 3, 2, 2], &[2, 2], &[8, 1, 1]] {
            let mut few = "label\tgroup\ttext\n".to_owned();
            for (class, (group, size)) in ["x", "y"].iter().flat_map(|c| sizes.iter().enumerate().map(move |s| (c, s)))
            {
                (0..*size).for_each(|i| few.push_str(&format!("{class}\t{class}{group}\ttext {i}\n")));
            }
            (0..20).for_each(|seed| drop(LabelledSet::parse("t", &few, Path::new("t.tsv"), seed).unwrap()));
        }
        let parse = |t: &str| LabelledSet::parse("t", t, Path::new("t.tsv"), 0).unwrap_err().to_string();
        assert!(parse("text\nabc").contains("label"));
        assert!(parse("label\ttext\na\tx\na\ty").contains("single class"));
        assert!(parse("label\tsplit\ttext\na\tlater\tx").contains("line 2"));
        assert!(parse("label\ttext\na\tx\nb\ty").contains("two or more"));
        for (name, _) in SHIPPED {
            let set = LabelledSet::open(name, 0).unwrap();
            assert!(set.classes == ["0", "1"] || set.classes == ["many", "one"], "{name}");
        }
        let typed = Texts::Typed(text.clone()).open(4).unwrap();
        assert_eq!((typed.texts, typed.test), (set.texts, set.test));
        assert!(Texts::Typed("label\ttext\na".to_owned()).open(0).unwrap_err().to_string().contains("typed texts"));
    }
}
