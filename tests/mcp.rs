//! `circuitscope mcp` as an assistant meets it: JSON-RPC on the program's own standard input and output.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use circuitscope::cli::Cli;
use clap::CommandFactory;
use serde_json::{Value, json};

const PROMPT: &str = "The President of the United";
/// Longer than any answer here takes.
const LONG: Duration = Duration::from_secs(60);

/// A client, as small as can be.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    next: u64,
}

impl Client {
    /// Starts the server in a folder, and shakes hands with it.
    fn start(folder: &Path, options: &[&str]) -> Self {
        let mut client = Self::bare(folder, options);
        let hello = client.ask(
            "initialize",
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}),
        );
        let result = &hello["result"];
        assert_eq!(result["protocolVersion"], "2025-06-18");
        assert_eq!(result["serverInfo"]["name"], "circuitscope");
        assert!(result["capabilities"]["tools"].is_object() && result["instructions"].is_string(), "{hello}");
        client.tell("notifications/initialized", json!({}));
        client
    }

    /// Starts the server without a word.
    fn bare(folder: &Path, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_circuitscope"))
            .arg("mcp")
            .args(options)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { stdin: child.stdin.take(), child, lines, next: 1 }
    }

    fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.write_all(b"\n")).and_then(|()| stdin.flush()).unwrap();
    }

    fn tell(&mut self, method: &str, params: Value) {
        self.write(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string());
    }

    /// Sends a request and returns its number.
    fn send(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
        id
    }

    /// The next message.
    fn read(&self) -> Value {
        let line = self.lines.recv_timeout(LONG).expect("the server says nothing");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// The response to a request; others are passed over.
    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let message = self.read();
            if message["id"] == id {
                return message;
            }
        }
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let message = self.ask("tools/call", json!({"name": tool, "arguments": arguments}));
        assert!(message["result"].is_object(), "{message}");
        message["result"].clone()
    }

    /// The document that a tool gives.
    fn document(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], false, "{result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        text
    }

    /// The sentence with which a tool fails.
    fn error(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], true, "{result}");
        assert!(result["structuredContent"].is_null(), "{result}");
        let text = result["content"][0]["text"].as_str().unwrap().to_owned();
        assert!(!text.contains('\n') && text.chars().count() <= 300, "{text}");
        text
    }

    /// Closes standard input and returns the exit status.
    fn close(mut self) -> i32 {
        drop(self.stdin.take());
        ended(&mut self.child)
    }
}

fn ended(child: &mut Child) -> i32 {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(since.elapsed() < LONG, "the server does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the same command prints by itself.
fn printed(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(args).arg("--json").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Every subcommand that does something by itself, by its words.
fn commands() -> BTreeSet<String> {
    fn collect(command: &clap::Command, above: &str, found: &mut BTreeSet<String>) {
        let name = format!("{above}{}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().for_each(|c| collect(c, &format!("{name}_"), found));
        } else {
            found.insert(name);
        }
    }
    let mut found = BTreeSet::new();
    Cli::command().get_subcommands().for_each(|c| collect(c, "", &mut found));
    found
}

#[test]
fn every_command_is_a_tool_or_an_exception() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::start(folder.path(), &[]);
    let listed = client.ask("tools/list", json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let mut names: BTreeSet<String> = tools.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), tools.len());
    names.extend(["mcp", "bench"].map(str::to_owned));
    assert_eq!(names, commands());
    for tool in tools {
        let name = tool["name"].as_str().unwrap();
        assert!(name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{name}");
        assert!(tool["description"].as_str().unwrap().len() > 30, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object");
        for (option, schema) in tool["inputSchema"]["properties"].as_object().unwrap() {
            assert!(schema["type"].is_string(), "{name}: {option}");
            assert!(!schema["description"].as_str().unwrap().is_empty(), "{name}: nothing is said of {option}");
            assert!(!["json", "help"].contains(&option.as_str()));
        }
    }
    let schema = |name: &str| tools.iter().find(|t| t["name"] == name).unwrap()["inputSchema"].clone();
    let patch = schema("patch");
    assert_eq!(patch["properties"]["site"]["type"], "string");
    assert!(patch["properties"]["site"]["enum"].as_array().unwrap().contains(&json!("resid_pre")));
    let run = schema("run");
    assert_eq!(run["properties"]["top"]["type"], "integer");
    assert_eq!(run["properties"]["top"]["default"], 10);
    assert_eq!(
        run["properties"]["ids"],
        json!({"type": "array", "items": {"type": "integer"},
        "description": run["properties"]["ids"]["description"]})
    );
    assert_eq!(run["properties"]["capture"]["items"]["type"], "string");
    assert_eq!(run["properties"]["bos"]["type"], "boolean");
    assert_eq!(schema("lab_train")["required"], json!(["name", "output"]));
    assert_eq!(schema("graph_prune")["required"], json!(["input"]));
    assert_eq!(client.close(), 0);
}

#[test]
fn tools_give_the_documents_of_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::start(folder.path(), &[]);
    let mut run = client.document("run", json!({"prompt": PROMPT, "top": 3, "model": null}));
    assert_eq!(run["next"][0]["text"], " States");
    let mut by_itself = printed(&["run", "-p", PROMPT, "--top", "3"]);
    for clock in ["seconds", "load_seconds"] {
        run[clock] = json!(0);
        by_itself[clock] = json!(0);
    }
    assert_eq!(run, by_itself);
    let lens = client.document("lens", json!({"prompt": PROMPT, "pos": "all", "answer": " States"}));
    assert_eq!(lens["axes"], json!(["layer", "pos"]));
    assert_eq!(lens["answer_rank"][1][4], 0);
    // A plan names one of its own commands, or a whole one.
    assert!(client.document("plan", json!({"command": "lens", "prompt": PROMPT}))["needs_bytes"].is_number());
    let whole = json!({"work": ["heads", "--over", "prose", "-o", "heads.arrow"]});
    assert_eq!(client.document("plan", whole)["command"], "heads --over prose -o heads.arrow");
    // Lists, texts that begin with a dash, flags, several words, a command without a document.
    assert_eq!(client.document("run", json!({"ids": [5, 6], "bos": false}))["tokens"].as_array().unwrap().len(), 2);
    assert!(client.document("run", json!({"prompt": "- a list"}))["loss"].is_number());
    assert!(client.document("models", json!({"found": false}))["models"].is_array());
    let session = client.call("session_new", json!({"prompt": PROMPT, "output": "new.scope"}));
    assert_eq!(session["content"][0]["text"], "new.scope");
    assert_eq!(client.document("session_show", json!({"file": "new.scope"}))["desk"]["prompt"], PROMPT);
    let files = json!({"prompt": PROMPT, "output": "sites.safetensors",
        "capture": ["hook_embed", "blocks.*.hook_resid_post"]});
    assert_eq!(client.document("run", files)["captured"].as_array().unwrap().len(), 3);
    #[cfg(feature = "gui")]
    {
        let report = json!({"file": "new.scope", "view": ["lens"], "output": "report.html"});
        assert_eq!(client.document("session_report", report)["views"], json!(["lens"]));
        std::fs::remove_file(folder.path().join("report.html")).unwrap();
    }
    // What was named was written, and nothing else.
    let written: BTreeSet<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(written, ["new.scope", "sites.safetensors"].map(str::to_owned).into());
    assert_eq!(client.close(), 0);
}

#[test]
fn errors_are_sentences_and_the_server_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::start(folder.path(), &[]);
    let said = client.error("dla", json!({"prompt": PROMPT, "answer": " United States"}));
    assert!(said.contains("is not one token"), "{said}");
    let said = client.error("run", json!({"prompt": PROMPT, "ids": [1]}));
    assert!(said.contains("cannot be used with"), "{said}");
    let said = client.error("run", json!({"prompt": PROMPT, "deep\u{1b}er": 1}));
    assert!(said.starts_with(r"run has no argument `deep\u{1b}er`; it has model, "), "{said}");
    let said = client.error("run", json!({"prompt": ["a", "b"]}));
    assert!(said.contains("`prompt` of run is") && said.contains("not a list"), "{said}");
    let said = client.error("run", json!({"prompt": {"text": "a"}}));
    assert!(said.contains("give a text"), "{said}");
    let said = client.error("run", json!({"prompt": PROMPT, "top": "many"}));
    assert!(said.contains("many"), "{said}");
    let said = client.error("jlens_edit", json!({"lens": "x", "prompt": "a", "layer": [1], "swap": ["a,b", "c"]}));
    assert!(said.contains("values without a `,`"), "{said}");
    let said = client.error("lab_train", json!({"name": "induction"}));
    assert!(said.contains("give `output`"), "{said}");
    let said = client.error("run", json!({"model": "hf:nobody/nothing", "prompt": "a"}));
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    let unknown = client.ask("tools/call", json!({"name": "bench", "arguments": {}}));
    assert_eq!(unknown["error"]["code"], -32602);
    assert!(unknown["error"]["message"].as_str().unwrap().contains("no tool `bench`"), "{unknown}");
    assert_eq!(client.ask("no/such/method", json!({}))["error"]["code"], -32601);
    assert_eq!(client.document("run", json!({"prompt": PROMPT}))["next"][0]["text"], " States");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(client.close(), 0);
}

#[test]
fn whoever_asks_is_told_how_far_a_command_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::start(folder.path(), &[]);
    // Long enough to be told of, with any machine.
    let arguments = json!({"features": 40, "hidden": 10, "sparsity": [0.9, 0.95], "steps": 20_000});
    let params = json!({"name": "superposition", "arguments": arguments, "_meta": {"progressToken": "mine"}});
    let id = client.send("tools/call", params);
    let mut told: Vec<f64> = Vec::new();
    let answer = loop {
        let message = client.read();
        if message["id"] == id {
            break message;
        }
        assert_eq!(message["method"], "notifications/progress", "{message}");
        assert_eq!(message["params"]["progressToken"], "mine");
        assert!(message["params"]["message"].as_str().unwrap().ends_with(" %"), "{message}");
        told.push(message["params"]["progress"].as_f64().unwrap());
    };
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert!(!told.is_empty() && told.is_sorted_by(|a, b| a < b), "{told:?}");
    // Nobody is told who has not asked; what is said of progress is no part of an answer.
    let id = client.send("tools/call", json!({"name": "run", "arguments": {"prompt": PROMPT}}));
    assert_eq!(client.read()["id"], id);
    assert_eq!(client.close(), 0);
}

#[test]
fn garbage_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    // Before the handshake, and nothing but garbage.
    let mut client = Client::bare(folder.path(), &[]);
    client.write("\u{0}\u{1}{{{ \u{fffd}");
    assert_eq!(client.close(), 0);
    assert_eq!(Client::bare(folder.path(), &[]).close(), 0);
    let mut client = Client::start(folder.path(), &[]);
    client.stdin.as_mut().unwrap().write_all(b"\xff\xfe\x00garbage\n\n[1,2\n").unwrap();
    client.write(&"[".repeat(100_000));
    client.write("{\"jsonrpc\": \"2.0\", \"id\": {\"deep\": []}, \"method\": 3}");
    let answer = client.read();
    assert_eq!(answer["error"]["code"], -32600, "{answer}");
    client.write(&format!("\"{}\"", "x".repeat(20 << 20)));
    assert_eq!(client.document("run", json!({"prompt": PROMPT}))["next"][0]["text"], " States");
    assert_eq!(client.close(), 0);
}

/// A training that would take minutes.
fn endless() -> Value {
    json!({"features": 40, "hidden": 10, "sparsity": [0.9], "steps": 10_000_000})
}

/// The processes whose parent is this one.
#[cfg(target_os = "linux")]
fn children(of: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

#[cfg(target_os = "linux")]
fn until(what: &str, mut f: impl FnMut() -> bool) {
    let since = Instant::now();
    while !f() {
        assert!(since.elapsed() < LONG, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn commands_end_when_they_are_cancelled_or_late_or_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::start(folder.path(), &["--limit", "2"]);
    let server = client.child.id();
    let since = Instant::now();
    let said = client.error("superposition", endless());
    assert!(said.contains("was stopped after 2 s") && since.elapsed() < Duration::from_secs(20), "{said}");
    until("the late command is gone", || children(server).is_empty());
    drop(client);

    let mut client = Client::start(folder.path(), &[]);
    let server = client.child.id();
    let id = client.send("tools/call", json!({"name": "superposition", "arguments": endless()}));
    until("the command runs", || children(server).len() == 1);
    client.tell("notifications/cancelled", json!({"requestId": id, "reason": "enough"}));
    until("the cancelled command is gone", || children(server).is_empty());

    // One that something else ends.
    let id = client.send("tools/call", json!({"name": "superposition", "arguments": endless()}));
    until("the command runs", || children(server).len() == 1);
    let killed = Command::new("kill").args(["-9", &children(server)[0].to_string()]).status().unwrap();
    assert!(killed.success());
    let message = client.read();
    assert_eq!(message["id"], id);
    let said = message["result"]["content"][0]["text"].as_str().unwrap();
    assert!(said.contains("was ended by the system"), "{said}");
    assert_eq!(client.document("run", json!({"prompt": PROMPT}))["next"][0]["text"], " States");

    // A signal to the server reaches its command.
    client.send("tools/call", json!({"name": "superposition", "arguments": endless()}));
    until("the command runs", || children(server).len() == 1);
    let command = children(server)[0];
    assert!(Command::new("kill").arg(server.to_string()).status().unwrap().success());
    assert_eq!(ended(&mut client.child), 130);
    let alive = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|s| !s.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
    };
    until("the command is gone", || !alive(command));
}
