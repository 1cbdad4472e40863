//! circuit-tracer's transcoders: a folder with `config.yaml` and one file a layer. Per-layer sets have
//! `layer_{i}.safetensors`; cross-layer ones `W_enc_{i}.safetensors` and `W_dec_{i}.safetensors`, whose features write
//! to their own layer and every later one.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Value as Json, json};

use super::{CrossLayer, Format, gemma_scope, matrix_shape, read_text, store};
use crate::error::{Error, Result, short};
use crate::features::dictionary::cross_layer::Later;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::files::write_atomic;
use crate::guard::guarded;
use crate::model::hub::Hub;
use crate::model::safetensors_file::pack;
use crate::model::store::Store;
use crate::progress::Progress;

pub const NAME: &str = "circuit-tracer";
const CONFIG: &str = "config.yaml";
const PER_LAYER: &str = "transcoder_set";
const CROSS_LAYER: &str = "cross_layer_transcoder";

pub const FORMAT: Format = Format {
    name: NAME,
    looks: "layer_0.safetensors beside a config.yaml, or W_enc_0.safetensors",
    matches,
    layer,
    open,
};

#[derive(serde::Deserialize)]
struct Config {
    model_name: Option<String>,
    model_kind: Option<String>,
    feature_input_hook: Option<String>,
    feature_output_hook: Option<String>,
    scan: Option<Json>,
    activation: Option<String>,
    k: Option<usize>,
    /// One file a layer, which may lie in the hub's cache, as in `hf://org/name/layer_0.safetensors?revision=main`.
    transcoders: Option<Vec<String>>,
}

impl Config {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = read_text(&path)?;
        let first = |said: String| said.lines().next().unwrap_or_default().to_owned();
        let parsed = guarded(text.len(), move || serde_saphyr::from_str(&text).map_err(|e| first(e.to_string())));
        let parsed = parsed.unwrap_or_else(|fault| Err(format!("it cannot be read: {fault}")));
        parsed.map_err(|what| Error::Malformed { path, format: NAME, what })
    }

    /// Whether its features write to later layers as well.
    fn kind(&self, folder: &Path) -> Result<bool> {
        match self.model_kind.as_deref() {
            None | Some(PER_LAYER) => Ok(false),
            Some(CROSS_LAYER) => Ok(true),
            Some(other) => Err(Error::Malformed {
                path: folder.join(CONFIG),
                format: NAME,
                what: format!("its model_kind `{other}` is not known here; known are {PER_LAYER} and {CROSS_LAYER}"),
            }),
        }
    }

    fn activation(&self, threshold: Option<Vec<f32>>, path: &Path) -> Result<Activation> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: NAME, what };
        match (self.activation.as_deref(), threshold) {
            // Here there is no ReLU behind the jump.
            (None | Some("jump_relu" | "jumprelu"), Some(threshold)) if threshold.iter().any(|t| *t < 0.0) => {
                Ok(Activation::Jump { threshold })
            }
            (None | Some("jump_relu" | "jumprelu"), Some(threshold)) => Ok(Activation::JumpRelu { threshold }),
            (None | Some("relu"), _) => Ok(Activation::Relu),
            (Some("topk"), _) => match self.k {
                Some(k) => Ok(Activation::Largest { k }),
                None => Err(malformed("its activation is topk, but it does not say its k".to_owned())),
            },
            (Some("jump_relu" | "jumprelu"), None) => {
                Err(malformed("its activation is jump_relu, but its layers have no threshold".to_owned()))
            }
            (Some(other), _) => Err(malformed(format!(
                "its activation `{other}` is not known here; known are relu, jump_relu and topk"
            ))),
        }
    }
}

/// A file of a list: beside the list, or in the hub's cache.
fn listed(entry: &str, folder: &Path) -> Result<PathBuf> {
    let Some(rest) = entry.strip_prefix("hf://") else { return Ok(folder.join(entry)) };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let revision = query.split('&').find_map(|q| q.strip_prefix("revision=")).unwrap_or("main");
    let mut parts = path.splitn(3, '/');
    let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Error::request(format!(
            "`{entry}` of {} names no file of the hub; write hf://org/name/file",
            folder.join(CONFIG).display()
        )));
    };
    let repository = format!("{owner}/{name}");
    let hub = Hub::of_environment()?;
    hub.cached_file(&repository, revision, file.trim_start_matches('/')).ok_or_else(|| {
        Error::request(format!(
            "{} names `{entry}`, which is not in the hub's cache {}; fetch it there with `hf download {repository} {file}`",
            folder.join(CONFIG).display(),
            hub.cache.display()
        ))
    })
}

fn matches(path: &Path) -> bool {
    let folder = if path.is_file() { path.parent() } else { Some(path) };
    folder.is_some_and(|f| f.join(CONFIG).is_file())
}

/// Whether a folder holds a set that its `config.yaml` describes.
pub fn is_set(folder: &Path) -> bool {
    matches(folder)
}

/// The layer that a file's name ends with.
fn layer_of(path: &Path) -> Option<usize> {
    let stem = path.file_stem()?.to_str()?;
    ["layer_", "W_enc_", "W_dec_"].iter().find_map(|p| stem.strip_prefix(p))?.parse().ok()
}

fn layer(path: &Path) -> Option<usize> {
    if path.is_file() {
        return layer_of(path);
    }
    match &layers(path).ok()?[..] {
        [(layer, _)] => Some(*layer),
        _ => None,
    }
}

/// The files of a set, by layer: those that its configuration lists, where they are there, else those that lie in its folder.
///
/// # Errors
/// A folder that cannot be read, and listed files that are not there.
pub fn layers(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .filter(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with("W_dec_")))
        .filter_map(|p| Some((layer_of(&p)?, p)))
        .collect();
    found.sort();
    // What is wrong with the configuration is told where a layer is opened.
    let list = match Config::read(folder) {
        Ok(config) => config.transcoders.filter(|list| !list.is_empty()),
        Err(e) if found.is_empty() => return Err(e),
        Err(_) => None,
    };
    let Some(list) = list else { return Ok(found) };
    let listed = list.iter().enumerate().map(|(l, entry)| Ok((l, listed(entry, folder)?)));
    match listed.collect::<Result<Vec<_>>>() {
        Ok(all) if found.is_empty() || all.iter().all(|(_, file)| file.is_file()) => Ok(all),
        Err(e) if found.is_empty() => Err(e),
        _ => Ok(found),
    }
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let malformed = |what: String| Error::Malformed { path: folder.join(CONFIG), format: NAME, what };
    let file = if path.is_file() && path.file_name().is_some_and(|n| n != CONFIG) {
        path.to_owned()
    } else {
        match &layers(folder)?[..] {
            [] => {
                // A word that is not known says more than a file that is missing.
                Config::read(folder)?.kind(folder)?;
                return Err(malformed("no layer_0.safetensors or W_enc_0.safetensors lies beside it".to_owned()));
            }
            [(_, one)] => one.clone(),
            [(_, first), ..] => {
                return Err(Error::request(format!(
                    "{} holds one dictionary a layer; name one of its files, such as {}",
                    folder.display(),
                    first.display()
                )));
            }
        }
    };
    let layer = layer_of(&file).ok_or_else(|| {
        Error::request(format!("{} does not say its layer; files are named layer_0.safetensors", file.display()))
    })?;
    open_layer(folder, &file, layer, progress)
}

/// Opens one layer of the set in `folder`.
///
/// # Errors
/// As [`super::open`].
pub fn open_layer(folder: &Path, file: &Path, layer: usize, progress: &Progress) -> Result<Dictionary> {
    let config = Config::read(folder)?;
    let cross = config.kind(folder)?;
    let place = |name: &str, hook: Option<&str>| {
        let parsed = hook.map(|h| Place::parse(&format!("blocks.{layer}.{h}")).map_err(|_| h));
        parsed.transpose().map_err(|hook| Error::Malformed {
            path: folder.join(CONFIG),
            format: NAME,
            what: format!("its {name} `{}` is no site of a layer, as mlp.hook_in and hook_mlp_out are", short(hook)),
        })
    };
    let input = place("feature_input_hook", config.feature_input_hook.as_deref())?;
    let output = place("feature_output_hook", config.feature_output_hook.as_deref())?;
    // A list may name files of Gemma Scope.
    if (gemma_scope::FORMAT.matches)(file) {
        let dictionary = gemma_scope::read(file, progress)?;
        return Ok(Dictionary { transcoder: true, input, output, ..dictionary });
    }
    let parts =
        if cross { cross_layer(file.parent().unwrap_or(folder), layer, progress)? } else { single(file, progress)? };
    let (d_in, d_sae) = parts.w_enc.dims2()?;
    let d_out = parts.w_dec.dim(1)?;
    let scan = config.scan.as_ref().and_then(Json::as_str).map_or(String::new(), |s| format!("{s} "));
    Ok(Dictionary {
        name: format!("{scan}layer {layer}"),
        path: file.to_owned(),
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: parts.w_enc,
        b_enc: parts.b_enc,
        w_dec: parts.w_dec,
        later: parts.later,
        b_dec: parts.b_dec,
        activation: config.activation(parts.threshold, &folder.join(CONFIG))?,
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: parts.skip,
        transcoder: true,
        input,
        output,
        model_name: config.model_name,
        config: json!({
            "model_kind": if cross { CROSS_LAYER } else { PER_LAYER }, "scan": config.scan, "layer": layer,
        }),
        warnings: Vec::new(),
    })
}

/// The file of a layer of a set per layer.
pub fn layer_file(folder: &Path, layer: usize) -> PathBuf {
    folder.join(format!("layer_{layer}.safetensors"))
}

/// Writes a transcoder as a layer of a set in `folder`, with facts for the file's metadata; returns the file.
///
/// # Errors
/// A dictionary that circuit-tracer cannot compute, or a folder that cannot be written.
pub fn save(d: &Dictionary, folder: &Path, layer: usize, about: &[(&str, String)]) -> Result<PathBuf> {
    let device = d.w_enc.device();
    let vector = |v: &[f32]| Tensor::new(v, device);
    let mut tensors = vec![
        ("W_enc", d.w_enc.t()?.contiguous()?),
        ("W_dec", d.w_dec.contiguous()?),
        ("b_enc", vector(&d.b_enc)?),
        ("b_dec", vector(&d.b_dec)?),
    ];
    match &d.activation {
        Activation::Relu => {}
        Activation::JumpRelu { threshold } | Activation::Jump { threshold } => {
            tensors.push(("activation_function.threshold", vector(threshold)?));
        }
        other => {
            return Err(Error::request(format!(
                "circuit-tracer's sets have no {} transcoder here; train with l1, batchtopk, matryoshka or jumprelu",
                other.name()
            )));
        }
    }
    if !d.transcoder || d.subtract_b_dec || d.rescale || d.normalisation != Normalisation::None {
        return Err(Error::request(format!(
            "{} is no plain transcoder, which circuit-tracer's sets are made of",
            d.name
        )));
    }
    if let Some(skip) = &d.skip {
        tensors.push(("W_skip", skip.t()?.contiguous()?));
    }
    let path = layer_file(folder, layer);
    write_atomic(&path, &pack(tensors.iter().map(|(n, t)| (*n, t)), about)?)?;
    Ok(path)
}

/// Writes what a set per layer says of itself.
///
/// # Errors
/// A folder that cannot be written.
pub fn describe(folder: &Path, model: &str, [input, output]: [&str; 2]) -> Result<()> {
    let scan = folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    // What is written as JSON is YAML as well.
    let (model, scan) = (json!(model), json!(scan));
    let text = format!(
        "model_name: {model}\nmodel_kind: {PER_LAYER}\nfeature_input_hook: {input}\nfeature_output_hook: {output}\nscan: {scan}\n"
    );
    write_atomic(&folder.join(CONFIG), text.as_bytes())
}

struct Parts {
    w_enc: Tensor,
    b_enc: Vec<f32>,
    w_dec: Tensor,
    later: Later,
    b_dec: Vec<f32>,
    threshold: Option<Vec<f32>>,
    skip: Option<Tensor>,
}

fn threshold(store: &Store, names: &[&str], d_sae: usize) -> Result<Option<Vec<f32>>> {
    let Some(name) = names.iter().find(|n| store.contains(n)) else { return Ok(None) };
    // One for all features, or one each.
    let one = store.entries().get(*name).is_some_and(|e| e.shape.iter().product::<usize>() == 1);
    let shape = store.entries().get(*name).map(|e| e.shape.clone()).unwrap_or_default();
    if one && !shape.is_empty() {
        let v: Vec<f32> = store.vector(name, 1)?.to_vec1()?;
        return Ok(Some(vec![v[0]; d_sae]));
    }
    Ok(Some(store.vector(name, d_sae)?.to_vec1()?))
}

fn single(file: &Path, progress: &Progress) -> Result<Parts> {
    let store = store(file, NAME, progress)?;
    let (d_sae, d_in) = matrix_shape(&store, file, NAME, "W_enc")?;
    let (_, d_out) = matrix_shape(&store, file, NAME, "W_dec")?;
    Ok(Parts {
        w_enc: store.linear("W_enc", d_in, d_sae)?,
        b_enc: store.vector("b_enc", d_sae)?.to_vec1()?,
        w_dec: store.matrix("W_dec", d_sae, d_out)?,
        later: Later::default(),
        b_dec: store.vector("b_dec", d_out)?.to_vec1()?,
        threshold: threshold(&store, &["activation_function.threshold", "threshold"], d_sae)?,
        // x ↦ W_skip x, so stored [d_out, d_in].
        skip: if store.contains("W_skip") { Some(store.linear("W_skip", d_in, d_out)?) } else { None },
    })
}

/// The features of one layer, and what they write to that layer and each later one.
fn cross_layer(folder: &Path, layer: usize, progress: &Progress) -> Result<Parts> {
    let name = |part: &str| format!("{part}_{layer}");
    let file = |part: &str| folder.join(format!("{part}_{layer}.safetensors"));
    let (enc_file, dec_file) = (file("W_enc"), file("W_dec"));
    let (enc, dec) = (store(&enc_file, NAME, progress)?, store(&dec_file, NAME, progress)?);
    let (d_sae, d_in) = matrix_shape(&enc, &enc_file, NAME, &name("W_enc"))?;
    let (w_dec, later) = CrossLayer::of(&dec, &dec_file, NAME, name("W_dec"), 0, d_sae)?.decoders(&dec, NAME)?;
    let d_out = w_dec.dim(1)?;
    // Here, unlike in per-layer files, x W_skip is what is added.
    let skip = name("W_skip");
    Ok(Parts {
        w_enc: enc.linear(&name("W_enc"), d_in, d_sae)?,
        b_enc: enc.vector(&name("b_enc"), d_sae)?.to_vec1()?,
        w_dec,
        later,
        b_dec: enc.vector(&name("b_dec"), d_out)?.to_vec1()?,
        threshold: threshold(&enc, &[&name("threshold")], d_sae)?,
        skip: if enc.contains(&skip) { Some(enc.matrix(&skip, d_in, d_out)?) } else { None },
    })
}
