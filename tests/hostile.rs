//! Files and places that were made to break the program, or that a broken disk makes: each ends in one sentence, and what
//! was there stays. Through the binary, as a user meets it.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::path::{Path, PathBuf};

use common::{fixture, run, sentence};
use serde_json::{Value, json};

/// A copy of the small Llama, to be spoilt.
fn model(folder: &Path) -> String {
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families/llama").join(name), folder.join(name)).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// What the program says of the small Llama with this tokenizer, on a text.
fn with_tokenizer(change: impl FnOnce(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "u": 2}, "unk_token": "u"}
    });
    change(&mut tokenizer);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    sentence(&["run", "-m", &model, "-p", "a b"], 1)
}

#[test]
fn steps_that_double_a_text_are_stopped() {
    // Each step doubles a space, so that forty make it 2^40 long.
    let doubling = json!({"type": "Replace", "pattern": {"String": " "}, "content": "  "});
    let said = with_tokenizer(|t| t["normalizer"] = json!({"type": "Sequence", "normalizers": vec![doubling; 40]}));
    assert!(said.contains("far more memory"), "{said}");
    // A pattern that matches nothing puts something between all letters.
    let between = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(1000)});
    let said = with_tokenizer(|t| t["normalizer"] = json!({"type": "Sequence", "normalizers": vec![between; 3]}));
    assert!(said.contains("far more memory"), "{said}");
    let said = with_tokenizer(|t| {
        t["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers":
            vec![json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}); 40]});
    });
    assert!(said.contains("far more memory"), "{said}");
    let said = with_tokenizer(|t| t["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}));
    assert!(said.contains("--ids"), "{said}");
}

#[test]
fn a_tokenizer_that_knows_no_letter_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0}, "merges": []}
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let said = sentence(&["run", "-m", &model, "-p", "ξψ"], 2);
    assert!(said.contains("knows no character"), "{said}");
}

#[test]
fn words_of_files_are_shown_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.json");
    let long = "y".repeat(65_000);
    for layer in ["a\nb\u{1b}[31m", &long, "a\u{202e}b"] {
        let graph = json!({"nodes": [{"node_id": "n", "layer": layer, "ctx_idx": 0}], "links": []});
        std::fs::write(&path, graph.to_string()).unwrap();
        let said = sentence(&["graph", "info", path.to_str().unwrap()], 1);
        assert!(said.chars().count() <= 300, "{}", said.len());
        assert!(said.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{said:?}");
    }
    // A config with a hundred thousand entries.
    let model = model(folder.path());
    let config = folder.path().join("config.json");
    let mut options: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    options["layer_types"] = json!(vec!["strange\u{7}"; 100_000]);
    std::fs::write(&config, options.to_string()).unwrap();
    let out = run(&["run", "-m", &model, "--ids", "1"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.lines().all(|l| l.chars().count() <= 320) && !said.contains('\u{7}'), "{said}");
}

#[test]
fn a_run_that_overflows_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let size = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&whole[8..8 + size]).unwrap();
    for (name, place) in
        [("lm_head.weight", "a logit"), ("model.layers.1.mlp.down_proj.weight", "blocks.1.hook_resid_post")]
    {
        let mut bytes = whole.clone();
        let offset = |i: usize| 8 + size + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        for value in bytes[offset(0)..offset(1)].chunks_exact_mut(4) {
            value.copy_from_slice(&3e38f32.to_le_bytes());
        }
        std::fs::write(&path, bytes).unwrap();
        let said = sentence(&["run", "-m", &model, "--ids", "1,2,3", "--json"], 1);
        assert!(said.contains("overflows") && said.contains(place), "{said}");
    }
}

#[test]
fn prompt_sets_do_not_multiply_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    let set = |clean: &str, list: &str| {
        let text = format!(
            "title = \"t\"\nclean = \"{clean}\"\ncorrupt = \"b\"\nanswer = \"c\"\nwrong = \"d\"\n[lists]\na = [\"{list}\"]\n\
             b = [\"x\"]\n"
        );
        std::fs::write(&path, text).unwrap();
        run(&["circuit", "find", "-m", "addition", "--set", path.to_str().unwrap(), "--pairs", "1", "--edges", "4"])
    };
    let said = |out: std::process::Output| {
        assert_ne!(out.status.code(), Some(0));
        String::from_utf8(out.stderr).unwrap()
    };
    let nested = said(set("{a}{b}", &"{b}".repeat(10)));
    assert!(nested.contains("only templates have slots"), "{nested}");
    let long = said(set(&"{a}".repeat(2000), &"x".repeat(2000)));
    assert!(long.contains("longer than"), "{long}");
}

#[test]
fn options_of_a_dictionary_have_their_types() {
    let spoilt = |name: &str, change: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().unwrap();
        let from = fixture("dictionaries").join(name);
        for file in ["cfg.json", "sae_weights.safetensors"] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        let config = folder.path().join("cfg.json");
        let mut options: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        change(&mut options);
        std::fs::write(&config, options.to_string()).unwrap();
        let expected =
            candle_core::safetensors::load(from.join("expected.safetensors"), &candle_core::Device::Cpu).unwrap();
        let acts = folder.path().join("a.safetensors");
        let one = std::collections::HashMap::from([("activations", expected["x"].clone())]);
        candle_core::safetensors::save(&one, &acts).unwrap();
        let (acts, out) = (acts.to_str().unwrap(), folder.path().join("o"));
        let dictionary = folder.path().to_str().unwrap();
        sentence(
            &["features", "encode", "--dictionary", dictionary, "--activations", acts, "-o", out.to_str().unwrap()],
            1,
        )
    };
    for wrong in [Value::Null, json!(5)] {
        let said = spoilt("jumprelu", &|c| c["architecture"] = wrong.clone());
        assert!(said.contains("architecture") || said.contains("threshold"), "{said}");
    }
    let said = spoilt("jumprelu", &|c| drop(c.as_object_mut().unwrap().remove("architecture")));
    assert!(said.contains("`threshold`"), "{said}");
    for wrong in [json!("false"), json!(0)] {
        let said = spoilt("jumprelu", &|c| c["apply_b_dec_to_input"] = wrong.clone());
        assert!(said.contains("apply_b_dec_to_input"), "{said}");
    }
    let said = spoilt("topk-rescaled", &|c| c["rescale_acts_by_decoder_norm"] = json!("true"));
    assert!(said.contains("rescale_acts_by_decoder_norm"), "{said}");
    let said = spoilt("standard-layer-norm", &|c| c["normalize_activations"] = json!(true));
    assert!(said.contains("normalize_activations"), "{said}");
}

/// A pickle whose lists lie in one another a hundred thousand deep.
#[test]
fn pickles_are_as_deep_as_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let n = 100_000;
    let pickle = [&b"\x80\x02"[..], &vec![b']'; n], &vec![b'a'; n - 1], b"."].concat();
    let mut archive = zip::ZipWriter::new(std::fs::File::create(folder.path().join("ae.pt")).unwrap());
    archive.start_file("ae/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut archive, &pickle).unwrap();
    archive.finish().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"trainer": {"dict_class": "AutoEncoder"}}"#).unwrap();
    let dictionary = folder.path().to_str().unwrap();
    let acts = folder.path().join("a.safetensors");
    let one = candle_core::Tensor::zeros((2, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    candle_core::safetensors::save(&std::collections::HashMap::from([("activations", one)]), &acts).unwrap();
    let out = folder.path().join("o");
    let said = sentence(
        &[
            "features",
            "encode",
            "--dictionary",
            dictionary,
            "--activations",
            acts.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ],
        1,
    );
    assert!(said.contains("pickle") || said.contains("values"), "{said}");
}

fn a_graph() -> PathBuf {
    let mut graphs: Vec<PathBuf> = std::fs::read_dir(fixture("graphs")).unwrap().map(|f| f.unwrap().path()).collect();
    graphs.retain(|p| p.extension().is_some_and(|e| e == "json"));
    graphs.sort();
    graphs[0].clone()
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_written_and_read_as_what_they_are() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let graph = a_graph();
    let graph = graph.to_str().unwrap();
    // A pipe: whoever reads it has the file, and it stays a pipe.
    let pipe = at("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    assert!(run(&["graph", "prune", graph, "-o", &pipe]).status.success());
    assert!(serde_json::from_slice::<Value>(&reader.join().unwrap()).unwrap()["nodes"].is_array());
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    // A link to a device.
    symlink("/dev/null", at("nul")).unwrap();
    assert!(run(&["graph", "prune", graph, "-o", &at("nul")]).status.success());
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // A full device.
    symlink("/dev/full", at("full")).unwrap();
    assert!(sentence(&["graph", "prune", graph, "-o", &at("full")], 1).contains("full"));
    // A device without end in a file's place.
    let model = model(folder.path());
    symlink("/dev/zero", at("tokenizer.json")).unwrap();
    assert!(sentence(&["run", "-m", &model, "-p", "a"], 1).contains("too long for what it is"));
    std::fs::remove_file(at("config.json")).unwrap();
    symlink("/dev/zero", at("config.json")).unwrap();
    assert!(sentence(&["run", "-m", &model, "--ids", "1"], 1).contains("too long for what it is"));
}

#[cfg(unix)]
#[test]
fn results_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for (mask, mode) in [("077", 0o600), ("002", 0o664)] {
        let out = folder.path().join(mask);
        let command = format!(
            "umask {mask}; {} graph prune {} -o {}",
            env!("CARGO_BIN_EXE_circuitscope"),
            a_graph().display(),
            out.display()
        );
        assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
        assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, mode);
    }
}

/// A signal while files are written leaves none of ours behind, and the earlier file whole.
#[cfg(unix)]
#[test]
fn signals_leave_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("r.safetensors");
    let prompt = "Once upon a time there was a little girl who liked to play in the garden. ".repeat(4);
    let start = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"))
            .args(["run", "-m", "text", "-p", &prompt, "--capture", "blocks.*", "-o", out.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    assert!(start().wait().unwrap().success());
    let whole = std::fs::read(&out).unwrap();
    for (i, signal) in ["-INT", "-TERM"].iter().cycle().take(16).enumerate() {
        let mut child = start();
        std::thread::sleep(std::time::Duration::from_millis(20 * i as u64));
        let _ = std::process::Command::new("kill").args([*signal, &child.id().to_string()]).status();
        child.wait().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{signal} after {} ms", 20 * i);
        assert!(std::fs::read(&out).unwrap() == whole);
    }
}

/// A training that a signal ends has a checkpoint, and goes on from it.
#[cfg(unix)]
#[test]
fn a_training_keeps_its_steps_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("lab");
    let args = ["lab", "train", "induction", "-o", out.to_str().unwrap(), "--steps", "100000"];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"))
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its first words come with its first step.
    let mut first = [0u8; 1];
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut first).unwrap();
    // Another one is told that the folder is taken.
    assert!(sentence(&args, 1).contains("another circuitscope is writing"));
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(out.join("training-state.safetensors").is_file());
}

#[test]
fn words_that_cannot_be_said_are_no_panic() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    if !Path::new("/dev/full").exists() {
        return;
    }
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"));
    assert_eq!(program.args(["run", "-m", "nope"]).stderr(full()).status().unwrap().code(), Some(2));
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"));
    assert_eq!(program.arg("--help").stdout(full()).status().unwrap().code(), Some(1));
}
