//! Reads safetensors files: a single one, or shards that an index lists.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use candle_core::Tensor;

use super::dequantize::Stored;
use super::store::{Entry, read_exact_at};
use crate::error::{Error, Result, short};
use crate::files::{LARGE, read_text};

const FORMAT: &str = "safetensors";
/// The most bytes that the format allows a header.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor's entry in the header.
#[derive(serde::Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Returns the safetensors files of a model folder, in order: `model.safetensors`, or the shards of
/// `model.safetensors.index.json`, or a single file of any other name.
pub fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = read_text(&index, LARGE)?;
        let parsed: Index = serde_json::from_str(&text).map_err(|e| Error::Malformed {
            path: index.clone(),
            format: "shard index",
            what: e.to_string(),
        })?;
        let mut names: Vec<String> = parsed.weight_map.into_values().collect();
        names.sort();
        names.dedup();
        // A shard must be a plain file name, since a path could lead out of the folder.
        if let Some(bad) = names.iter().find(|n| Path::new(n).file_name() != Some(n.as_ref())) {
            return Err(Error::Malformed {
                path: index,
                format: "shard index",
                what: format!("it names `{bad}`, which is not a file of this folder"),
            });
        }
        return Ok(names.into_iter().map(|n| folder.join(n)).collect());
    }
    let names: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| Error::read(folder, e))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    let ends = |path: &&PathBuf, ends: &[&str]| path.extension().is_some_and(|e| ends.iter().any(|end| e == *end));
    let mut found: Vec<PathBuf> = names.iter().filter(|p| ends(p, &["safetensors"])).cloned().collect();
    found.sort();
    let unopenable = |what: String| Error::Unopenable { path: folder.to_owned(), what };
    match found.len() {
        1 => Ok(found),
        0 => Err(unopenable(match names.iter().find(|p| ends(p, &["bin", "pt", "pth", "ckpt"])) {
            Some(pickle) => format!(
                "its weights are a Python pickle ({}), which can run code; save them as safetensors with \
                 `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)` of transformers",
                pickle.file_name().unwrap_or_default().to_string_lossy()
            ),
            None => "it holds no .safetensors file; put the model's weights into the folder".to_owned(),
        })),
        n => Err(unopenable(format!(
            "it holds {n} .safetensors files but no model.safetensors.index.json that names them; put that file into the \
             folder"
        ))),
    }
}

/// The tensors of several files.
pub struct Index {
    /// Where the files lie, for messages.
    pub root: PathBuf,
    pub files: Vec<File>,
    pub entries: BTreeMap<String, Entry>,
    /// Tensors whose type is not read, with its name.
    pub unread: BTreeMap<String, String>,
}

/// Reads the headers of `paths` and checks every tensor's place against its file.
///
/// # Errors
/// A file cannot be read, or its header is damaged.
pub fn index(paths: &[PathBuf]) -> Result<Index> {
    let root = paths.first().cloned().unwrap_or_default();
    let mut index = Index { root, files: Vec::new(), entries: BTreeMap::new(), unread: BTreeMap::new() };
    for path in paths {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let (tensors, data, len) = header(path, &file)?;
        let malformed = |what: String| Error::Malformed { path: path.clone(), format: FORMAT, what };
        let mut ranges = Vec::new();
        for (name, info) in tensors {
            if name == "__metadata__" {
                let texts = |m: &serde_json::Map<String, Json>| m.values().all(Json::is_string);
                if !info.is_null() && !info.as_object().is_some_and(texts) {
                    return Err(malformed("its `__metadata__` is no object of texts".to_owned()));
                }
                continue;
            }
            let info: Info = serde_json::from_value(info)
                .map_err(|e| malformed(format!("its entry for `{}` is damaged ({e})", short(&name))))?;
            let (from, to) = info.data_offsets;
            if from > to || to > len {
                return Err(Error::Damaged {
                    path: path.clone(),
                    format: FORMAT,
                    what: format!("tensor `{}` ends beyond the file, which seems cut short", short(&name)),
                });
            }
            ranges.push((from, to, name.clone()));
            let name = inner_name(&name);
            // Old exports hold masks and counters, which are no weights. Where a weight has such a type, it is named.
            let Some(stored) = Stored::from_dtype(&info.dtype) else {
                index.unread.insert(name, short(&info.dtype));
                continue;
            };
            let count = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            if count.and_then(|n| stored.bytes(n)).map(|b| b as u64) != Some(to - from) {
                return Err(malformed(format!(
                    "tensor `{}` of shape {} does not fill its {} bytes",
                    short(&name),
                    short(&format!("{:?}", info.shape)),
                    to - from
                )));
            }
            let entry = Entry::new(index.files.len(), stored, info.shape, data + from);
            if index.entries.insert(name.clone(), entry).is_some() {
                return Err(malformed(format!("tensor `{}` is there twice", short(&name))));
            }
        }
        ranges.retain(|(from, to, _)| from < to);
        ranges.sort();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            return Err(malformed(format!("tensors `{}` and `{}` overlap", short(&pair[0].2), short(&pair[1].2))));
        }
        // As the format wants it: offsets that are all too large would give every tensor another's bytes.
        let starts = ranges.iter().map(|r| r.0).chain([len]);
        let ends = std::iter::once(0).chain(ranges.iter().map(|r| r.1));
        if let Some((from, to)) = ends.zip(starts).find(|(from, to)| from != to) {
            return Err(malformed(format!("bytes {from} to {to} of its data belong to no tensor")));
        }
        index.files.push(file);
    }
    Ok(index)
}

/// Returns the entries of a file's header, where its data begins, and how long that is.
fn header(path: &Path, file: &File) -> Result<(BTreeMap<String, Json>, u64, u64)> {
    let len = file.metadata().map_err(|e| Error::read(path, e))?.len();
    let damaged = |what: String| Error::Damaged { path: path.to_owned(), format: FORMAT, what };
    if len < 8 {
        return Err(damaged(format!("it is only {len} bytes long")));
    }
    let mut size = [0u8; 8];
    read_exact_at(file, &mut size, 0).map_err(|e| Error::read(path, e))?;
    if size.starts_with(b"version ") {
        return Err(Error::Unopenable {
            path: path.to_owned(),
            what: "it is a pointer of Git LFS in the place of the weights; fetch them with `git lfs pull`".to_owned(),
        });
    }
    let header = u64::from_le_bytes(size);
    if header > MAX_HEADER || header > len - 8 {
        return Err(damaged(format!("its header claims {header} bytes but the file has {len}")));
    }
    let mut bytes = vec![0u8; header as usize];
    read_exact_at(file, &mut bytes, 8).map_err(|e| Error::read(path, e))?;
    let tensors = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("its header is damaged ({e})")))?;
    Ok((tensors, 8 + header, len - 8 - header))
}

/// What a file's header says beside its tensors.
///
/// # Errors
/// A file that is none.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let (mut entries, ..) = header(path, &file)?;
    Ok(entries.remove("__metadata__").and_then(|m| serde_json::from_value(m).ok()).unwrap_or_default())
}

/// Packs tensors as a safetensors file, with facts for its metadata; the same bytes each time.
///
/// # Errors
/// Two tensors of one name.
pub fn pack<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>, about: &[(&str, String)]) -> Result<Vec<u8>> {
    let packed = safetensors::serialize(tensors, None);
    let packed = packed.map_err(|e| Error::failed(format!("the tensors cannot be packed: {e}")))?;
    let (Some(size), false) = (packed.first_chunk::<8>(), about.is_empty()) else { return Ok(packed) };
    // The library writes metadata in another order each time.
    let (_, rest) = packed.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let about: serde_json::Map<String, Json> = about.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect();
    let mut out = format!("{{\"__metadata__\":{}", Json::Object(about)).into_bytes();
    let entries = header.strip_prefix(b"{").unwrap_or(header).trim_ascii_end();
    if entries != b"}" {
        out.push(b',');
    }
    out.extend(entries);
    // Values begin at a multiple of 8.
    out.resize(out.len().next_multiple_of(8), b' ');
    let mut file = (out.len() as u64).to_le_bytes().to_vec();
    file.extend(out);
    file.extend(data);
    Ok(file)
}

/// The name of a tensor without what wrappers of training put around the model's own names.
fn inner_name(name: &str) -> String {
    let name = name.replace("_orig_mod.", "");
    let mut inner = name.as_str();
    while let Some(rest) = inner.strip_prefix("module.") {
        inner = rest;
    }
    inner.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_can_be_read() {
        let value = Tensor::new(&[1f32, 2.0, 3.0], &candle_core::Device::Cpu).unwrap();
        let about = [("b", "1".to_owned()), ("a", "\"".to_owned())];
        for tensors in [vec![], vec![("x", &value), ("y", &value)]] {
            let bytes = pack(tensors.clone(), &about).unwrap();
            assert_eq!(bytes, pack(tensors.clone(), &about).unwrap());
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(file.len(), tensors.len());
            for (name, view) in file.tensors() {
                assert_eq!((name.len(), view.data()), (1, bytemuck::cast_slice(&[1f32, 2.0, 3.0])));
            }
            let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(header.metadata().as_ref().unwrap()["a"], "\"");
        }
    }

    #[test]
    fn wrappers_are_read_through() {
        for name in
            ["module.model.norm.weight", "module._orig_mod.model.norm.weight", "_orig_mod.module.model.norm.weight"]
        {
            assert_eq!(inner_name(name), "model.norm.weight");
        }
        assert_eq!(inner_name("model._orig_mod.norm.weight"), "model.norm.weight");
        assert_eq!(inner_name("model.module_norm.weight"), "model.module_norm.weight");
    }
}
