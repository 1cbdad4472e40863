//! Everything that reads a file of somebody else's, with good files to spoil. A target takes bytes, which say how a good
//! file is spoilt, opens what comes of it as the program would, and fails where the program may not: by a panic, by a
//! message that is none, or by taking too long. Files that once broke the program lie in `tests/hostile/TARGET` and are fed
//! as they are, and spoilt further.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use circuitscope::circuit::file::CircuitFile;
use circuitscope::circuit::pair_values::PairValues;
use circuitscope::circuit::prompt_set::PromptSet;
use circuitscope::engine::{Capture, EditStack, NoHooks};
use circuitscope::features::direction::Concept;
use circuitscope::features::direction::concept::ConceptSet;
use circuitscope::features::labels::Labels;
use circuitscope::features::scan::index_file;
use circuitscope::features::train::elsewhere::Captured;
use circuitscope::features::train::harvest_file;
use circuitscope::graph::file::GraphFile;
use circuitscope::heads::index_file as head_pages;
use circuitscope::lenses::JacobianLens;
use circuitscope::lenses::sums::Sums;
use circuitscope::model::Model;
use circuitscope::model::chat::{self, Ending, Message, Template};
use circuitscope::model::torch_file::{self, TorchFile, Written};
use circuitscope::progress::Progress;
use circuitscope::session::file::Session;
use circuitscope::{Error, Result};

/// Files of one folder, the first of which is spoilt.
type Seed = Vec<(String, Vec<u8>)>;

pub struct Target {
    /// The name of its corpus.
    pub name: &'static str,
    seeds: fn() -> Vec<Seed>,
    /// Opens the folder, in which the spoilt file goes by this path.
    open: fn(&Path, &Path) -> Result<()>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "gguf", seeds: ggufs, open: |_, file| model(file) },
    Target { name: "safetensors", seeds: || models("model.safetensors"), open: |folder, _| model(folder) },
    Target { name: "config", seeds: || models("config.json"), open: |folder, _| model(folder) },
    Target { name: "tokenizer", seeds: tokenizers, open: |folder, _| model(folder) },
    Target { name: "dictionary", seeds: dictionaries, open: dictionary },
    Target { name: "graph", seeds: graphs, open: |_, file| GraphFile::open(file).map(drop) },
    Target { name: "circuit", seeds: || shipped("circuit.json"), open: |_, file| CircuitFile::open(file).map(drop) },
    Target { name: "session", seeds: || shipped("session.scope"), open: |_, file| Session::open(file).map(drop) },
    Target { name: "edits", seeds: || shipped("edits.json"), open: |_, file| EditStack::open(file).map(drop) },
    Target { name: "prompt-set", seeds: prompt_sets, open: |_, file| prompt_set(file) },
    Target { name: "examples", seeds: examples, open: |_, file| ConceptSet::open(text_of(file)).map(drop) },
    Target { name: "direction", seeds: || shipped("direction.json"), open: |_, file| Concept::open(file).map(drop) },
    Target { name: "labels", seeds: labels, open: |_, file| Labels::open(file).map(drop) },
    Target { name: "conversation", seeds: conversations, open: |_, file| chat::read(file).map(drop) },
    Target { name: "template", seeds: templates, open: |folder, _| template(folder) },
    Target { name: "index", seeds: || shipped("index.arrow"), open: |_, file| index_file::open(file).map(drop) },
    Target { name: "captured", seeds: captured, open: activations },
    Target { name: "lens", seeds: lenses, open: |_, file| JacobianLens::open(file).map(drop) },
    Target { name: "tuned-lens", seeds: tuned_lenses, open: tuned_lens },
    Target { name: "pickle", seeds: pickles, open: |_, file| pickle(file) },
    Target { name: "npz", seeds: npz, open: |_, file| of_features(file) },
    Target { name: "dictionary-set", seeds: dictionary_sets, open: |folder, file| dictionary_set(folder, file) },
    Target { name: "shard", seeds: shards, open: |_, file| shard(file) },
];

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file(path: &Path) -> (String, Vec<u8>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (name, std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("temporary folders have names in UTF-8")
}

/// Files of a folder, in order of their names.
fn listed(folder: &str, extension: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(at(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut paths: Vec<PathBuf> = all.map(|f| f.expect("a readable folder").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths
}

fn alone(paths: &[PathBuf]) -> Vec<Seed> {
    paths.iter().map(|p| vec![file(p)]).collect()
}

/// A file that the program wrote.
fn shipped(name: &str) -> Vec<Seed> {
    alone(&[at("tests/fuzz/seeds").join(name)])
}

fn of_text(name: &str, texts: &[&str]) -> Vec<Seed> {
    texts.iter().map(|t| vec![(name.to_owned(), t.as_bytes().to_vec())]).collect()
}

fn ggufs() -> Vec<Seed> {
    let mut paths = listed("tests/gguf", "gguf");
    // Parts of a split model open together.
    paths.retain(|p| !text_of(p).contains("-of-"));
    alone(&paths)
}

/// Tiny models with one of their files in front.
fn models(first: &str) -> Vec<Seed> {
    ["llama", "gemma3", "mixtral", "opt", "falcon"]
        .iter()
        .map(|family| {
            let folder = at("tests/families").join(family);
            let other = if first == "config.json" { "model.safetensors" } else { "config.json" };
            vec![file(&folder.join(first)), file(&folder.join(other))]
        })
        .collect()
}

/// The small Llama with tokenizers of several kinds.
fn tokenizers() -> Vec<Seed> {
    let llama = at("tests/families/llama");
    let mut found = vec![at("assets/induction/tokenizer.json"), at("assets/text-model/tokenizer.json")];
    for folder in ["json-around", "json-bos", "json-silent"] {
        found.extend(
            listed(&format!("tests/tokenizers/{folder}"), "json").into_iter().filter(|p| p.ends_with("tokenizer.json")),
        );
    }
    let rest = [file(&llama.join("config.json")), file(&llama.join("model.safetensors"))];
    found.iter().map(|path| [vec![file(path)], rest.to_vec()].concat()).collect()
}

fn dictionaries() -> Vec<Seed> {
    let pairs = [
        ("jumprelu", "cfg.json", "sae_weights.safetensors"),
        ("topk", "cfg.json", "sae_weights.safetensors"),
        ("jumprelu", "sae_weights.safetensors", "cfg.json"),
        ("gated", "cfg.json", "sae_weights.safetensors"),
        ("transcoder-skip", "cfg.json", "sae_weights.safetensors"),
    ];
    let folder = |name: &str| at("tests/dictionaries").join(name);
    let mut seeds: Vec<Seed> =
        pairs.iter().map(|(name, a, b)| vec![file(&folder(name).join(a)), file(&folder(name).join(b))]).collect();
    for (name, files) in [
        ("circuit-tracer", ["config.yaml", "layer_0.safetensors", "layer_1.safetensors"]),
        ("circuit-tracer", ["layer_0.safetensors", "config.yaml", "layer_1.safetensors"]),
        ("cross-layer", ["W_enc_0.safetensors", "W_dec_0.safetensors", "config.yaml"]),
    ] {
        seeds.push(files.map(|f| file(&folder(name).join(f))).to_vec());
    }
    seeds
}

fn graphs() -> Vec<Seed> {
    alone(&[at("tests/graphs/meow-clt.json")])
}

fn prompt_sets() -> Vec<Seed> {
    alone(&listed("assets/prompts", "toml"))
}

fn examples() -> Vec<Seed> {
    alone(&listed("assets/directions", "tsv"))
}

fn labels() -> Vec<Seed> {
    of_text(
        "labels.json",
        &[r#"{"12": {"label": "Numbers", "note": "seen twice"}, "3": {"label": "Names", "note": ""}}"#],
    )
}

fn conversations() -> Vec<Seed> {
    of_text(
        "talk.json",
        &[
            r#"[{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]"#,
        ],
    )
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] | trim + '<|im_end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn templates() -> Vec<Seed> {
    of_text(
        "chat_template.jinja",
        &[
            CHATML,
            "{%- set ns = namespace(system='') -%}{%- for m in messages -%}{%- if m.role == 'system' -%}{%- set ns.system = \
             m.content -%}{%- elif loop.index0 % 2 == 1 -%}[INST] {{ ns.system ~ m.content }} [/INST]{%- else -%}{{ \
             m.content | upper | replace('A', 'bb') | tojson }}{%- endif -%}{%- endfor -%}",
        ],
    )
}

/// Activations that others captured: a file, and a dataset with each of its files in front.
fn captured() -> Vec<Seed> {
    let folder = at("tests/activations/sae-lens");
    let files = ["data-00000-of-00002.arrow", "state.json", "data-00001-of-00002.arrow"].map(|f| file(&folder.join(f)));
    let in_front = |i: usize| {
        let mut files = files.to_vec();
        files.swap(0, i);
        files
    };
    [alone(&[at("tests/activations/transformer-lens.safetensors")]), (0..3).map(in_front).collect()].concat()
}

/// A Jacobian lens in either format; one of them is a fit that was not ended.
fn lenses() -> Vec<Seed> {
    alone(&[
        at("tests/lenses/transformer-lens.pt"),
        at("assets/text-lens/lens.safetensors"),
        at("tests/lenses/unfinished.pt"),
    ])
}

/// Numbers of a shape, as small steps.
fn numbers(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32 / 8.0 - 0.25).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor of its shape")
}

fn pickled(name: &str, tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    let entries = tensors.iter().map(|(name, t)| (Written::Text((*name).to_owned()), Written::Tensor(t)));
    torch_file::save(&path, &Written::Dictionary(entries.collect())).expect("it is written");
    file(&path).1
}

fn llama() -> std::sync::Arc<Model> {
    static MODEL: std::sync::OnceLock<std::sync::Arc<Model>> = std::sync::OnceLock::new();
    let open = || std::sync::Arc::new(Model::open(text_of(&at("tests/families/llama"))).expect("a fixture opens"));
    MODEL.get_or_init(open).clone()
}

fn tuned_lenses() -> Vec<Seed> {
    let c = &llama().config;
    let names: Vec<(String, String)> = (0..c.n_layers).map(|i| (format!("{i}.weight"), format!("{i}.bias"))).collect();
    let d = c.d_model;
    let tensors: Vec<(&str, Tensor)> =
        names.iter().flat_map(|(w, b)| [(w.as_str(), numbers(&[d, d])), (b.as_str(), numbers(&[d]))]).collect();
    let lens = ("params.pt".to_owned(), pickled("params.pt", &tensors));
    let config = ("config.json".to_owned(), format!(r#"{{"num_hidden_layers": {}}}"#, c.n_layers).into_bytes());
    vec![vec![lens.clone(), config.clone()], vec![config, lens]]
}

fn tuned_lens(folder: &Path, _: &Path) -> Result<()> {
    circuitscope::lenses::open::open(folder, &llama()).map(drop)
}

fn pickles() -> Vec<Seed> {
    alone(&[
        at("tests/lenses/transformer-lens.pt"),
        at("tests/lenses/tuned/params.pt"),
        at("tests/sets/learning-topk/ae.pt"),
        at("tests/sets/learning-matryoshka/ae.pt"),
    ])
}

/// Reads what a pickle may hold.
fn pickle(path: &Path) -> Result<()> {
    let mut torch = TorchFile::open(path)?;
    for name in ["encoder.weight", "W_enc", "0.weight", "1.bias", "b_dec", "threshold"] {
        if let Err(error) = torch.named(name) {
            sound(&error);
        }
    }
    Ok(())
}

fn npz() -> Vec<Seed> {
    let file = |name: &str| at("tests/dictionaries").join(name).join("layer_1/width_40/average_l0_9_res/params.npz");
    alone(&[file("gemma-scope"), file("gemma-scope-compressed")])
}

fn of_features(path: &Path) -> Result<()> {
    circuitscope::features::open(text_of(path), &Progress::new()).map(drop)
}

/// sparsify, dictionary_learning, Llama Scope, Qwen Scope and Gemma Scope 2: each of their files in front.
fn dictionary_sets() -> Vec<Seed> {
    let sets = |name: &str, files: [&str; 2]| files.map(|f| file(&at("tests/sets").join(name).join(f)));
    let weights = [
        ("encoder.weight", numbers(&[6, 4])),
        ("encoder.bias", numbers(&[6])),
        ("decoder.weight", numbers(&[4, 6])),
        ("decoder.bias", numbers(&[4])),
    ];
    let packed = circuitscope::model::safetensors_file::pack(weights.iter().map(|(n, t)| (*n, t)), &[]);
    let llama_scope = [
        (
            "hyperparams.json".to_owned(),
            br#"{"act_fn": "topk", "top_k": 2, "norm_activation": "dataset-wise", "apply_decoder_bias_to_pre_encoder": true,
                "dataset_average_activation_norm": {"in": 2.0, "out": 2.0}, "hook_point_in": "blocks.1.hook_resid_post",
                "hook_point_out": "blocks.1.hook_resid_post", "model_name": "a"}"#
                .to_vec(),
        ),
        ("checkpoints/final.safetensors".to_owned(), packed.expect("it is packed")),
    ];
    let qwen =
        [("W_enc", numbers(&[6, 4])), ("W_dec", numbers(&[4, 6])), ("b_enc", numbers(&[6])), ("b_dec", numbers(&[4]))];
    let qwen_scope = ("SAE-a-L0_2/layer3.sae.pt".to_owned(), pickled("layer3.sae.pt", &qwen));
    let gemma = at("tests/sets/gemma-scope-2/transcoder_all/layer_1_width_16k_l0_small");
    let gemma_scope = ["config.json", "params.safetensors"].map(|f| file(&gemma.join(f)));
    let pairs = [
        sets("sparsify", ["cfg.json", "sae.safetensors"]),
        sets("learning-topk", ["config.json", "ae.pt"]),
        sets("learning-matryoshka", ["ae.pt", "config.json"]),
        llama_scope,
        gemma_scope,
    ];
    let turned = pairs.clone().map(|[a, b]| [b, a]);
    let mut seeds: Vec<Seed> = pairs.into_iter().chain(turned).map(Vec::from).collect();
    seeds.push(vec![qwen_scope]);
    seeds
}

fn dictionary_set(folder: &Path, spoilt: &Path) -> Result<()> {
    of_features(if text_of(spoilt).ends_with(".sae.pt") { spoilt } else { folder })
}

/// Files that works over texts leave, each made once by the program.
fn shards() -> Vec<Seed> {
    static MADE: std::sync::OnceLock<Vec<Seed>> = std::sync::OnceLock::new();
    let made = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let set = at("tests/prompts/people.toml");
        let works: [(&str, &[&str]); 4] = [
            ("heads", &["heads", "-m", "text", "--over", "mixed", "--tokens", "200", "--context", "16"]),
            ("patch", &["patch", "-m", "induction", "--set", text_of(&set), "--pairs", "2", "--site", "z"]),
            (
                "fit",
                &[
                    "jlens",
                    "fit",
                    "-m",
                    "induction",
                    "--text",
                    "mixed",
                    "--tokens",
                    "12",
                    "--limit",
                    "2",
                    "--skip",
                    "2",
                ],
            ),
            (
                "harvest",
                &[
                    "features",
                    "train",
                    "-m",
                    "text",
                    "--layers",
                    "0",
                    "--text",
                    "mixed",
                    "--tokens",
                    "200",
                    "--features",
                    "8",
                    "-k",
                    "4",
                    "--context",
                    "16",
                ],
            ),
        ];
        let run = |(name, command): (&str, &[&str])| {
            let path = folder.path().join(name);
            let out = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"))
                .args(command)
                .args(["--shard", "0/2", "-o", text_of(&path)])
                .output()
                .expect("the program starts");
            assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
            vec![file(&path)]
        };
        works.into_iter().map(run).collect()
    };
    MADE.get_or_init(made).clone()
}

fn shard(path: &Path) -> Result<()> {
    match path.file_name().and_then(|n| n.to_str()) {
        Some("heads") => head_pages::open(path).map(drop),
        Some("patch") => PairValues::open(path).and_then(|v| v.means()).map(drop),
        Some("fit") => Sums::open(path).and_then(|s| s.lens()).map(drop),
        _ => harvest_file::about(path).and_then(|_| Captured::open(path)).map(drop).or_else(|error| {
            // A part of a harvest is refused by that name.
            if error.is_request() { Ok(()) } else { Err(error) }
        }),
    }
}

/// Files of this target that once broke the program: the first good seed with one of them in its first file's place.
fn hostile(target: &Target) -> Vec<Seed> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(at("tests/hostile").join(target.name))
        .into_iter()
        .flatten()
        .map(|f| f.expect("a readable folder").path())
        .collect();
    paths.sort();
    let good = (target.seeds)().swap_remove(0);
    let instead = |path: &PathBuf| {
        let mut seed = good.clone();
        seed[0].1 = file(path).1;
        seed
    };
    paths.iter().map(instead).collect()
}

/// Feeds a target with everything that once broke it, as it is.
pub fn feed_hostile(target: &Target) {
    hostile(target).iter().for_each(|seed| feed_seed(target, seed, &[]));
}

/// Reads all of them.
fn activations(folder: &Path, path: &Path) -> Result<()> {
    let is_file = path.extension().is_some_and(|e| e == "safetensors");
    let captured = Captured::open(if is_file { path } else { folder })?;
    for place in captured.places() {
        let table = captured.table(place, true)?;
        table.tensor(0, table.rows())?;
    }
    Ok(())
}

/// Opens a model and runs it, by words where it has a tokenizer.
fn model(path: &Path) -> Result<()> {
    let model = Model::open(text_of(path))?;
    let ids = match model.encode("a b the <s> \u{1f600}", false) {
        Ok(ids) => ids,
        Err(error) => {
            sound(&error);
            vec![0, 1]
        }
    };
    // A tokenizer may know tokens that the model lacks.
    let known = |id: &u32| (*id as usize) < model.config.d_vocab;
    let few: Vec<u32> = ids.into_iter().filter(known).chain([0]).take(6).collect();
    let resid = model.network().forward(&[&few], &mut Capture::default(), &Progress::new())?;
    model.network().final_norm(&resid, &mut NoHooks)?;
    Ok(())
}

/// Opens a folder of a dictionary, or of a set of them that is opened by one of its files.
fn dictionary(folder: &Path, spoilt: &Path) -> Result<()> {
    let open = |path: &Path| circuitscope::features::open(text_of(path), &Progress::new()).map(drop);
    let layer = folder.join("layer_0.safetensors");
    open(folder).or_else(|error| {
        sound(&error);
        open(if layer.exists() { &layer } else { spoilt })
    })
}

fn prompt_set(path: &Path) -> Result<()> {
    let set = PromptSet::open(text_of(path))?;
    // A model may know no answer of a good set.
    if let Err(error) = set.generate(&addition(), 2, 1, &Progress::new()) {
        sound(&error);
    }
    Ok(())
}

fn addition() -> std::sync::Arc<Model> {
    static MODEL: std::sync::OnceLock<std::sync::Arc<Model>> = std::sync::OnceLock::new();
    MODEL.get_or_init(|| std::sync::Arc::new(Model::open("addition").expect("a built-in model opens"))).clone()
}

fn template(folder: &Path) -> Result<()> {
    let Some(template) = Template::read(folder)? else { return Ok(()) };
    let messages =
        [Message::new("system", "Be short."), Message::new("user", "Hi"), Message::new("assistant", "Hello")];
    template.render(&messages, true)?;
    template.lay_out(&messages, Ending::Open).map(drop)
}

/// Whether an error is a sentence.
fn sound(error: &Error) {
    let said = error.to_string();
    assert!(said.chars().count() <= 300, "a message of {} characters: {said}", said.chars().count());
    assert!(!said.is_empty() && !said.chars().any(char::is_control), "a message that is no line: {said:?}");
}

/// What somebody might have written, or a damaged disk.
const WORDS: &[&[u8]] = &[
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"1e-400",
    b"18446744073709551616",
    b"4294967295",
    b"\"\"",
    b"[]",
    b"{}",
    b"\"",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\\u0000",
    b"\x1b[31m",
    b"\n",
    b"\t",
    b"\xff\xfe",
    b"NaN",
    b"{{",
    b"{%",
    b"%}",
    b"~",
    b"*",
    b"../../..",
    b"1.5",
    b"\"x\"",
];

const NUMBERS: &[u64] =
    &[0, 1, 2, 7, 127, 128, 255, 256, 65_535, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62, u64::MAX];

/// Spoils a file: each eight bytes of the script are one change. Half of them fall into the first part of the file, where
/// headers lie.
fn spoilt(good: &[u8], script: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for step in script.chunks_exact(8) {
        let [kind, size, place @ ..] = step else { continue };
        let place = place.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)) as usize;
        let span = if kind & 0x80 == 0 { bytes.len().min(4096) } else { bytes.len() };
        let at = if span == 0 { 0 } else { place % span };
        let end = (at + 1 + usize::from(*size)).min(bytes.len());
        let word = WORDS[usize::from(*size) % WORDS.len()];
        let number = NUMBERS[usize::from(*size) % NUMBERS.len()];
        let write = |bytes: &mut Vec<u8>, what: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(what) {
                *to = *from;
            }
        };
        match kind & 0x0f {
            0 => write(&mut bytes, &[good.get(at).copied().unwrap_or(0) ^ (1 << (size % 8))]),
            1 => write(&mut bytes, &[*size]),
            2 => write(&mut bytes, &number.to_le_bytes()[..4]),
            3 => write(&mut bytes, &number.to_le_bytes()),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part.iter().copied().cycle().take(part.len() * 4));
            }
            7 => drop(bytes.splice(at..at, word.iter().copied())),
            8 => drop(bytes.splice(at..at, std::iter::repeat_n(b'y', 4 << (size % 12)))),
            // A value of JSON, whole.
            _ => {
                let stops = |b: &u8| b",:[]{}".contains(b);
                let from = bytes.iter().skip(at).position(|b| b":[,".contains(b)).map_or(at, |n| at + n + 1);
                let to = bytes.iter().skip(from).position(stops).map_or(from, |n| from + n);
                drop(bytes.splice(from.min(bytes.len())..to.min(bytes.len()), word.iter().copied()));
            }
        }
    }
    bytes
}

/// Opens every good file of a target.
pub fn open_good(target: &Target) {
    for seed in (target.seeds)() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        lay(&seed, folder.path(), &[]);
        let opened = (target.open)(folder.path(), &folder.path().join(&seed[0].0));
        assert!(opened.is_ok(), "{}: {}: {:?}", target.name, seed[0].0, opened);
    }
}

/// Lays a seed into a folder, its first file spoilt.
fn lay(seed: &Seed, folder: &Path, script: &[u8]) {
    for (i, (name, bytes)) in seed.iter().enumerate() {
        let bytes = if i == 0 { spoilt(bytes, script) } else { bytes.clone() };
        if let Some(inner) = Path::new(name).parent() {
            std::fs::create_dir_all(folder.join(inner)).expect("a temporary folder");
        }
        std::fs::write(folder.join(name), bytes).expect("a temporary file");
    }
}

/// Feeds a target with a good file that is spoilt by a script: its first byte chooses the file.
pub fn feed(target: &Target, script: &[u8]) {
    let mut seeds = (target.seeds)();
    seeds.extend(hostile(target));
    let Some((first, script)) = script.split_first() else { return };
    feed_seed(target, &seeds[usize::from(*first) % seeds.len()], script);
}

fn feed_seed(target: &Target, seed: &Seed, script: &[u8]) {
    /// What takes longer than this on a slow machine would stop the window's work for too long.
    const LONGEST: Duration = Duration::from_secs(30);
    let folder = tempfile::tempdir().expect("a temporary folder");
    lay(seed, folder.path(), script);
    let started = Instant::now();
    if let Err(error) = (target.open)(folder.path(), &folder.path().join(&seed[0].0)) {
        sound(&error);
    }
    assert!(started.elapsed() < LONGEST, "{} took {:?}", target.name, started.elapsed());
}
