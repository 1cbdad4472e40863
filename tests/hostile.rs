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

/// Files that once broke the program.
#[test]
fn files_that_broke_it_are_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    for file in std::fs::read_dir(fixture("hostile/tokenizer")).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, folder.path().join("tokenizer.json")).unwrap();
        let said = sentence(&["run", "-m", &model, "-p", "a b"], 1);
        assert!(said.contains("tokenizer") && said.contains("--ids"), "{}: {said}", file.display());
    }
    let set = fixture("hostile/prompt-set/laughs.toml");
    let said =
        run(&["circuit", "find", "-m", "addition", "--set", set.to_str().unwrap(), "--pairs", "1", "--edges", "4"]);
    assert!(matches!(said.status.code(), Some(1 | 2)), "{}", String::from_utf8_lossy(&said.stderr));
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
    assert!(said.lines().all(|l| l.chars().count() <= 300) && !said.contains('\u{7}'), "{said}");
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

/// What a dictionary says beside an architecture that has none of it, or in a place that cannot hold it, is not passed over.
#[test]
fn what_a_dictionary_says_is_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let spoilt = |from: &str, change: &dyn Fn(&mut Value)| {
        let to = folder.path().join("spoilt");
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir(&to).unwrap();
        copied(&fixture("dictionaries").join(from), &to);
        let path = to.join("cfg.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        sentence(&encode(&to), 1)
    };
    assert!(spoilt("topk", &|c| c["architecture"] = Value::Null).contains("it says k = "));
    for metadata in [json!("x"), json!([]), json!(1), json!(true)] {
        assert!(spoilt("topk", &|c| c["metadata"] = metadata.clone()).contains("`metadata` is "));
    }
    let kwargs = json!({"fold_ln": "true"});
    assert!(spoilt("standard", &|c| c["model_from_pretrained_kwargs"] = kwargs.clone()).contains("`fold_ln` is "));
}

#[test]
fn graphs_and_sessions_keep_to_their_types() {
    let folder = tempfile::tempdir().unwrap();
    let spoilt = |change: &dyn Fn(&mut Value)| {
        let mut graph: Value = serde_json::from_str(&std::fs::read_to_string(a_graph()).unwrap()).unwrap();
        change(&mut graph);
        let path = folder.path().join("graph.json");
        std::fs::write(&path, graph.to_string()).unwrap();
        sentence(&["graph", "info", path.to_str().unwrap()], 1)
    };
    assert!(spoilt(&|g| g["metadata"]["scan"] = json!(5)).contains("`scan` is 5"));
    assert!(spoilt(&|g| g["metadata"]["info"] = json!({"silent_positions": -1})).contains("`silent_positions` is -1"));
    assert!(spoilt(&|g| g["metadata"]["info"] = json!({"ids": [1, "2"]})).contains("`ids` is \"2\""));
    assert!(spoilt(&|g| g["qParams"] = json!({"pinnedIds": 5})).contains("`pinnedIds` is 5"));
    assert!(spoilt(&|g| g["qParams"] = json!({"supernodes": "[[\"a\","})).contains("`supernodes` is no list"));
    let session = folder.path().join("s.scope");
    let name = session.to_str().unwrap();
    run(&["session", "new", "-m", "text", "-p", "The", "-o", name]);
    let good: Value = serde_json::from_str(&std::fs::read_to_string(&session).unwrap()).unwrap();
    for place in ["/document", "/document/desk", "/document/desk/graph", "/document/look"] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = json!([]);
        std::fs::write(&session, bad.to_string()).unwrap();
        let said = sentence(&["session", "show", name], 1);
        assert!(said.contains("is a list, not an object"), "{place}: {said}");
    }
}

/// Options of a wrong type are refused by name, in every reader: (the folder, its file, how that is spoilt, the option).
#[test]
fn options_of_a_wrong_type_are_refused() {
    let dictionary = |folder: &Path| sentence(&encode(folder), 1);
    let with = |of: &str, file: &str, change: &dyn Fn(&mut Value), said: &dyn Fn(&Path) -> String| -> String {
        let folder = tempfile::tempdir().unwrap();
        copied(&fixture(of), folder.path());
        let path = folder.path().join(file);
        let mut options: Value = std::fs::read(&path).map_or(json!({}), |b| serde_json::from_slice(&b).unwrap());
        change(&mut options);
        std::fs::write(&path, options.to_string()).unwrap();
        said(folder.path())
    };
    for (of, file, option, wrong) in [
        ("sets/sparsify", "cfg.json", "activation", json!(5)),
        ("sets/sparsify", "cfg.json", "transcode", json!("true")),
        ("sets/sparsify", "cfg.json", "num_latents", json!("64")),
        ("sets/sparsify", "cfg.json", "k", json!("8")),
        ("dictionaries/standard", "cfg.json", "model_from_pretrained_kwargs", json!("center_writing_weights")),
        ("dictionaries/standard", "cfg.json", "hook_name", json!(3)),
        ("dictionaries/topk", "cfg.json", "k", json!("4")),
    ] {
        let said = with(of, file, &|c| c[option] = wrong.clone(), &dictionary);
        assert!(said.contains(&format!("`{option}`")) && said.contains(", not "), "{of}: {said}");
    }
    let centre = |c: &mut Value| c["model_from_pretrained_kwargs"] = json!({"center_writing_weights": "true"});
    let said = with("dictionaries/standard", "cfg.json", &centre, &dictionary);
    assert!(said.contains("`center_writing_weights`"), "{said}");
    for (of, option, wrong) in [
        ("sets/learning-topk", "k", json!("4")),
        ("sets/learning-topk", "submodule_name", json!(5)),
        ("sets/learning-topk", "layer", json!("5")),
        ("sets/learning-topk", "activation_dim", json!("16")),
        ("sets/learning-topk", "dict_size", json!(25)),
    ] {
        let said = with(of, "config.json", &|c| c["trainer"][option] = wrong.clone(), &dictionary);
        assert!(said.contains(&format!("`{option}`")), "{of}: {said}");
    }
    for (buffer, named) in [(json!("x"), "`buffer`"), (json!({"io": 1}), "`io`")] {
        let said = with("sets/learning-topk", "config.json", &|c| c["buffer"] = buffer.clone(), &dictionary);
        assert!(said.contains(named), "{said}");
    }
    let said = with(
        "sets/gemma-scope-2/transcoder_all/layer_1_width_16k_l0_small",
        "config.json",
        &|c| c["hf_hook_point_in"] = json!(7),
        &dictionary,
    );
    assert!(said.contains("`hf_hook_point_in`"), "{said}");
    // A model's own.
    let ids = |folder: &Path| sentence(&["run", "-m", folder.to_str().unwrap(), "--ids", "1"], 1);
    for (family, option, wrong) in [
        ("llama", "text_config", json!("llama")),
        ("gpt-neo", "attention_layers", json!(5)),
        ("gpt-neo", "attention_layers", json!(["global", 1])),
        ("smollm3", "no_rope_layers", json!([true, true])),
        ("llama", "quantization_config", json!({"quant_method": "fp8", "weight_block_size": "128"})),
    ] {
        let of = format!("families/{family}");
        let said = with(&of, "config.json", &|c| c[option] = wrong.clone(), &ids);
        assert!(said.contains(option), "{family}: {said}");
    }
    let said = with(
        "families/llama-yarn",
        "config.json",
        &|c| {
            let place = if c["rope_parameters"].is_object() { "rope_parameters" } else { "rope_scaling" };
            c[place]["truncate"] = json!("false");
        },
        &ids,
    );
    assert!(said.contains("truncate"), "{said}");
    // A tokenizer's: the model still runs on ids, and says why not on words.
    for (option, wrong) in [
        ("add_bos_token", json!("true")),
        ("bos_token", json!(5)),
        ("added_tokens_decoder", json!({"3": {"content": 3}})),
        ("added_tokens_decoder", json!({"x": {"content": "a"}})),
    ] {
        let words = |folder: &Path| {
            std::fs::copy(fixture("../assets/induction/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
            sentence(&["run", "-m", folder.to_str().unwrap(), "-p", "a"], 1)
        };
        let said = with("families/llama", "tokenizer_config.json", &|c| c[option] = wrong.clone(), &words);
        let named = if option == "added_tokens_decoder" { "added token" } else { option };
        assert!(said.contains(named), "{option}: {said}");
    }
    // A graph's.
    for (at, option, wrong) in [
        ("/nodes/0", "token_prob", json!("0.5")),
        ("/nodes/0", "feature_type", json!(1)),
        ("/nodes/0", "influence", json!("0.5")),
        ("/nodes/0", "is_target_logit", json!("false")),
        ("/nodes/0", "activation", json!("2")),
        ("/links/0", "input", json!(1)),
        ("/metadata", "prompt_tokens", json!("a b")),
    ] {
        let graph = |folder: &Path| sentence(&["graph", "info", folder.join("meow-clt.json").to_str().unwrap()], 1);
        let said = with("graphs", "meow-clt.json", &|g| g.pointer_mut(at).unwrap()[option] = wrong.clone(), &graph);
        assert!(said.contains(&format!("`{option}`")), "{at}: {said}");
    }
}

fn copied(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap().map(|f| f.unwrap()).filter(|f| f.path().is_file()) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Encodes a few numbers by a dictionary: what it says of itself is read before they are looked at.
fn encode(dictionary: &Path) -> [&str; 6] {
    // Never reached.
    ["features", "encode", "--dictionary", dictionary.to_str().unwrap(), "--activations", "Cargo.toml"]
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

/// What a shell has opened has no name of its own, and is written from where it stands.
#[cfg(target_os = "linux")]
#[test]
fn what_is_open_already_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let graph = a_graph();
    let prune = |shell: &str| {
        let program = env!("CARGO_BIN_EXE_circuitscope");
        let line = format!("'{program}' graph prune '{}' --json -o {shell}", graph.display());
        let out = std::process::Command::new("bash").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let is_graph = |text: &[u8]| text.windows(8).any(|w| w == b"\"links\":");
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert!(is_graph(&prune(&format!("{name} | cat"))), "{name}");
    }
    // The shell does not wait for what reads that.
    prune(">(cat > partial; mv partial through)");
    let through = folder.path().join("through");
    let started = std::time::Instant::now();
    while !through.exists() {
        assert!(started.elapsed().as_secs() < 60, "nothing came through");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(is_graph(&std::fs::read(&through).unwrap()));
    let log = folder.path().join("log");
    std::fs::write(&log, "old\n").unwrap();
    prune("/dev/stdout >> log");
    let log = std::fs::read(&log).unwrap();
    assert!(log.starts_with(b"old\n") && is_graph(&log), "an earlier line stays");
}

/// Numbers beyond everything are as good as all, or are refused.
#[test]
fn numbers_without_measure_are_no_panic() {
    let most = u64::MAX.to_string();
    let graph = a_graph();
    let graph = graph.to_str().unwrap();
    let out = run(&["why", "-m", "induction", "--ids", "1,2,3", "--head", "1.0", "--top", &most]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let folder = tempfile::tempdir().unwrap();
    let lens = folder.path().join("l");
    let lens = lens.to_str().unwrap();
    let fit = ["jlens", "fit", "-m", "induction", "--text", "prose", "--limit", "2", "--tokens", "24", "-o", lens];
    let layers = [&fit[..], &["--layers", &most]].concat();
    assert!(sentence(&layers, 2).contains("a lens cannot be fitted"));
    let skip = [&fit[..], &["--skip", &most]].concat();
    assert_ne!(run(&skip).status.code(), Some(101));
    assert!(run(&[&fit[..], &["--skip", "4"]].concat()).status.success());
    let read = ["jlens", "read", "-m", "induction", "--ids", "1,2", "--lens", lens, "--top", &most];
    assert!(run(&read).status.success());
    #[cfg(feature = "gui")]
    for shares in ["NaN,0.9", "0.8,inf", "2,0.9"] {
        let drawn =
            ["render", "--view", "graph", "-m", "text", "--graph", graph, "-o", "r.svg", "--thresholds", shares];
        assert!(sentence(&drawn, 2).contains("between 0 and 1"), "{shares}");
    }
    let _ = graph;
    for memory in ["NaN", "-1", "inf"] {
        let memory = format!("--memory={memory}");
        let train = ["features", "train", "-m", "text", "--site", "blocks.0.hook_resid_post", "-o", "x", &memory];
        assert!(sentence(&train, 2).contains("gigabytes"), "{memory}");
    }
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

/// Folders that a command makes go with it, with all that is in them or if nothing is.
#[cfg(unix)]
#[test]
fn signals_leave_no_folder_of_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (cache, out) = (home.path().join("cache"), home.path().join("out"));
    let inside = |folder: &Path| std::fs::read_dir(folder).map_or(0, |f| f.flatten().count());
    let stop = |args: &[&str], begun: &dyn Fn() -> bool| {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"))
            .args(args)
            .env("XDG_CACHE_HOME", &cache)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let started = std::time::Instant::now();
        while !begun() && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed().as_secs() < 60, "{args:?} has not begun");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        child.wait().unwrap();
    };
    let own = cache.join("circuitscope");
    let scratch = || {
        let all = std::fs::read_dir(&own).into_iter().flatten().flatten();
        all.filter(|e| e.path().is_dir() && e.file_name().to_string_lossy().starts_with(".tmp")).count()
    };
    stop(&["bench", "--synthetic", "smollm2-135m:f32"], &|| scratch() > 0);
    assert_eq!(scratch(), 0, "half a model stays");
    let name = out.to_str().unwrap();
    let train =
        ["features", "train", "-m", "text", "--site", "blocks.0.hook_resid_post", "--text", "prose", "-o", name];
    stop(&train, &|| out.exists());
    assert!(!out.exists() || inside(&out) > 0, "an empty folder stays");
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
    let state = out.join("training-state.safetensors");
    // From weights that are far too large it does not go on for long.
    let mut bytes = std::fs::read(&state).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + size..].chunks_exact_mut(4) {
        value.copy_from_slice(&3e38f32.to_le_bytes());
    }
    std::fs::write(&state, bytes).unwrap();
    let said = sentence(&args, 1);
    assert!(said.contains("not finite") || said.contains("diverged") && said.contains("at step"), "{said}");
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
    // What is said beside a result may be lost, and the result is there.
    let model = fixture("families/llama").display().to_string();
    let pair = ["-m", &model, "--clean-ids", "1,2,3", "--corrupt-ids", "1,4,3", "--answer", "5", "--metric", "logit"];
    for command in ["patch", "attribute"] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"));
        program.arg(command).args(pair).args(["--site", "resid_pre"]).stderr(full());
        let out = program.stdout(std::process::Stdio::piped()).output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty(), "{command}: {:?}", out.status);
    }
}

/// A model whose logits are finite and whose gradients are not: large columns behind a norm that divides by very little.
#[test]
fn results_that_are_not_finite_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    for (name, about) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let by = if name == "lm_head.weight" {
            1e38
        } else if ["embed_tokens", "o_proj", "down_proj"].iter().any(|part| name.contains(part)) {
            1e-6
        } else {
            continue;
        };
        let offset = |i: usize| 8 + size + about["data_offsets"][i].as_u64().unwrap() as usize;
        for value in bytes[offset(0)..offset(1)].chunks_exact_mut(4) {
            let scaled = by * f32::from_le_bytes(value.try_into().unwrap());
            value.copy_from_slice(&scaled.to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let pair = ["-m", &model, "--clean-ids", "1,2,3", "--corrupt-ids", "1,4,3", "--answer", "5", "--metric", "logit"];
    for command in [&["attribute", "--site", "resid_pre"][..], &["attribute", "--method", "eap-ig"]] {
        let said = sentence(&[command, &pair].concat(), 1);
        assert!(said.contains("the gradient at blocks.") && said.contains("is not finite"), "{said}");
    }
    let toy = ["superposition", "--features", "5", "--hidden", "2", "--sparsity", "0.1,0.5", "--steps", "60"];
    let said = sentence(&[&toy[..], &["--learning-rate", "1e30"]].concat(), 1);
    assert!(said.contains("model 0, of sparsity 0.1, diverged") && said.contains("after step"), "{said}");
}

/// The pages of several dictionaries, or layers of neurons, lie in a folder that one writes at a time.
#[cfg(unix)]
#[test]
fn a_second_writer_of_pages_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let claimed = std::fs::File::open(folder.path()).unwrap();
    claimed.try_lock().unwrap();
    let out = folder.path().to_str().unwrap();
    let pages =
        ["features", "dashboard", "-m", "text", "--neurons", "0", "--neurons", "1", "--tokens", "200", "-o", out];
    assert!(sentence(&pages, 1).contains("another circuitscope is writing"));
    drop(claimed);
    assert!(run(&pages).status.success());
}

/// Arrays whose headers claim gigabytes, or whose brackets lie in one another.
#[test]
fn headers_of_arrays_are_looked_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("params.npz");
    let said = |header: &[u8]| {
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        archive.start_file("W_enc.npy", zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, header).unwrap();
        archive.finish().unwrap();
        sentence(&encode(&path), 1)
    };
    let long = [&b"\x93NUMPY\x02\x00"[..], &0xffff_fff0u32.to_le_bytes(), &[b' '; 4096]].concat();
    assert!(said(&long).contains("a header of 4294967280 bytes"), "{}", said(&long));
    let deep = [&b"\x93NUMPY\x02\x00"[..], &3_000u32.to_le_bytes(), &[b'('; 3_000]].concat();
    assert!(said(&deep).contains("too deep"), "{}", said(&deep));
    assert!(said(b"\x93NUM").contains("no whole header"));
}

/// That the folder of a result is missing is said at once: the model is not even looked for.
#[test]
fn a_missing_folder_is_said_before_the_work() {
    let place = tempfile::tempdir().unwrap();
    let nowhere = place.path().join("gone").join("out");
    let (nowhere, graph) = (nowhere.to_str().unwrap(), a_graph());
    let graph = graph.to_str().unwrap();
    for command in [
        &["run", "-m", "no-model", "-p", "a"][..],
        &["trace", "-m", "no-model", "-p", "a"],
        &["graph", "prune", graph],
        &["graph", "group", graph],
        &["graph", "audit", graph, "-m", "no-model"],
        &["render", "-m", "no-model", "--view", "lens", "-p", "a"],
        &["session", "new", "-m", "no-model", "-p", "a"],
        &["features", "encode", "-m", "no-model", "--dictionary", "d", "-p", "a"],
    ] {
        let said = sentence(&[command, &["-o", nowhere]].concat(), 1);
        assert!(said.contains("there is no folder") && said.contains("make it first"), "{command:?}: {said}");
    }
    assert!(!place.path().join("gone").exists());
}
