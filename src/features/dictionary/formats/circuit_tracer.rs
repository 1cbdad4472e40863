//! circuit-tracer's transcoders: a folder with `config.yaml` and one file a layer. Per-layer sets have
//! `layer_{i}.safetensors`; cross-layer ones `W_enc_{i}.safetensors` and `W_dec_{i}.safetensors`, whose features write
//! to their own layer and every later one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value as Json, json};

use super::{Format, matrix_shape, read_text, store};
use crate::error::{Error, Result};
use crate::features::dictionary::cross_layer::Later;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::model::store::Store;
use crate::progress::Progress;

const NAME: &str = "circuit-tracer";
const CONFIG: &str = "config.yaml";
/// Values of a decoder that are read at a time.
const PART: usize = 16 << 20;

pub const FORMAT: Format =
    Format { name: NAME, looks: "layer_0.safetensors beside a config.yaml, or W_enc_0.safetensors", matches, open };

#[derive(serde::Deserialize)]
struct Config {
    model_name: Option<String>,
    model_kind: Option<String>,
    feature_input_hook: Option<String>,
    feature_output_hook: Option<String>,
    scan: Option<Json>,
}

fn matches(path: &Path) -> bool {
    let folder = if path.is_file() { path.parent() } else { Some(path) };
    folder.is_some_and(|f| f.join(CONFIG).is_file())
}

/// The layer that a file's name ends with.
fn layer_of(path: &Path) -> Option<usize> {
    let stem = path.file_stem()?.to_str()?;
    ["layer_", "W_enc_", "W_dec_"].iter().find_map(|p| stem.strip_prefix(p))?.parse().ok()
}

/// The files of a folder, by layer.
pub fn layers(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .filter(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with("W_dec_")))
        .filter_map(|p| Some((layer_of(&p)?, p)))
        .collect();
    found.sort();
    Ok(found)
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let config_path = folder.join(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config: Config = serde_saphyr::from_str(&read_text(&config_path)?)
        .map_err(|e| malformed(e.to_string().lines().next().unwrap_or_default().to_owned()))?;
    let kind = config.model_kind.as_deref().unwrap_or("transcoder_set");
    if !matches!(kind, "transcoder_set" | "cross_layer_transcoder") {
        return Err(malformed(format!(
            "its model_kind `{kind}` is not known here; known are transcoder_set and cross_layer_transcoder"
        )));
    }
    let file = if path.is_file() && path.file_name().is_some_and(|n| n != CONFIG) {
        path.to_owned()
    } else {
        match &layers(folder)?[..] {
            [] => return Err(malformed("no layer_0.safetensors or W_enc_0.safetensors lies beside it".to_owned())),
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
    let place = |hook: Option<&str>| hook.map(|h| Place::parse(&format!("blocks.{layer}.{h}"))).transpose();
    let input = place(config.feature_input_hook.as_deref())?;
    let output = place(config.feature_output_hook.as_deref())?;
    let parts =
        if kind == "cross_layer_transcoder" { cross_layer(folder, layer, progress)? } else { single(&file, progress)? };
    let (d_in, d_sae) = parts.w_enc.dims2()?;
    let d_out = parts.w_dec.dim(1)?;
    let scan = config.scan.as_ref().and_then(Json::as_str).map_or(String::new(), |s| format!("{s} "));
    Ok(Dictionary {
        name: format!("{scan}layer {layer}"),
        path: file,
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: parts.w_enc,
        b_enc: parts.b_enc,
        w_dec: parts.w_dec,
        later: parts.later,
        b_dec: parts.b_dec,
        activation: parts.threshold.map_or(Activation::Relu, |threshold| Activation::JumpRelu { threshold }),
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: parts.skip,
        transcoder: true,
        input,
        output,
        model_name: config.model_name,
        config: json!({"model_kind": kind, "scan": config.scan, "layer": layer}),
    })
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
    let shape = dec.entries().get(&name("W_dec")).map(|e| e.shape.clone()).unwrap_or_default();
    let &[features, outputs, d_out] = &shape[..] else {
        return Err(Error::Malformed {
            path: dec_file,
            format: NAME,
            what: format!("{} has shape {shape:?} where [feature, layer, d_model] belongs", name("W_dec")),
        });
    };
    if features != d_sae {
        return Err(Error::WrongShape { name: name("W_dec"), found: shape, expected: vec![d_sae, outputs, d_out] });
    }
    if outputs == 0 || d_out == 0 {
        return Err(Error::WrongShape {
            name: name("W_dec"),
            found: shape,
            expected: vec![d_sae, outputs.max(1), d_out.max(1)],
        });
    }
    let (shape, dec_name) = ([features, outputs, d_out], name("W_dec"));
    // All of it is read once, so that what is no number is found now; kept is what is written to the own layer.
    let mut own = Vec::with_capacity(features * d_out);
    let some = (PART / (outputs * d_out)).max(1);
    for from in (0..features).step_by(some) {
        let part = dec.leading(&dec_name, &shape, from, some.min(features - from))?;
        part.chunks_exact(outputs * d_out).for_each(|f| own.extend_from_slice(&f[..d_out]));
    }
    // Read later by whoever asks, when the job that opens is long over.
    let kept = || -> Result<_> { Ok(Arc::new(store(&dec_file, NAME, &Progress::new())?)) };
    let later = match outputs {
        1 => Later::default(),
        _ => Later::File { store: kept()?, name: dec_name, shape },
    };
    Ok(Parts {
        w_enc: enc.linear(&name("W_enc"), d_in, d_sae)?,
        b_enc: enc.vector(&name("b_enc"), d_sae)?.to_vec1()?,
        w_dec: Tensor::from_vec(own, (features, d_out), &Device::Cpu)?,
        later,
        b_dec: enc.vector(&name("b_dec"), d_out)?.to_vec1()?,
        threshold: threshold(&enc, &[&name("threshold")], d_sae)?,
        skip: None,
    })
}
