//! SAELens folders: `cfg.json` and `sae_weights.safetensors`, of version 6 and before.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Map, Value as Json, json};

use super::{Format, config_at, config_of, matrix_shape, name_of, store};
use crate::engine::SiteKind;
use crate::error::{Error, Result, short};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{ARCHITECTURES, Activation, Dictionary, Normalisation};
use crate::files::write_atomic;
use crate::model::safetensors_file::pack;
use crate::model::store::Store;
use crate::progress::Progress;
use crate::typed::Typed;

pub const NAME: &str = "SAELens";
/// The file that says what a folder holds.
pub const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";

pub const FORMAT: Format =
    Format { name: NAME, looks: "a folder with cfg.json and sae_weights.safetensors", matches, layer, open };

fn folder_of(path: &Path) -> PathBuf {
    if path.is_file() { path.parent().unwrap_or(path).to_owned() } else { path.to_owned() }
}

fn matches(path: &Path) -> bool {
    let named = path.is_dir() || path.file_name().is_some_and(|n| n == CONFIG || n == WEIGHTS);
    let folder = folder_of(path);
    // Others keep a `cfg.json` as well, beside weights of another name.
    let weights = folder.join(WEIGHTS).is_file() || !folder.join(super::sparsify::WEIGHTS).is_file();
    named && weights && folder.join(CONFIG).is_file()
}

fn layer(path: &Path) -> Option<usize> {
    let config = config_at(&folder_of(path).join(CONFIG))?;
    let text = |names: &[&str]| field(&config, names).and_then(Json::as_str);
    let by_hook = text(&["hook_name", "hook_point"]).and_then(|hook| Place::parse(hook).ok());
    by_hook.or_else(|| super::place_of_hook(text(&["hf_hook_name"])?)).map(Place::layer)
}

/// A field of the configuration, or of its `metadata` (where version 6 moved some).
fn field<'a>(config: &'a Json, names: &[&str]) -> Option<&'a Json> {
    let metadata = config.get("metadata");
    names.iter().flat_map(|n| [config.get(n), metadata.and_then(|m| m.get(n))]).flatten().find(|v| !v.is_null())
}

/// A field of a type, by the first of its names that is there.
fn typed<'a, T: Typed<'a>>(
    config: &'a Json,
    names: &[&str],
    malformed: &impl Fn(String) -> Error,
) -> Result<Option<T>> {
    super::typed(field(config, names), names.first().copied().unwrap_or_default(), malformed)
}

/// What is read by name later, and of another type would be passed over.
fn check_types(config: &Json, malformed: &impl Fn(String) -> Error) -> Result<()> {
    let _: Option<&Map<String, Json>> = super::typed(config.get("metadata"), "metadata", malformed)?;
    for text in ["generator", "sae_lens_version"] {
        let _: Option<&str> = typed(config, &[text], malformed)?;
    }
    Ok(())
}

fn architecture_of(config: &Json, malformed: &impl Fn(String) -> Error) -> Result<String> {
    check_types(config, malformed)?;
    let text = |names: &[&str]| typed::<&str>(config, names, malformed);
    let mut architecture = text(&["architecture"])?.unwrap_or("standard").to_owned();
    // Before version 6 a "standard" dictionary could name another activation function.
    let function = text(&["activation_fn_str", "activation_fn"])?.unwrap_or("relu");
    if architecture == "standard" {
        let kwargs: Option<&Map<String, Json>> = typed(config, &["activation_fn_kwargs"], malformed)?;
        let k = field(config, &["k"]).or_else(|| kwargs?.get("k")).filter(|k| !k.is_null());
        if let Some(k) = k.filter(|_| function == "relu") {
            return Err(malformed(format!(
                "it says k = {}, and its architecture is standard with relu, which keeps no k; name its architecture",
                short(&k.to_string())
            )));
        }
        match function {
            "relu" => {}
            "topk" => "topk".clone_into(&mut architecture),
            other => {
                return Err(malformed(format!(
                    "its activation function `{other}` is not known here; known are relu and topk"
                )));
            }
        }
    }
    Ok(architecture)
}

/// `centred` says that the mean was taken out of the stream before.
fn normalisation_of(config: &Json, centred: bool, malformed: &impl Fn(String) -> Error) -> Result<Normalisation> {
    let own = match field(config, &["normalize_activations"]) {
        None | Some(Json::Bool(false)) => Normalisation::None,
        Some(v) => match v.as_str() {
            Some("none" | "expected_average_only_in") => Normalisation::None,
            Some("layer_norm") => Normalisation::Layer,
            Some("constant_norm_rescale") => Normalisation::Length,
            _ => return Err(malformed(format!("its normalize_activations {v} is not known here"))),
        },
    };
    match (own, centred) {
        (Normalisation::None, true) => Ok(Normalisation::Centre),
        (Normalisation::Length, true) => Err(malformed(
            "it asks for `center_writing_weights` and `constant_norm_rescale` at once, which is not supported"
                .to_owned(),
        )),
        // Mean 0 and deviation 1 take the mean out anyway.
        (other, _) => Ok(other),
    }
}

/// What a dictionary's text went through before the hook: TransformerLens takes the mean out of what is written to the
/// stream unless it is told not to. Whether that was done, and what is not known.
fn processing_of(
    config: &Json,
    hook: Option<&str>,
    malformed: &impl Fn(String) -> Error,
) -> Result<(bool, Vec<String>)> {
    let hook = hook.unwrap_or_default();
    let in_stream = ["hook_resid", "hook_mlp_out", "hook_attn_out", "hook_embed"].iter().any(|h| hook.contains(h));
    let mixed = hook.contains("hook_z");
    let told: Option<&Map<String, Json>> = typed(config, &["model_from_pretrained_kwargs"], malformed)?;
    let mut warnings = Vec::new();
    if field(config, &["normalize_activations"]).and_then(Json::as_str) == Some("expected_average_only_in") {
        warnings.push(
            "The dictionary was trained on activations that were scaled to an average length \
             (`normalize_activations` = expected_average_only_in), and its file does not hold the scale: unless that was folded \
             into its weights, its features are off."
                .to_owned(),
        );
    }
    for (name, value) in told.into_iter().flatten() {
        // Those that leave the stream as it is.
        let known = ["center_writing_weights", "center_unembed", "fold_ln", "device", "dtype"];
        let off = value.is_null() || value == &Json::Bool(false);
        // Values' biases stand in what the heads mix, and nowhere else.
        let elsewhere = name == "fold_value_biases" && !mixed;
        if !off && !elsewhere && !known.contains(&name.as_str()) {
            warnings.push(format!(
                "The dictionary was trained on a model loaded with `{}` = {}, which is not honoured here.",
                short(name),
                short(&value.to_string())
            ));
        }
    }
    let _: Option<bool> = super::typed(told.and_then(|t| t.get("fold_ln")), "fold_ln", malformed)?;
    let centre = "center_writing_weights";
    let centred: Option<bool> = super::typed(told.and_then(|t| t.get(centre)), centre, malformed)?;
    let model: Option<&str> = typed(config, &["model_name"], malformed)?;
    if centred.is_none() && (in_stream || mixed) && model.is_some_and(|m| m.starts_with("gpt2")) {
        let version_of: Option<&str> = typed(config, &["sae_lens_version"], malformed)?;
        let old = told.is_none() && version_of.is_none_or(|v| version(v) < 4);
        if old && mixed {
            warnings.push(
                "The dictionary's file predates the field that says whether the values' biases were taken out of what it read, \
                 as TransformerLens did by itself: its features may be off by them."
                    .to_owned(),
            );
        } else if old {
            warnings.push(
                "The dictionary's file predates the field that says whether the stream's mean was taken out before it was \
                 trained, as it was for gpt2-small-res-jb: write `\"model_from_pretrained_kwargs\": \
                 {\"center_writing_weights\": true}` into its cfg.json if so."
                    .to_owned(),
            );
        }
    }
    Ok((centred == Some(true) && in_stream, warnings))
}

/// Whether what a dictionary read at a `hook_normalized` was the whole output of the norm, where that is a LayerNorm:
/// TransformerLens' has weight and bias inside, unless they were folded into what reads it. Since it says how its model was
/// loaded, or since version 4, SAELens folds nothing that it was not told to; before, everything.
pub fn has_whole_norms(config: &Json) -> bool {
    let told = field(config, &["model_from_pretrained_kwargs"]);
    if let Some(folded) = told.and_then(|t| t.get("fold_ln")).and_then(Json::as_bool) {
        return !folded;
    }
    // What was written here meant the norm without them, and did not say so at first.
    let own = field(config, &["generator"]).and_then(Json::as_str).is_some_and(|g| g.starts_with("circuitscope"));
    told.is_some()
        || !own && field(config, &["sae_lens_version"]).and_then(Json::as_str).is_some_and(|v| version(v) >= 4)
}

/// The first number of a version; 0 of what is none.
fn version(of: &str) -> u64 {
    of.split('.').next().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The activation function of an architecture, and of what it is a kind.
fn activation_of(
    (architecture, inner): (&str, &str),
    config: &Json,
    store: &Store,
    d_sae: usize,
    malformed: &impl Fn(String) -> Error,
) -> Result<Activation> {
    let vector = |name: &str| -> Result<Vec<f32>> { Ok(store.vector(name, d_sae)?.to_vec1()?) };
    Ok(match inner {
        "standard" => Activation::Relu,
        "jumprelu" if architecture.contains("batchtopk") && !store.contains("threshold") => {
            let one: Vec<f32> =
                store.vector("topk_threshold", 1).or_else(|_| store.scalar("topk_threshold"))?.to_vec1()?;
            Activation::JumpRelu { threshold: vec![one[0]; d_sae] }
        }
        "jumprelu" => Activation::JumpRelu { threshold: vector("threshold")? },
        "gated" => Activation::Gated { r_mag: vector("r_mag")?, b_mag: vector("b_mag")? },
        _ => {
            let of_function: Option<&Map<String, Json>> = typed(config, &["activation_fn_kwargs"], malformed)?;
            let k = field(config, &["k"]).or_else(|| of_function?.get("k"));
            let k: Option<u64> = super::typed(k, "k", malformed)?;
            let k = k.ok_or_else(|| malformed("it does not say its k".to_owned()))?;
            Activation::TopK { k: k as usize }
        }
    })
}

fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    let folder = folder_of(path);
    let config_path = folder.join(CONFIG);
    let malformed = |what: String| Error::Malformed { path: config_path.clone(), format: NAME, what };
    let config = config_of(&config_path, &malformed)?;
    let architecture = architecture_of(&config, &malformed)?;
    let transcoder = architecture.contains("transcoder");
    let inner = match architecture.as_str() {
        "transcoder" | "skip_transcoder" => "standard",
        "jumprelu_transcoder" | "jumprelu_skip_transcoder" => "jumprelu",
        // What is kept at inference is what lies above a threshold that training found.
        "batchtopk" | "matryoshka_batchtopk" => "jumprelu",
        other => other,
    };
    if !ARCHITECTURES.contains(&inner) {
        return Err(malformed(format!(
            "its architecture `{architecture}` is not known here; known are {}, batchtopk, matryoshka_batchtopk, and \
             transcoders of the first two",
            ARCHITECTURES.join(", ")
        )));
    }
    if let Some(head) = field(&config, &["hook_head_index", "hook_point_head_index"]) {
        return Err(malformed(format!(
            "it reads head {head} alone, which is not supported; use one that reads all heads"
        )));
    }
    let hook = typed(&config, &["hook_name", "hook_point"], &malformed)?;
    let (centred, warnings) = processing_of(&config, hook, &malformed)?;
    let normalisation = normalisation_of(&config, centred, &malformed)?;
    let flag = |name: &str| typed::<bool>(&config, &[name], &malformed);
    // Versions before 6 meant true where they did not say.
    let subtract_b_dec = flag("apply_b_dec_to_input")?.unwrap_or(true) && !transcoder;

    let weights = folder.join(WEIGHTS);
    let store = store(&weights, NAME, progress)?;
    let (d_in, d_sae) = matrix_shape(&store, &weights, NAME, "W_enc")?;
    let (_, d_out) = matrix_shape(&store, &weights, NAME, "W_dec")?;
    for (name, found) in [("d_in", d_in), ("d_sae", d_sae)] {
        if let Some(told) = typed::<u64>(&config, &[name], &malformed)?
            && told != found as u64
        {
            return Err(malformed(format!("it says {name} = {told}, but W_enc has shape [{d_in}, {d_sae}]")));
        }
    }
    if store.contains("scaling_factor") || store.contains("finetuning_scaling_factor") {
        let name = if store.contains("scaling_factor") { "scaling_factor" } else { "finetuning_scaling_factor" };
        let factors: Vec<f32> = store.vector(name, d_sae)?.to_vec1()?;
        if factors.iter().any(|f| *f != 1.0) {
            return Err(malformed(
                "its decoder was fine-tuned with scaling factors, which are not supported".to_owned(),
            ));
        }
    }
    for (name, of) in [("threshold", "jumprelu"), ("r_mag", "gated"), ("b_mag", "gated"), ("b_gate", "gated")] {
        if store.contains(name) && inner != of {
            return Err(malformed(format!(
                "its architecture is `{architecture}`, which has no `{name}`, but its weights have one, as those of {of} \
                 do"
            )));
        }
    }
    let vector = |name: &str, n: usize| -> Result<Vec<f32>> { Ok(store.vector(name, n)?.to_vec1()?) };
    let mut activation = activation_of((&architecture, inner), &config, &store, d_sae, &malformed)?;
    let w_dec = store.matrix("W_dec", d_sae, d_out)?;
    let rescale = flag("rescale_acts_by_decoder_norm")?.unwrap_or(false);
    if let Activation::JumpRelu { threshold } = &mut activation
        && rescale
        && architecture.contains("batchtopk")
        && !store.contains("threshold")
    {
        // What training found is a threshold of activations times the lengths of their rows.
        let lengths: Vec<f32> = w_dec.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
        threshold.iter_mut().zip(lengths).for_each(|(t, n)| *t /= n.max(f32::MIN_POSITIVE));
    }
    // A hook that no model here has leaves the site open: it can be named, and activations encoded without one.
    let text = |names: &[&str]| typed::<&str>(&config, names, &malformed);
    // The name of a transformers module says more where TransformerLens' hooks have no word for it.
    let place = |names: &[&str], module: &str| -> Result<Option<Place>> {
        let by_hook = text(names)?.and_then(|n| Place::parse(n).ok());
        Ok(by_hook.or(text(&[module])?.and_then(super::place_of_hook)))
    };
    let input = place(&["hook_name", "hook_point"], "hf_hook_name")?;
    let output = if transcoder { place(&["hook_name_out"], "hf_hook_name_out")? } else { input };
    Ok(Dictionary {
        name: name_of(&folder),
        path: folder,
        format: NAME,
        d_in,
        d_sae,
        d_out,
        w_enc: store.matrix("W_enc", d_in, d_sae)?,
        b_enc: vector(if inner == "gated" { "b_gate" } else { "b_enc" }, d_sae)?,
        w_dec,
        later: Default::default(),
        b_dec: vector("b_dec", d_out)?,
        activation,
        subtract_b_dec,
        rescale,
        normalisation,
        // Stored [d_out, d_in].
        skip: if store.contains("W_skip") { Some(store.linear("W_skip", d_in, d_out)?) } else { None },
        transcoder,
        input,
        output,
        model_name: text(&["model_name"])?.map(str::to_owned),
        config,
        warnings,
    })
}

/// Writes a folder that SAELens 6 opens with `SAE.load_from_disk`. `metadata` are further facts for its
/// `metadata`, as an object.
///
/// # Errors
/// A dictionary that SAELens has no architecture for, or a folder that cannot be written.
pub fn save(dictionary: &Dictionary, folder: &Path, metadata: &Json) -> Result<()> {
    let d = dictionary;
    let transcoder = d.transcoder;
    let architecture = match (&d.activation, transcoder, d.skip.is_some()) {
        (Activation::Jump { .. }, ..) => {
            return Err(Error::request(
                "SAELens lets no negative activation through a threshold; save a circuit-tracer set",
            ));
        }
        (a, false, _) => a.name(),
        (Activation::Relu, true, false) => "transcoder",
        (Activation::Relu, true, true) => "skip_transcoder",
        (Activation::JumpRelu { .. }, true, false) => "jumprelu_transcoder",
        (Activation::JumpRelu { .. }, true, true) => "jumprelu_skip_transcoder",
        (a, true, _) => {
            return Err(Error::request(format!("SAELens has no {} transcoder; save it as jumprelu", a.name())));
        }
    };
    let mut config = json!({
        "architecture": architecture, "d_in": d.d_in, "d_sae": d.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": d.subtract_b_dec,
        "normalize_activations": match d.normalisation {
            Normalisation::None | Normalisation::Centre => "none",
            Normalisation::Layer => "layer_norm",
            Normalisation::Length => "constant_norm_rescale",
        },
        "reshape_activations": if d.input.is_some_and(|p| p.site.kind == SiteKind::Z) { "hook_z" } else { "none" },
    });
    let mut about = json!({
        "sae_lens_version": "6.0.0", "sae_lens_training_version": null,
        "generator": concat!("circuitscope ", env!("CARGO_PKG_VERSION")),
        "model_name": d.model_name, "hook_name": d.input.map(|p| p.to_string()),
    });
    if d.input.is_some_and(|p| !p.mlp_input && matches!(p.site.kind, SiteKind::Ln1Normalized | SiteKind::Ln2Normalized))
    {
        // In what TransformerLens calls so a LayerNorm has its weight and bias otherwise.
        about["model_from_pretrained_kwargs"] = json!({"fold_ln": true, "center_writing_weights": false});
    }
    if transcoder {
        config["d_out"] = json!(d.d_out);
        about["hook_name_out"] = json!(d.output.map(|p| p.to_string()));
    }
    if let Activation::TopK { k } = d.activation {
        config["k"] = json!(k);
        config["rescale_acts_by_decoder_norm"] = json!(d.rescale);
    }
    if let (Some(about), Some(more)) = (about.as_object_mut(), metadata.as_object()) {
        about.extend(more.clone());
    }
    config["metadata"] = about;

    let vector = |v: &[f32]| Tensor::new(v, d.w_enc.device());
    let mut tensors = vec![
        ("W_enc", d.w_enc.contiguous()?),
        ("W_dec", d.w_dec.contiguous()?),
        ("b_dec", vector(&d.b_dec)?),
        (if matches!(d.activation, Activation::Gated { .. }) { "b_gate" } else { "b_enc" }, vector(&d.b_enc)?),
    ];
    match &d.activation {
        Activation::JumpRelu { threshold } => tensors.push(("threshold", vector(threshold)?)),
        Activation::Gated { r_mag, b_mag } => {
            tensors.push(("r_mag", vector(r_mag)?));
            tensors.push(("b_mag", vector(b_mag)?));
        }
        Activation::Relu | Activation::Jump { .. } | Activation::TopK { .. } | Activation::Largest { .. } => {}
    }
    if let Some(skip) = &d.skip {
        tensors.push(("W_skip", skip.t()?.contiguous()?));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let bytes = pack(tensors.iter().map(|(n, t)| (*n, t)), &[])?;
    write_atomic(&folder.join(WEIGHTS), &bytes)?;
    write_atomic(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())
}
