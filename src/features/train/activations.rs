//! Harvested activations: in memory while they are few, else in files that are read row by row. The files are
//! safetensors with one tensor [n, d], so that `features encode --activations` and other tools read them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use rayon::prelude::*;

use super::maths::all_finite;
use crate::engine::kernels::with_values;
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::harvest::{PASS, activations};
use crate::features::rows::Rows;
use crate::files::{Output, scratch_file, scratch_folder};
use crate::hash::Hash;
use crate::model::dequantize::Stored;
use crate::model::store::read_exact_at;
use crate::model::{Model, safetensors_file};
use crate::progress::Progress;

/// Rows of one width.
#[derive(Debug)]
pub enum Table {
    Memory {
        d: usize,
        values: Vec<f32>,
    },
    /// `context`: of each so many of the file's rows the first is left out; 0 for none.
    File {
        d: usize,
        rows: usize,
        context: usize,
        file: File,
        offset: u64,
        path: PathBuf,
    },
}

impl Table {
    pub fn rows(&self) -> usize {
        match self {
            Self::Memory { d, values } => values.len() / (*d).max(1),
            Self::File { rows, context: 0, .. } => *rows,
            Self::File { rows, context, .. } => rows - rows / context,
        }
    }

    pub fn width(&self) -> usize {
        match self {
            Self::Memory { d, .. } | Self::File { d, .. } => *d,
        }
    }

    /// Opens a file of activations: the one tensor in it, [n, d], in f32.
    ///
    /// # Errors
    /// A damaged file, one with other tensors, or of another type.
    pub fn open(path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: "activations", what };
        let mut index = safetensors_file::index(&[path.to_owned()])?;
        let mut entries = index.entries.into_iter();
        let (Some((name, entry)), None) = (entries.next(), entries.next()) else {
            return Err(malformed("it must hold exactly one tensor [n, d_in]".to_owned()));
        };
        let &[rows, d] = &entry.shape[..] else {
            return Err(malformed(format!("tensor `{name}` has shape {:?} where [n, d_in] belongs", entry.shape)));
        };
        if rows == 0 || d == 0 {
            return Err(malformed(format!("tensor `{name}` has shape {:?}: there is nothing in it", entry.shape)));
        }
        if !matches!(entry.stored, Stored::F32) {
            return Err(malformed(format!("tensor `{name}` is not stored in f32; convert it first")));
        }
        let file = index.files.pop().ok_or_else(|| malformed("it cannot be opened".to_owned()))?;
        Ok(Self::File { d, rows, context: 0, file, offset: entry.offset, path: path.to_owned() })
    }

    /// What a file of activations says of where they come from, as [`Harvest::origin`] wrote it.
    ///
    /// # Errors
    /// As opening it.
    pub fn origin(path: &Path) -> Result<Option<String>> {
        Ok(safetensors_file::metadata(path)?.remove("origin"))
    }

    /// The given rows, one behind the other.
    ///
    /// # Errors
    /// A file that has become shorter, or values that are no numbers.
    pub fn take(&self, rows: &[usize]) -> Result<Vec<f32>> {
        let d = self.width();
        let mut out = vec![0f32; rows.len() * d];
        match self {
            Self::Memory { values, .. } => {
                out.par_chunks_mut(d).zip(rows).for_each(|(o, r)| {
                    o.copy_from_slice(&values[r * d..(r + 1) * d]);
                });
            }
            Self::File { context, file, offset, path, .. } => {
                // The first row of each text is passed over.
                let in_file = |r: usize| if *context > 1 { r + r / (context - 1) + 1 } else { r };
                out.par_chunks_mut(d).zip(rows).try_for_each(|(o, r)| {
                    let at = offset + (in_file(*r) * d * 4) as u64;
                    read_exact_at(file, bytemuck::cast_slice_mut(o), at).map_err(|e| Error::read(path, e))
                })?;
            }
        }
        if !all_finite(&out) {
            let path = match self {
                Self::File { path, .. } => Some(path.clone()),
                Self::Memory { .. } => None,
            };
            return Err(Error::NotFinite { path, name: "activations".to_owned() });
        }
        Ok(out)
    }

    /// Rows `from..to` as a tensor [rows, d].
    pub fn tensor(&self, from: usize, to: usize) -> Result<Tensor> {
        let rows: Vec<usize> = (from..to.min(self.rows())).collect();
        let n = rows.len();
        Ok(Tensor::from_vec(self.take(&rows)?, (n, self.width()), &candle_core::Device::Cpu)?)
    }
}

/// Whether activations are kept for another training.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// In memory, or in a temporary file above so many bytes.
    Not(usize),
    /// In this folder and no other.
    In(&'a Path),
    /// In a folder below this one, named by what is harvested.
    Below(&'a Path),
}

/// What is harvested.
pub struct Harvest<'a> {
    pub model: &'a Model,
    pub rows: &'a Rows,
    /// One for autoencoders, input and output for transcoders.
    pub places: &'a [Place],
    /// Leaves out each row's first position, whose activations are outliers in many models.
    pub skip_first: bool,
    pub keep: Keep<'a>,
}

/// File name of the activations of the `i`-th place.
pub fn file_name(i: usize) -> &'static str {
    if i == 0 { "input.safetensors" } else { "target.safetensors" }
}

enum Sink {
    Memory(Vec<f32>),
    /// A file that is to be kept.
    File {
        writer: BufWriter<Output>,
        place: PathBuf,
    },
    /// One without a name: nothing of it is left, however the program ends.
    Unnamed {
        writer: BufWriter<File>,
        rows: usize,
    },
}

impl Harvest<'_> {
    /// The activations that lie where they are kept; else the text is run, and what the places hold is kept, a table
    /// each. A step of progress a token.
    ///
    /// # Errors
    /// As forward passes, a full disk, or [`Error::Cancelled`]; a file that was not whole then is gone. In a folder that
    /// the user named, files of something else, which stay.
    pub fn run(&self, progress: &Progress) -> Result<Vec<Table>> {
        progress.expect(self.rows.tokens() as u64);
        let (folder, is_own) = match self.keep {
            Keep::Not(_) => return self.pass(None, progress),
            Keep::In(folder) => (folder.to_owned(), false),
            Keep::Below(shelf) => (shelf.to_owned(), true),
        };
        let origins = self.origins()?;
        let folder = if is_own { folder.join(self.name(&origins)) } else { folder };
        match self.kept(&folder, &origins) {
            Ok(Some(tables)) => {
                progress.step(self.rows.tokens() as u64)?;
                return Ok(tables);
            }
            // What is damaged in a folder of our own is only in the way.
            Err(e) if !is_own => return Err(e),
            Ok(None) | Err(_) => {}
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
        let made = self.pass(Some((&folder, &origins)), progress);
        if made.is_err() && is_own {
            // Goes only if it is empty.
            drop(std::fs::remove_dir(&folder));
        }
        made
    }

    /// Runs the text, and writes what the places hold into a folder, if one is given.
    fn pass(&self, folder: Option<(&Path, &[String])>, progress: &Progress) -> Result<Vec<Table>> {
        let skipped = usize::from(self.skip_first);
        let n = self.rows.positions(self.skip_first);
        let widths: Vec<usize> = self.places.iter().map(|p| p.width(&self.model.config)).collect();
        for p in self.places {
            p.check(&self.model.config)?;
        }
        let bytes = 4 * n * widths.iter().sum::<usize>();
        let in_memory = matches!(self.keep, Keep::Not(memory) if bytes <= memory);
        let mut sinks = widths
            .iter()
            .enumerate()
            .map(|(i, d)| match folder {
                _ if in_memory => Ok(Sink::Memory(Vec::with_capacity(n * d))),
                Some((folder, origins)) => file(folder, i, &origins[i], n, *d),
                None => {
                    let file = scratch_file()?;
                    Ok(Sink::Unnamed { writer: BufWriter::with_capacity(1 << 20, file), rows: n })
                }
            })
            .collect::<Result<Vec<_>>>()?;
        for batch in self.rows.batches(PASS) {
            let rows = self.rows.some(&batch)?;
            let values = activations(self.model, &rows.rows(), self.places, progress)?;
            for (sink, (value, d)) in sinks.iter_mut().zip(values.iter().zip(&widths)) {
                with_values(&value.contiguous()?, |v| {
                    v.chunks_exact(rows.len * d).try_for_each(|row| sink.write(&row[skipped * d..]))
                })??;
            }
            progress.step(rows.tokens() as u64)?;
        }
        sinks.into_iter().zip(widths).map(|(s, d)| s.finish(d)).collect()
    }

    /// The tables of a folder, if all of them are there.
    fn kept(&self, folder: &Path, origins: &[String]) -> Result<Option<Vec<Table>>> {
        let n = self.rows.positions(self.skip_first);
        let mut tables = Vec::new();
        for (i, wanted) in origins.iter().enumerate() {
            let path = folder.join(file_name(i));
            if !path.is_file() {
                continue;
            }
            let (table, d) = (Table::open(&path)?, self.places[i].width(&self.model.config));
            let found = Table::origin(&path)?.unwrap_or_default();
            if (table.rows(), table.width(), &found) != (n, d, wanted) {
                return Err(Error::request(format!(
                    "{} holds activations [{}, {}] of `{found}`, but [{n}, {d}] of `{wanted}` are needed; choose another --keep",
                    path.display(),
                    table.rows(),
                    table.width()
                )));
            }
            tables.push(table);
        }
        Ok((tables.len() == origins.len()).then_some(tables))
    }

    /// What the activations of each place are of: model, site, and a hash of the text.
    ///
    /// # Errors
    /// As reading the rows, and the weights, some of which tell models of one name apart.
    pub fn origins(&self) -> Result<Vec<String>> {
        let mut hash = 0xCBF2_9CE4_8422_2325u64;
        self.rows.each(|row| {
            for id in [row.len() as u32].iter().chain(row) {
                hash = (hash ^ u64::from(*id)).wrapping_mul(0x0000_0100_0000_01B3);
            }
        })?;
        let first = if self.skip_first { "without" } else { "with" };
        let model = format!("{} ({:016x})", self.model.config.name, self.model.fingerprint()?);
        let of = |p: &Place| format!("{model} at {p}, text {hash:016x} {first} first positions");
        Ok(self.places.iter().map(of).collect())
    }

    /// The name of a folder for these activations and no others.
    fn name(&self, origins: &[String]) -> String {
        let mut hash = Hash::default();
        for origin in origins {
            hash.all(origin.bytes().map(u64::from));
        }
        let sites = self.places.iter().map(|p| format!("-{p}")).collect::<String>();
        format!("{}-{:016x}", crate::files::file_name(&format!("{}{sites}", self.model.config.name)), hash.0)
    }
}

/// The file of the `i`-th place's activations [n, d], with its header.
fn file(folder: &Path, i: usize, origin: &str, n: usize, d: usize) -> Result<Sink> {
    let place = folder.join(file_name(i));
    let file = Output::create(&place)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let header = serde_json::json!({
        "__metadata__": {
            "origin": origin,
            "generator": concat!("circuitscope ", env!("CARGO_PKG_VERSION")),
        },
        "activations": {"dtype": "F32", "shape": [n, d], "data_offsets": [0, 4 * n * d]},
    });
    let mut header = header.to_string();
    // Values begin at a multiple of 8.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let wrote =
        writer.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| writer.write_all(header.as_bytes()));
    wrote.map_err(|e| Error::write(folder, e))?;
    Ok(Sink::File { writer, place })
}

impl Sink {
    fn write(&mut self, values: &[f32]) -> Result<()> {
        match self {
            Self::Memory(all) => all.extend_from_slice(values),
            Self::File { writer, place } => {
                writer.write_all(bytemuck::cast_slice(values)).map_err(|e| Error::write(place, e))?;
            }
            Self::Unnamed { writer, .. } => {
                let wrote = writer.write_all(bytemuck::cast_slice(values));
                wrote.map_err(|e| Error::write(scratch_folder(), e))?;
            }
        }
        Ok(())
    }

    fn finish(self, d: usize) -> Result<Table> {
        match self {
            Self::Memory(values) => Ok(Table::Memory { d, values }),
            Self::File { writer, place } => {
                let file = writer.into_inner().map_err(|e| Error::write(&place, e.into_error()))?;
                file.finish()?;
                Table::open(&place)
            }
            Self::Unnamed { writer, rows } => {
                let path = scratch_folder().to_owned();
                let file = writer.into_inner().map_err(|e| Error::write(&path, e.into_error()))?;
                Ok(Table::File { d, rows, context: 0, file, offset: 0, path })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_atomic;

    #[test]
    fn a_file_holds_what_memory_does() {
        let model = Model::open("induction").unwrap();
        let rows = Rows::new([(&[1, 2, 3, 4][..], 0), (&[5, 6, 7, 8], 0), (&[9, 10], 1)]);
        let places = [Place::parse("blocks.1.hook_resid_pre").unwrap(), Place::parse("blocks.1.attn.hook_z").unwrap()];
        let dir = tempfile::tempdir().unwrap();
        let harvest = |keep: Keep<'_>| {
            let h = Harvest { model: &model, rows: &rows, places: &places, skip_first: true, keep };
            h.run(&Progress::new()).unwrap()
        };
        let (memory, file) = (harvest(Keep::Not(1 << 30)), harvest(Keep::In(dir.path())));
        let temporary = harvest(Keep::Not(0));
        assert_eq!(memory.len(), 2);
        for ((m, f), t) in memory.iter().zip(&file).zip(&temporary) {
            assert_eq!((m.rows(), m.width()), (7, 128));
            let wanted = [6, 0, 3, 3];
            assert_eq!(m.take(&wanted).unwrap(), f.take(&wanted).unwrap());
            assert_eq!(m.take(&wanted).unwrap(), t.take(&wanted).unwrap());
        }
        let reopened = Table::open(&dir.path().join(file_name(1))).unwrap();
        assert_eq!(reopened.take(&[2]).unwrap(), memory[1].take(&[2]).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// Kept activations are found again without a pass; other ones lie elsewhere, and damaged ones are made again. A
    /// folder that the user named is never written over.
    #[test]
    fn kept_activations_are_found_again() {
        let model = Model::open("induction").unwrap();
        let rows = Rows::new([(&[1, 2, 3, 4][..], 0), (&[5, 6, 7, 8], 0)]);
        let other = Rows::new([(&[1, 2, 3, 4][..], 0), (&[5, 6, 7, 9], 0)]);
        let places = [Place::parse("blocks.1.hook_resid_pre").unwrap()];
        let [shelf, named, dirs] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let run = |rows: &Rows, keep: Keep<'_>| {
            let progress = Progress::new();
            let tables = Harvest { model: &model, rows, places: &places, skip_first: true, keep }.run(&progress);
            (tables.map(|t| t[0].take(&[0, 5]).unwrap()), progress.counts())
        };
        let below = Keep::Below(shelf.path());
        let folders = || std::fs::read_dir(shelf.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let (first, counts) = run(&rows, below);
        let first = first.unwrap();
        assert_eq!(counts, (8, 8));
        let file = folders()[0].join(file_name(0));
        let written = || std::fs::metadata(&file).unwrap().modified().unwrap();
        let then = written();
        let (again, counts) = run(&rows, below);
        assert_eq!((again.unwrap(), counts, written()), (first.clone(), (8, 8), then));
        assert_ne!(run(&other, below).0.unwrap(), first);
        assert_eq!(folders().len(), 2);
        write_atomic(&file, b"damaged").unwrap();
        assert_eq!(run(&rows, below).0.unwrap(), first);

        // Both of a transcoder's files are looked at, also where one of them is not there yet.
        run(&rows, Keep::In(named.path())).0.unwrap();
        let place = Place::parse("blocks.0.hook_resid_pre").unwrap();
        let (keep, both) = (Keep::In(named.path()), [place, places[0]]);
        let h = Harvest { model: &model, rows: &rows, places: &both, skip_first: true, keep };
        assert!(h.run(&Progress::new()).unwrap_err().to_string().contains("choose another --keep"));
        let stopped = Progress::new();
        stopped.cancel();
        let below = Keep::Below(&dirs.path().join("stopped"));
        let h = Harvest { model: &model, rows: &rows, places: &both, skip_first: true, keep: below };
        assert!(h.run(&stopped).is_err());
        assert_eq!(std::fs::read_dir(dirs.path().join("stopped")).unwrap().count(), 0);

        let error = run(&other, Keep::In(named.path())).0.unwrap_err().to_string();
        assert!(error.contains("choose another --keep"), "{error}");
        write_atomic(&named.path().join(file_name(0)), b"damaged").unwrap();
        assert!(run(&rows, Keep::In(named.path())).0.is_err());
    }
}
