//! Works over texts can be done in shards, on as many machines: each does its share, writes a file that says what it is a
//! share of, and goes on from that file when it is started again. The files are put together in any order.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a shard's file says of the work that it is a share of, besides the work's settings, which stand beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The command that does the work.
    pub command: String,
    /// A hash of the model's weights, in hexadecimal.
    pub model_hash: String,
    /// A hash of all that the work goes over, the other shards' share with it, in hexadecimal.
    pub text_hash: String,
    /// The shards that are in the file, counted from 0, in order.
    pub shards: Vec<usize>,
    /// How many there are.
    #[serde(deserialize_with = "some")]
    pub of: usize,
}

/// Shards of a work at most.
pub const MOST: usize = 1_000_000;

/// A number of shards as a file says it.
fn some<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<usize, D::Error> {
    let n = usize::deserialize(value)?;
    if n > MOST {
        return Err(serde::de::Error::custom(format!("{n} shards are more than {MOST}")));
    }
    Ok(n)
}

impl Shard {
    /// # Errors
    /// A shard that there is not.
    pub fn new(command: &str, model_hash: u64, text_hash: u64, (shard, of): (usize, usize)) -> Result<Self> {
        if shard >= of {
            return Err(Error::request(format!("there is no shard {shard} of {of}; shards go from 0")));
        }
        Ok(Self {
            command: command.to_owned(),
            model_hash: hex(model_hash),
            text_hash: hex(text_hash),
            shards: vec![shard],
            of,
        })
    }

    /// The shards that are not in it.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.of).filter(|i| !self.shards.contains(i)).collect()
    }

    fn name(&self) -> String {
        match &self.shards[..] {
            [one] => format!("shard {one} of {}", self.of),
            more => format!("shards {} of {}", listed(more), self.of),
        }
    }
}

/// A hash as it stands in files.
pub fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// A shard's share of `n` things: neighbours, so that shards behind each other are the whole in its order.
pub fn share((shard, of): (usize, usize), n: usize) -> Range<usize> {
    let bound = |i: usize| (n as u128 * i.min(of) as u128 / of.max(1) as u128) as usize;
    bound(shard)..bound(shard + 1)
}

/// What the file of a shard says of itself: a [`Shard`], the settings of the work, and how far it is.
pub trait About: Clone + PartialEq + Serialize {
    /// The fields that say how far the file is, not what it is of.
    const PROGRESS: &'static [&'static str];

    /// What the files hold lies in the order of the whole, so that only neighbours can be put together.
    const IN_ORDER: bool = false;

    fn shard(&self) -> &Shard;

    fn shard_mut(&mut self) -> &mut Shard;

    /// All of its share is done.
    fn is_complete(&self) -> bool;
}

/// What says of which work a file is, by name.
fn work<A: About>(about: &A) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(about) else { return Map::new() };
    fields.retain(|name, _| name != "shards" && !A::PROGRESS.contains(&name.as_str()));
    fields
}

/// Fields that say what the texts or the prompt set are called.
const NAMES_OF_TEXTS: [&str; 2] = ["texts", "set"];

/// In what the works of two files differ first: (name, here, there).
fn difference<A: About>(here: &A, there: &A) -> Option<(String, String, String)> {
    let same_text = here.shard().text_hash == there.shard().text_hash;
    let (mut here, mut there) = (work(here), work(there));
    if same_text {
        // The same texts may lie elsewhere on another machine.
        NAMES_OF_TEXTS.iter().for_each(|name| _ = (here.remove(*name), there.remove(*name)));
    }
    let name = here.keys().chain(there.keys()).find(|name| here.get(*name) != there.get(*name))?;
    let of = |fields: &Map<String, Value>| fields.get(name).map_or_else(|| "absent".to_owned(), Value::to_string);
    let called = if name == "of" { "number of shards" } else { name };
    Some((called.to_owned(), of(&here), of(&there)))
}

/// Whether what lies in a file is an earlier state of the work that is asked for.
///
/// # Errors
/// It is of another work, or another shard: one sentence that says in what they differ.
pub fn check_goes_on<A: About>(path: &Path, there: &A, asked: &A) -> Result<()> {
    let differs = difference(asked, there).or_else(|| {
        let (asked, there) = (asked.shard(), there.shard());
        (asked.shards != there.shards).then(|| ("shard".to_owned(), listed(&asked.shards), listed(&there.shards)))
    });
    let Some((name, asked, there)) = differs else { return Ok(()) };
    Err(Error::request(format!(
        "{} is of another work: its {name} is {there}, and {asked} was asked for; name another file",
        path.display()
    )))
}

/// Enters that another file's shards are in this one now.
///
/// # Errors
/// Files that are unfinished, of different works, or hold the same shard.
pub fn join<A: About>(mine: &mut A, theirs: &A) -> Result<()> {
    if let Some(unfinished) = [&*mine, theirs].into_iter().find(|a| !a.is_complete()) {
        return Err(unfinished_error("it", unfinished.shard()));
    }
    if let Some((name, here, there)) = difference(mine, theirs) {
        return Err(Error::request(format!(
            "the shards are of different works: their {name} is {here} and {there}; merge those of one command"
        )));
    }
    let (a, b) = (mine.shard(), theirs.shard());
    if let Some(twice) = b.shards.iter().find(|s| a.shards.contains(s)) {
        return Err(Error::request(format!("shard {twice} of {} is there twice; name each once", a.of)));
    }
    let shards = &mut mine.shard_mut().shards;
    shards.extend(&theirs.shard().shards);
    shards.sort_unstable();
    Ok(())
}

fn unfinished_error(file: &str, shard: &Shard) -> Error {
    Error::request(format!("{file} ({}) is unfinished; start its command again, which goes on with it", shard.name()))
}

/// Whether a file is the whole work.
///
/// # Errors
/// It is unfinished, or some shards are not in it.
pub fn whole<A: About>(path: &Path, about: &A) -> Result<()> {
    let (name, shard) = (path.display(), about.shard());
    if !about.is_complete() {
        return Err(unfinished_error(&name.to_string(), shard));
    }
    match &shard.missing()[..] {
        [] => Ok(()),
        missing => Err(Error::request(format!(
            "{name} is not the whole: {}; put all together with `circuitscope merge`",
            absent(missing, shard.of)
        ))),
    }
}

fn absent(missing: &[usize], of: usize) -> String {
    let (noun, them) = if missing.len() == 1 { ("shard", "is") } else { ("shards", "are") };
    format!("{noun} {} of {of} {them} missing", listed(missing))
}

/// The files of a work in the order of their shards, in which they are put together, whatever the order in which they were
/// named. All that can be wrong is found before anything large is read.
///
/// # Errors
/// Files that are unfinished, of different works, or hold the same shard; shards that are missing, unless `partial`.
pub fn in_order<A: About>(files: Vec<(PathBuf, A)>, partial: bool) -> Result<Vec<PathBuf>> {
    let mut files = files;
    files.sort_by(|a, b| a.1.shard().shards.cmp(&b.1.shard().shards));
    let Some(((path, first), others)) = files.split_first() else {
        return Err(Error::request("name the shards to merge"));
    };
    if let Some((path, a)) = files.iter().find(|(_, a)| !a.is_complete()) {
        return Err(unfinished_error(&path.display().to_string(), a.shard()));
    }
    let mut held: Vec<(usize, &PathBuf)> = first.shard().shards.iter().map(|s| (*s, path)).collect();
    for (other, about) in others {
        if let Some((name, here, there)) = difference(first, about) {
            return Err(Error::request(format!(
                "{} is of another work than {}: its {name} is {there} and not {here}; merge the shards of one command",
                other.display(),
                path.display()
            )));
        }
        for shard in &about.shard().shards {
            if let Some((_, before)) = held.iter().find(|(s, _)| s == shard) {
                return Err(Error::request(format!(
                    "shard {shard} of {} is there twice, in {} and in {}; name each once",
                    about.shard().of,
                    before.display(),
                    other.display()
                )));
            }
            held.push((*shard, other));
        }
    }
    let of = first.shard().of;
    let missing: Vec<usize> = (0..of).filter(|i| held.iter().all(|(s, _)| s != i)).collect();
    if !partial && !missing.is_empty() {
        return Err(Error::request(format!(
            "{}; run what is missing, or merge what there is with --partial",
            absent(&missing, of)
        )));
    }
    if A::IN_ORDER
        && let Some(gap) = held.windows(2).find(|two| two[0].0 + 1 != two[1].0)
    {
        return Err(Error::request(format!(
            "shard {} does not follow shard {}, and this work lies in the order of its shards; merge neighbours, or all at once",
            gap[1].0, gap[0].0
        )));
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Numbers in a row: 0-3, 7.
fn listed(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let word = |(from, to): (usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    runs.into_iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Work {
        #[serde(flatten)]
        shard: Shard,
        context: usize,
        done: usize,
    }

    impl About for Work {
        const PROGRESS: &'static [&'static str] = &["done"];

        fn shard(&self) -> &Shard {
            &self.shard
        }

        fn shard_mut(&mut self) -> &mut Shard {
            &mut self.shard
        }

        fn is_complete(&self) -> bool {
            self.done == 5
        }
    }

    /// The same, of a work that lies in the order of its shards.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Rows(Work);

    impl About for Rows {
        const PROGRESS: &'static [&'static str] = &["done"];
        const IN_ORDER: bool = true;

        fn shard(&self) -> &Shard {
            &self.0.shard
        }

        fn shard_mut(&mut self) -> &mut Shard {
            &mut self.0.shard
        }

        fn is_complete(&self) -> bool {
            self.0.is_complete()
        }
    }

    fn part(shards: &[usize], context: usize) -> Work {
        let (command, model_hash, text_hash) = ("heads".to_owned(), hex(1), hex(2));
        let shard = Shard { command, model_hash, text_hash, shards: shards.to_vec(), of: 4 };
        Work { shard, context, done: 5 }
    }

    #[test]
    fn shares_are_the_whole_in_its_order() {
        for (n, of) in [(0, 3), (2, 3), (7, 3), (9, 3), (100, 7)] {
            let all: Vec<usize> = (0..of).flat_map(|i| share((i, of), n)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
            assert!((0..of).all(|i| share((i, of), n).len().abs_diff(n / of) <= 1));
        }
    }

    #[test]
    fn a_wrong_shard_is_one_sentence() {
        let order = |list: &[Work], partial| {
            let files = list.iter().map(|w| (PathBuf::from(format!("{:?}", w.shard.shards)), w.clone())).collect();
            in_order(files, partial).map_err(|e| e.to_string())
        };
        let names = |of: &[&str]| Ok(of.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(order(&[part(&[3], 8), part(&[0, 2], 8), part(&[1], 8)], false), names(&["[0, 2]", "[1]", "[3]"]));
        assert_eq!(order(&[part(&[3], 8), part(&[0], 8)], true), names(&["[0]", "[3]"]));
        for (files, says) in [
            (vec![part(&[3], 8), part(&[0], 8)], "shards 1-2 of 4 are missing"),
            (vec![part(&[3], 8), part(&[0, 1], 8)], "shard 2 of 4 is missing"),
            (vec![part(&[0], 8), part(&[1], 9)], "[1] is of another work than [0]: its context is 9 and not 8"),
            (vec![part(&[0], 8), part(&[0, 1], 8)], "shard 0 of 4 is there twice, in [0] and in [0, 1]"),
            (vec![part(&[0], 8), Work { done: 4, ..part(&[1], 8) }], "[1] (shard 1 of 4) is unfinished"),
            (vec![], "name the shards"),
        ] {
            let error = order(&files, false).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let gap = in_order(vec![(PathBuf::new(), Rows(part(&[0], 8))), (PathBuf::new(), Rows(part(&[2], 8)))], true);
        assert!(gap.unwrap_err().to_string().contains("shard 2 does not follow shard 0"));
        let two = in_order(vec![(PathBuf::new(), Rows(part(&[2], 8))), (PathBuf::new(), Rows(part(&[1], 8)))], true);
        assert_eq!(two.unwrap().len(), 2);
        let many =
            serde_json::json!({"command": "", "model_hash": "", "text_hash": "", "shards": [0], "of": 1u64 << 40});
        assert!(serde_json::from_value::<Shard>(many).unwrap_err().to_string().contains("1099511627776 shards"));
        let mut mine = part(&[2], 8);
        join(&mut mine, &part(&[0, 1], 8)).unwrap();
        assert_eq!((&mine.shard.shards, mine.shard.missing()), (&vec![0, 1, 2], vec![3]));
        assert!(join(&mut mine, &part(&[1], 8)).unwrap_err().to_string().contains("shard 1 of 4 is there twice"));
        assert!(join(&mut mine, &part(&[3], 7)).unwrap_err().to_string().contains("their context is 8 and 7"));
        let path = Path::new("a.arrow");
        check_goes_on(path, &Work { done: 1, ..part(&[1], 8) }, &part(&[1], 8)).unwrap();
        for (there, says) in [(part(&[2], 8), "its shard is 2, and 1"), (part(&[1], 9), "its context is 9, and 8")] {
            let error = check_goes_on(path, &there, &part(&[1], 8)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
