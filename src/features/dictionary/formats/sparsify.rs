//! EleutherAI's sparsify: `cfg.json` beside `sae.safetensors`, in a folder named after the module that it belongs to, as
//! in `layers.5.mlp`. Its largest are chosen among what ReLU leaves.

use std::path::{Path, PathBuf};

use super::{Format, config_of, name_of, place_of_module, store, typed};
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::progress::Progress;

const NAME: &str = "sparsify";
const CONFIG: &str = "cfg.json";
pub(super) const WEIGHTS: &str = "sae.safetensors";

pub const FORMAT: Format =
    Format { name: NAME, looks: "a folder with cfg.json and sae.safetensors", matches, layer, open };

fn folder_of(path: &Path) -> PathBuf {
    if path.is_file() { path.parent().unwrap_or(path).to_owned() } else { path.to_owned() }
}

fn matches(path: &Path) -> bool {
    let folder = folder_of(path);
    let named = path.is_dir() || path.file_name().is_some_and(|n| n == CONFIG || n == WEIGHTS);
    named && folder.join(CONFIG).is_file() && folder.join(WEIGHTS).is_file()
}

fn layer(path: &Path) -> Option<usize> {
    let full = std::path::absolute(folder_of(path)).ok()?;
    place_of_module(&name_of(&full), "output").map(Place::layer)
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let folder = folder_of(path);
    let config_path = folder.join(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config = config_of(&config_path, &malformed)?;
    let size = |name: &str| typed::<u64>(config.get(name), name, &malformed);
    let activation: Option<&str> = typed(config.get("activation"), "activation", &malformed)?;
    if let Some(other) = activation.filter(|a| *a != "topk") {
        return Err(malformed(format!("its activation `{other}` is not known here; known is topk")));
    }
    if typed::<bool>(config.get("signed"), "signed", &malformed)?.unwrap_or(false) {
        return Err(malformed("it is `signed`: its largest may be negative, which is not supported".to_owned()));
    }
    let k = size("k")?.ok_or_else(|| malformed("it does not say its k".to_owned()))?;
    let transcoder = typed(config.get("transcode"), "transcode", &malformed)?.unwrap_or(false);
    let store = store(&folder.join(WEIGHTS), NAME, progress)?;
    let shape = |name: &str| super::matrix_shape(&store, &folder.join(WEIGHTS), NAME, name);
    let ((d_sae, d_in), (_, d_out)) = (shape("encoder.weight")?, shape("W_dec")?);
    for (name, found) in [("num_latents", d_sae), ("d_in", d_in)] {
        if let Some(told) = size(name)?
            && told != 0
            && told != found as u64
        {
            return Err(malformed(format!("it says {name} = {told}, but encoder.weight has shape [{d_sae}, {d_in}]")));
        }
    }
    let full = std::path::absolute(&folder).map_err(|e| Error::read(&folder, e))?;
    let module = name_of(&full);
    let output = place_of_module(&module, "output");
    Ok(Dictionary {
        name: module.clone(),
        path: folder.clone(),
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: store.linear("encoder.weight", d_in, d_sae)?,
        b_enc: store.vector("encoder.bias", d_sae)?.to_vec1()?,
        w_dec: store.matrix("W_dec", d_sae, d_out)?,
        later: Default::default(),
        b_dec: store.vector("b_dec", d_out)?.to_vec1()?,
        activation: Activation::TopK { k: k as usize },
        subtract_b_dec: !transcoder,
        rescale: false,
        normalisation: Normalisation::None,
        // x ↦ W_skip x, so stored [d_out, d_in].
        skip: if store.contains("W_skip") { Some(store.linear("W_skip", d_in, d_out)?) } else { None },
        transcoder,
        input: if transcoder { place_of_module(&module, "input") } else { output },
        output,
        model_name: None,
        config,
        warnings: Vec::new(),
    })
}
