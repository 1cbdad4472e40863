//! Prompt sets: templates that generate pairs of a clean and a corrupted prompt with their answers.
//!
//! A circuit that was found on one prompt may know that prompt only. A set tries it on others of the same task: the
//! template's slots are filled by a seeded draw, and pairs that this model cannot use (an answer of several tokens,
//! prompts of different length) are drawn again. A set is a small TOML file:
//!
//! ```toml
//! title = "Indirect object"
//! about = "what it is, and where it comes from"
//! clean = "When {name1} and {name2} went to the {place}, {name2} gave a drink to"
//! corrupt = "When {name1} and {name2} went to the {place}, {name1} gave a drink to"
//! answer = " {name1}"
//! wrong = " {name2}"
//!
//! [lists]                      # a slot draws from the list of its name; {name1} and {name2} differ
//! name = ["Mary", "John"]
//! place = ["store"]
//!
//! [[rows]]                     # or slots that belong together
//! start = "4"
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::file::PromptPair;
use crate::error::{Error, Result};
use crate::files::{SMALL, read_text};
use crate::model::Model;
use crate::progress::Progress;

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PromptSet {
    pub title: String,
    #[serde(default)]
    pub about: String,
    pub clean: String,
    pub corrupt: String,
    pub answer: String,
    pub wrong: String,
    #[serde(default)]
    pub lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub rows: Vec<BTreeMap<String, String>>,
}

/// A set that comes with the program.
pub struct Shipped {
    /// Its name on the command line.
    pub name: &'static str,
    text: &'static str,
}

/// Every shipped set.
pub const SHIPPED: &[Shipped] = &[
    Shipped { name: "indirect-object", text: include_str!("../../assets/prompts/indirect-object.toml") },
    Shipped { name: "greater-than", text: include_str!("../../assets/prompts/greater-than.toml") },
    Shipped { name: "induction", text: include_str!("../../assets/prompts/induction.toml") },
    Shipped { name: "alphabetical-order", text: include_str!("../../assets/prompts/alphabetical-order.toml") },
    Shipped { name: "addition", text: include_str!("../../assets/prompts/addition.toml") },
];

/// Draws in a row without a new usable pair after which there are no more to be found.
const FRUITLESS: usize = 200;

/// Pairs that a model can use, and why others cannot be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub pairs: Vec<PromptPair>,
    /// Draws that were thrown away: an answer of several tokens, or prompts of different length.
    pub unusable: usize,
    pub reason: String,
}

impl PromptSet {
    /// A shipped set by name, or a TOML file.
    ///
    /// # Errors
    /// No such name or file; a file that is no prompt set.
    pub fn open(name: &str) -> Result<Self> {
        if let Some(shipped) = SHIPPED.iter().find(|s| s.name == name) {
            return Self::parse(shipped.text, Path::new(name));
        }
        let path = Path::new(name);
        if !path.exists() {
            let known: Vec<&str> = SHIPPED.iter().map(|s| s.name).collect();
            return Err(Error::request(format!(
                "there is no prompt set `{name}`; give a .toml file, or one of {}",
                known.join(", ")
            )));
        }
        let text = read_text(path, SMALL)?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: "prompt set", what };
        let set: Self = toml::from_str(text).map_err(|e| malformed(e.message().to_owned()))?;
        for (name, list) in &set.lists {
            if list.is_empty() || name.ends_with(|c: char| c.is_ascii_digit()) {
                return Err(malformed(format!("its list `{name}` is empty or its name ends in a digit")));
            }
        }
        let slots = set.slots();
        let values = set.lists.values().flatten().chain(set.rows.iter().flat_map(BTreeMap::values));
        for value in values {
            if let Some(slot) = slots.iter().find(|slot| value.contains(&format!("{{{slot}}}"))) {
                return Err(malformed(format!(
                    "its entry `{value}` holds the slot {{{slot}}}; only templates have slots"
                )));
            }
        }
        for slot in slots {
            let (list, _) = split(&slot);
            let in_rows = !set.rows.is_empty() && set.rows.iter().all(|r| r.contains_key(&slot));
            if !in_rows && !set.lists.contains_key(list) {
                return Err(malformed(format!(
                    "its slot {{{slot}}} has neither a list `{list}` nor an entry in every row"
                )));
            }
        }
        for list in set.lists.keys() {
            let wanted = set.slots().iter().filter(|s| split(s).0 == list).count();
            let different: HashSet<&String> = set.lists[list].iter().collect();
            if different.len() < wanted {
                return Err(malformed(format!(
                    "its list `{list}` has fewer different entries than the template has slots of it"
                )));
            }
        }
        Ok(set)
    }

    /// Slots of all four templates, each once.
    fn slots(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for template in [&self.clean, &self.corrupt, &self.answer, &self.wrong] {
            let mut rest = template.as_str();
            while let Some((_, after)) = rest.split_once('{') {
                let Some((slot, after)) = after.split_once('}') else { break };
                if !out.iter().any(|s| s == slot) {
                    out.push(slot.to_owned());
                }
                rest = after;
            }
        }
        out
    }

    /// Draws one value for every slot.
    fn draw(&self, random: &mut ChaCha8Rng) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        if !self.rows.is_empty() {
            values.extend(self.rows[random.random_range(0..self.rows.len())].clone());
        }
        for slot in self.slots() {
            if values.contains_key(&slot) {
                continue;
            }
            let (list, _) = split(&slot);
            let taken: Vec<String> =
                values.iter().filter(|(s, _)| split(s).0 == list).map(|(_, v)| v.clone()).collect();
            let free: Vec<&String> = self.lists[list].iter().filter(|v| !taken.contains(v)).collect();
            if !free.is_empty() {
                values.insert(slot, free[random.random_range(0..free.len())].clone());
            }
        }
        values
    }

    /// At most `n` different pairs that this model can use; the same for the same seed.
    ///
    /// # Errors
    /// If not one can be used; [`Error::Cancelled`].
    pub fn generate(&self, model: &Model, n: usize, seed: u64, progress: &Progress) -> Result<Generated> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut out = Generated::default();
        let mut seen = HashSet::new();
        // A template with few combinations runs dry: so many draws without a new pair have found nearly all of them.
        let mut fruitless = 0;
        while out.pairs.len() < n && fruitless < FRUITLESS {
            progress.check()?;
            fruitless += 1;
            let values = self.draw(&mut random);
            let fill = |template: &str| filled(template, &values);
            let (clean, corrupt) = (fill(&self.clean)?, fill(&self.corrupt)?);
            if !seen.insert((clean.clone(), corrupt.clone())) {
                continue;
            }
            match pair(model, clean, corrupt, fill(&self.answer)?, fill(&self.wrong)?) {
                Ok(pair) => {
                    out.pairs.push(pair);
                    fruitless = 0;
                }
                Err(e) => {
                    out.unusable += 1;
                    out.reason = e.to_string();
                }
            }
        }
        if out.pairs.is_empty() {
            return Err(Error::request(format!(
                "this model can use no prompt of the set `{}`: {}",
                self.title, out.reason
            )));
        }
        Ok(out)
    }
}

/// A template with a value in every slot. Values are put in as they are.
fn filled(template: &str, values: &BTreeMap<String, String>) -> Result<String> {
    /// More than any model reads.
    const LONGEST: usize = 1 << 20;
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let slot = after.split_once('}').and_then(|(slot, after)| Some((values.get(slot)?, after)));
        match slot {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
        if out.len() > LONGEST {
            return Err(Error::failed(format!(
                "a template of the prompt set becomes longer than {LONGEST} bytes with its values; shorten them"
            )));
        }
    }
    Ok(out + rest)
}

/// A pair out of texts.
///
/// # Errors
/// An answer that is not one token, prompts of different length, or no tokenizer.
pub fn pair(model: &Model, clean: String, corrupt: String, answer: String, wrong: String) -> Result<PromptPair> {
    let (clean_ids, corrupt_ids) = (model.encode(&clean, false)?, model.encode(&corrupt, false)?);
    if clean_ids.len() != corrupt_ids.len() {
        return Err(Error::request(format!(
            "`{clean}` has {} tokens and `{corrupt}` {}",
            clean_ids.len(),
            corrupt_ids.len()
        )));
    }
    let (answer_id, wrong_id) = (model.single_token(&answer)?, model.single_token(&wrong)?);
    Ok(PromptPair {
        clean,
        corrupt,
        clean_ids,
        corrupt_ids,
        answer: Some(answer),
        wrong: Some(wrong),
        answer_id: Some(answer_id),
        wrong_id: Some(wrong_id),
    })
}

/// A slot's list and its number: `name2` is the second of `name`.
fn split(slot: &str) -> (&str, &str) {
    let list = slot.trim_end_matches(|c: char| c.is_ascii_digit());
    (list, &slot[list.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_sets_are_sound() {
        for shipped in SHIPPED {
            let set = PromptSet::open(shipped.name).unwrap();
            assert!(!set.about.is_empty() && set.clean != set.corrupt, "{}", shipped.name);
            let mut random = ChaCha8Rng::seed_from_u64(1);
            for _ in 0..50 {
                let values = set.draw(&mut random);
                assert!(set.slots().iter().all(|s| values.contains_key(s)), "{}", shipped.name);
            }
        }
    }

    #[test]
    fn slots_of_one_list_differ() {
        let set = PromptSet::open("indirect-object").unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..200 {
            let v = set.draw(&mut random);
            assert_ne!(v["name1"], v["name2"]);
        }
    }

    #[test]
    fn a_bad_file_is_one_sentence() {
        let base = "title = \"t\"\nclean = \"{x}\"\ncorrupt = \"b\"\nanswer = \"c\"\nwrong = \"d\"\n";
        for (text, says) in [
            ("title = 3", "invalid type"),
            (base, "slot {x}"),
            (&format!("{base}[lists]\nx = []"), "`x` is empty"),
            (&format!("{base}mood = 1\n[lists]\nx = [\"a\"]"), "unknown field"),
            (&format!("{}[lists]\nx = [\"a\"]", base.replace("{x}", "{x1}{x2}")), "fewer different entries"),
        ] {
            let error = PromptSet::parse(text, Path::new("p.toml")).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says) && error.contains("p.toml"), "{error}");
        }
    }
}
