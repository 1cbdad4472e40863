//! Reads safetensors files: a single one, or shards that an index lists.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::dequantize::Stored;
use super::store::{Entry, read_exact_at};
use crate::error::{Error, Result};

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
        let text = std::fs::read_to_string(&index).map_err(|e| Error::read(&index, e))?;
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
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| Error::read(folder, e))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found),
        0 => Err(Error::Malformed {
            path: folder.to_owned(),
            format: "model",
            what: "it holds no .safetensors file (pickled .bin and .pt files are never opened)".to_owned(),
        }),
        n => Err(Error::Malformed {
            path: folder.to_owned(),
            format: "model",
            what: format!("it holds {n} .safetensors files but no model.safetensors.index.json that names them"),
        }),
    }
}

/// Reads the headers of `paths` and checks every tensor's place against its file.
pub fn index(paths: &[PathBuf]) -> Result<(Vec<File>, BTreeMap<String, Entry>)> {
    let mut files = Vec::new();
    let mut entries = BTreeMap::new();
    for path in paths {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let len = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let malformed = |what: String| Error::Malformed { path: path.clone(), format: FORMAT, what };
        if len < 8 {
            return Err(malformed(format!("it is only {len} bytes long")));
        }
        let mut size = [0u8; 8];
        read_exact_at(&file, &mut size, 0).map_err(|e| Error::read(path, e))?;
        let header = u64::from_le_bytes(size);
        if header > MAX_HEADER || header > len - 8 {
            return Err(malformed(format!("its header claims {header} bytes but the file has {len}")));
        }
        let mut bytes = vec![0u8; header as usize];
        read_exact_at(&file, &mut bytes, 8).map_err(|e| Error::read(path, e))?;
        let tensors: BTreeMap<String, Json> =
            serde_json::from_slice(&bytes).map_err(|e| malformed(format!("its header is damaged ({e})")))?;
        let data = len - 8 - header;
        for (name, info) in tensors {
            if name == "__metadata__" {
                continue;
            }
            let info: Info = serde_json::from_value(info)
                .map_err(|e| malformed(format!("its entry for `{name}` is damaged ({e})")))?;
            let (from, to) = info.data_offsets;
            if from > to || to > data {
                return Err(malformed(format!("tensor `{name}` ends beyond the file, which seems cut short")));
            }
            let stored = match info.dtype.as_str() {
                "F32" => Stored::F32,
                "F16" => Stored::F16,
                "BF16" => Stored::BF16,
                // Old exports hold masks and counters, which are no weights. A weight of such a type is later reported
                // as missing.
                _ => continue,
            };
            let count = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            if count.and_then(|n| stored.bytes(n)).map(|b| b as u64) != Some(to - from) {
                return Err(malformed(format!(
                    "tensor `{name}` of shape {:?} does not fill its {} bytes",
                    info.shape,
                    to - from
                )));
            }
            entries.insert(
                name,
                Entry {
                    file: files.len(),
                    stored,
                    shape: info.shape,
                    offset: 8 + header + from,
                    interleaved_heads: None,
                },
            );
        }
        files.push(file);
    }
    Ok((files, entries))
}
