//! dictionary_learning: `ae.pt` beside a `config.json` whose `trainer` says which class it is of.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{Format, config_at, config_of, name_of, typed};
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result, short};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::model::torch_file::TorchFile;
use crate::progress::Progress;

const NAME: &str = "dictionary_learning";
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "ae.pt";

pub const FORMAT: Format = Format { name: NAME, looks: "a folder with ae.pt and config.json", matches, layer, open };

fn folder_of(path: &Path) -> PathBuf {
    if path.is_file() { path.parent().unwrap_or(path).to_owned() } else { path.to_owned() }
}

fn matches(path: &Path) -> bool {
    let folder = folder_of(path);
    let named = path.is_dir() || path.file_name().is_some_and(|n| n == WEIGHTS);
    named && folder.join(WEIGHTS).is_file() && folder.join(CONFIG).is_file()
}

/// Where a submodule's name says that it belongs, as in `resid_post_layer_8`, and whether its input or its output was read.
fn place(name: &str, layer: Option<u64>, side: &str) -> Option<Place> {
    let layer = layer.map(|l| l as usize).or_else(|| name.rsplit_once("layer_")?.1.parse().ok())?;
    let kind = match (name.split("_layer_").next()?, side) {
        ("resid_post" | "residual_stream" | "resid", "out") => SiteKind::ResidPost,
        // The input of what gives the stream after a layer is the stream before it.
        ("resid_post" | "residual_stream" | "resid", "in") | ("resid_pre", "out") => SiteKind::ResidPre,
        ("mlp_out" | "mlp", "out") => SiteKind::MlpResult,
        ("mlp_out" | "mlp", "in") => return Some(Place::mlp_input(layer)),
        _ => return None,
    };
    Some(Site::new(kind, layer).into())
}

/// The side of the submodule that was read: `in` or `out`.
fn side(config: &Json) -> &str {
    config.get("buffer").and_then(|b| b.get("io")).and_then(Json::as_str).unwrap_or("out")
}

fn layer(path: &Path) -> Option<usize> {
    let config = config_at(&folder_of(path).join(CONFIG))?;
    let trainer = config.get("trainer")?;
    let name = trainer.get("submodule_name")?.as_str()?;
    place(name, trainer.get("layer").and_then(Json::as_u64), side(&config)).map(Place::layer)
}

fn open(path: &Path, _: &Progress) -> Result<Dictionary> {
    let folder = folder_of(path);
    let config_path = folder.join(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config = config_of(&config_path, &malformed)?;
    let trainer: Option<&Map<String, Json>> = typed(config.get("trainer"), "trainer", &malformed)?;
    let told = |name: &str| trainer.and_then(|t| t.get(name));
    let text = |name: &str| typed::<&str>(told(name), name, &malformed);
    let size = |name: &str| typed::<u64>(told(name), name, &malformed);
    let class = text("dict_class")?.ok_or_else(|| malformed("its trainer names no dict_class".to_owned()))?;
    let buffer: Option<&Map<String, Json>> = typed(config.get("buffer"), "buffer", &malformed)?;
    typed::<&str>(buffer.and_then(|b| b.get("io")), "io", &malformed)?;
    if !["in", "out"].contains(&side(&config)) {
        return Err(malformed(format!(
            "its buffer's io is `{}`: only dictionaries of what goes in or of what comes out are known here",
            short(side(&config))
        )));
    }
    let file = RefCell::new(TorchFile::open(&folder.join(WEIGHTS))?);
    let get = |name: &str| file.borrow_mut().named(name);
    // [d_in, d_sae] and [d_sae, d_in], however the class stores them.
    let (w_enc, w_dec) = if file.borrow().place("W_enc").is_some() {
        (get("W_enc")?, get("W_dec")?)
    } else {
        (get("encoder.weight")?.t()?.contiguous()?, get("decoder.weight")?.t()?.contiguous()?)
    };
    let (d_in, d_sae) = w_enc.dims2()?;
    for (name, has) in [("activation_dim", d_in), ("dict_size", d_sae)] {
        if let Some(told) = size(name)?.filter(|told| *told != has as u64) {
            return Err(malformed(format!("its `{name}` is {told}, and its weights have {has}")));
        }
    }
    let vector = |name: &str| -> Result<Vec<f32>> { Ok(get(name)?.flatten_all()?.to_vec1()?) };
    let number = |name: &str| -> Result<f32> {
        vector(name)?.first().copied().ok_or_else(|| malformed(format!("its `{name}` is empty")))
    };
    let jump = || -> Result<Activation> { Ok(Activation::JumpRelu { threshold: vec![number("threshold")?; d_sae] }) };
    // Encoder bias, decoder bias, activation, and whether the latter is subtracted from the input.
    let (b_enc, b_dec, activation, subtract_b_dec) = match class {
        "AutoEncoder" => (vector("encoder.bias")?, vector("bias")?, Activation::Relu, true),
        "AutoEncoderNew" => (vector("encoder.bias")?, vector("decoder.bias")?, Activation::Relu, false),
        "AutoEncoderTopK" => {
            // In the file it is a whole number, a type of which no weights are.
            let k = size("k")?.ok_or_else(|| malformed("it does not say its k".to_owned()))? as usize;
            (vector("encoder.bias")?, vector("b_dec")?, Activation::TopK { k }, true)
        }
        "BatchTopKSAE" => (vector("encoder.bias")?, vector("b_dec")?, jump()?, true),
        "MatryoshkaBatchTopKSAE" => (vector("b_enc")?, vector("b_dec")?, jump()?, true),
        "JumpReluAutoEncoder" => {
            let threshold = vector("threshold")?;
            let on = "apply_b_dec_to_input";
            let subtract = typed(told(on), on, &malformed)?.unwrap_or(false);
            (vector("b_enc")?, vector("b_dec")?, Activation::JumpRelu { threshold }, subtract)
        }
        "GatedAutoEncoder" => {
            let gated = Activation::Gated { r_mag: vector("r_mag")?, b_mag: vector("mag_bias")? };
            (vector("gate_bias")?, vector("decoder_bias")?, gated, true)
        }
        other => {
            return Err(malformed(format!(
                "its dict_class `{other}` is not known here; known are AutoEncoder, AutoEncoderNew, AutoEncoderTopK, \
                 BatchTopKSAE, MatryoshkaBatchTopKSAE, JumpReluAutoEncoder and GatedAutoEncoder"
            )));
        }
    };
    let layer = size("layer")?;
    let at = text("submodule_name")?.and_then(|name| place(name, layer, side(&config)));
    let model_name = text("lm_name")?.map(str::to_owned);
    Ok(Dictionary {
        name: name_of(&folder),
        path: folder,
        format: NAME,
        d_in,
        d_sae,
        d_out: w_dec.dim(1)?,
        w_enc: w_enc.contiguous()?,
        b_enc,
        w_dec: w_dec.contiguous()?,
        later: Default::default(),
        b_dec,
        activation,
        subtract_b_dec,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: false,
        input: at,
        output: at,
        model_name,
        config,
        warnings: Vec::new(),
    })
}
