//! Gemma Scope: `params.npz`, and version 2's `params.safetensors` with lower-case names, whose `config.json` says where
//! they belong; version 2's cross-layer transcoders have a `params_layer_{i}.safetensors` for each layer.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value as Json;

use super::{CrossLayer, Format, config_at, config_of, matrix_shape, place_of_hook, store};
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::cross_layer::Later;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::guard::guarded;
use crate::progress::Progress;
use crate::typed::typed;

const NAME: &str = "Gemma Scope";
const NPZ: &str = "params.npz";
const SAFETENSORS: &str = "params.safetensors";
const CONFIG: &str = "config.json";
const LAYER: &str = "params_layer_";

pub const FORMAT: Format = Format { name: NAME, looks: "params.npz or params.safetensors", matches, layer, open };

fn file_of(path: &Path) -> PathBuf {
    if path.is_file() {
        return path.to_owned();
    }
    let npz = path.join(NPZ);
    if npz.is_file() { npz } else { path.join(SAFETENSORS) }
}

fn matches(path: &Path) -> bool {
    let file = file_of(path);
    file.is_file() && (is_npz(&file) || file.file_name().is_some_and(|n| n == SAFETENSORS) || layer_of(&file).is_some())
}

/// The layer of a cross-layer set that a file belongs to, by its name.
fn layer_of(file: &Path) -> Option<usize> {
    file.file_name()?.to_str()?.strip_prefix(LAYER)?.strip_suffix(".safetensors")?.parse().ok()
}

/// The files of a folder that holds a cross-layer set, by layer.
pub fn layers(folder: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<(usize, PathBuf)> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter_map(|p| Some((layer_of(&p)?, p))).collect();
    found.sort();
    found
}

/// Sites by the words of the published paths: `gemma-scope-2b-pt-res/layer_20/width_16k/…`, and version 2's
/// `resid_post/layer_20_width_16k…`. `reads` is what transcoders read: version 1's the norm's output before its weight,
/// version 2's the norm's whole output.
fn places(path: &Path, reads: fn(usize) -> Place) -> Places {
    let parts: Vec<&str> = path.components().filter_map(|c| c.as_os_str().to_str()).collect();
    let layer_of = |part: &str| -> Option<usize> {
        let digits: String = part.strip_prefix("layer_")?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let Some((at, layer)) = parts.iter().enumerate().rev().find_map(|(i, p)| Some((i, layer_of(p)?))) else {
        return (None, None);
    };
    // The kind stands in the folder above the layer's, or one further up; in the hub's cache in that of the repository, above
    // the snapshot's.
    let above = if at >= 2 && parts[at - 2] == "snapshots" { 3 } else { 2 };
    let near = &parts[at.saturating_sub(above)..at];
    let named = |words: &[&str]| {
        near.iter().any(|p| p.split(['-', '_', '.']).any(|w| words.contains(&w)))
            || parts[at..].iter().any(|p| p.split(['-', '_', '.']).any(|w| words.contains(&w)))
    };
    let place = |kind| Some(Place::from(Site::new(kind, layer)));
    if named(&["transcoder", "transcoders"]) {
        (Some(reads(layer)), place(SiteKind::MlpOut))
    } else if named(&["mlp"]) {
        (place(SiteKind::MlpOut), place(SiteKind::MlpOut))
    } else if named(&["att", "attn"]) {
        (place(SiteKind::Z), place(SiteKind::Z))
    } else if named(&["res", "resid"]) {
        (place(SiteKind::ResidPost), place(SiteKind::ResidPost))
    } else {
        (None, None)
    }
}

fn is_npz(file: &Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"))
}

/// The dictionary of a file, without name and places.
///
/// # Errors
/// A damaged file.
pub fn read(file: &Path, progress: &Progress) -> Result<Dictionary> {
    if is_npz(file) { from_npz(file, progress) } else { from_safetensors(file, progress) }
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let file = file_of(path);
    // Not through links: downloads are links to files without a name.
    let full = std::path::absolute(&file).map_err(|e| Error::read(&file, e))?;
    let name = {
        let parts: Vec<_> = full.components().filter_map(|c| c.as_os_str().to_str()).collect();
        parts[..parts.len().saturating_sub(1)].iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("/")
    };
    let mut dictionary = read(&file, progress)?;
    let (input, output) = placed(&dictionary.config, &full).map_err(|what| Error::Malformed {
        path: file.with_file_name(CONFIG),
        format: NAME,
        what: format!("its {what}"),
    })?;
    dictionary.name = name;
    dictionary.transcoder = dictionary.skip.is_some() || input != output || dictionary.d_in != dictionary.d_out;
    dictionary.input = input;
    dictionary.output = output;
    Ok(dictionary)
}

/// The places of what is read and what is written.
type Places = (Option<Place>, Option<Place>);

/// Where a file's dictionary reads and writes: by its configuration, else by the words of its path.
///
/// # Errors
/// As [`told`].
fn placed(config: &Json, full: &Path) -> std::result::Result<Places, String> {
    Ok(match told(config, layer_of(full))? {
        // Another place than the path's words may say, or one that no model here has.
        Some(told) => told,
        None if is_npz(full) => places(full, |layer| Site::new(SiteKind::Ln2Normalized, layer).into()),
        None => places(full, Place::mlp_input),
    })
}

fn layer(path: &Path) -> Option<usize> {
    let full = std::path::absolute(file_of(path)).ok()?;
    let config = if is_npz(&full) { None } else { config_at(&full.with_file_name(CONFIG)) };
    placed(&config.unwrap_or(Json::Null), &full).ok()?.0.map(Place::layer)
}

/// The places that a configuration names; of a cross-layer set's, that of one layer.
///
/// # Errors
/// A hook that is no text. The message is a part of a sentence.
fn told(config: &Json, layer: Option<usize>) -> std::result::Result<Option<Places>, String> {
    // A cross-layer set's configuration names the hook of some layer, or of each.
    let at = |hook: &str| {
        let place = place_of_hook(hook)?;
        Some(Place { site: Site { layer: layer.unwrap_or(place.layer()), ..place.site }, ..place })
    };
    match layer {
        Some(layer) => {
            let first = |name: &str| {
                let value = config.get(name);
                let hook: Option<&str> = typed(value.and_then(|v| v.get(0)).or(value), name)?;
                Ok::<_, String>(hook.and_then(at))
            };
            let (input, output) = (first("hf_hook_point_in")?, first("hf_hook_point_out")?);
            Ok(Some((
                input.or(Some(Place::mlp_input(layer))),
                output.or(Some(Site::new(SiteKind::MlpOut, layer).into())),
            )))
        }
        None => {
            let hook = |name: &str| typed::<&str>(config.get(name), name);
            let (input, output) = (hook("hf_hook_point_in")?, hook("hf_hook_point_out")?);
            Ok(input.map(|input| (at(input), at(output.unwrap_or(input)))))
        }
    }
}

fn from_safetensors(file: &Path, progress: &Progress) -> Result<Dictionary> {
    let store = store(file, NAME, progress)?;
    let (d_in, d_sae) = matrix_shape(&store, file, NAME, "w_enc")?;
    let cross =
        layer_of(file).map(|layer| CrossLayer::of(&store, file, NAME, "w_dec".to_owned(), layer, d_sae)).transpose()?;
    let d_out = match &cross {
        Some(cross) => cross.shape[2],
        None => matrix_shape(&store, file, NAME, "w_dec")?.1,
    };
    let config_path = file.with_file_name(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config = if config_path.is_file() { config_of(&config_path, &malformed)? } else { Json::Null };
    let model_name: Option<&str> = super::typed(config.get("model_name"), "model_name", &malformed)?;
    let model_name = model_name.map(str::to_owned);
    let vector = |name: &str, n: usize| -> Result<Vec<f32>> { Ok(store.vector(name, n)?.to_vec1()?) };
    let skip = "affine_skip_connection";
    let config = match (&cross, config) {
        (Some(_), Json::Object(mut fields)) => {
            fields.insert("model_kind".to_owned(), "cross_layer_transcoder".into());
            Json::Object(fields)
        }
        (Some(_), _) => serde_json::json!({"model_kind": "cross_layer_transcoder"}),
        (None, config) => config,
    };
    let (w_dec, later) = match cross {
        Some(cross) => cross.decoders(&store, NAME)?,
        None => (store.matrix("w_dec", d_sae, d_out)?, Later::default()),
    };
    Ok(Dictionary {
        name: String::new(),
        path: file.to_owned(),
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: store.matrix("w_enc", d_in, d_sae)?,
        b_enc: vector("b_enc", d_sae)?,
        w_dec,
        later,
        b_dec: vector("b_dec", d_out)?,
        activation: Activation::JumpRelu { threshold: vector("threshold", d_sae)? },
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: if store.contains(skip) { Some(store.matrix(skip, d_in, d_out)?) } else { None },
        transcoder: false,
        input: None,
        output: None,
        model_name,
        config,
        warnings: Vec::new(),
    })
}

/// An array of an npz archive.
struct Array {
    shape: Vec<usize>,
    /// In the order of the file.
    values: Vec<f32>,
    order: npyz::Order,
}

impl Array {
    fn tensor(self) -> candle_core::Result<Tensor> {
        match self.order {
            npyz::Order::C => Tensor::from_vec(self.values, self.shape, &Device::Cpu),
            // Column after column, as numpy saves a transposed matrix.
            npyz::Order::Fortran => {
                let mut shape = self.shape;
                shape.reverse();
                Tensor::from_vec(self.values, shape, &Device::Cpu)?.t()?.contiguous()
            }
        }
    }
}

/// Bytes that all arrays of an archive may hold together.
const MOST: u64 = 16 << 30;
/// Deflate packs at most about a thousand to one, and trained weights hardly at all.
const RATIO: u64 = 100;

/// The library for arrays trusts what a file says, and so does the one for archives.
fn from_npz(file: &Path, progress: &Progress) -> Result<Dictionary> {
    let opened = File::open(file).map_err(|e| Error::read(file, e))?;
    let packed = opened.metadata().map_err(|e| Error::read(file, e))?.len();
    let (path, progress) = (file.to_owned(), progress.clone());
    let read = guarded(packed as usize, move || unpacked(&path, opened, packed, &progress));
    let malformed = |what: String| Error::Malformed { path: file.to_owned(), format: NAME, what };
    read.unwrap_or_else(|fault| Err(malformed(format!("it cannot be unpacked: {fault}"))))
}

/// The first bytes of an array, up to its numbers. Their parser makes room for whatever length they claim, and goes into
/// brackets without end.
fn preamble(from: &mut impl Read) -> std::result::Result<Vec<u8>, String> {
    /// NumPy's own are of 64 to 128 bytes, with a bracket in a bracket.
    const LONGEST: usize = 1 << 16;
    const DEEPEST: usize = 16;
    let mut head = Vec::new();
    let mut more = |head: &mut Vec<u8>, n: usize| {
        let at = head.len();
        head.resize(at + n, 0);
        from.read_exact(&mut head[at..]).map_err(|e| format!("has no whole header ({e})"))
    };
    more(&mut head, 10)?;
    if head[6] > 1 {
        more(&mut head, 2)?;
    }
    let length = head[8..].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    if length > LONGEST {
        return Err(format!("claims a header of {length} bytes, where NumPy writes about a hundred"));
    }
    let at = head.len();
    more(&mut head, length)?;
    let depth = |open: usize, b: &u8| match b {
        b'(' | b'[' | b'{' => open + 1,
        b')' | b']' | b'}' => open.saturating_sub(1),
        _ => open,
    };
    let mut depths = head[at..].iter().scan(0, |open, b| {
        *open = depth(*open, b);
        Some(*open)
    });
    if depths.any(|d| d > DEEPEST) {
        return Err("has a header whose brackets lie in one another too deep".to_owned());
    }
    Ok(head)
}

fn unpacked(file: &Path, opened: File, packed: u64, progress: &Progress) -> Result<Dictionary> {
    let malformed = |what: String| Error::Malformed { path: file.to_owned(), format: NAME, what };
    let mut archive = zip::ZipArchive::new(BufReader::new(opened))
        .map_err(|e| malformed(format!("it is no complete npz archive ({e})")))?;
    let mut left = MOST.min(packed.saturating_mul(RATIO));
    let mut read = |name: &str| -> Result<Array> {
        progress.check()?;
        let entry = archive
            .by_name(&format!("{name}.npy"))
            .map_err(|e| malformed(format!("it holds no usable array `{name}` ({e})")))?;
        // The archive's own word about a size is not believed: what is read is counted.
        let mut limited = entry.take(left.saturating_add(1));
        let head = preamble(&mut limited).map_err(|what| malformed(format!("array `{name}` {what}")))?;
        let npy = npyz::NpyFile::new(std::io::Cursor::new(head).chain(limited))
            .map_err(|e| malformed(format!("array `{name}` is damaged ({e})")))?;
        let shape: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
        let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64)).unwrap_or(u64::MAX);
        if count.saturating_mul(2) > left {
            return Err(malformed(format!(
                "array `{name}` claims shape {shape:?}, more than {packed} bytes of archive can hold"
            )));
        }
        let order = npy.order();
        let values = values(npy).map_err(|what| malformed(format!("array `{name}` {what}")))?;
        if values.len() as u64 != count {
            return Err(malformed(format!("array `{name}` holds {} of its {count} values", values.len())));
        }
        left = left.saturating_sub(4 * count);
        Ok(Array { shape, values, order })
    };
    let (w_enc, w_dec) = (read("W_enc")?, read("W_dec")?);
    let (&[d_in, d_sae], &[_, d_out]) = (&w_enc.shape[..], &w_dec.shape[..]) else {
        return Err(malformed(format!(
            "W_enc has shape {:?} and W_dec {:?}, not two axes each",
            w_enc.shape, w_dec.shape
        )));
    };
    let (b_enc, b_dec, threshold) = (read("b_enc")?.values, read("b_dec")?.values, read("threshold")?.values);
    Ok(Dictionary {
        name: String::new(),
        path: file.to_owned(),
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: w_enc.tensor()?,
        b_enc,
        w_dec: w_dec.tensor()?,
        later: Default::default(),
        b_dec,
        activation: Activation::JumpRelu { threshold },
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: false,
        input: None,
        output: None,
        model_name: None,
        config: Json::Null,
        warnings: Vec::new(),
    })
}

fn values<R: Read>(npy: npyz::NpyFile<R>) -> std::result::Result<Vec<f32>, String> {
    let damaged = |e: std::io::Error| format!("ends early or is damaged ({e})");
    let kind = npy.dtype().descr();
    match kind.trim_matches(|c| "\"'<|=".contains(c)) {
        "f4" => npy.into_vec::<f32>().map_err(damaged),
        "f8" => Ok(npy.into_vec::<f64>().map_err(damaged)?.into_iter().map(|v| v as f32).collect()),
        "f2" => {
            let halves = npy.into_vec::<half::f16>().map_err(damaged)?;
            Ok(halves.into_iter().map(half::f16::to_f32).collect())
        }
        other => Err(format!("has the type {other}; supported are f2, f4 and f8")),
    }
}
