//! Llama Scope (OpenMOSS): `hyperparams.json` beside `checkpoints/final.safetensors`. Activations were scaled to the mean
//! length of the text that it was trained on; the scale is taken into the weights here.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{Format, config_at, config_of, matrix_shape, name_of, store, typed};
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::progress::Progress;

const NAME: &str = "Llama Scope";
const CONFIG: &str = "hyperparams.json";
const WEIGHTS: &str = "checkpoints/final.safetensors";

pub const FORMAT: Format = Format {
    name: NAME,
    looks: "a folder with hyperparams.json and checkpoints/final.safetensors",
    matches,
    layer,
    open,
};

fn matches(path: &Path) -> bool {
    path.is_dir() && path.join(CONFIG).is_file() && path.join(WEIGHTS).is_file()
}

/// A hook by its name. What the set calls the MLP's input is the norm's output before its weight.
fn place(hook: &str) -> Option<Place> {
    Place::parse(hook).ok()
}

fn layer(path: &Path) -> Option<usize> {
    config_at(&path.join(CONFIG))?.get("hook_point_in").and_then(Json::as_str).and_then(place).map(Place::layer)
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let config_path: PathBuf = path.join(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config = config_of(&config_path, &malformed)?;
    let text = |name: &str| typed::<&str>(config.get(name), name, &malformed);
    let flag = |name: &str| Ok::<_, Error>(typed(config.get(name), name, &malformed)?.unwrap_or(false));
    if flag("use_glu_encoder")? {
        return Err(malformed("its encoder is gated (use_glu_encoder), which is not supported".to_owned()));
    }
    let weights = path.join(WEIGHTS);
    let store = store(&weights, NAME, progress)?;
    let (d_sae, d_in) = matrix_shape(&store, &weights, NAME, "encoder.weight")?;
    let (d_out, _) = matrix_shape(&store, &weights, NAME, "decoder.weight")?;
    // What activations are multiplied by before they are encoded, [input, output].
    let scales = match text("norm_activation")?.unwrap_or("none") {
        "none" => [1.0, 1.0],
        "dataset-wise" => {
            let norms = "dataset_average_activation_norm";
            let norms: Option<&Map<String, Json>> = typed(config.get(norms), norms, &malformed)?;
            let scale = |name: &str, d: usize| {
                typed::<f64>(norms.and_then(|n| n.get(name)), name, &malformed)?
                    .filter(|n| *n > 0.0)
                    .map(|n| (d as f64).sqrt() / n)
                    .ok_or_else(|| malformed(format!("it does not say the average norm of what is `{name}`")))
            };
            [scale("in", d_in)?, scale("out", d_out)?]
        }
        other => {
            return Err(malformed(format!("its norm_activation `{other}` is not known here; known is dataset-wise")));
        }
    };
    let mut w_enc = store.linear("encoder.weight", d_in, d_sae)?;
    let mut w_dec = store.linear("decoder.weight", d_sae, d_out)?;
    let vector = |name: &str, n: usize| -> Result<Vec<f32>> {
        if store.contains(name) { Ok(store.vector(name, n)?.to_vec1()?) } else { Ok(vec![0.0; n]) }
    };
    let (mut b_enc, b_dec) = (vector("encoder.bias", d_sae)?, vector("decoder.bias", d_out)?);
    if flag("apply_decoder_bias_to_pre_encoder")? {
        // (s x − b) W + b_enc = s x W + (b_enc − b W).
        let b = candle_core::Tensor::new(b_dec.as_slice(), w_enc.device())?.unsqueeze(0)?;
        let moved: Vec<f32> = b.matmul(&w_enc)?.flatten_all()?.to_vec1()?;
        b_enc.iter_mut().zip(moved).for_each(|(a, m)| *a -= m);
    }
    w_enc = (w_enc * scales[0])?;
    w_dec = (w_dec / scales[1])?;
    let b_dec: Vec<f32> = b_dec.into_iter().map(|b| b / scales[1] as f32).collect();
    let mut activation = match text("act_fn")?.unwrap_or("relu") {
        "relu" => Activation::Relu,
        "jumprelu" => {
            let t: Option<f64> = typed(config.get("jump_relu_threshold"), "jump_relu_threshold", &malformed)?;
            let t = t.ok_or_else(|| malformed("it does not say its jump_relu_threshold".to_owned()))?;
            Activation::JumpRelu { threshold: vec![t as f32; d_sae] }
        }
        "topk" => {
            let k: Option<u64> = typed(config.get("top_k"), "top_k", &malformed)?;
            Activation::TopK { k: k.ok_or_else(|| malformed("it does not say its top_k".to_owned()))? as usize }
        }
        other => {
            return Err(malformed(format!(
                "its act_fn `{other}` is not known here; known are relu, jumprelu and topk"
            )));
        }
    };
    if flag("sparsity_include_decoder_norm")? {
        // Whether a feature is active is decided by its activation times what its row was long before it was scaled.
        let norms: Vec<f32> = w_dec.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
        match &mut activation {
            Activation::JumpRelu { threshold } => {
                threshold.iter_mut().zip(norms).for_each(|(t, n)| *t /= (n * scales[1] as f32).max(f32::MIN_POSITIVE));
            }
            Activation::TopK { .. } => {
                return Err(malformed(
                    "it takes the largest by activation times decoder norm, which is not supported".to_owned(),
                ));
            }
            _ => {}
        }
    }
    let (input, output) = (text("hook_point_in")?.and_then(place), text("hook_point_out")?.and_then(place));
    Ok(Dictionary {
        name: name_of(path),
        path: path.to_owned(),
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: w_enc.contiguous()?,
        b_enc,
        w_dec: w_dec.contiguous()?,
        later: Default::default(),
        b_dec,
        activation,
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: input != output || flag("is_transcoder")?,
        input,
        output,
        model_name: text("model_name")?.map(str::to_owned),
        config,
        warnings: Vec::new(),
    })
}
