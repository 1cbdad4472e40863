//! Models that lie in other programs' caches, and models that are fetched: from a server that the test starts.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use circuitscope::model::Model;
use circuitscope::model::hub::{self, Hub, Wanted};
use circuitscope::progress::Progress;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Each answer with contents breaks off after so many bytes.
    CutAfter(usize),
    /// Nothing comes after so many bytes, and the connection stays.
    SilentAfter(usize),
    /// A byte of large files is another one.
    Spoilt,
    /// Parts are not given, only the whole.
    NoRanges,
    /// Every request is answered with this.
    Status(u16),
}

/// A request: its path and its header fields.
type Asked = (String, BTreeMap<String, String>);

/// A hub of one repository, `org/name`.
struct Server {
    endpoint: String,
    fault: Arc<Mutex<Fault>>,
    /// Every request.
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Bytes of contents that were sent.
    sent: Arc<AtomicUsize>,
}

impl Server {
    /// `elsewhere` is another server that large files are redirected to.
    fn start(files: BTreeMap<String, Vec<u8>>, elsewhere: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Self { endpoint, fault: Arc::default(), asked: Arc::default(), sent: Arc::default() };
        let (fault, asked, sent) = (server.fault.clone(), server.asked.clone(), server.sent.clone());
        let files = Arc::new(files);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (files, fault, asked, sent, elsewhere) =
                    (files.clone(), fault.clone(), asked.clone(), sent.clone(), elsewhere.clone());
                std::thread::spawn(move || {
                    // A reader that goes away ends the answer.
                    let _ = answer(stream, &files, &fault, &asked, &sent, elsewhere.as_deref());
                });
            }
        });
        server
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub { endpoint: self.endpoint.clone(), cache: cache.to_owned(), token: None, offline: false }
    }
}

fn answer(
    stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    fault: &Mutex<Fault>,
    asked: &Mutex<Vec<Asked>>,
    sent: &AtomicUsize,
    elsewhere: Option<&str>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut fields = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        fields.insert(name.to_lowercase(), value.to_owned());
    }
    asked.lock().unwrap().push((path.clone(), fields.clone()));
    let fault = *fault.lock().unwrap();
    let mut head = |status: u16, more: &str, len: usize| {
        write!(out, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len}\r\n{more}\r\n")
    };
    if let Fault::Status(status) = fault {
        return head(status, "", 0);
    }
    // A repository that was renamed answers with a way within the same server.
    if let Some(rest) = path.strip_prefix("/api/models/org/old") {
        return head(307, &format!("Location: /api/models/org/name{rest}\r\n"), 0);
    }
    if path == "/api/models/org/name/revision/main?blobs=true" || path.contains(COMMIT) && path.starts_with("/api/") {
        let list: Vec<Value> = files
            .iter()
            .map(|(name, bytes)| {
                let small = sha256(bytes)[..40].to_owned();
                let mut file = json!({"rfilename": name, "size": bytes.len(), "blobId": small});
                if bytes.len() > 20_000 {
                    file["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
                }
                file
            })
            .collect();
        let text = json!({"sha": COMMIT, "siblings": list}).to_string();
        head(200, "Content-Type: application/json\r\n", text.len())?;
        return out.write_all(text.as_bytes());
    }
    let name = ["org/name", "org/old"]
        .iter()
        .find_map(|repository| path.strip_prefix(&format!("/{repository}/resolve/{COMMIT}/")))
        .or_else(|| path.strip_prefix("/cdn/"));
    let Some(bytes) = name.and_then(|name| files.get(name)) else { return head(404, "", 0) };
    if let (Some(elsewhere), Some(name)) = (elsewhere, name)
        && bytes.len() > 20_000
    {
        return head(302, &format!("Location: {elsewhere}/cdn/{name}\r\n"), 0);
    }
    let mut bytes = bytes.clone();
    if fault == Fault::Spoilt && bytes.len() > 20_000 {
        bytes[7] ^= 1;
    }
    let from: usize = fields
        .get("range")
        .filter(|_| fault != Fault::NoRanges)
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let all = bytes.len();
    let rest = &bytes[from..];
    match from {
        0 => head(200, "", all)?,
        _ => head(206, &format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1), rest.len())?,
    }
    let some = match fault {
        Fault::CutAfter(n) | Fault::SilentAfter(n) => n.min(rest.len()),
        _ => rest.len(),
    };
    out.write_all(&rest[..some])?;
    out.flush()?;
    sent.fetch_add(some, Ordering::Relaxed);
    if let Fault::SilentAfter(_) = fault {
        // Until the reader goes away.
        let _ = reader.read(&mut [0]);
    }
    Ok(())
}

fn asset(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-model").join(name)).expect("an asset")
}

/// The files of the built-in text model, with others that no model is read from.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> =
        ["config.json", "model.safetensors", "tokenizer.json"].map(|n| (n.to_owned(), asset(n))).into();
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", ".gitattributes"] {
        files.insert(name.to_owned(), name.as_bytes().to_vec());
    }
    files
}

fn fetch(spec: &str, hub: &Hub) -> circuitscope::Result<PathBuf> {
    hub::fetch(&Wanted::parse(spec)?, hub, &Progress::new()).map(|place| place.path)
}

/// Files that lie below a folder, without those of links.
fn blobs(cache: &Path) -> Vec<String> {
    let read = std::fs::read_dir(cache.join("models--org--name/blobs")).into_iter().flatten();
    read.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Runs the program with a home of its own, so that nothing of the user's is read.
fn program(home: &Path, endpoint: &str, more: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuitscope"));
    command.args(args).env("HOME", home).env("HF_ENDPOINT", endpoint).env("HF_HOME", home.join("hf"));
    for name in [
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "OLLAMA_MODELS",
        "XDG_CACHE_HOME",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(name);
    }
    for (name, value) in more {
        command.env(name, value);
    }
    command.output().expect("the program starts")
}

fn sentence(out: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert!(out.stdout.is_empty() && text.trim().lines().count() == 1, "{text}");
    text
}

#[test]
fn a_model_is_fetched_once_with_what_it_needs_alone() {
    let server = Server::start(repository(), None);
    let home = tempfile::tempdir().expect("a folder");
    let run = |spec: &str, more: &[(&str, &str)]| {
        let out = program(home.path(), &server.endpoint, more, &["run", "-m", spec, "-p", "When she came", "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).expect("a document")
    };
    let fetched = run("hf:org/name", &[]);
    assert_eq!(fetched["model"]["name"], "org/name");
    let own = common::json(&["run", "-m", "text", "-p", "When she came"]);
    assert_eq!((&fetched["next"], &fetched["loss"]), (&own["next"], &own["loss"]));
    let asked = server.asked();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["main?blobs=true", "config.json", "tokenizer.json", "model.safetensors"]);
    assert!(asked.iter().all(|(_, fields)| !fields.contains_key("authorization")));
    // The hub's own layout.
    let cache = home.path().join("hf/hub");
    let repository = cache.join("models--org--name");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).expect("a reference"), COMMIT);
    let weights = repository.join("snapshots").join(COMMIT).join("model.safetensors");
    assert_eq!(std::fs::read(&weights).expect("a link that leads on"), asset("model.safetensors"));
    let link = std::fs::read_link(&weights).expect("a link");
    assert_eq!(link, Path::new("../../blobs").join(sha256(&asset("model.safetensors"))));
    assert_eq!(blobs(&cache).len(), 3);
    // The second time nothing is asked, also offline; and the name alone opens it.
    assert_eq!(run("hf:org/name", &[])["next"], own["next"]);
    assert_eq!(run(&format!("hf:org/name@{COMMIT}"), &[("HF_HUB_OFFLINE", "1")])["next"], own["next"]);
    assert_eq!(run("org/name", &[])["model"]["name"], "org/name");
    assert!(server.asked().is_empty());
}

#[test]
fn tokens_go_to_the_hub_and_no_further() {
    let store = Server::start(repository(), None);
    // Another host by its name.
    let elsewhere = store.endpoint.replace("127.0.0.1", "localhost");
    let server = Server::start(repository(), Some(elsewhere));
    let home = tempfile::tempdir().expect("a folder");
    let args = ["run", "-m", "hf:org/name", "-p", "a", "--json"];
    let out = program(home.path(), &server.endpoint, &[("HF_TOKEN", "hf_secret")], &args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let asked = server.asked();
    assert!(asked.iter().all(|(_, f)| f.get("authorization").is_some_and(|v| v == "Bearer hf_secret")), "{asked:?}");
    // Weights lie on another server, which learns no token.
    let stored = store.asked();
    assert!(stored.iter().any(|(path, _)| path == "/cdn/model.safetensors"), "{stored:?}");
    assert!(stored.iter().all(|(_, f)| !f.contains_key("authorization")), "{stored:?}");
    // A kept token, and a file that a variable names.
    for (name, file) in [("HF_HUB_CACHE", "hf/token"), ("HF_TOKEN_PATH", "elsewhere")] {
        let path = home.path().join(file);
        circuitscope::files::write_atomic(&path, b"hf_kept\n").expect("it is written");
        let cache = home.path().join(format!("cache-{name}"));
        let cache = cache.to_str().expect("UTF-8");
        let path = path.to_str().expect("UTF-8");
        let more = [("HF_HUB_CACHE", cache), (name, if name == "HF_HUB_CACHE" { cache } else { path })];
        assert!(program(home.path(), &server.endpoint, &more, &args).status.success());
        assert!(server.asked().iter().all(|(_, f)| f.get("authorization").is_some_and(|v| v == "Bearer hf_kept")));
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    let server = Server::start(repository(), None);
    let cache = tempfile::tempdir().expect("a folder");
    let mut hub = server.hub(cache.path());
    hub.token = Some("hf_secret".to_owned());
    let folder = fetch("org/old", &hub).expect("it is fetched");
    assert!(folder.join("config.json").is_file());
    assert!(server.asked().iter().all(|(_, f)| f.contains_key("authorization")), "the same server may know the token");
}

#[test]
fn a_connection_that_breaks_off_is_gone_on_with() {
    let server = Server::start(repository(), None);
    let cache = tempfile::tempdir().expect("a folder");
    let hub = server.hub(cache.path());
    let (weights, total) = (asset("model.safetensors"), repository().values().map(Vec::len).sum::<usize>());
    // In one call: every answer is cut, and the next one begins where it was.
    server.set(Fault::CutAfter(400_000));
    let folder = fetch("org/name", &hub).expect("it is fetched");
    assert_eq!(std::fs::read(folder.join("model.safetensors")).expect("weights"), weights);
    assert!(server.sent.load(Ordering::Relaxed) <= total, "no byte came twice");
    let ranges: Vec<String> = server.asked().iter().filter_map(|(_, f)| f.get("range").cloned()).collect();
    assert_eq!(ranges[..2], ["bytes=400000-", "bytes=800000-"]);
    // In two calls: nothing comes at all, until the next call.
    std::fs::remove_dir_all(cache.path()).expect("it is emptied");
    server.set(Fault::CutAfter(0));
    let error = fetch("org/name", &hub).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("0 of") && error.contains("try again"), "{error}");
    server.set(Fault::CutAfter(30_000));
    let partial = cache.path().join("models--org--name/blobs").join(format!("{}.incomplete", sha256(&weights)));
    circuitscope::files::write_atomic(&partial, &weights[..1_000_000]).expect("it is written");
    server.asked();
    assert!(fetch("org/name", &hub).is_ok());
    let first = server.asked().iter().find_map(|(_, f)| f.get("range").cloned());
    assert_eq!(first.as_deref(), Some("bytes=1000000-"));
    assert!(!partial.exists());
}

#[test]
fn a_server_without_parts_gives_the_whole_again() {
    let server = Server::start(repository(), None);
    let cache = tempfile::tempdir().expect("a folder");
    let weights = asset("model.safetensors");
    let blobs = cache.path().join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).expect("a folder");
    let partial = blobs.join(format!("{}.incomplete", sha256(&weights)));
    circuitscope::files::write_atomic(&partial, &[1; 1000]).expect("it is written");
    server.set(Fault::NoRanges);
    let folder = fetch("org/name", &server.hub(cache.path())).expect("it is fetched");
    assert_eq!(std::fs::read(folder.join("model.safetensors")).expect("weights"), weights);
}

#[test]
fn what_comes_wrong_is_not_kept() {
    let server = Server::start(repository(), None);
    let cache = tempfile::tempdir().expect("a folder");
    let hub = server.hub(cache.path());
    server.set(Fault::Spoilt);
    let error = fetch("org/name", &hub).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
    let snapshot = cache.path().join("models--org--name/snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists() && !cache.path().join("models--org--name/refs").exists());
    // Also what an earlier call left is not trusted.
    server.set(Fault::None);
    assert_eq!(
        std::fs::read(fetch("org/name", &hub).unwrap().join("model.safetensors")).unwrap(),
        asset("model.safetensors")
    );
}

#[test]
fn a_fetch_can_be_cancelled_at_any_time() {
    let server = Server::start(repository(), None);
    for fault in [Fault::SilentAfter(0), Fault::SilentAfter(500_000)] {
        let cache = tempfile::tempdir().expect("a folder");
        let hub = server.hub(cache.path());
        server.set(fault);
        let progress = Progress::new();
        let watched = progress.clone();
        let wanted = Wanted::parse("org/name").expect("a name");
        let job = std::thread::spawn(move || hub::fetch(&wanted, &hub, &progress));
        std::thread::sleep(Duration::from_millis(700));
        assert!(!job.is_finished());
        if fault != Fault::SilentAfter(0) {
            assert!(watched.fraction() > 0.2 && watched.fraction() < 1.0, "{}", watched.fraction());
        }
        let at = Instant::now();
        watched.cancel();
        let error = job.join().expect("no panic").unwrap_err();
        assert!(matches!(error, circuitscope::Error::Cancelled), "{error}");
        assert!(at.elapsed() < Duration::from_millis(150), "{:?}", at.elapsed());
    }
}

#[test]
fn refusals_are_one_sentence_that_says_what_to_do() {
    let server = Server::start(repository(), None);
    let home = tempfile::tempdir().expect("a folder");
    let run = |spec: &str, endpoint: &str, more: &[(&str, &str)], code: i32| {
        sentence(&program(home.path(), endpoint, more, &["run", "-m", spec, "-p", "a"]), code)
    };
    assert!(run("hf:org/none", &server.endpoint, &[], 1).contains("org/none"));
    for (status, token, says) in [
        (401, None, "HF_TOKEN"),
        (403, Some("hf_x"), "to this token"),
        (404, None, "check the name"),
        (429, None, "too often"),
        (503, None, "503"),
    ] {
        server.set(Fault::Status(status));
        let more: Vec<(&str, &str)> = token.map(|t| ("HF_TOKEN", t)).into_iter().collect();
        let said = run("hf:org/name", &server.endpoint, &more, 1);
        assert!(said.contains(says) && said.contains("org/name"), "{status}: {said}");
        assert!(!said.contains("hf_x"), "no token is said: {said}");
    }
    server.set(Fault::None);
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let said = run("hf:org/name", &format!("http://{closed}"), &[], 1);
    assert!(said.contains("cannot be reached") && said.contains("check the network"), "{said}");
    let said = run("hf:org/name", &server.endpoint, &[("HF_HUB_OFFLINE", "1")], 2);
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    assert!(run("hf:../../etc", &server.endpoint, &[], 2).contains("names no model"));
    server.asked();
    assert!(run("org/name", &server.endpoint, &[], 2).contains("no such file, folder, built-in or found model"));
    assert!(server.asked().is_empty(), "nothing is asked of the network without hf:");
}

/// A small GGUF file; parts of it where it is one.
fn gguf() -> Vec<u8> {
    use common::gguf::{Tensor, Value as G};
    let tensor = |name: &str, shape: &[usize]| {
        let n: usize = shape.iter().product();
        Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values: (0..n).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.02).collect(),
        }
    };
    let mut tensors = vec![tensor("token_embd.weight", &[12, 8]), tensor("output_norm.weight", &[8])];
    for (name, shape) in [
        ("attn_norm", &[8][..]),
        ("attn_q", &[8, 8]),
        ("attn_k", &[8, 8]),
        ("attn_v", &[8, 8]),
        ("attn_output", &[8, 8]),
        ("ffn_norm", &[8]),
        ("ffn_gate", &[16, 8]),
        ("ffn_up", &[16, 8]),
        ("ffn_down", &[8, 16]),
    ] {
        tensors.push(tensor(&format!("blk.0.{name}.weight"), shape));
    }
    common::gguf::file(
        &[
            ("general.architecture", G::Text("llama")),
            ("llama.block_count", G::U32(1)),
            ("llama.embedding_length", G::U32(8)),
            ("llama.feed_forward_length", G::U32(16)),
            ("llama.attention.head_count", G::U32(2)),
            ("llama.context_length", G::U32(64)),
            ("llama.attention.layer_norm_rms_epsilon", G::F32(1e-5)),
        ],
        &tensors,
    )
}

#[test]
fn one_gguf_of_many_is_chosen_by_its_name() {
    let mut files = BTreeMap::new();
    for name in ["m-Q4_0.gguf", "sub/m-Q8_0.gguf", "config.json", "README.md"] {
        files.insert(name.to_owned(), if name.ends_with("gguf") { gguf() } else { b"{}".to_vec() });
    }
    let server = Server::start(files, None);
    let cache = tempfile::tempdir().expect("a folder");
    let hub = server.hub(cache.path());
    let error = fetch("org/name", &hub).unwrap_err();
    assert!(error.is_request() && error.to_string().contains("m-Q4_0.gguf, sub/m-Q8_0.gguf"), "{error}");
    let path = fetch("org/name:q8_0", &hub).expect("it is fetched");
    assert!(path.ends_with("sub/m-Q8_0.gguf"), "{}", path.display());
    let model = Model::open(path.to_str().expect("UTF-8")).expect("it opens");
    assert_eq!((model.config.n_layers, model.config.d_vocab), (1, 12));
    assert!(fetch("org/name:Q5", &hub).unwrap_err().to_string().contains("means no one GGUF file"));
    server.asked();
    assert_eq!(fetch("org/name:Q8_0", &hub).expect("it is there"), path);
    assert!(server.asked().is_empty());
}

#[test]
fn a_repository_of_pickles_is_refused() {
    let files = ["config.json", "pytorch_model.bin"].map(|n| (n.to_owned(), b"{}".to_vec())).into();
    let server = Server::start(files, None);
    let cache = tempfile::tempdir().expect("a folder");
    let error = fetch("org/name", &server.hub(cache.path())).unwrap_err().to_string();
    assert!(error.contains("pickled"), "{error}");
}

/// The three caches, each as its program lays it out.
#[test]
fn models_of_other_programs_are_found() {
    let home = tempfile::tempdir().expect("a folder");
    let put = |path: &str, bytes: &[u8]| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
        circuitscope::files::write_atomic(&path, bytes).expect("it is written");
    };
    let snapshot = format!("hf/hub/models--org--name/snapshots/{COMMIT}");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        put(&format!("{snapshot}/{name}"), &asset(name));
    }
    put("hf/hub/models--org--name/refs/main", COMMIT.as_bytes());
    put("hf/hub/datasets--org--set/snapshots/x/config.json", b"{}");
    put("hf/hub/models--org--pickles/snapshots/x/config.json", &asset("config.json"));
    put("hf/hub/models--org--pickles/snapshots/x/pytorch_model.bin", b"x");
    put("hf/hub/models--org--odd/snapshots/x/config.json", br#"{"model_type": "rwkv"}"#);
    put("hf/hub/models--org--odd/snapshots/x/model.safetensors", &asset("model.safetensors"));
    put(".lmstudio/models/pub/small-GGUF/small-Q4.gguf", &gguf());
    put(".lmstudio/models/pub/two/a.gguf", &gguf());
    put(".lmstudio/models/pub/two/b.gguf", b"GGUF and no more");
    put(".ollama/models/blobs/sha256-abc123", &gguf());
    let manifest = |digest: &str| {
        json!({"layers": [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:0"},
            {"mediaType": "application/vnd.ollama.image.model", "digest": digest}]})
        .to_string()
    };
    put(".ollama/models/manifests/registry.ollama.ai/library/llama3.2/1b", manifest("sha256:abc123").as_bytes());
    put(".ollama/models/manifests/registry.ollama.ai/library/small/latest", manifest("sha256:abc123").as_bytes());
    put(".ollama/models/manifests/registry.ollama.ai/me/own/v1", manifest("sha256:gone").as_bytes());
    put(".ollama/models/manifests/registry.ollama.ai/me/bad/v1", manifest("sha256:/../../x").as_bytes());
    let run = |args: &[&str]| program(home.path(), "http://127.0.0.1:9", &[], args);
    let out = run(&["models", "--found", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let doc: Value = serde_json::from_slice(&out.stdout).expect("a document");
    let found: BTreeMap<&str, &Value> =
        doc["found"].as_array().expect("a list").iter().map(|f| (f["name"].as_str().unwrap(), f)).collect();
    let names: Vec<&str> = found.keys().copied().collect();
    assert_eq!(
        names,
        [
            "llama3.2:1b",
            "me/own:v1",
            "org/name",
            "org/odd",
            "org/pickles",
            "pub/small-GGUF",
            "pub/two:a.gguf",
            "pub/two:b.gguf",
            "small:latest"
        ]
    );
    let n_params = common::json(&["run", "-m", "text", "-p", "a"])["model"]["n_params"].as_u64().unwrap();
    let text = found["org/name"];
    assert_eq!((&text["memory_bytes"], &text["fits"]), (&json!(4 * n_params), &json!(true)));
    assert_eq!(text["bytes"], asset("model.safetensors").len());
    assert_eq!((&found["llama3.2:1b"]["family"], &found["llama3.2:1b"]["cache"]), (&json!("llama"), &json!("Ollama")));
    for (name, says) in
        [("org/odd", "rwkv"), ("org/pickles", "safetensors"), ("pub/two:b.gguf", "version"), ("me/own:v1", "not there")]
    {
        let f = found[name];
        assert!(f["error"].as_str().is_some_and(|e| e.contains(says)), "{name}: {f}");
        assert!(f["family"].is_null() && f["fits"].is_null());
    }
    // Each opens by its name; in Ollama's way a name without a tag is the latest.
    for (name, layers) in
        [("org/name", 3), ("pub/small-GGUF", 1), ("pub/two:a.gguf", 1), ("llama3.2:1b", 1), ("small", 1)]
    {
        let out = run(&["run", "-m", name, "--ids", "1,2,3", "--json"]);
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        let doc: Value = serde_json::from_slice(&out.stdout).expect("a document");
        assert_eq!(doc["model"]["n_layers"], layers, "{name}");
    }
    let table = String::from_utf8(run(&["models", "--found"]).stdout).expect("UTF-8");
    assert!(names.iter().all(|n| table.contains(n)) && table.contains("LM Studio"), "{table}");
    // An empty home has none.
    let empty = tempfile::tempdir().expect("a folder");
    let table = program(empty.path(), "http://127.0.0.1:9", &[], &["models", "--found"]).stdout;
    assert!(String::from_utf8(table).expect("UTF-8").contains("No model was found"));
}
