//! Dictionaries as SAELens writes and computes them (`tests/dictionaries/make.py` made the files), damaged ones, and
//! training.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use circuitscope::engine::edit::{Action, Direction, FeatureChange};
use circuitscope::engine::forward::Prepared;
use circuitscope::engine::generate::{Sampling, generate};
use circuitscope::engine::resolve::{Sources, resolve, resolve_stack};
use circuitscope::engine::resume::{Variant, resume};
use circuitscope::engine::{Edit, EditStack, Site, SiteKind, Trace};
use circuitscope::features::dictionary::cross_layer::Later;
use circuitscope::features::dictionary::edit::{changed, steered};
use circuitscope::features::dictionary::formats::{self, saelens};
use circuitscope::features::feature_activations::{Order, ReadFrom, feature_activations};
use circuitscope::features::harvest::activations;
use circuitscope::features::rows::{Cut, Rows};
use circuitscope::features::scan::index::Index;
use circuitscope::features::scan::{Plan, Subject, index_file};
use circuitscope::features::train::activations::Table;
use circuitscope::features::train::{Method, Origin, Settings, Trainer};
use circuitscope::features::{Activation, Dictionary, Place, Store};
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dictionaries").join(name)
}

/// Every folder with SAELens' numbers, and the path that opens it.
fn all() -> Vec<(String, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !path.is_dir() {
            continue;
        }
        let (opens, expected) = match name.as_str() {
            n if n.starts_with("gemma-scope") => {
                let inner = path.join("layer_1/width_40/average_l0_9_res");
                (inner.clone(), inner)
            }
            "circuit-tracer" => (path.join("layer_1.safetensors"), path),
            _ => (path.clone(), path),
        };
        found.push((name, opens, expected));
    }
    found.sort();
    found
}

fn open(path: &Path) -> Dictionary {
    formats::open(path, &Progress::new()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn encodings_equal_saelens() {
    let all = all();
    assert!(all.len() >= 17, "only {} dictionaries", all.len());
    for (name, path, expected) in all {
        let d = open(&path);
        let e = candle_core::safetensors::load(expected.join("expected.safetensors"), &Device::Cpu).unwrap();
        let (acts, recon) = d.run(&e["x"], &Progress::new()).unwrap();
        let features = acts.dense(d.d_sae).unwrap();
        assert!(difference(&features, &e["features"]) < 1e-4, "{name}: features");
        assert!(difference(&recon, &e["reconstruction"]) < 1e-4, "{name}: reconstruction");
        let active = acts.values.len();
        assert!(active > 0 && active < features.elem_count(), "{name}: {active} active");
    }
}

#[test]
fn sites_are_read_from_every_kind_of_configuration() {
    let site = |name: &str, path: &str| {
        let d = open(&folder(name).join(path));
        (d.input.map(|p| p.to_string()), d.output.map(|p| p.to_string()), d.model_name)
    };
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(
        site("standard", ""),
        (some("blocks.1.hook_resid_post"), some("blocks.1.hook_resid_post"), some("test"))
    );
    assert_eq!(site("transcoder", ""), (some("blocks.1.hook_resid_post"), some("blocks.1.hook_mlp_out"), some("test")));
    assert_eq!(site("old-jumprelu", "").0, some("blocks.1.hook_mlp_out"));
    let tracer = site("circuit-tracer", "layer_1.safetensors");
    assert_eq!(tracer, (some("blocks.1.mlp.hook_in"), some("blocks.1.mlp.hook_out"), some("test")));
    assert_eq!(site("cross-layer", "").0, some("blocks.0.hook_resid_mid"));
    let cross = open(&folder("cross-layer"));
    let written: Vec<String> = cross.written_places().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(written, ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]);
    // Later layers stay in the file: what is read of them is what stands there.
    let file = candle_core::safetensors::load(folder("cross-layer").join("W_dec_0.safetensors"), &Device::Cpu).unwrap();
    let stored: Vec<Vec<Vec<f32>>> = file["W_dec_0"].to_dtype(candle_core::DType::F32).unwrap().to_vec3().unwrap();
    assert_eq!((cross.later.len(), stored.len()), (1, cross.d_sae));
    for (f, wanted) in stored.iter().enumerate() {
        assert_eq!(cross.direction(f).unwrap(), wanted[0]);
        assert_eq!(cross.later.of(f).unwrap(), wanted[1..]);
    }
    assert_eq!(site("gemma-scope", "layer_1/width_40/average_l0_9_res").0, some("blocks.1.hook_resid_post"));
    let several = formats::open(&folder("circuit-tracer"), &Progress::new()).unwrap_err().to_string();
    assert!(several.contains("layer_0.safetensors"), "{several}");
}

#[test]
fn what_is_written_reads_back_the_same() {
    for name in [
        "standard",
        "jumprelu",
        "topk-rescaled",
        "gated",
        "transcoder-skip",
        "transcoder-jumprelu",
        "standard-layer-norm",
    ] {
        let (first, dir) = (open(&folder(name)), tempfile::tempdir().unwrap());
        saelens::save(&first, dir.path(), &serde_json::json!({"note": 1})).unwrap();
        let second = open(dir.path());
        let x = Tensor::randn(0f32, 1f32, (6, first.d_in), &Device::Cpu).unwrap();
        let (a, b) =
            (first.replacement(&x, &Progress::new()).unwrap(), second.replacement(&x, &Progress::new()).unwrap());
        assert_eq!(a.0, b.0, "{name}");
        assert_eq!(difference(&a.1, &b.1), 0.0, "{name}");
        assert_eq!((first.input, first.output, &first.activation), (second.input, second.output, &second.activation));
        assert_eq!(second.config["metadata"]["note"], 1);
    }
}

/// A copy of a folder whose files `change` alters.
fn damaged(name: &str, change: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    change(dir.path());
    formats::open(dir.path(), &Progress::new()).unwrap_err().to_string()
}

fn overwrite(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn damaged_dictionaries_are_refused_in_one_sentence() {
    let weights = "sae_weights.safetensors";
    let rewrite = |dir: &Path, change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let mut t = candle_core::safetensors::load(dir.join(weights), &Device::Cpu).unwrap();
        change(&mut t);
        candle_core::safetensors::save(&t, dir.join(weights)).unwrap();
    };
    let config = |dir: &Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(dir.join("cfg.json")).unwrap();
        assert!(text.contains(from), "{text}");
        overwrite(&dir.join("cfg.json"), text.replace(from, to).as_bytes());
    };
    let nan = damaged("standard", |d| {
        rewrite(d, &|t| {
            t.insert(
                "W_dec".to_owned(),
                Tensor::new(f32::NAN, &Device::Cpu).unwrap().broadcast_as((40, 16)).unwrap().contiguous().unwrap(),
            );
        });
    });
    assert!(nan.contains("W_dec") && nan.contains("NaN"), "{nan}");
    let width = damaged("standard", |d| {
        rewrite(d, &|t| {
            t.insert("b_dec".to_owned(), Tensor::zeros(15, candle_core::DType::F32, &Device::Cpu).unwrap());
        });
    });
    assert!(width.contains("[15]") && width.contains("[16]"), "{width}");
    let told = damaged("standard", |d| config(d, "\"d_sae\": 40", "\"d_sae\": 41"));
    assert!(told.contains("41") && told.contains("40"), "{told}");
    let unknown = damaged("gated", |d| config(d, "\"architecture\": \"gated\"", "\"architecture\": \"temporal\""));
    assert!(unknown.contains("temporal") && unknown.contains("jumprelu"), "{unknown}");
    let short = damaged("jumprelu", |d| {
        let bytes = std::fs::read(d.join(weights)).unwrap();
        overwrite(&d.join(weights), &bytes[..bytes.len() / 2]);
    });
    assert!(short.contains("cut short") || short.contains("beyond"), "{short}");
    let no_json = damaged("topk", |d| overwrite(&d.join("cfg.json"), b"{\"d_in\": "));
    assert!(no_json.contains("cfg.json"), "{no_json}");
    let k = damaged("topk", |d| config(d, "\"k\": 6", "\"k\": 600"));
    assert!(k.contains("600"), "{k}");
    let missing = damaged("jumprelu", |d| {
        rewrite(d, &|t| {
            t.remove("threshold");
        });
    });
    assert!(missing.contains("threshold"), "{missing}");
    let yaml = damaged("cross-layer", |d| overwrite(&d.join("config.yaml"), b"model_kind: [unclosed"));
    assert!(yaml.contains("config.yaml"), "{yaml}");
    let kind = damaged("cross-layer", |d| overwrite(&d.join("config.yaml"), b"model_kind: lorsa"));
    assert!(kind.contains("lorsa"), "{kind}");
    for message in [nan, width, told, unknown, short, no_json, k, missing, yaml, kind] {
        assert!(!message.contains('\n'), "{message}");
    }
    assert!(formats::open(Path::new("/no/such"), &Progress::new()).is_err());
    let dir = tempfile::tempdir().unwrap();
    let empty = formats::open(dir.path(), &Progress::new()).unwrap_err().to_string();
    assert!(empty.contains("cfg.json") && empty.contains("params.npz"), "{empty}");
}

/// An npz archive of arrays of four-byte numbers: name, shape as numpy writes it, whether it is stored by columns, bytes.
fn npz(arrays: &[(&str, &str, bool, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, shape, columns, bytes) in arrays {
        zip.start_file(format!("{name}.npy"), options).unwrap();
        let order = if *columns { "True" } else { "False" };
        let mut header = format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': ({shape}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// numpy saves a transposed matrix column after column.
#[test]
fn matrices_stored_by_columns_are_read() {
    let path = folder("gemma-scope/layer_1/width_40/average_l0_9_res");
    let d = open(&path);
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let columns = |t: &Tensor| bytes(&t.t().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let Activation::JumpRelu { threshold } = &d.activation else { panic!("it has thresholds") };
    let (n, width) = (d.d_sae, d.d_in);
    let archive = npz(&[
        ("W_enc", &format!("{width}, {n}"), true, columns(&d.w_enc)),
        ("W_dec", &format!("{n}, {width}"), true, columns(&d.w_dec)),
        ("b_enc", &format!("{n},"), true, bytes(&d.b_enc)),
        ("b_dec", &format!("{width},"), false, bytes(&d.b_dec)),
        ("threshold", &format!("{n},"), false, bytes(threshold)),
    ]);
    let dir = tempfile::tempdir().unwrap();
    overwrite(&dir.path().join("params.npz"), &archive);
    let again = open(dir.path());
    let all = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    assert_eq!((all(&again.w_enc), all(&again.w_dec)), (all(&d.w_enc), all(&d.w_dec)));
    assert_eq!((again.b_enc, again.b_dec), (d.b_enc, d.b_dec));
}

/// An npz whose arrays claim or unpack to far more than the archive can hold.
#[test]
fn zip_bombs_and_truncated_archives_are_refused() {
    let source = std::fs::read(folder("gemma-scope/layer_1/width_40/average_l0_9_res/params.npz")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open_bytes = |bytes: &[u8]| {
        overwrite(&dir.path().join("params.npz"), bytes);
        formats::open(dir.path(), &Progress::new()).unwrap_err().to_string()
    };
    let cut = open_bytes(&source[..source.len() / 2]);
    assert!(cut.contains("npz"), "{cut}");
    let archive = |shape: &str, zeros: usize| npz(&[("W_enc", shape, false, vec![0; zeros])]);
    // 64 MB of zeros pack into 64 kB.
    let bomb = open_bytes(&archive("4096, 4096", 64 << 20));
    assert!(bomb.contains("W_enc") && bomb.contains("claims"), "{bomb}");
    let liar = open_bytes(&archive("1000000, 1000000", 16));
    assert!(liar.contains("claims"), "{liar}");
    let overflow = open_bytes(&archive("18446744073709551615, 9", 16));
    assert!(overflow.contains("W_enc"), "{overflow}");
}

#[test]
fn a_dictionary_of_another_model_is_refused_with_both_shapes() {
    let model = Model::open("induction").unwrap();
    let d = open(&folder("standard"));
    let message = d.check(&model.config).unwrap_err().to_string();
    assert!(message.contains("[16]") && message.contains("[128]"), "{message}");
    let mut d = open(&folder("standard"));
    d.input = Some(Place::parse("blocks.7.hook_resid_post").unwrap());
    d.output = d.input;
    assert!(d.check(&model.config).unwrap_err().to_string().contains("layer 7"));
    assert!(Place::parse("blocks.0.attn.hook_pattern").unwrap().check(&model.config).is_err());
    assert!(Place::parse("blocks.x").is_err());
}

/// A dictionary with random weights at places of a model.
fn random(activation: Activation, d_in: usize, d_out: usize, input: &str, output: &str) -> Dictionary {
    let n = 24;
    let draw = |shape: &[usize], scale: f64| (Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap() * scale).unwrap();
    let vector = |n: usize| draw(&[n], 0.1).to_vec1::<f32>().unwrap();
    Dictionary {
        name: "random".to_owned(),
        path: PathBuf::from("random"),
        format: "SAELens",
        d_in,
        d_sae: n,
        d_out,
        w_enc: draw(&[d_in, n], 0.2),
        // Lifted, so that some feature is active whatever is drawn.
        b_enc: vector(n).into_iter().map(|b| b + 0.5).collect(),
        w_dec: draw(&[n, d_out], 0.3),
        later: Default::default(),
        b_dec: vector(d_out),
        activation,
        subtract_b_dec: input == output,
        rescale: false,
        normalisation: circuitscope::features::dictionary::Normalisation::None,
        skip: None,
        transcoder: input != output,
        input: Some(Place::parse(input).unwrap()),
        output: Some(Place::parse(output).unwrap()),
        model_name: None,
        config: serde_json::Value::Null,
        warnings: Vec::new(),
    }
}

/// Ablating or setting a feature adds (new − a)·W_dec to the site and nothing else, at exactly the chosen positions, in
/// full runs and in generation, for every architecture and for transcoders.
#[test]
fn a_feature_edit_changes_exactly_what_it_says() {
    let model = Arc::new(Model::open("addition").unwrap());
    let d = model.config.d_model;
    let (resid, mlp_in, mlp_out) = ("blocks.0.hook_resid_mid", "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out");
    let (normalized, jump) = ("blocks.0.ln2.hook_normalized", Activation::JumpRelu { threshold: vec![0.3; 24] });
    let gated = Activation::Gated { r_mag: vec![0.1; 24], b_mag: vec![0.05; 24] };
    let cases = [
        (Activation::Relu, resid, resid),
        (jump.clone(), resid, resid),
        (Activation::TopK { k: 5 }, resid, resid),
        (gated, mlp_out, mlp_out),
        (Activation::Relu, normalized, mlp_out),
        (jump, mlp_in, mlp_out),
    ];
    let progress = Progress::new();
    let base = Trace::run(&model, vec![3, 59, 4, 60], &progress).unwrap();
    let store = Store::default();
    for (activation, input, output) in cases {
        let dictionary = random(activation, d, d, input, output);
        let dir = tempfile::tempdir().unwrap();
        saelens::save(&dictionary, dir.path(), &serde_json::json!({})).unwrap();
        let spec = dir.path().to_str().unwrap().to_owned();
        let place = dictionary.output.unwrap();
        let input_place = dictionary.input.unwrap();
        let x = input_place.rows(&model, &base.value(input_place.site).unwrap()).unwrap();
        let acts = dictionary.encode(&x, &progress).unwrap();
        let (feature, _) = acts.row(3).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
        for (change, new) in [
            (FeatureChange::Set(0.0), 0.0),
            (FeatureChange::Scale(2.0), 2.0 * acts.at(3, feature)),
            (FeatureChange::Set(1.5), 1.5),
        ] {
            let action = Action::Feature { dictionary: spec.clone(), feature: feature as usize, change };
            let edit = Edit::new(place.site, action).at(3);
            let ops = Arc::new(vec![resolve(&edit, &Sources::alone(&base).with_dictionaries(&store)).unwrap()]);
            let run = Trace::run_edited(&model, base.ids.clone(), ops.clone(), &progress).unwrap();
            let (before, after) = (base.value(place.site).unwrap(), run.value(place.site).unwrap());
            let moved: Vec<Vec<f32>> = (after - before).unwrap().to_vec2().unwrap();
            let writes = dictionary.direction(feature as usize).unwrap();
            for (p, row) in moved.iter().enumerate() {
                let amount = if p == 3 { new - acts.at(3, feature) } else { 0.0 };
                for (m, w) in row.iter().zip(&writes) {
                    assert!((m - amount * w).abs() < 1e-4, "{input} {output} {change:?} at {p}: {m} {}", amount * w);
                }
            }
            // A resumed run gives the same.
            let variant = Variant::new(ops.to_vec(), &base).unwrap();
            let prepared = Prepared::new(&model.config, base.len());
            let resumed = resume(&base, &prepared, &[variant], 3, &progress).unwrap();
            let full = run.normalized(3).unwrap();
            assert!(difference(&resumed, &full) < 1e-4);
            // The prompt's positions alone are edited, so generation begins from the same distribution.
            let made = generate(&model, &base.ids, &ops, Sampling::default(), 1, &progress, |_| {}).unwrap();
            assert_eq!(made.tokens[0].id, run.next[3][0].id);
        }
        let elsewhere = Edit::new(
            Site::new(SiteKind::ResidPre, 0),
            Action::Feature { dictionary: spec.clone(), feature: 0, change: FeatureChange::Set(0.0) },
        );
        assert!(
            resolve(&elsewhere, &Sources::alone(&base).with_dictionaries(&store))
                .unwrap_err()
                .to_string()
                .contains("edit it there")
        );
        let absent =
            Edit::new(place.site, Action::Feature { dictionary: spec, feature: 24, change: FeatureChange::Set(0.0) });
        assert!(
            resolve(&absent, &Sources::alone(&base).with_dictionaries(&store))
                .unwrap_err()
                .to_string()
                .contains("0 to 23")
        );
    }
}

/// A feature of a cross-layer transcoder writes to its own layer and each later one: taking it out takes out all of that,
/// by the decoder of each layer, as it was active where it is read.
#[test]
fn a_cross_layer_feature_is_edited_at_every_layer_it_writes() {
    let model = Arc::new(Model::open("text").unwrap());
    let (d, progress) = (model.config.d_model, Progress::new());
    let base = Trace::run(&model, vec![40, 41, 42, 43], &progress).unwrap();
    let own = random(Activation::Relu, d, d, "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out");
    let more = |seed: f32| (&own.w_dec * f64::from(seed)).unwrap();
    let dictionary = Dictionary { later: Later::Memory(vec![more(0.5), more(-2.0)]), ..own.clone() };
    let store = Store::default();
    store.insert("a cross-layer transcoder", Arc::new(dictionary.clone())).unwrap();
    let acts = dictionary.encode(&base.value(Site::new(SiteKind::ResidMid, 0)).unwrap(), &progress).unwrap();
    let (feature, active) = acts.row(3).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let row = dictionary.direction(feature as usize).unwrap();
    let sum = dictionary.summed_direction(feature as usize).unwrap();
    assert!(sum.iter().zip(&row).all(|(s, r)| (s + 0.5 * r).abs() < 1e-4));

    let change = FeatureChange::Set(0.0);
    let edits = changed(&dictionary, "a cross-layer transcoder", feature as usize, change, &model.config).unwrap();
    assert_eq!(edits.len(), 3);
    let steering = steered(&dictionary, "a cross-layer transcoder", feature as usize, 2.0, &model.config).unwrap();
    for (layer, factor) in [(0, 1.0), (1, 0.5), (2, -2.0)] {
        // One layer alone, so that nothing else moves its site.
        let site = Site::new(SiteKind::MlpOut, layer);
        for (edit, amount) in [(&edits[layer], -active), (&steering[layer], 2.0)] {
            assert_eq!(edit.site, site);
            let ops = vec![resolve(&edit.clone().at(3), &Sources::alone(&base).with_dictionaries(&store)).unwrap()];
            let run = Trace::run_edited(&model, base.ids.clone(), Arc::new(ops.clone()), &progress).unwrap();
            let moved: Vec<Vec<f32>> =
                (run.value(site).unwrap() - base.value(site).unwrap()).unwrap().to_vec2().unwrap();
            for (m, w) in moved[3].iter().zip(&row) {
                assert!((m - amount * factor * w).abs() < 1e-4, "layer {layer}: {m} {}", amount * factor * w);
            }
            assert!(moved[..3].iter().flatten().all(|m| m.abs() < 1e-6));
            // A resumed run sees the layer where it is read, even if only a later one is changed.
            let variant = Variant::new(ops, &base).unwrap();
            let prepared = Prepared::new(&model.config, base.len());
            let resumed = resume(&base, &prepared, &[variant], 3, &progress).unwrap();
            assert!(difference(&resumed, &run.normalized(3).unwrap()) < 1e-4);
        }
    }
    // All of them together, by the numbers of a full run and of a resumed one.
    let stack = EditStack { edits, ..EditStack::default() };
    let ops = resolve_stack(&stack, &Sources::alone(&base).with_dictionaries(&store)).unwrap();
    let run = Trace::run_edited(&model, base.ids.clone(), Arc::new(ops.clone()), &progress).unwrap();
    let prepared = Prepared::new(&model.config, base.len());
    let resumed = resume(&base, &prepared, &[Variant::new(ops, &base).unwrap()], 3, &progress).unwrap();
    assert!(difference(&resumed, &run.normalized(3).unwrap()) < 1e-4);
    // One layer too many is refused with both numbers.
    let deep = Dictionary { later: Later::Memory(vec![more(1.0); 3]), ..own };
    let message = deep.check(&model.config).unwrap_err().to_string();
    assert!(message.contains("4 layers") && message.contains("has 3"), "{message}");
}

#[test]
fn directions_are_taken_out_and_turned() {
    let model = Arc::new(Model::open("induction").unwrap());
    let progress = Progress::new();
    let base = Trace::run(&model, vec![5, 6, 7, 8], &progress).unwrap();
    let d = model.config.d_model;
    let site = Site::new(SiteKind::ResidPre, 1);
    let axis = |i: usize, scale: f32| {
        let mut v = vec![0.0; d];
        v[i] = scale;
        Direction::Vector(v)
    };
    let run = |action: Action| {
        let ops = Arc::new(vec![resolve(&Edit::new(site, action), &Sources::alone(&base)).unwrap()]);
        let run = Trace::run_edited(&model, base.ids.clone(), ops, &progress).unwrap();
        run.value(site).unwrap().to_vec2::<f32>().unwrap()
    };
    let before = base.value(site).unwrap().to_vec2::<f32>().unwrap();
    let out = run(Action::Project { direction: axis(3, 7.0) });
    let turned = run(Action::Swap { from: axis(3, 2.0), to: axis(4, 0.5) });
    for p in 0..4 {
        assert!(out[p][3].abs() < 1e-5 && (out[p][2] - before[p][2]).abs() < 1e-6);
        assert!(turned[p][3].abs() < 1e-5 && (turned[p][4] - before[p][4] - before[p][3]).abs() < 1e-5);
    }
    let per_position = Edit::new(site, Action::Project { direction: Direction::Difference });
    assert!(resolve(&per_position, &Sources::alone(&base)).unwrap_err().to_string().contains("one direction"));
    // Edits are saved and read back.
    let saved = serde_json::to_string(&Edit::new(site, Action::Swap { from: axis(3, 2.0), to: axis(4, 0.5) })).unwrap();
    assert!(serde_json::from_str::<Edit>(&saved).is_ok());
}

/// A dictionary of known features, sparse and random, is found again: mean of each feature's largest cosine.
#[test]
fn training_recovers_a_known_dictionary() {
    let (d, known, n) = (24, 48, 30_000);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut features: Vec<f32> = (0..known * d).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0f32)).sum()).collect();
    for row in features.chunks_mut(d) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
    let mut values = vec![0f32; n * d];
    for row in values.chunks_mut(d) {
        for f in 0..known {
            if rng.random::<f32>() < 0.05 {
                let strength: f32 = rng.random_range(0.5..1.5);
                row.iter_mut().zip(&features[f * d..]).for_each(|(v, w)| *v += strength * w);
            }
        }
    }
    for method in Method::ALL {
        let settings = Settings {
            method,
            features: 64,
            k: 3,
            sparsity: match method {
                Method::JumpRelu => 1.5,
                Method::Gated => 5.0,
                _ => 1.0,
            },
            bandwidth: 0.3,
            steps: if method == Method::JumpRelu { 3000 } else { 1500 },
            batch: 512,
            rate: 3e-3,
            dead_after: 20_000,
            resample: 250,
            ..Settings::default()
        };
        let table = Table::Memory { d, values: values.clone() };
        let mut trainer = Trainer::new(settings, Origin::default(), table, None).unwrap();
        trainer.run(None, &Progress::new(), &mut |_| Ok(None), &mut |_| {}).unwrap();
        let found: Vec<f32> = trainer.dictionary("x").unwrap().w_dec.flatten_all().unwrap().to_vec1().unwrap();
        let mean: f32 = features
            .chunks(d)
            .map(|t| found.chunks(d).map(|f| t.iter().zip(f).map(|(a, b)| a * b).sum::<f32>()).fold(f32::MIN, f32::max))
            .sum::<f32>()
            / known as f32;
        let last = trainer.curve.last().unwrap();
        // Nested dictionaries spend features on what several have in common.
        let least = if method == Method::Matryoshka { 0.85 } else { 0.95 };
        assert!(mean >= least, "{method:?}: {mean}, {last:?}");
    }
}

/// What is linear goes through the skip path, in the model's own units: the finished transcoder gives it back, also after it
/// was written in circuit-tracer's format.
#[test]
fn a_skip_path_learns_what_is_linear() {
    use circuitscope::features::dictionary::formats::circuit_tracer;
    let (d, d_out, n) = (6, 4, 2000);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let values: Vec<f32> = (0..d * n).map(|_| 5.0 * rng.random_range(-1.0..1.0f32)).collect();
    let map: Vec<f32> = (0..d * d_out).map(|_| rng.random_range(-1.0..1.0f32)).collect();
    let target: Vec<f32> = values
        .chunks(d)
        .flat_map(|x| (0..d_out).map(|j| x.iter().enumerate().map(|(i, v)| v * map[i * d_out + j]).sum::<f32>()))
        .collect();
    for method in [Method::BatchTopK, Method::Matryoshka] {
        let settings = Settings {
            method,
            features: 16,
            k: 1,
            steps: 600,
            batch: 256,
            rate: 1e-2,
            skip: true,
            dead_after: 1_000_000,
            ..Settings::default()
        };
        let (input, output) =
            (Place::parse("blocks.0.mlp.hook_in").unwrap(), Place::parse("blocks.0.mlp.hook_out").unwrap());
        let origin = Origin { model_name: None, input: Some(input), output: Some(output) };
        let tables = (Table::Memory { d, values: values.clone() }, Table::Memory { d: d_out, values: target.clone() });
        let mut trainer = Trainer::new(settings, origin, tables.0, Some(tables.1)).unwrap();
        trainer.run(None, &Progress::new(), &mut |_| Ok(None), &mut |_| {}).unwrap();
        let made = trainer.dictionary("x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        circuit_tracer::save(&made, dir.path(), 0, &[]).unwrap();
        circuit_tracer::describe(dir.path(), "x", ["mlp.hook_in", "mlp.hook_out"]).unwrap();
        let file = circuit_tracer::layer_file(dir.path(), 0);
        let read = circuit_tracer::open_layer(dir.path(), &file, 0, &Progress::new()).unwrap();
        for dictionary in [made, read] {
            let x = Tensor::from_slice(&values[..d * 64], (64, d), &Device::Cpu).unwrap();
            assert!(dictionary.skip.is_some());
            let given = dictionary.replacement(&x, &Progress::new()).unwrap().1;
            let given: Vec<f32> = given.flatten_all().unwrap().to_vec1().unwrap();
            let (mut left, mut whole) = (0.0, 0.0);
            for (a, b) in given.iter().zip(&target) {
                (left, whole) = (left + (a - b) * (a - b), whole + b * b);
            }
            assert!(left < 0.01 * whole, "{method:?}: {left} of {whole} is left");
        }
    }
}

/// A training that is stopped and taken up again ends with the same dictionary, bit for bit.
#[test]
fn a_resumed_training_is_the_same_one() {
    let d = 8;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let values: Vec<f32> = (0..d * 500).map(|_| rng.random_range(-1.0..1.0f32)).collect();
    let settings = Settings {
        method: Method::BatchTopK,
        features: 16,
        k: 2,
        steps: 40,
        batch: 64,
        dead_after: 100,
        ..Settings::default()
    };
    let new = |s: &Settings| {
        Trainer::new(s.clone(), Origin::default(), Table::Memory { d, values: values.clone() }, None).unwrap()
    };
    let mut whole = new(&settings);
    whole.run(None, &Progress::new(), &mut |_| Ok(None), &mut |_| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut first = new(&settings);
    for _ in 0..17 {
        first.advance().unwrap();
    }
    first.save(dir.path()).unwrap();
    let mut second = new(&settings);
    assert!(second.resume(dir.path()).unwrap());
    assert_eq!(second.step, 17);
    second.run(Some(dir.path()), &Progress::new(), &mut |_| Ok(None), &mut |_| {}).unwrap();
    let (a, b) = (whole.dictionary("x").unwrap(), second.dictionary("x").unwrap());
    assert_eq!(difference(&a.w_enc, &b.w_enc), 0.0);
    assert_eq!(difference(&a.w_dec, &b.w_dec), 0.0);
    assert_eq!((a.activation, whole.curve), (b.activation, second.curve));
    // Other settings do not take it up, and a damaged checkpoint says so.
    let mut other = new(&Settings { seed: 2, ..settings.clone() });
    first.save(dir.path()).unwrap();
    assert!(other.resume(dir.path()).unwrap_err().to_string().contains("other settings"));
    let state = dir.path().join(circuitscope::features::train::STATE);
    let bytes = std::fs::read(&state).unwrap();
    overwrite(&state, &bytes[..bytes.len() - 100]);
    assert!(new(&settings).resume(dir.path()).is_err());
    // Cancelled, it leaves a checkpoint behind.
    std::fs::remove_file(&state).unwrap();
    let progress = Progress::new();
    let mut stopped = new(&settings);
    let outcome = stopped.run(Some(dir.path()), &progress, &mut |_| Ok(None), &mut |_| progress.cancel());
    assert!(matches!(outcome, Err(circuitscope::Error::Cancelled)));
    assert!(state.is_file());
}

/// A scan in parts equals the whole one, an interrupted one goes on to the same, and what it says of a feature is what
/// encoding the text says.
#[test]
fn scans_are_exact_resumable_and_merge() {
    let model = Model::open("addition").unwrap();
    let d = model.config.d_model;
    let dictionary = Arc::new(random(Activation::Relu, d, d, "blocks.0.hook_resid_post", "blocks.0.hook_resid_post"));
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    // Rows of two lengths, more than one forward pass of each.
    let lists: Vec<(Vec<u32>, u32)> = (0..400)
        .map(|i| ((0..if i % 3 == 0 { 4 } else { 6 }).map(|_| rng.random_range(0..59u32)).collect(), i / 7))
        .collect();
    let rows = Rows::new(lists.clone());
    let plan = |shard| Plan {
        model: &model,
        subjects: vec![Subject::Features(dictionary.clone())],
        companion: None,
        rows: &rows,
        texts: vec!["random".to_owned()],
        context: 6,
        limit: None,
        shard,
        window: 2,
    };
    let progress = Progress::new();
    // Whoever looks on sees the text so far, more of it each time.
    let mut seen: Vec<(usize, u64)> = Vec::new();
    let alone = |p: Plan<'_>, file: Option<&PathBuf>, progress: &Progress| {
        p.run(file.map(std::slice::from_ref), progress, &mut |_, _| {}).map(|mut all| all.remove(0))
    };
    let whole = plan((0, 1))
        .run(None, &progress, &mut |_, i| {
            assert!(!i.about.is_complete() && i.entries.iter().any(|e| !e.top.is_empty()));
            seen.push((i.about.done, i.about.positions));
        })
        .unwrap()
        .remove(0);
    assert!(seen.len() > 1 && seen[0].0 == 1, "{seen:?}");
    assert!(seen.windows(2).all(|w| w[0] < w[1]) && seen.last().unwrap().1 < whole.about.positions);

    // By hand: the feature that is active most often, over all rows.
    let feature = (0..24).max_by_key(|f| whole.entries[*f].active).unwrap();
    let (mut active, mut best) = (0u64, Vec::new());
    for (r, (row, _)) in lists.iter().enumerate() {
        let x = activations(&model, &[row], &[dictionary.input.unwrap()], &progress).unwrap().remove(0);
        let acts = dictionary.encode(&x, &progress).unwrap();
        let values: Vec<f32> = (1..row.len()).map(|p| acts.at(p, feature as u32)).collect();
        active += values.iter().filter(|v| **v > 0.0).count() as u64;
        let (p, v) = values.iter().copied().enumerate().fold((0, 0.0), |b, v| if v.1 > b.1 { v } else { b });
        if v > 0.0 {
            best.push((r as u32, p as u32 + 1, v));
        }
    }
    best.sort_by(|a, b| b.2.total_cmp(&a.2));
    let entry = &whole.entries[feature];
    assert_eq!(entry.active, active);
    assert_eq!(entry.histogram.bins.iter().sum::<u64>(), active);
    assert_eq!(entry.top.len(), 20);
    for (e, (_, _, value)) in entry.top.iter().zip(&best) {
        assert!((e.value - value).abs() < 1e-4, "{} {value}", e.value);
        // Values that are equal but for their last digits may change places.
        let (row, position, own) = best.iter().find(|(row, ..)| *row == e.row).unwrap();
        assert!(e.position == *position && (e.value - own).abs() < 1e-4, "{} {own}", e.value);
        assert_eq!(e.document, lists[*row as usize].1);
        assert_eq!(e.tokens[(e.position - e.start) as usize], lists[*row as usize].0[*position as usize]);
    }
    assert_eq!(entry.features.len(), 10);

    // Shards.
    let parts = (0..3).map(|i| alone(plan((i, 3)), None, &progress).unwrap()).collect::<Vec<_>>();
    let merge = |parts: &[&Index]| -> circuitscope::error::Result<Index> {
        let mut whole = parts[0].clone();
        parts[1..].iter().try_for_each(|p| whole.absorb((*p).clone()))?;
        Ok(whole)
    };
    let merged = merge(&[&parts[0], &parts[1], &parts[2]]).unwrap();
    assert_eq!(merge(&[&parts[2], &parts[0], &parts[1]]).unwrap().entries, merged.entries, "in any order");
    assert_eq!(merged.about.positions, whole.about.positions);
    for (a, b) in merged.entries.iter().zip(&whole.entries) {
        assert_eq!(
            (a.active, a.max, &a.histogram, &a.top, &a.sample, &a.features, &a.neurons),
            (b.active, b.max, &b.histogram, &b.top, &b.sample, &b.features, &b.neurons)
        );
        // Sums of other shards are added in another order.
        assert!((a.sum - b.sum).abs() <= 1e-12 * b.sum.abs());
    }
    assert!(merge(&[&parts[0], &parts[0]]).unwrap_err().to_string().contains("twice"));

    // Through a file, and cut short.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.arrow");
    index_file::save(&whole, &path).unwrap();
    let again = index_file::open(&path).unwrap();
    assert_eq!((&again.about, &again.entries), (&whole.about, &whole.entries));
    let mut checkpoint = whole.clone();
    checkpoint.about.done = 0;
    assert!(merge(&[&checkpoint, &parts[1]]).unwrap_err().to_string().contains("unfinished"));
    let again = dir.path().join("again.arrow");
    let stopped = Progress::new();
    stopped.cancel();
    assert!(alone(plan((0, 1)), Some(&again), &stopped).is_err());
    let resumed = alone(plan((0, 1)), Some(&again), &progress).unwrap();
    assert_eq!((&resumed.about, &resumed.entries), (&whole.about, &whole.entries));
    let other = Plan { window: 3, ..plan((0, 1)) };
    assert!(
        alone(other, Some(&again), &progress).unwrap_err().to_string().contains("its window is 2, and 3 was asked for")
    );
    let bytes = std::fs::read(&path).unwrap();
    overwrite(&path, &bytes[..bytes.len() / 2]);
    assert!(index_file::open(&path).unwrap_err().to_string().contains("Arrow"));
    assert!(alone(plan((3, 3)), None, &progress).is_err());
    // Nowhere to write: one sentence, and nothing half-written.
    let nowhere = dir.path().join("no/such/folder.arrow");
    assert!(alone(plan((0, 1)), Some(&nowhere), &progress).unwrap_err().to_string().contains("cannot write"));
}

/// One pass of the text serves several subjects; each goes on from where it was stopped.
#[test]
fn several_sites_are_scanned_in_one_pass() {
    let model = Model::open("text").unwrap();
    let d = model.config.d_model;
    let site = |l: usize| format!("blocks.{l}.hook_resid_post");
    let dictionary = |l: usize| Arc::new(random(Activation::Relu, d, d, &site(l), &site(l)));
    let rows = Rows::cut(&model, &["mixed".to_owned()], &Cut::new(32, Some(1_700)), &Progress::new()).unwrap();
    let subjects = [Subject::Features(dictionary(0)), Subject::Neurons(1), Subject::Features(dictionary(2))];
    let plan = |subjects: &[Subject]| Plan {
        model: &model,
        subjects: subjects.to_vec(),
        companion: None,
        rows: &rows,
        texts: vec!["mixed".to_owned()],
        context: 32,
        limit: Some(1_700),
        shard: (0, 1),
        window: 2,
    };
    let progress = Progress::new();
    let alone: Vec<Index> = subjects
        .iter()
        .map(|s| plan(std::slice::from_ref(s)).run(None, &progress, &mut |_, _| {}).unwrap().remove(0))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3).map(|i| dir.path().join(format!("{i}.arrow"))).collect();
    // The neurons are done before; the others are stopped after one batch and gone on with.
    index_file::save(&alone[1], &files[1]).unwrap();
    let stopped = Progress::new();
    let mut looks = Vec::new();
    let outcome = plan(&subjects).run(Some(&files), &stopped, &mut |i, index| {
        looks.push((i, index.about.done));
        stopped.cancel();
    });
    assert!(matches!(outcome, Err(circuitscope::Error::Cancelled)));
    assert_eq!(looks, [(0, 1), (2, 1)]);
    let together = plan(&subjects).run(Some(&files), &progress, &mut |_, _| {}).unwrap();
    let contents = |all: &[Index]| all.iter().map(|i| (i.about.clone(), i.entries.clone())).collect::<Vec<_>>();
    assert_eq!(contents(&together), contents(&alone));
    for (file, index) in files.iter().zip(&alone) {
        let again = index_file::open(file).unwrap();
        assert_eq!((&again.about, &again.entries), (&index.about, &index.entries));
    }
}

/// An attribution is the slope of the answer's logit (difference) as the feature's activation grows, at every position.
#[test]
fn attributions_are_slopes() {
    let model = Arc::new(Model::open("text").unwrap());
    let (d, progress) = (model.config.d_model, Progress::new());
    let trace = Arc::new(Trace::run(&model, vec![40, 300, 42, 310, 77], &progress).unwrap());
    let (answer, wrong) = (50u32, Some(60u32));
    let cases = [
        random(Activation::Relu, d, d, "blocks.1.hook_resid_post", "blocks.1.hook_resid_post"),
        random(Activation::TopK { k: 6 }, d, d, "blocks.0.hook_resid_mid", "blocks.1.hook_mlp_out"),
    ];
    for (i, dictionary) in cases.into_iter().enumerate() {
        let spec = format!("attributed {i}");
        let store = Store::default();
        store.insert(&spec, Arc::new(dictionary.clone())).unwrap();
        let reading =
            feature_activations(Arc::new(dictionary.clone()), ReadFrom::Run(trace.clone()), &progress).unwrap();
        let found = reading.attribution(answer, wrong, &progress).unwrap();
        assert_eq!(found.features, reading.acts.features);
        let logit = |trace: &Trace| {
            let row = trace.normalized(4).unwrap();
            let logits: Vec<f32> =
                row.matmul(&model.weights.unembed.tensor().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            logits[50] - logits[60]
        };
        let (mut checked, mut largest) = (0, 0f32);
        for p in 1..trace.len() {
            let (f, _) = reading.acts.row(p).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            let moved = |by: f32| {
                let change = FeatureChange::Scale(1.0 + by);
                let edits = changed(&dictionary, &spec, f as usize, change, &model.config).unwrap();
                let edits = edits
                    .into_iter()
                    .map(|e| resolve(&e.at(p), &Sources::alone(&trace).with_dictionaries(&store)).unwrap())
                    .collect();
                logit(&Trace::run_edited(&model, trace.ids.clone(), Arc::new(edits), &progress).unwrap())
            };
            // Small enough to stay on one side of most bends, large enough for f32; one of two sizes has to do.
            let slope = |by: f32| (moved(by) - moved(-by)) / (2.0 * by);
            let attributed = found.at(p, f);
            let slopes = [slope(0.004), slope(0.001)];
            let near = slopes.iter().any(|s| (s - attributed).abs() < 2e-2 * (1.0 + s.abs()));
            assert!(near, "case {i} at {p}: {slopes:?} {attributed}");
            let slope = slopes[1];
            largest = largest.max(slope.abs());
            checked += 1;
        }
        assert!(checked == 4 && largest > 0.02, "{largest}");
        let (order, total) = reading.leading(Order::Answer, Some(&found), 3);
        assert!(order.len() == 3 && total >= 3);
        let sum = |f: u32| (1..5).map(|p| found.at(p, f)).sum::<f32>().abs();
        assert!(sum(order[0]) >= sum(order[1]) && sum(order[1]) >= sum(order[2]));
    }
}

/// What ships: every built-in dictionary fits its model and is as good as its card says.
#[test]
fn shipped_dictionaries_are_good() {
    for b in circuitscope::features::dictionary::store::BUILTINS {
        let model = Model::open(b.model).unwrap();
        let d = circuitscope::features::open(b.name, &Progress::new()).unwrap();
        let rows = Rows::cut(&model, &["mixed".to_owned()], &Cut::new(128, Some(60_000)), &Progress::new()).unwrap();
        let rows = rows.held_out(20).1;
        let q = circuitscope::features::quality::evaluate(&model, &d, &rows, 1_000, &Progress::new()).unwrap();
        assert!(q.after_first.explained_variance > 0.8 && q.after_first.l0 < 32.0, "{q:?}");
        assert!(q.ce_score > 0.9 && q.typical.explained_variance > 0.7, "{q:?}");
    }
}
