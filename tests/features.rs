//! Dictionaries as SAELens writes and computes them (`tests/dictionaries/make.py` made the files), damaged ones, and
//! training.

mod common;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use circuitscope::features::formats::{self, saelens};
use circuitscope::features::{Dictionary, Place};
use circuitscope::jobs::Progress;
use circuitscope::model::Model;

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
    assert_eq!(tracer, (some("blocks.1.mlp.hook_in"), some("blocks.1.hook_mlp_out"), some("test")));
    assert_eq!(site("cross-layer", "").0, some("blocks.0.hook_resid_mid"));
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

/// An npz whose arrays claim or unpack to far more than the archive can hold.
#[test]
fn zip_bombs_and_truncated_archives_are_refused() {
    use std::io::Write;
    let source = std::fs::read(folder("gemma-scope/layer_1/width_40/average_l0_9_res/params.npz")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open_bytes = |bytes: &[u8]| {
        overwrite(&dir.path().join("params.npz"), bytes);
        formats::open(dir.path(), &Progress::new()).unwrap_err().to_string()
    };
    let cut = open_bytes(&source[..source.len() / 2]);
    assert!(cut.contains("npz"), "{cut}");
    let archive = |shape: &str, zeros: usize| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        zip.start_file("W_enc.npy", options).unwrap();
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(&vec![0u8; zeros]).unwrap();
        zip.finish().unwrap().into_inner()
    };
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
