//! What was measured of each pair of a prompt set. A mean over hundreds of pairs is a work that is done in shards; since the
//! numbers of every pair are kept, the mean of all shards is that of one run, bit for bit.
//!
//! The file is safetensors: `values` [pair, cell], the metric with each cell's edit, or an edge's score, and `ends`
//! [pair, 2], the metric of the clean and of the corrupted run; under `circuitscope-pairs` in the header what it is of
//! ([`PairsAbout`]).

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::PromptPair;
use crate::error::{Error, Result};
use crate::files::{can_be_saved_again, write_atomic};
use crate::hash::Hash;
use crate::interrupt;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::progress::Progress;
use crate::shard::{self, Shard, check_goes_on, share};

const FORMAT: &str = "the values of a prompt set";
const METADATA: &str = "circuitscope-pairs";
/// The values are written at least so often.
const KEEP: Duration = Duration::from_secs(10);

/// What values are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairsAbout {
    pub model: String,
    #[serde(flatten)]
    pub shard: Shard,
    /// What is measured: a site, its grid, the metric, and so on, as the command names them.
    pub measured: Value,
    pub set: String,
    pub seed: u64,
    /// Pairs of all shards together.
    pub total: usize,
    /// Names and lengths of the cells' axes; nothing before the first pair.
    pub axes: Vec<(String, usize)>,
    /// Pairs of the shard done, and all of them.
    pub done: usize,
    pub pairs: usize,
}

impl shard::About for PairsAbout {
    const PROGRESS: &'static [&'static str] = &["axes", "done", "pairs"];
    const IN_ORDER: bool = true;

    fn shard(&self) -> &Shard {
        &self.shard
    }

    fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn is_complete(&self) -> bool {
        self.done >= self.pairs
    }
}

/// What is measured of one pair.
pub struct Measured {
    pub axes: Vec<(String, usize)>,
    /// Row by row over the axes.
    pub values: Vec<f32>,
    /// The metric of the clean and of the corrupted run.
    pub ends: [f32; 2],
}

/// The values of pairs, in the set's order.
#[derive(Clone, Debug, PartialEq)]
pub struct PairValues {
    pub about: PairsAbout,
    /// [pair, cell]
    pub values: Vec<f32>,
    pub ends: Vec<[f32; 2]>,
}

/// Means over pairs.
pub struct Means {
    pub values: Vec<f32>,
    /// Standard deviation over the pairs; zero for one pair.
    pub deviation: Vec<f32>,
    pub clean: f32,
    pub corrupted: f32,
}

/// A hash of the tokens and answers of pairs.
pub fn hash(pairs: &[PromptPair]) -> u64 {
    let mut hash = Hash::default();
    for p in pairs {
        for ids in [&p.clean_ids, &p.corrupt_ids] {
            hash.add(ids.len() as u64);
            hash.all(ids.iter().map(|id| u64::from(*id)));
        }
        hash.all([p.answer_id, p.wrong_id].iter().map(|id| id.map_or(u64::MAX, u64::from)));
    }
    hash.0
}

/// Measures what is left of a shard. Where `file` is given, an unfinished one there is gone on with, and the values are
/// written there from time to time and at the end. A step of progress a pair.
///
/// # Errors
/// A file of something else, pairs whose cells differ, what `one` fails at, or [`Error::Cancelled`].
pub fn run(
    fresh: PairsAbout,
    pairs: &[PromptPair],
    file: Option<&Path>,
    progress: &Progress,
    one: &mut dyn FnMut(&PromptPair) -> Result<Measured>,
) -> Result<PairValues> {
    let _careful = file.map(|_| interrupt::careful(progress));
    let shard = (fresh.shard.shards.first().copied().unwrap_or(0), fresh.shard.of);
    let own = &pairs[share(shard, pairs.len())];
    let mut all = PairValues { about: PairsAbout { pairs: own.len(), ..fresh }, values: Vec::new(), ends: Vec::new() };
    file.map(can_be_saved_again).transpose()?;
    if let Some(path) = file.filter(|p| p.is_file()) {
        let old = PairValues::open(path)?;
        check_goes_on(path, &old.about, &all.about)?;
        all = old;
    }
    progress.expect(own.len() as u64);
    progress.step(all.about.done as u64)?;
    let mut kept = Instant::now();
    for pair in own.iter().skip(all.about.done) {
        let found = one(pair).and_then(|found| all.add(found)).and_then(|()| progress.step(1));
        if let Some(path) = file.filter(|_| found.is_err() || kept.elapsed() > KEEP) {
            all.save(path)?;
            kept = Instant::now();
        }
        found?;
    }
    if let Some(path) = file {
        all.save(path)?;
    }
    Ok(all)
}

impl PairValues {
    fn cells(&self) -> usize {
        cells(&self.about)
    }

    fn add(&mut self, found: Measured) -> Result<()> {
        self.agree(&found.axes)?;
        self.values.extend(found.values);
        self.ends.push(found.ends);
        self.about.done += 1;
        Ok(())
    }

    /// Takes axes for those of all pairs, or compares them.
    fn agree(&mut self, axes: &[(String, usize)]) -> Result<()> {
        if self.about.axes.is_empty() {
            self.about.axes = axes.to_vec();
        }
        if axes.is_empty() || self.about.axes == axes {
            return Ok(());
        }
        let word =
            |axes: &[(String, usize)]| axes.iter().map(|(n, l)| format!("{l} {n}")).collect::<Vec<_>>().join(" × ");
        Err(Error::request(format!(
            "the pairs of {} have cells of different numbers ({} and {}), so that there is no mean; sweep by axes without positions",
            self.about.set,
            word(&self.about.axes),
            word(axes)
        )))
    }

    /// Takes in the values of another shard, behind its own.
    ///
    /// # Errors
    /// Shards that are unfinished, of different works, given twice, or not in their order.
    pub fn absorb(&mut self, other: Self) -> Result<()> {
        if other.about.shard.shards.first() < self.about.shard.shards.last() {
            return Err(Error::request("the shards of a prompt set are merged in their order"));
        }
        shard::join(&mut self.about, &other.about)?;
        self.agree(&other.about.axes)?;
        self.values.extend(other.values);
        self.ends.extend(other.ends);
        self.about.done += other.about.done;
        self.about.pairs += other.about.pairs;
        Ok(())
    }

    /// The means over all pairs.
    ///
    /// # Errors
    /// There is none.
    pub fn means(&self) -> Result<Means> {
        let (n, cells) = (self.ends.len(), self.cells());
        if n == 0 || cells == 0 {
            return Err(Error::request("no pair was measured, so that there is no mean"));
        }
        let (mut sums, mut squares) = (vec![0f64; cells], vec![0f64; cells]);
        for row in self.values.chunks_exact(cells) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        sums.iter_mut().for_each(|s| *s /= n as f64);
        for row in self.values.chunks_exact(cells) {
            squares.iter_mut().zip(row).zip(&sums).for_each(|((q, v), m)| *q += (f64::from(*v) - m).powi(2));
        }
        let end = |i: usize| (self.ends.iter().map(|e| f64::from(e[i])).sum::<f64>() / n as f64) as f32;
        let spread = |q: f64| if n > 1 { (q / (n - 1) as f64).sqrt() as f32 } else { 0.0 };
        Ok(Means {
            values: sums.into_iter().map(|s| s as f32).collect(),
            deviation: squares.into_iter().map(spread).collect(),
            clean: end(0),
            corrupted: end(1),
        })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (n, cells) = (self.ends.len(), self.cells());
        let values = Tensor::from_slice(&self.values, (n, cells), &Device::Cpu)?;
        let ends = Tensor::from_slice(self.ends.as_flattened(), (n, 2), &Device::Cpu)?;
        let about = serde_json::to_string(&self.about).map_err(|e| Error::failed(e.to_string()))?;
        let tensors = if n == 0 { vec![] } else { vec![("values", &values), ("ends", &ends)] };
        write_atomic(path, &safetensors_file::pack(tensors, &[(METADATA, about)])?)
    }

    /// # Errors
    /// A file that is none, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let about = about(path)?;
        let index = safetensors_file::index(&[path.to_owned()])?;
        let n = about.done;
        if n == 0 {
            return Ok(Self { about, values: Vec::new(), ends: Vec::new() });
        }
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        let read = |name: &str, width: usize| -> Result<Vec<f32>> {
            Ok(store.matrix(name, n, width)?.flatten_all()?.to_vec1()?)
        };
        let values = read("values", cells(&about))?;
        let ends = read("ends", 2)?.as_chunks::<2>().0.to_vec();
        Ok(Self { about, values, ends })
    }
}

fn cells(about: &PairsAbout) -> usize {
    if about.axes.is_empty() { 0 } else { about.axes.iter().fold(1, |n, (_, l)| n.saturating_mul(*l)) }
}

/// What values are of, without reading them.
///
/// # Errors
/// A file that holds none.
pub fn about(path: &Path) -> Result<PairsAbout> {
    let what = "it holds none; `patch`, `attribute` and `circuit eval` write them with `--set`".to_owned();
    let none = || Error::Malformed { path: path.to_owned(), format: FORMAT, what };
    let metadata = safetensors_file::metadata(path)?;
    metadata.get(METADATA).and_then(|text| serde_json::from_str(text).ok()).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair(i: u32) -> PromptPair {
        PromptPair {
            clean: String::new(),
            corrupt: String::new(),
            clean_ids: vec![i],
            corrupt_ids: vec![i + 1],
            answer: None,
            wrong: None,
            answer_id: Some(i),
            wrong_id: None,
        }
    }

    /// Means by hand; shards, one of them stopped and gone on with, have the whole's bits.
    #[test]
    fn means_of_shards_are_the_whole() {
        let pairs: Vec<PromptPair> = (0..7).map(pair).collect();
        let about = |shard| PairsAbout {
            model: "m".to_owned(),
            shard: Shard::new("patch", 1, hash(&pairs), shard).unwrap(),
            measured: json!({"site": "z"}),
            set: "s".to_owned(),
            seed: 0,
            total: 7,
            axes: Vec::new(),
            done: 0,
            pairs: 0,
        };
        let cell = |p: &PromptPair, c: f32| 0.1 * (p.clean_ids[0] as f32) + c;
        let measure = |p: &PromptPair| {
            let values = vec![cell(p, 0.3), cell(p, -1.7)];
            Ok(Measured { axes: vec![("layer".to_owned(), 2)], values, ends: [2.0 + p.clean_ids[0] as f32, 1.0] })
        };
        let whole = run(about((0, 1)), &pairs, None, &Progress::new(), &mut |p| measure(p)).unwrap();
        let m = whole.means().unwrap();
        assert!((m.values[0] - 0.6).abs() < 1e-6 && (m.values[1] + 1.4).abs() < 1e-6);
        // Of 0, 0.1, …, 0.6: √(0.28 / 6).
        assert!((m.deviation[0] - 0.216_025).abs() < 1e-5 && (m.clean, m.corrupted) == (5.0, 1.0));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let mut left = 1;
        let stopped = run(about((1, 3)), &pairs, Some(&path), &Progress::new(), &mut |p| {
            left -= 1;
            if left < 0 { Err(Error::Cancelled) } else { measure(p) }
        });
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert_eq!(super::about(&path).unwrap().done, 1);
        let mut seen = 0;
        let mut merged = run(about((0, 3)), &pairs, None, &Progress::new(), &mut |p| measure(p)).unwrap();
        run(about((1, 3)), &pairs, Some(&path), &Progress::new(), &mut |p| {
            seen += 1;
            measure(p)
        })
        .unwrap();
        assert_eq!(seen, 1);
        merged.absorb(PairValues::open(&path).unwrap()).unwrap();
        merged.absorb(run(about((2, 3)), &pairs, None, &Progress::new(), &mut |p| measure(p)).unwrap()).unwrap();
        assert_eq!((&merged.values, &merged.ends), (&whole.values, &whole.ends));
        assert_eq!(merged.means().unwrap().values, m.values);
        let error = run(about((1, 4)), &pairs, Some(&path), &Progress::new(), &mut |p| measure(p)).unwrap_err();
        assert!(error.to_string().contains("its number of shards is 3, and 4 was asked for"), "{error}");
        // Cells that differ have no mean.
        let mut n = 0;
        let uneven = run(about((0, 1)), &pairs, None, &Progress::new(), &mut |p| {
            n += 1;
            measure(p).map(|m| Measured { axes: vec![("pos".to_owned(), n)], ..m })
        });
        assert!(uneven.unwrap_err().to_string().contains("axes without positions"));
    }
}
