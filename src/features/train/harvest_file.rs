//! The activations of several places over a text in one file, which a shard writes as it goes and is gone on with: a
//! safetensors file with a tensor [n, width] for each place, by its name, and under `circuitscope-harvest` what it is of
//! ([`HarvestAbout`]). Its size is known beforehand, so that rows are written where they belong; what is not harvested yet
//! is zero, and `done` is below `batches`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::kernels::with_values;
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::harvest::{PASS, activations};
use crate::features::rows::{Cut, Rows};
use crate::files::Output;
use crate::interrupt;
use crate::model::store::read_exact_at;
use crate::model::{Model, safetensors_file};
use crate::progress::Progress;
use crate::shard::{self, Shard, check_goes_on, share};

const FORMAT: &str = "a harvest of activations";
/// Where the metadata says what the file is of.
const METADATA: &str = "circuitscope-harvest";
/// A harvest says how far it is at least so often.
const KEEP: Duration = Duration::from_secs(5);
/// Bytes that are copied at a time when shards are put together.
const COPIED: usize = 1 << 24;

/// What a harvest is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HarvestAbout {
    pub model: String,
    #[serde(flatten)]
    pub shard: Shard,
    /// The places, each with the name of its tensor.
    pub places: Vec<Place>,
    pub texts: Vec<String>,
    pub context: usize,
    /// Tokens of the text at most, where there is a limit.
    pub limit: Option<usize>,
    /// Whether each row begins with the model's beginning-of-sequence token also where its tokenizer does not add it.
    #[serde(default)]
    pub bos: bool,
    /// Whether rows' first positions, outliers in many models, are in it.
    pub include_first: bool,
    /// Rows of each tensor.
    pub positions: usize,
    /// Batches of the shard done, and all of them.
    pub done: usize,
    pub batches: usize,
}

impl shard::About for HarvestAbout {
    const PROGRESS: &'static [&'static str] = &["positions", "done", "batches"];
    const IN_ORDER: bool = true;

    fn shard(&self) -> &Shard {
        &self.shard
    }

    fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn is_complete(&self) -> bool {
        self.done >= self.batches
    }
}

/// What is harvested, and of which text.
pub struct Harvested<'a> {
    pub model: &'a Model,
    pub rows: &'a Rows,
    pub places: &'a [Place],
    pub texts: &'a [String],
    /// How the text became rows.
    pub cut: Cut,
    pub include_first: bool,
    pub shard: (usize, usize),
}

impl Harvested<'_> {
    /// Harvests what is left of the shard into a file. A step of progress a token.
    ///
    /// # Errors
    /// As forward passes; a file of something else, or one that another process writes; a full disk; [`Error::Cancelled`].
    pub fn run(&self, path: &Path, progress: &Progress) -> Result<HarvestAbout> {
        let _careful = interrupt::careful(progress);
        self.places.iter().try_for_each(|p| p.check(&self.model.config))?;
        let all = self.rows.batches(PASS);
        let own = &all[share(self.shard, all.len())];
        let lengths: Vec<usize> = self.rows.lengths().collect();
        let skipped = usize::from(!self.include_first);
        let kept = |batch: &[usize]| batch.iter().map(|i| lengths[*i] - skipped.min(lengths[*i])).sum::<usize>();
        let fresh = HarvestAbout {
            model: self.model.config.name.clone(),
            shard: Shard::new("features train --layers", self.model.fingerprint()?, self.rows.hash()?, self.shard)?,
            places: self.places.to_vec(),
            texts: self.texts.to_vec(),
            context: self.cut.context,
            limit: self.cut.limit,
            bos: self.cut.bos,
            include_first: self.include_first,
            positions: own.iter().map(|b| kept(b)).sum(),
            done: 0,
            batches: own.len(),
        };
        let widths: Vec<usize> = self.places.iter().map(|p| p.width(&self.model.config)).collect();
        let (mut about, mut writer) = Writer::begin(path, fresh, &widths)?;
        let tokens = |b: &[usize]| b.iter().map(|i| lengths[*i] as u64).sum::<u64>();
        progress.expect(own.iter().map(|b| tokens(b)).sum());
        progress.step(own.iter().take(about.done).map(|b| tokens(b)).sum())?;
        let mut row: usize = own.iter().take(about.done).map(|b| kept(b)).sum();
        let mut told = Instant::now();
        for batch in own.iter().skip(about.done) {
            let some = self.rows.some(batch)?;
            let values = match activations(self.model, &some.rows(), self.places, progress) {
                Ok(values) => values,
                Err(e) => {
                    writer.tell(&about)?;
                    return Err(e);
                }
            };
            for (i, (value, d)) in values.iter().zip(&widths).enumerate() {
                let rows = with_values(&value.contiguous()?, |v| -> Vec<f32> {
                    v.chunks_exact(some.len * d).flat_map(|row| &row[skipped * d..]).copied().collect()
                })?;
                writer.write(i, row, &rows)?;
            }
            row += kept(batch);
            about.done += 1;
            let stopped = progress.step(tokens(batch));
            if stopped.is_err() || told.elapsed() > KEEP {
                writer.tell(&about)?;
                told = Instant::now();
            }
            stopped?;
        }
        writer.finish(&about)?;
        Ok(about)
    }
}

/// The header of a file, as long for each state of one harvest, and where each tensor's data begins behind it.
fn header(about: &HarvestAbout, widths: &[usize]) -> Result<(Vec<u8>, Vec<u64>)> {
    let made = |about: &HarvestAbout| -> Result<(String, Vec<u64>)> {
        let said = serde_json::to_string(about).map_err(|e| Error::failed(e.to_string()))?;
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({METADATA: said}));
        let (mut at, mut starts) = (0u64, Vec::new());
        for (place, d) in about.places.iter().zip(widths) {
            let end = at + 4 * about.positions as u64 * *d as u64;
            let tensor = json!({"dtype": "F32", "shape": [about.positions, d], "data_offsets": [at, end]});
            header.insert(place.to_string(), tensor);
            starts.push(at);
            at = end;
        }
        starts.push(at);
        Ok((Value::Object(header).to_string(), starts))
    };
    let (text, starts) = made(about)?;
    let longest = made(&HarvestAbout { done: about.batches, ..about.clone() })?.0.len();
    let mut bytes = text.into_bytes();
    bytes.resize(longest.next_multiple_of(8), b' ');
    Ok((bytes, starts))
}

/// A file that is written in place.
struct Writer {
    path: PathBuf,
    file: File,
    widths: Vec<usize>,
    /// Where the tensors begin in the file.
    starts: Vec<u64>,
}

impl Writer {
    /// Goes on with the file of an earlier start, or begins one.
    fn begin(path: &Path, fresh: HarvestAbout, widths: &[usize]) -> Result<(HarvestAbout, Self)> {
        let failed = |e| Error::write(path, e);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?;
        if !there.is_file() {
            return Err(Error::request(format!(
                "{} is no plain file, in which a harvest could go on; name another",
                path.display()
            )));
        }
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::failed(format!(
                "another circuitscope is writing {}; wait until it has ended",
                path.display()
            )));
        }
        let (header, starts) = header(&fresh, widths)?;
        let data = 8 + header.len() as u64;
        let starts: Vec<u64> = starts.into_iter().map(|at| data + at).collect();
        let size = starts.last().copied().unwrap_or(data);
        let mut writer = Self { path: path.to_owned(), file, widths: widths.to_vec(), starts };
        if there.len() > 0 {
            let old = about(path)?;
            check_goes_on(path, &old, &fresh)?;
            // It may have been stopped before it had its size.
            let begun = old.done == 0 && there.len() == data;
            if begun {
                writer.file.set_len(size).map_err(failed)?;
            }
            let whole = begun || there.len() == size;
            if !whole || (old.positions, old.batches) != (fresh.positions, fresh.batches) {
                return Err(Error::Damaged {
                    path: path.to_owned(),
                    format: FORMAT,
                    what: format!("it is {} bytes long where {size} belong", there.len()),
                });
            }
            return Ok((old, writer));
        }
        writer.tell(&fresh)?;
        writer.file.set_len(size).map_err(failed)?;
        Ok((fresh, writer))
    }

    fn write(&mut self, place: usize, row: usize, values: &[f32]) -> Result<()> {
        let at = self.starts[place] + 4 * (row as u64) * self.widths[place] as u64;
        let wrote = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytemuck::cast_slice(values)));
        wrote.map_err(|e| Error::write(&self.path, e))
    }

    /// Says how far it is, once that much is on the disk.
    fn tell(&mut self, about: &HarvestAbout) -> Result<()> {
        let failed = |e| Error::write(&self.path, e);
        let (header, _) = header(about, &self.widths)?;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        self.file.sync_data().map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&bytes)).map_err(failed)
    }

    fn finish(mut self, about: &HarvestAbout) -> Result<()> {
        self.tell(about)?;
        self.file.sync_all().map_err(|e| Error::write(&self.path, e))
    }
}

/// What a file is of, where a harvest here wrote it.
///
/// # Errors
/// A file that is none.
pub fn about(path: &Path) -> Result<HarvestAbout> {
    let what = "no harvest here wrote it".to_owned();
    let none = || Error::Malformed { path: path.to_owned(), format: FORMAT, what };
    let metadata = safetensors_file::metadata(path)?;
    metadata.get(METADATA).and_then(|text| serde_json::from_str(text).ok()).ok_or_else(none)
}

/// Puts shards together, which are in their order: each place's rows one behind the other.
///
/// # Errors
/// Shards that do not belong together, damaged files, a full disk.
pub fn merge(paths: &[PathBuf], output: &Path) -> Result<HarvestAbout> {
    let mut abouts = paths.iter().map(|p| about(p)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut whole = abouts.next().ok_or_else(|| Error::request("name the shards to merge"))?;
    for other in abouts {
        shard::join(&mut whole, &other)?;
        whole.positions += other.positions;
        whole.done += other.done;
        whole.batches += other.batches;
    }
    let indexes = paths.iter().map(|p| safetensors_file::index(std::slice::from_ref(p))).collect::<Result<Vec<_>>>()?;
    let name = |place: &Place| place.to_string();
    let missing = |path: &Path, place: &Place| Error::Malformed {
        path: path.to_owned(),
        format: FORMAT,
        what: format!("it has no tensor `{place}`"),
    };
    let mut widths = Vec::new();
    for place in &whole.places {
        let entry = indexes.first().and_then(|i| i.entries.get(&name(place)));
        let entry = entry.ok_or_else(|| missing(&paths[0], place))?;
        widths.push(entry.shape.get(1).copied().unwrap_or(0));
    }
    let failed = |e| Error::write(output, e);
    let mut file = Output::create(output)?;
    let (header, _) = header(&whole, &widths)?;
    let begun = file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header));
    begun.map_err(failed)?;
    for (place, d) in whole.places.iter().zip(&widths) {
        for (path, index) in paths.iter().zip(&indexes) {
            let entry = index.entries.get(&name(place)).filter(|e| e.shape.get(1) == Some(d));
            let (entry, from) = entry.zip(index.files.first()).ok_or_else(|| missing(path, place))?;
            let (mut left, mut at) = (4 * entry.shape.iter().product::<usize>(), entry.offset);
            let mut some = vec![0u8; COPIED.min(left)];
            while left > 0 {
                let n = COPIED.min(left);
                read_exact_at(from, &mut some[..n], at).map_err(|e| Error::read(path, e))?;
                file.write_all(&some[..n]).map_err(failed)?;
                (left, at) = (left - n, at + n as u64);
            }
        }
    }
    file.finish()?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::train::elsewhere::Captured;
    use crate::files::read;
    use crate::shard::in_order;

    /// Shards, one of them stopped and gone on with, are the whole's bytes; what is unfinished or missing is not trained on.
    #[test]
    fn shards_are_the_whole() {
        let model = Model::open("text").unwrap();
        let rows = Cut::new(32, Some(5_000));
        let rows = Rows::cut(&model, &["mixed".to_owned()], &rows, &Progress::new()).unwrap();
        let places: Vec<Place> = [0, 2]
            .into_iter()
            .flat_map(|l| [Place::mlp_input(l), Place::parse(&format!("blocks.{l}.hook_mlp_out")).unwrap()])
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let harvest = |shard, name: &str, progress: &Progress| {
            let of = Harvested {
                model: &model,
                rows: &rows,
                places: &places,
                texts: &["mixed".to_owned()],
                cut: Cut { context: 32, limit: Some(5_000), bos: false },
                include_first: false,
                shard,
            };
            of.run(&at(name), progress)
        };
        let whole = harvest((0, 1), "whole", &Progress::new()).unwrap();
        assert_eq!(whole.positions, rows.positions(true));
        // Killed in the middle: bytes behind what it had said are those of nobody.
        let stopped = Progress::new();
        let cancelled = std::thread::scope(|scope| {
            scope.spawn(|| {
                while stopped.counts().0 < 600 {
                    std::thread::yield_now();
                }
                stopped.cancel();
            });
            harvest((1, 3), "b", &stopped)
        });
        assert!(matches!(cancelled, Err(Error::Cancelled)));
        let begun = about(&at("b")).unwrap();
        assert!(begun.done > 0 && begun.done < begun.batches, "{begun:?}");
        let error = Captured::open(&at("b")).map(drop).unwrap_err().to_string();
        assert!(error.contains("unfinished"), "{error}");
        let error = harvest((2, 3), "b", &Progress::new()).unwrap_err().to_string();
        assert!(error.contains("its shard is 1, and 2 was asked for"), "{error}");
        let (again, before) = (Progress::new(), begun.done);
        assert_eq!(harvest((1, 3), "b", &again).unwrap().done, begun.batches);
        assert!(before > 0);
        for (shard, name) in [((0, 3), "a"), ((2, 3), "c")] {
            harvest(shard, name, &Progress::new()).unwrap();
        }
        let files = ["c", "a", "b"].map(|name| (at(name), about(&at(name)).unwrap())).to_vec();
        let error = in_order(files[..2].to_vec(), false).unwrap_err().to_string();
        assert!(error.contains("shard 1 of 3 is missing"), "{error}");
        merge(&in_order(files, false).unwrap(), &at("merged")).unwrap();
        let values = |name: &str| -> Vec<Vec<f32>> {
            let file = Captured::open(&at(name)).unwrap();
            places
                .iter()
                .map(|p| {
                    file.table(*p, false)
                        .unwrap()
                        .tensor(0, usize::MAX)
                        .unwrap()
                        .flatten_all()
                        .unwrap()
                        .to_vec1()
                        .unwrap()
                })
                .collect()
        };
        assert_eq!(values("merged"), values("whole"));
        let (merged, whole) = (read(&at("merged"), 1 << 30).unwrap(), read(&at("whole"), 1 << 30).unwrap());
        let data = 4 * 4 * rows.positions(true) * model.config.d_model;
        assert_eq!(merged[merged.len() - data..], whole[whole.len() - data..], "bit for bit");
        let error = Captured::open(&at("a")).map(drop).unwrap_err().to_string();
        assert!(error.contains("shards 1-2 of 3 are missing"), "{error}");
    }
}
