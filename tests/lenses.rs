//! Lenses: the pullback they are fitted with, files, read-outs and edits.

mod common;

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use circuitscope::analysis::logit_lens::logit_lens;
use circuitscope::analysis::transport::token_vector;
use circuitscope::engine::edit::{Action, Direction, Edit, Positions};
use circuitscope::engine::forward::Prepared;
use circuitscope::engine::pullback::Pullback;
use circuitscope::engine::resolve::{Sources, resolve_stack};
use circuitscope::engine::resume::{Variant, resume};
use circuitscope::engine::{EditStack, Hooks, NoHooks, Site, SiteKind, Trace};
use circuitscope::features::rows::Rows;
use circuitscope::lenses::JacobianLens;
use circuitscope::lenses::edit::Intervention;
use circuitscope::lenses::faithful::{FaithfulOf, Target};
use circuitscope::lenses::fit::{Settings, fit, jacobian};
use circuitscope::lenses::jacobian::About;
use circuitscope::lenses::open::{Kind, kind, open};
use circuitscope::lenses::sums::Sums;
use circuitscope::model::Model;
use circuitscope::model::torch_file::{self, TorchFile, Value, Written};
use circuitscope::progress::Progress;
use circuitscope::question::Question;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use common::families;

/// Adds something to the stream after one layer.
struct Moved<'a> {
    layer: usize,
    by: &'a Tensor,
}

impl Hooks for Moved<'_> {
    fn wants(&self, site: Site) -> bool {
        site == Site::new(SiteKind::ResidPost, self.layer)
    }

    fn visit(&mut self, _: Site, value: Tensor) -> circuitscope::Result<Tensor> {
        Ok((value + self.by)?)
    }
}

fn random(rng: &mut rand_chacha::ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0f32)).collect()
}

/// On every family, from every layer: cotangents that are taken back together are what differentiation gives one by one,
/// and their product with a direction is the slope of finite differences along it.
#[test]
fn the_pullback_is_the_derivative() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(24);
    let progress = Progress::new();
    for (name, model) in families() {
        let c = &model.config;
        let network = model.network();
        let (n, d) = (11.min(c.n_ctx), c.d_model);
        let (start, end) = (3, n - 1);
        let rows = end - start;
        let ids: Vec<u32> = (0..n).map(|_| rng.random_range(0..c.d_vocab as u32)).collect();
        let cotangents: Vec<Vec<f32>> = (0..2).map(|_| random(&mut rng, rows * d)).collect();
        let back = Pullback::along(network, &ids, start, end, 0, &progress).unwrap();
        let mut g = Tensor::from_vec(cotangents.concat(), (2 * rows, d), &Device::Cpu).unwrap();
        for layer in (0..c.n_layers).rev() {
            // `g` is now of the stream after this layer.
            let ours = g.to_vec2::<f32>().unwrap().concat();
            for (b, cotangent) in cotangents.iter().enumerate() {
                let ours = &ours[b * rows * d..(b + 1) * rows * d];
                let weight = Tensor::from_slice(cotangent, (1, rows, d), &Device::Cpu).unwrap();
                let value = |by: &Tensor| -> Tensor {
                    let out = network.forward(&[&ids], &mut Moved { layer, by }, &progress).unwrap();
                    (out.narrow(1, start, rows).unwrap() * &weight).unwrap().sum_all().unwrap()
                };
                let zero = Var::zeros((1, n, d), candle_core::DType::F32, &Device::Cpu).unwrap();
                let gradient = value(zero.as_tensor()).backward().unwrap().get(zero.as_tensor()).unwrap().clone();
                let gradient: Vec<f32> =
                    gradient.narrow(1, start, rows).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let size = gradient.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                let worst = common::worst(ours, &gradient);
                assert!(worst < 2e-4 * size, "{name}, layer {layer}: off by {worst} of {size}");
                // f64 differences of f32 runs: the step is a compromise between rounding and curvature.
                let direction = random(&mut rng, rows * d);
                let step = |e: f32| -> f64 {
                    let mut by = vec![0f32; n * d];
                    by[start * d..end * d].iter_mut().zip(&direction).for_each(|(b, v)| *b = e * v);
                    f64::from(
                        value(&Tensor::from_vec(by, (1, n, d), &Device::Cpu).unwrap()).to_scalar::<f32>().unwrap(),
                    )
                };
                let e = 2e-3f32;
                let slope = (step(e) - step(-e)) / f64::from(2.0 * e);
                let along: f64 = ours.iter().zip(&direction).map(|(a, b)| f64::from(a * b)).sum();
                let scale = f64::from(size) * (rows as f64 * d as f64).sqrt();
                assert!((slope - along).abs() < 0.02 * scale, "{name}, layer {layer}: {along} against {slope}");
            }
            g = back.block(layer, g).unwrap();
        }
    }
}

/// J of a prompt, by its definition: the gradient of each output coordinate, summed over V, averaged over V.
#[test]
fn a_prompts_jacobian_is_that_of_the_definition() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let progress = Progress::new();
    for (name, model) in families() {
        let c = &model.config;
        let (n, d, skip) = (9.min(c.n_ctx), c.d_model, 2);
        let ids: Vec<u32> = (0..n).map(|_| rng.random_range(0..c.d_vocab as u32)).collect();
        let layers: Vec<usize> = (0..c.n_layers - 1).collect();
        let found = jacobian(model.network(), &ids, skip, &layers, &progress).unwrap();
        let out = rng.random_range(0..d);
        let rows = n - 1 - skip;
        for (layer, j) in layers.iter().zip(&found) {
            let zero = Var::zeros((1, n, d), candle_core::DType::F32, &Device::Cpu).unwrap();
            let mut hooks = Moved { layer: *layer, by: zero.as_tensor() };
            let end = model.network().forward(&[&ids], &mut hooks, &progress).unwrap();
            let sum = end.narrow(1, skip, rows).unwrap().narrow(2, out, 1).unwrap().sum_all().unwrap();
            let gradient = sum.backward().unwrap().get(zero.as_tensor()).unwrap().clone();
            let mean = gradient.narrow(1, skip, rows).unwrap().mean(1).unwrap().flatten_all().unwrap();
            let mean: Vec<f32> = mean.to_vec1().unwrap();
            let size = mean.iter().fold(0.1f32, |m, v| m.max(v.abs()));
            let worst = common::worst(&j[out * d..(out + 1) * d], &mean);
            assert!(worst < 2e-4 * size, "{name}, layer {layer}: off by {worst} of {size}");
        }
    }
}

fn tiny() -> Arc<Model> {
    families().into_iter().find(|(name, _)| name == "llama").unwrap().1
}

fn prompts(model: &Model, n: usize) -> Rows {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let one = |_| (0..12).map(|_| rng.random_range(0..model.config.d_vocab as u32)).collect::<Vec<u32>>();
    Rows::new((0..n).map(one).collect::<Vec<_>>().into_iter().zip(0..))
}

fn settings(shard: (usize, usize)) -> Settings {
    Settings { layers: Vec::new(), skip: 3, tokens: 12, texts: vec!["numbers".to_owned()], shard }
}

/// A fit that was stopped goes on and gives the same bits; parts add up to the whole.
#[test]
fn fits_go_on_and_parts_add_up() {
    let model = tiny();
    let rows = prompts(&model, 7);
    let whole = fit(&model, &rows, &settings((0, 1)), None, &Progress::new(), &mut |_| {}).unwrap();
    assert_eq!((whole.prompts(), whole.about.counts, whole.about.done), (7, [4, 3], true));
    let agreement = whole.agreement();
    assert!(agreement.len() == 2 && agreement.values().all(|a| (0.1..1.0).contains(a)), "{agreement:?}");

    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("lens.fit");
    let progress = Progress::new();
    let stopped = fit(&model, &rows, &settings((0, 1)), Some(&kept), &progress, &mut |sums| {
        if sums.prompts() == 3 {
            progress.cancel();
        }
    });
    assert!(matches!(stopped, Err(circuitscope::Error::Cancelled)));
    assert_eq!(Sums::open(&kept).unwrap().prompts(), 3);
    let mut first = None;
    let resumed = fit(&model, &rows, &settings((0, 1)), Some(&kept), &Progress::new(), &mut |sums| {
        first.get_or_insert(sums.prompts());
    })
    .unwrap();
    assert_eq!(first, Some(4));
    assert!(resumed.halves == whole.halves && resumed.about == whole.about);
    // A kept fit of other prompts is not gone on with.
    let other = fit(&model, &prompts(&model, 8), &settings((0, 1)), Some(&kept), &Progress::new(), &mut |_| {});
    assert!(other.unwrap_err().is_request());

    let part = |i| fit(&model, &rows, &settings((i, 3)), None, &Progress::new(), &mut |_| {}).unwrap();
    let mut merged = part(2);
    for i in [0, 1] {
        // Through its file.
        part(i).save(&kept).unwrap();
        merged.absorb(&Sums::open(&kept).unwrap()).unwrap();
    }
    assert!(merged.absorb(&part(1)).unwrap_err().to_string().contains("twice"));
    assert!(merged.absorb(&whole).unwrap_err().is_request());
    let (a, b) = (merged.lens().unwrap(), whole.lens().unwrap());
    assert_eq!((a.about.n_prompts, merged.about.counts), (7, [4, 3]));
    // The halves are the same prompts.
    for (layer, agreement) in whole.agreement() {
        assert!((merged.agreement()[&layer] - agreement).abs() < 1e-5);
    }
    for (layer, j) in &b.layers {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(common::worst(&flat(&a.layers[layer]), &flat(j)) < 1e-5);
    }
    // Too short for any position: said so, not a lens of nothing.
    let long = Settings { skip: 11, ..settings((0, 1)) };
    let none = fit(&model, &rows, &long, None, &Progress::new(), &mut |_| {});
    assert!(none.is_err_and(|e| e.to_string().contains("--skip")));
}

/// Both formats hold the lens; a lens of another width, depth, name or weights is refused by name.
#[test]
fn lenses_are_saved_and_refused() {
    let model = tiny();
    let sums = fit(&model, &prompts(&model, 2), &settings((0, 1)), None, &Progress::new(), &mut |_| {}).unwrap();
    let lens = sums.lens().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["lens.pt", "lens.safetensors"] {
        let path = folder.path().join(name);
        lens.save(&path).unwrap();
        let back = JacobianLens::open(&path).unwrap();
        assert_eq!((&back.about, back.d_model), (&lens.about, 64));
        for (layer, j) in &lens.layers {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            // As halves.
            let size = flat(j).iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(common::worst(&flat(&back.layers[layer]), &flat(j)) < 1e-3 * size);
        }
        assert!(open(&path, &model).is_ok());
        let others = families();
        let of = |name: &str| others.iter().find(|(n, _)| n == name).unwrap().1.clone();
        // The same shapes with other weights.
        let error = open(&path, &of("qwen3")).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("llama"), "{error}");
    }
    let four = JacobianLens::open(&common::fixture("lenses/transformer-lens.pt")).unwrap();
    assert_eq!((four.d_model, four.about.n_prompts, four.about.skip), (4, 3, Some(8)));
    assert_eq!(four.layers.keys().copied().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(four.layers[&0].to_vec2::<f32>().unwrap()[1], [0.5, 0.625, 0.75, 0.875]);
    let error = four.check(&model).unwrap_err().to_string();
    assert!(error.contains("width 4") && error.contains("width 64"), "{error}");
    // The sums of a fit by the authors' program, stored transposed.
    let unfinished = JacobianLens::open(&common::fixture("lenses/unfinished.pt")).unwrap();
    assert_eq!(unfinished.layers[&1].to_vec2::<f32>().unwrap()[1], [0.5, 2.5, 4.5, 6.5]);
    let error = JacobianLens::open(&common::fixture("lenses/runs-code.pt")).unwrap_err().to_string();
    assert!(error.contains("print"), "{error}");
    // By the name alone, as published files have it.
    let named = |name: &str| {
        let about = About { model: Some(name.to_owned()), ..About::default() };
        JacobianLens { about, layers: lens.layers.clone(), d_model: 64, path: None }.check(&model)
    };
    assert!(named("some/Llama").is_ok() && named("pythia-160m").is_err() && named("gpt2").is_err());
    // The organisation and how the weights are stored do not make another model; a longer name does.
    assert!(named("Llama-Q4_K_M.gguf").is_ok() && named("some_org/llama-hf").is_ok() && named("").is_ok());
    assert!(named("llama-instruct").is_err() && named("lla").is_err() && named("llama-2").is_err());
    let mut deep = lens.layers.clone();
    deep.insert(3, deep[&0].clone());
    let deep = JacobianLens { about: About::default(), layers: deep, d_model: 64, path: None };
    assert!(deep.check(&model).unwrap_err().to_string().contains("layer 3"));
}

/// A file says of which model it is, and folders above the model's own do not make it that model.
#[test]
fn a_lens_belongs_to_one_model_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let copied = |place: &str| {
        let to = folder.path().join(place);
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(common::fixture("families/llama")).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        Model::open(to.to_str().unwrap()).unwrap()
    };
    let identity = Tensor::eye(64, candle_core::DType::F32, &Device::Cpu).unwrap();
    let check = |said: &str, model: &Model| {
        let about = About { model: Some(said.to_owned()), ..About::default() };
        let layers = [(0, (&identity * 0.5).unwrap())].into_iter().collect();
        JacobianLens { about, layers, d_model: 64, path: None }.check(model)
    };
    let other = copied("llama/other-1b");
    assert!(check("llama", &other).unwrap_err().to_string().contains("other-1b"));
    assert!(check("org/Other-1B", &other).is_ok() && check("other-1b-instruct", &other).is_err());
    let instruct = copied("SmolLM2-135M-Instruct-Q8_0");
    assert!(check("HuggingFaceTB/SmolLM2-135M-Instruct", &instruct).is_ok());
    assert!(check("HuggingFaceTB/SmolLM2-135M", &instruct).is_err());
    let cached = copied("models--HuggingFaceTB--SmolLM2-135M/snapshots/93efa2f");
    assert!(check("SmolLM2-135M", &cached).is_ok() && check("SmolLM2-135M-Instruct", &cached).is_err());
    let published = copied("mistralai_Mistral-7B-v0.1-Q4_K_M");
    assert!(check("mistralai/Mistral-7B-v0.1", &published).is_ok());
}

/// What a published file says of its model and of the layer that it leads to, wherever it says it, is heeded.
#[test]
fn a_lens_says_where_it_leads() {
    let model = tiny();
    let folder = tempfile::tempdir().unwrap();
    let text = |t: &str| Written::Text(t.to_owned());
    let eye = Tensor::eye(64, candle_core::DType::F32, &Device::Cpu).unwrap();
    let half = (&eye * 0.5).unwrap();
    let path = folder.path().join("lens.pt");
    let written = |layers: &[(i64, &Tensor)], said: Vec<(Written<'_>, Written<'_>)>| {
        let layers = layers.iter().map(|(l, j)| (Written::Whole(*l), Written::Tensor(j))).collect();
        let entries = std::iter::once((text("J"), Written::Dictionary(layers))).chain(said).collect();
        torch_file::save(&path, &Written::Dictionary(entries)).unwrap();
        JacobianLens::open(&path)
    };
    let recipe = |target: Written<'static>| Written::Dictionary(vec![(text("target_layer"), target)]);
    let said = |target: Written<'static>| {
        let all = Written::Dictionary(vec![(text("model"), text("some/llama")), (text("recipe"), recipe(target))]);
        vec![(text("provenance"), all)]
    };
    // The last layer's own matrix, where there is one, is the identity.
    let lens = written(&[(0, &half), (2, &eye)], said(Written::Whole(2))).unwrap();
    assert_eq!((lens.about.model.as_deref(), lens.about.target), (Some("some/llama"), Some(2)));
    assert_eq!(lens.transport(&model).unwrap().layers.keys().copied().collect::<Vec<_>>(), [0]);
    let error = written(&[(0, &half), (2, &half)], Vec::new()).unwrap().transport(&model).unwrap_err().to_string();
    assert!(error.contains("changes the last layer"), "{error}");
    // As a JSON text, to another layer.
    let json = r#"{"model": "llama", "recipe": {"target_layer": 1}}"#;
    let lens = written(&[(0, &half)], vec![(text("metadata"), text(json))]).unwrap();
    let error = lens.transport(&model).unwrap_err().to_string();
    assert!(error.contains("leads to layer 1") && error.contains("2"), "{error}");
    assert!(written(&[(1, &half)], said(Written::Whole(0))).unwrap_err().to_string().contains("leads to layer 0"));
    // What is no layer's number is refused, and not taken for nothing.
    for wrong in [text("2"), Written::Whole(-1), Written::List(Vec::new())] {
        let error = written(&[(0, &half)], said(wrong)).unwrap_err().to_string();
        assert!(error.contains("target_layer"), "{error}");
    }
    // The same in the header of safetensors.
    let path = folder.path().join("lens.safetensors");
    let header = [("model", "gpt2".to_owned()), ("provenance", json.to_owned())];
    let packed = circuitscope::model::safetensors_file::pack([("J.0", &half)], &header).unwrap();
    circuitscope::files::write_atomic(&path, &packed).unwrap();
    let lens = JacobianLens::open(&path).unwrap();
    assert_eq!((lens.about.model.as_deref(), lens.about.target), (Some("gpt2"), Some(1)));
}

/// What the lens says of a cell, by hand: v the token's direction there, −h · v where it is taken out; where two tokens
/// are swapped, the difference of their coordinates times ‖v − w‖².
#[test]
fn faithfulness_says_what_the_lens_says() {
    let model = tiny();
    let sums = fit(&model, &prompts(&model, 2), &settings((0, 1)), None, &Progress::new(), &mut |_| {}).unwrap();
    let lens = sums.lens().unwrap().transport(&model).unwrap();
    let trace = Arc::new(Trace::run(&model, vec![3, 8, 1, 22, 5, 40], &Progress::new()).unwrap());
    let targets = vec![Target { layer: 1, pos: 4, token: 7 }, Target { layer: 0, pos: 2, token: 30 }];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    for swap in [None, Some(11)] {
        let question = FaithfulOf { trace: trace.clone(), lens: Some(lens.clone()), targets: targets.clone(), swap };
        let found = question.run(&Progress::new(), &mut |_| {}).unwrap();
        assert_eq!(found.len(), 2);
        for effect in found {
            let Target { layer, pos, token } = effect.target;
            // Jᵀ W_U[:, token]
            let j = sums.lens().unwrap().layers[&layer].to_vec2::<f32>().unwrap();
            let direction = |token: u32| -> Vec<f32> {
                let u = token_vector(&model, None, layer, token).unwrap();
                (0..64).map(|i| (0..64).map(|o| j[o][i] * u[o]).sum()).collect()
            };
            let h = trace.get(SiteKind::ResidPost, layer).unwrap().to_vec2::<f32>().unwrap()[pos].clone();
            let v = direction(token);
            let want = match swap {
                None => -dot(&h, &v),
                Some(other) => {
                    let w = direction(other);
                    let (vv, vw, ww, vh, wh) = (dot(&v, &v), dot(&v, &w), dot(&w, &w), dot(&v, &h), dot(&w, &h));
                    let det = vv * ww - vw * vw;
                    let (a, b) = ((ww * vh - vw * wh) / det, (vv * wh - vw * vh) / det);
                    (b - a) * (vv - 2.0 * vw + ww)
                }
            };
            assert!((f64::from(effect.said) - want).abs() < 2e-3 * want.abs().max(1.0), "{effect:?}: {want}");
        }
    }
}

/// What a file is is seen by what is in it, not by its name.
#[test]
fn lenses_are_told_apart_by_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let eye = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap();
    let safetensors = |path: &std::path::Path, names: &[&str]| {
        let packed = circuitscope::model::safetensors_file::pack(names.iter().map(|n| (*n, &eye)), &[]).unwrap();
        circuitscope::files::write_atomic(path, &packed).unwrap();
    };
    let torch = |path: &std::path::Path, names: &[&str]| {
        let entries = names.iter().map(|n| (Written::Text((*n).to_owned()), Written::Tensor(&eye))).collect();
        torch_file::save(path, &Written::Dictionary(entries)).unwrap();
    };
    safetensors(&at("any.safetensors"), &["layer_translators.0.weight", "layer_translators.1.weight"]);
    safetensors(&at("lens.safetensors"), &["J.0"]);
    safetensors(&at("params.safetensors"), &["W_enc", "W_dec"]);
    torch(&at("any.pt"), &["0.weight", "1.weight"]);
    torch(&at("ae.pt"), &["encoder.weight", "decoder.weight", "bias"]);
    for (name, want) in [
        ("any.safetensors", Some(Kind::Tuned)),
        ("lens.safetensors", Some(Kind::Jacobian)),
        ("params.safetensors", None),
        ("any.pt", Some(Kind::Tuned)),
        ("ae.pt", None),
        ("nowhere.pt", None),
    ] {
        assert_eq!(kind(&at(name)), want, "{name}");
    }
    assert_eq!(kind(&common::fixture("lenses/tuned")), Some(Kind::Tuned));
    assert_eq!(kind(&common::fixture("lenses/unfinished.pt")), Some(Kind::Jacobian));
}

/// What the lesson "Three lenses" says of its prompt.
#[test]
fn the_lessons_numbers_are_those_of_the_lens() {
    let at = ["-m", "text", "--lens", "text-lens", "-p", "In the evening they"];
    let read = common::json(&[&["jlens", "read"][..], &at].concat());
    let words: Vec<&str> = read["top"][1]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["text"].as_str().unwrap())
        .collect();
    assert_eq!(words, [" also", " were", " pass", " need", " had"]);
    let edit = |what: &str, tokens: &str| {
        let doc = common::json(
            &[&["jlens", "edit"][..], &at, &["--layer", "1", what, tokens, "--tokens", " were, was"]].concat(),
        );
        ["logits_before", "logits_after"].map(|k| [0, 1].map(|i| doc[k][i].as_f64().unwrap()))
    };
    let [before, after] = edit("--ablate", " were");
    assert!((before[0] - 7.5).abs() < 0.05 && (after[0] - 1.6).abs() < 0.05, "{before:?} {after:?}");
    let [before, after] = edit("--swap", " were, was");
    assert!(before[0] > before[1] && after[1] > after[0], "{before:?} {after:?}");
}

/// `jlens read --faithful` gives what the lens says will come of taking each cell's token out, and what comes of it: for the
/// token itself at the last position that is the change of its logit, before the final norm.
#[test]
fn what_comes_of_the_cells_can_be_asked() {
    let at = ["jlens", "read", "-m", "text", "--lens", "text-lens", "-p", "In the evening they"];
    let plain = common::json(&at);
    assert!(plain["faithful"].is_null());
    let doc = common::json(&[&at[..], &["--faithful"]].concat());
    assert_eq!(doc["top"], plain["top"]);
    let of = |doc: &serde_json::Value, name: &str, layer: usize, pos: usize| doc["faithful"][name][layer][pos].as_f64();
    let n = doc["tokens"].as_array().unwrap().len();
    for layer in 0..2 {
        for pos in 0..n {
            let [share, said, real] = ["faithfulness", "said", "real"].map(|name| of(&doc, name, layer, pos).unwrap());
            assert!((share - real / said).abs() < 1e-5 * share.abs().max(1.0), "{layer} {pos}");
        }
    }
    let swapped = common::json(&[&at[..], &["--faithful", "--swap", " was"]].concat());
    assert_ne!(of(&swapped, "real", 1, n - 1), of(&doc, "real", 1, n - 1));
    assert!(swapped["faithful"]["swapped_with"].is_u64() && doc["faithful"]["swapped_with"].is_null());
    // The logit lens as well.
    let logit = common::json(&["lens", "-m", "text", "-p", "In the evening they", "--pos", "all", "--faithful"]);
    assert_eq!(logit["faithful"]["said"][2][0], serde_json::Value::Null);
    assert!(of(&logit, "real", 0, n - 1).is_some() && of(&logit, "said", 1, 0) != of(&doc, "said", 1, 0));
    // Where no token is to be shown, the first is still the one that is taken out.
    let none = common::json(&[&at[..], &["--faithful", "--top", "0"]].concat());
    assert_eq!((&none["faithful"], &none["top"][0][0]), (&doc["faithful"], &json!([])));
    // The last layer is what comes out: nothing is left to come of it.
    let last = common::json(&[&at[..], &["--faithful", "--layers", "2"]].concat());
    assert!(of(&last, "real", 0, 0).is_none());
    let error = common::sentence(&[&at[..], &["--swap", " was"]].concat(), 2);
    assert!(error.contains("--faithful"), "{error}");
}

/// A matrix with numbers that 16 bits cannot hold is written in 32, not as infinity.
#[test]
fn large_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lens.safetensors");
    let j = |v: f32| Tensor::from_vec(vec![v, 1.0, 0.5, 0.25], (2, 2), &Device::Cpu).unwrap();
    let layers = [(0, j(1e6)), (1, j(2.0))].into();
    let lens = JacobianLens { about: About::default(), layers, d_model: 2, path: None };
    lens.save(&path).unwrap();
    let back = JacobianLens::open(&path).unwrap();
    assert_eq!(back.layers[&0].to_vec2::<f32>().unwrap(), [[1e6, 1.0], [0.5, 0.25]]);
    assert_eq!(back.layers[&1].to_vec2::<f32>().unwrap(), [[2.0, 1.0], [0.5, 0.25]]);
}

/// A lens with a number that is none is refused by its file and matrix.
#[test]
fn a_broken_number_is_refused_by_the_lens() {
    let folder = tempfile::tempdir().unwrap();
    let d = tiny().config.d_model;
    let mut values = vec![0f32; d * d];
    values[5] = f32::NAN;
    let j = Tensor::from_vec(values, (d, d), &Device::Cpu).unwrap();
    let (lens, params) = (folder.path().join("lens.safetensors"), folder.path().join("params.safetensors"));
    for (path, names) in [(&lens, vec!["J.1"]), (&params, vec!["0.weight", "1.weight", "2.weight"])] {
        let packed = circuitscope::model::safetensors_file::pack(names.iter().map(|n| (*n, &j)), &[]).unwrap();
        circuitscope::files::write_atomic(path, &packed).unwrap();
    }
    let error = JacobianLens::open(&lens).unwrap_err().to_string();
    assert!(error.contains("lens.safetensors") && error.contains("`J.1`"), "{error}");
    let error = open(&params, &tiny()).unwrap_err().to_string();
    assert!(error.contains("params.safetensors") && error.contains(".weight`"), "{error}");
}

/// A tuned lens reads h + A h + b; its number i stands before block i.
#[test]
fn a_tuned_lens_is_read() {
    let file = TorchFile::open(&common::fixture("lenses/tuned/params.pt")).unwrap();
    assert!(matches!(file.value.get("1.weight"), Some(Value::Tensor(p)) if p.shape == [4, 4]));
    let model = tiny();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let d = model.config.d_model;
    let maps: Vec<(Tensor, Tensor)> = (0..3)
        .map(|_| {
            // Sixteenths are halves without rounding.
            let mut draw = |n| (0..n).map(|_| rng.random_range(-8..8) as f32 / 16.0).collect::<Vec<f32>>();
            let weight = Tensor::from_vec(draw(d * d), (d, d), &Device::Cpu).unwrap();
            (weight, Tensor::from_vec(draw(d), d, &Device::Cpu).unwrap())
        })
        .collect();
    let entries = maps.iter().enumerate().flat_map(|(i, (w, b))| {
        let name = |end: &str| Written::Text(format!("{i}.{end}"));
        [(name("weight"), Written::Tensor(w)), (name("bias"), Written::Tensor(b))]
    });
    let folder = tempfile::tempdir().unwrap();
    torch_file::save(&folder.path().join("params.pt"), &Written::Dictionary(entries.collect())).unwrap();
    let lens = open(folder.path(), &model).unwrap();
    assert_eq!((lens.kind, lens.layers.len()), ("tuned lens", 2));
    let trace = Trace::run(&model, vec![1, 5, 9, 2, 7], &Progress::new()).unwrap();
    let read = logit_lens(&trace, Some(&lens), &[], None, None, 3, &Progress::new(), |_| {}).unwrap();
    for layer in 0..2 {
        let h = trace.get(SiteKind::ResidPost, layer).unwrap();
        let (w, b) = &maps[layer + 1];
        let there = (&h + h.matmul(&w.t().unwrap()).unwrap()).unwrap().broadcast_add(b).unwrap();
        let normed = model.network().final_norm(&there.unsqueeze(0).unwrap(), &mut NoHooks).unwrap();
        let logits = model.network().unembed(&normed.squeeze(0).unwrap()).unwrap().to_vec2::<f32>().unwrap();
        for (pos, logits) in logits.iter().enumerate() {
            let cell = read.cell(layer, pos).unwrap();
            assert_eq!(cell.top.len(), 3);
            for t in &cell.top {
                assert!((t.logit - logits[t.id as usize]).abs() < 1e-4);
            }
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!((cell.top[0].logit - best).abs() < 1e-4);
        }
    }
    // The last layer is the model's own prediction.
    for pos in 0..5 {
        assert_eq!(read.cell(2, pos).unwrap().top[0].id, trace.next[pos][0].id);
    }
    let error = open(folder.path(), &Model::open("induction").unwrap()).unwrap_err();
    assert!(error.is_request(), "{error}");
}

/// Interventions worked out here from their definitions, in a full run and in a resumed one.
#[test]
fn interventions_are_those_of_the_definition() {
    let model = tiny();
    let sums = fit(&model, &prompts(&model, 2), &settings((0, 1)), None, &Progress::new(), &mut |_| {}).unwrap();
    let lens = sums.lens().unwrap().transport(&model).unwrap();
    let base = Trace::run(&model, vec![3, 8, 1, 22, 5, 40], &Progress::new()).unwrap();
    let d = model.config.d_model;
    let v = |token| token_vector(&model, Some(&lens), 1, token).unwrap();
    let (s, t) = (v(7), v(30));
    // vᵗ = Jᵀ W_U[:, t]
    let each = Tensor::eye(d, candle_core::DType::F32, &Device::Cpu).unwrap();
    let u: Vec<f32> = model.network().unembed(&each).unwrap().to_vec2::<f32>().unwrap().iter().map(|r| r[7]).collect();
    let j = sums.lens().unwrap().layers[&1].to_vec2::<f32>().unwrap();
    let by_hand: Vec<f32> = (0..d).map(|i| (0..d).map(|o| j[o][i] * u[o]).sum()).collect();
    assert!(common::worst(&s, &by_hand) < 1e-4);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let (ss, st, tt) = (dot(&s, &s), dot(&s, &t), dot(&t, &t));
    let coordinates = |h: &[f32]| {
        let (a, b) = (dot(&s, h), dot(&t, h));
        let det = ss * tt - st * st;
        [(tt * a - st * b) / det, (ss * b - st * a) / det]
    };
    let before = base.get(SiteKind::ResidPost, 1).unwrap().to_vec2::<f32>().unwrap();
    let at = [2, 4, 5];
    let mut lengths: Vec<f32> = at.iter().map(|p| dot(&before[*p], &before[*p]).sqrt()).collect();
    lengths.sort_by(f32::total_cmp);
    let steer =
        |h: &[f32]| -> Vec<f32> { h.iter().zip(&s).map(|(h, v)| h + 0.5 * lengths[1] * v / ss.sqrt()).collect() };
    let swap = |h: &[f32]| -> Vec<f32> {
        let [a, b] = coordinates(h);
        h.iter().zip(s.iter().zip(&t)).map(|(h, (s, t))| h + 2.0 * ((b - a) * s + (a - b) * t)).collect()
    };
    let ablate = |h: &[f32]| -> Vec<f32> {
        let [a, b] = coordinates(h);
        h.iter().zip(s.iter().zip(&t)).map(|(h, (s, t))| h - a * s - b * t).collect()
    };
    let clean = before.iter().map(|h| coordinates(h)).collect::<Vec<_>>();
    type ByHand<'a> = &'a dyn Fn(&[f32]) -> Vec<f32>;
    let cases: [(Intervention, ByHand); 3] = [
        (Intervention::Steer { token: 7, alpha: 0.5 }, &steer),
        (Intervention::Swap { from: 7, to: 30, alpha: 2.0, clamped: false }, &swap),
        (Intervention::Ablate { tokens: vec![7, 30] }, &ablate),
    ];
    let run = |edits: Vec<Edit>| {
        let ops = resolve_stack(&EditStack { edits, ..EditStack::default() }, &Sources::alone(&base)).unwrap();
        (Trace::run_edited(&model, base.ids.clone(), Arc::new(ops.clone()), &Progress::new()).unwrap(), ops)
    };
    for (what, by_hand) in cases {
        let edits = what.edits(&model, Some(&lens), 1, &Positions::At(at.to_vec())).unwrap();
        let (edited, ops) = run(edits);
        let after = edited.get(SiteKind::ResidPost, 1).unwrap().to_vec2::<f32>().unwrap();
        for pos in 0..6 {
            let want = if at.contains(&pos) { by_hand(&before[pos]) } else { before[pos].clone() };
            assert!(common::worst(&after[pos], &want) < 2e-3, "{what:?} at {pos}");
        }
        let variant = Variant::new(ops, &base).unwrap();
        let prepared = Prepared::new(&model.config, base.len());
        let resumed = resume(&base, &prepared, &[variant], 5, &Progress::new()).unwrap();
        let (a, b) = (resumed.flatten_all().unwrap(), edited.normalized(5).unwrap().flatten_all().unwrap());
        assert!(common::worst(&a.to_vec1().unwrap(), &b.to_vec1().unwrap()) < 1e-4, "{what:?}");
    }
    // A clamped swap at two layers leaves the second layer with the first run's coordinates exchanged; a plain one would
    // have gone back.
    let clamped = Intervention::Swap { from: 7, to: 30, alpha: 1.0, clamped: true };
    let mut edits = clamped.edits(&model, Some(&lens), 0, &Positions::All).unwrap();
    edits.extend(clamped.edits(&model, Some(&lens), 1, &Positions::All).unwrap());
    let (edited, _) = run(edits);
    let after = edited.get(SiteKind::ResidPost, 1).unwrap().to_vec2::<f32>().unwrap();
    for (h, [a, b]) in after.iter().zip(clean) {
        let [x, y] = coordinates(h);
        assert!((x - b).abs() < 1e-3 * b.abs().max(1.0) && (y - a).abs() < 1e-3 * a.abs().max(1.0), "{x} {y} {a} {b}");
    }
    let twice = Intervention::Swap { from: 7, to: 7, alpha: 1.0, clamped: false };
    let edits = twice.edits(&model, Some(&lens), 1, &Positions::All).unwrap();
    let stack = EditStack { edits, ..EditStack::default() };
    assert!(resolve_stack(&stack, &Sources::alone(&base)).unwrap_err().is_request());
    assert!(Intervention::Ablate { tokens: vec![7, 7] }.edits(&model, Some(&lens), 1, &Positions::All).is_err());
    // One token after the other takes out what both together do; elsewhere the second stands for itself.
    let both = Intervention::Ablate { tokens: vec![7, 30] }.edits(&model, Some(&lens), 1, &Positions::All).unwrap();
    let second = Intervention::Ablate { tokens: vec![30] };
    let behind = |standing: &[Edit], positions: &Positions| {
        second.edits_behind(standing, &model, Some(&lens), 1, positions).unwrap()
    };
    let here = Positions::At(vec![2]);
    let alone = second.edits(&model, Some(&lens), 1, &here).unwrap();
    let vector = |edits: &[Edit]| match &edits[0].action {
        Action::Project { direction: Direction::Concept { vector, .. } } => vector.clone(),
        other => panic!("{other:?}"),
    };
    for positions in [&Positions::All, &here] {
        let freed = behind(&both[..1], positions);
        assert!(common::worst(&vector(&freed), &vector(&both[1..])) < 1e-6 && freed[0].positions == *positions);
    }
    let elsewhere = [Edit { positions: Positions::At(vec![3]), ..both[0].clone() }];
    let switched_off = [Edit { enabled: false, ..both[0].clone() }];
    assert!(behind(&elsewhere, &here) == alone && behind(&switched_off, &here) == alone);
    let again = second.edits_behind(&both, &model, Some(&lens), 1, &here).unwrap_err();
    assert!(again.to_string().contains("taken out already"), "{again}");
}

/// The commands: fit in parts and merge, read, edit; and what they refuse.
#[test]
fn the_command_line_fits_reads_and_edits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = common::fixture("families/llama").display().to_string();
    let lists: Vec<Vec<u32>> = (0..4).map(|i| (0..14).map(|p| (i * 17 + p * 5) % 90).collect()).collect();
    let text = serde_json::to_string(&lists).unwrap();
    circuitscope::files::write_atomic(&folder.path().join("ids.json"), text.as_bytes()).unwrap();
    let fit = |output: &str, rest: &[&str]| {
        let (ids, output) = (at("ids.json"), at(output));
        let args = ["jlens", "fit", "-m", &model, "--ids-file", &ids, "--skip", "4", "-o", &output];
        common::json(&[&args[..], rest].concat())
    };
    let whole = fit("lens.safetensors", &[]);
    assert_eq!((&whole["n_prompts"], &whole["layers"]), (&json!(4), &json!([0, 1])));
    assert!(!folder.path().join("lens.safetensors.fit").exists());
    assert!(whole["agreement"][0].as_f64().unwrap() < 1.0);
    fit("a", &["--shard", "0/2"]);
    fit("b", &["--shard", "1/2"]);
    let merged = common::json(&["jlens", "merge", &at("a"), &at("b"), "-o", &at("merged.pt")]);
    assert_eq!((&merged["n_prompts"], &merged["missing"]), (&json!(4), &json!(0)));
    // A part whose prompts are all too short is written empty, and does no harm.
    let short = fit("short", &["--shard", "0/5"]);
    assert_eq!(short["n_prompts"], json!(0), "{short}");
    assert!(short["warnings"][0].as_str().unwrap().contains("written empty"), "{short}");
    let parts: Vec<String> = (1..5).map(|i| format!("of-five-{i}")).collect();
    (1..5).for_each(|i| drop(fit(&parts[i - 1], &["--shard", &format!("{i}/5")])));
    let files: Vec<String> = parts.iter().map(|p| at(p)).chain([at("short")]).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let five = common::json(&[&["jlens", "merge"][..], &files, &["-o", &at("five.pt")]].concat());
    assert_eq!((&five["n_prompts"], &five["missing"]), (&json!(4), &json!(0)));
    let read = |lens: &str| common::json(&["jlens", "read", "-m", &model, "--lens", &at(lens), "--ids", "3,4,5"]);
    let (a, b) = (read("lens.safetensors"), read("merged.pt"));
    assert_eq!(a["top"].as_array().unwrap().len(), 2);
    for layer in 0..2 {
        for pos in 0..3 {
            let logit = |doc: &serde_json::Value| doc["top"][layer][pos][0]["logit"].as_f64().unwrap();
            assert!((logit(&a) - logit(&b)).abs() < 2e-2);
        }
    }
    let (lens, merged) = (at("lens.safetensors"), at("merged.pt"));
    let edit = ["jlens", "edit", "-m", &model, "--lens", &lens, "--ids", "3,4,5", "--layer", "1"];
    let steered = common::json(&[&edit[..], &["--steer", "7", "--alpha", "2", "--pos", "last"]].concat());
    let (before, after) = (&steered["logits_before"][0], &steered["logits_after"][0]);
    assert!(after.as_f64().unwrap() > before.as_f64().unwrap());
    // No strength, no change.
    let still = common::json(&[&edit[..], &["--swap", "7,9", "--alpha", "0", "--tokens", "1,2"]].concat());
    assert_eq!(still["logits_before"], still["logits_after"]);
    // A token can be named by its number, as one with a comma must be.
    let by_id = common::json(&[&edit[..], &["--swap", "id:7,id:9", "--alpha", "0", "--tokens", "id:1,2"]].concat());
    assert_eq!(by_id["watched"], still["watched"]);
    // A layer that is named twice is changed once.
    let twice = common::json(&[&edit[..], &["--layer", "1", "--steer", "7", "--alpha", "2", "--pos", "last"]].concat());
    assert_eq!(twice["logits_after"], steered["logits_after"]);
    // What an option needs is asked for.
    let error = common::sentence(&[&edit[..], &["--ablate", "7", "--clamped"]].concat(), 2);
    assert!(error.contains("--clamped"), "{error}");
    // In a model with words a number is a word; a fit that cannot be leaves nothing in the way of the next.
    let text = ["jlens", "edit", "-m", "text", "--lens", "text-lens", "-p", "The king", "--layer", "1"];
    assert!(common::sentence(&[&text[..], &["--steer", "300"]].concat(), 2).contains("300"));
    let (ids, output) = (at("ids.json"), at("skipped.pth"));
    let skipping = ["jlens", "fit", "-m", &model, "--ids-file", &ids, "-o", &output, "--skip"];
    assert!(common::sentence(&[&skipping[..], &["1000"]].concat(), 2).contains("--skip"));
    common::json(&[&skipping[..], &["4"]].concat());
    assert_eq!(read("skipped.pth")["top"], b["top"]);
    // A list of ids is taken as it is, however long, unless it is to be cut.
    let long: Vec<Vec<u32>> = vec![(0..140).map(|p| p % 90).collect()];
    let text = serde_json::to_string(&long).unwrap();
    circuitscope::files::write_atomic(&folder.path().join("long.json"), text.as_bytes()).unwrap();
    let granite = common::fixture("families/granite").display().to_string();
    let lens_of = |rest: &[&str]| {
        let (ids, output) = (at("long.json"), at("long.safetensors"));
        let args = ["jlens", "fit", "-m", &granite, "--ids-file", &ids, "--skip", "130", "-o", &output];
        common::run(&[&args[..], rest].concat()).status.code()
    };
    assert_eq!((lens_of(&[]), lens_of(&["--tokens", "128"])), (Some(0), Some(2)));
    let none = common::run(&edit);
    assert_eq!(none.status.code(), Some(2));
    let error = common::sentence(&[&edit[..8], &["--layer", "5", "--steer", "7"]].concat(), 2);
    assert!(error.contains("layer 5"), "{error}");
    let other = common::fixture("families/qwen3").display().to_string();
    let error = common::sentence(&["jlens", "read", "-m", &other, "--lens", &merged, "--ids", "1,2"], 2);
    assert!(error.contains("llama"), "{error}");
    let code = common::fixture("lenses/runs-code.pt").display().to_string();
    let error = common::sentence(&["jlens", "read", "-m", &model, "--lens", &code, "--ids", "1,2"], 1);
    assert!(error.contains("nothing in a file is run"), "{error}");
    let error = common::sentence(
        &["jlens", "fit", "-m", &model, "--ids-file", &at("ids.json"), "--layers", "2", "-o", &at("x")],
        2,
    );
    assert!(error.contains("the last one"), "{error}");
}

/// The lens that ships belongs to the built-in model, by its weights, and reads by its name.
#[test]
fn the_shipped_lens_reads_the_built_in_model() {
    let read = common::json(&["jlens", "read", "-m", "text", "--lens", "text-lens", "-p", "The king and the queen"]);
    assert_eq!(
        (read["layers"].as_array().unwrap().len(), read["top"][0].as_array().unwrap().len()),
        (2, read["tokens"].as_array().unwrap().len())
    );
    let error = common::sentence(&["jlens", "read", "-m", "induction", "--lens", "text-lens", "-p", "The king"], 2);
    assert!(error.contains("induction"), "{error}");
}
