//! Conversations: what templates make of them is what transformers and jinja2 make of them, and each token knows its turn.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::path::Path;

use circuitscope::model::chat::{self, Ending, Message, Template};
use serde_json::{Value, json};

fn reference() -> Value {
    let text = std::fs::read_to_string(common::fixture("chat/templates.json")).expect("the reference is there");
    serde_json::from_str(&text).expect("the reference is JSON")
}

/// A folder with a template, as models have one.
fn folder(template: &Value, special: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = special.clone();
    config["chat_template"] = template.clone();
    write(folder.path(), "tokenizer_config.json", &config.to_string());
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    circuitscope::files::write_atomic(&folder.join(name), text.as_bytes()).expect("it is written");
}

fn open(folder: &Path) -> Template {
    Template::read(folder).expect("it is read").expect("it is there")
}

fn messages(list: &Value) -> Vec<Message> {
    chat::parse(&list.to_string(), "the reference").expect("a conversation")
}

#[test]
fn templates_write_what_transformers_writes() {
    let reference = reference();
    let today = jiff::ZonedDateTime::now().strftime("%B %d, %Y").to_string();
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in reference["cases"].as_array().expect("cases") {
        let (name, talk) = (case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
        let folder = folder(&reference["templates"][name], &reference["special"]);
        let found = open(folder.path()).render(&messages(&reference["conversations"][talk]), case["answer"] == true);
        match (case["text"].as_str(), found) {
            (Some(text), Ok(found)) => {
                compared += 1;
                let text = text.replace("{today}", &today);
                if text != found {
                    wrong.push(format!("{name}, {talk}, {}:\n{text:?}\n{found:?}", case["answer"]));
                }
            }
            (None, Err(e)) => {
                refused += 1;
                assert!(e.is_request() && e.to_string().lines().count() == 1, "{e}");
            }
            (expected, found) => wrong.push(format!("{name}, {talk}: {expected:?} but {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(compared > 200 && refused > 50, "{compared} {refused}");
}

/// Where a template lies, and which of several is taken.
#[test]
fn templates_are_found_where_models_keep_them() {
    let talk = [Message::new("user", "Hi")];
    let render = |folder: &Path| open(folder).render(&talk, false).expect("it renders");
    let special =
        json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "extra_special_tokens": {"image_token": "<i>"}});
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}{{ image_token }}"}]);
    let a = folder(&named, &special);
    assert_eq!(render(a.path()), "<s><i>");
    write(a.path(), "chat_template.jinja", "jinja{{ eos_token }}\n");
    assert_eq!(render(a.path()), "jinja</s>");
    let b = folder(&Value::Null, &json!({}));
    assert!(Template::read(b.path()).expect("it is read").is_none());
    write(b.path(), "special_tokens_map.json", r#"{"bos_token": {"content": "<b>"}}"#);
    write(b.path(), "chat_template.json", r#"{"chat_template": "{{ bos_token }}{{ messages[0]['content'] }}"}"#);
    assert_eq!(render(b.path()), "<b>Hi");
    let c = folder(&json!([{"name": "rag", "template": "a"}, {"name": "tool_use", "template": "b"}]), &json!({}));
    assert!(Template::read(c.path()).unwrap_err().to_string().contains("default"));
}

/// The template and the special tokens of a GGUF file; the text is that of the published reference for it.
#[test]
fn a_gguf_file_brings_its_template() {
    use common::gguf::Value as G;
    let template = "{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' \
                    + m['content'] | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}\
                    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}";
    let tokens = ["<|begin_of_text|>", "<|eot_id|>", "a"].map(str::to_owned).to_vec();
    let bytes = common::gguf::file(
        &[
            ("general.architecture", G::Text("llama")),
            ("tokenizer.ggml.tokens", G::Texts(tokens)),
            ("tokenizer.ggml.bos_token_id", G::U32(0)),
            ("tokenizer.ggml.eos_token_id", G::U32(1)),
            ("tokenizer.chat_template", G::Text(template)),
        ],
        &[common::gguf::Tensor { name: "token_embd.weight".to_owned(), shape: vec![3, 1], values: vec![0.0; 3] }],
    );
    let folder = tempfile::tempdir().expect("a folder");
    // A file of Ollama's has no ending.
    let path = folder.path().join("sha256-0123");
    circuitscope::files::write_atomic(&path, &bytes).expect("it is written");
    let talk = [
        Message::new("user", "Hello there, what is 2+2?"),
        Message::new("assistant", "It is 4."),
        Message::new("user", "  And 10 != 11?\nThanks "),
    ];
    let text = open(&path).render(&talk, true).expect("it renders");
    assert_eq!(
        text,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello there, what is 2+2?<|eot_id|><|start_header_id|>\
         assistant<|end_header_id|>\n\nIt is 4.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd 10 != 11?\nThanks\
         <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

/// Text and ids of whole files: transformers' `apply_chat_template` on the models that they were made from.
#[test]
fn gguf_conversations_have_transformers_ids() {
    let text = std::fs::read_to_string(common::fixture("chat/gguf.json")).expect("the reference is there");
    let reference: Value = serde_json::from_str(&text).expect("JSON");
    for (name, chat) in reference.as_object().expect("files") {
        let path = common::fixture(&format!("gguf/{name}.gguf"));
        let model = circuitscope::model::Model::open(path.to_str().expect("UTF-8")).expect("it opens");
        let laid = chat::lay_out(&model, &messages(&chat["messages"]), Ending::Answer, false).expect("it lays out");
        assert_eq!(laid.text, chat["text"], "{name}");
        assert_eq!(laid.ids, common::ids(&chat["ids"]), "{name}");
        // A beginning that is asked for stands there once.
        let with = chat::lay_out(&model, &messages(&chat["messages"]), Ending::Answer, true).map(|l| l.ids);
        if let Ok(with) = with {
            let bos = model
                .tokenizer
                .as_ref()
                .and_then(circuitscope::model::tokenizer::Tokenizer::bos_token)
                .expect("it has one");
            assert_eq!(with.iter().filter(|id| **id == bos).count(), 1, "{name}");
        }
    }
}

/// In every template each message's words are found again, and only they, whatever it takes away or looks for in them.
#[test]
fn words_are_found_in_what_a_template_writes() {
    let reference = reference();
    for (name, template) in reference["templates"].as_object().expect("templates") {
        let folder = folder(template, &reference["special"]);
        let template = open(folder.path());
        for (talk, list) in reference["conversations"].as_object().expect("conversations") {
            let messages = messages(list);
            let Ok((text, spans)) = template.lay_out(&messages, Ending::Answer) else { continue };
            let mut end = 0;
            for (turn, span) in &spans {
                let words = &text[span.clone()];
                assert!(name == "odds" || span.start >= end, "{name}, {talk}: {spans:?}");
                end = span.end;
                let own = messages[*turn].content.to_string();
                let own: Value = serde_json::from_str(&own).expect("JSON");
                let inside = match &own {
                    Value::String(text) => text.contains(words),
                    parts => {
                        parts.as_array().expect("parts").iter().any(|p| p["text"].as_str().unwrap().contains(words))
                    }
                };
                assert!(inside && !words.is_empty(), "{name}, {talk}: {words:?} is not of {own}");
            }
            // What a template writes of a plain message is all of its words.
            if ["one", "three"].contains(&talk.as_str()) {
                let found: Vec<&str> = spans.iter().map(|(_, span)| &text[span.clone()]).collect();
                let own: Vec<&str> = messages.iter().map(|m| m.text().trim()).collect();
                assert_eq!(found, own, "{name}, {talk}: {text:?}");
            }
        }
    }
}

/// Thinking that a template drops is no part of the text; what is left of the message still is its own.
#[test]
fn thinking_that_is_dropped_leaves_the_answer() {
    let reference = reference();
    for name in ["qwen3", "deepseek-r1"] {
        let folder = folder(&reference["templates"][name], &reference["special"]);
        let talk = messages(&reference["conversations"]["thinking"]);
        let (text, spans) = open(folder.path()).lay_out(&talk, Ending::Closed).expect("it lays out");
        let of =
            |turn: usize| spans.iter().filter(|(t, _)| *t == turn).map(|(_, s)| &text[s.clone()]).collect::<String>();
        assert!(!text.contains("Easy."), "{text}");
        assert!(of(1).ends_with("It is 4.") && !of(1).contains("<"), "{name}: {:?} in {text:?}", of(1));
        assert!(of(3).ends_with("Yes."), "{name}: {:?} in {text:?}", of(3));
    }
}

/// A built-in model with a template of its own: its tokenizer knows one special token.
fn model_with(template: &str) -> (tempfile::TempDir, circuitscope::model::Model) {
    let folder = tempfile::tempdir().expect("a folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-model");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(assets.join(name), folder.path().join(name)).expect("it is copied");
    }
    let config = json!({"bos_token": "<|endoftext|>", "chat_template": template});
    write(folder.path(), "tokenizer_config.json", &config.to_string());
    let model = circuitscope::model::Model::open(folder.path().to_str().expect("UTF-8")).expect("it opens");
    (folder, model)
}

const PLAIN: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}[assistant] {% endif %}";

#[test]
fn tokens_know_their_turn_and_there_is_one_beginning() {
    let (_folder, model) = model_with(PLAIN);
    let talk = [Message::new("user", "Where is it?"), Message::new("assistant", "Over there.")];
    for bos in [false, true] {
        let laid = chat::lay_out(&model, &talk, Ending::Answer, bos).expect("it lays out");
        assert_eq!(laid.text, "<|endoftext|>[user] Where is it?\n[assistant] Over there.\n[assistant] ");
        assert_eq!(laid.ids.iter().filter(|id| **id == 0).count(), 1, "{:?}", laid.ids);
        assert_eq!((laid.ids[0], laid.turns[0], laid.ids.len()), (0, None, laid.turns.len()));
        for (turn, words) in [(0, "Where is it?"), (1, "Over there.")] {
            let of = |(id, t): (&u32, &Option<usize>)| (*t == Some(turn)).then(|| model.token_text(*id));
            let text: String = laid.ids.iter().zip(&laid.turns).filter_map(of).collect();
            // A token that the template shares with a message is the message's.
            assert!(text.contains(words) && text.len() <= words.len() + 4, "{text:?}");
        }
    }
    // A template that writes no beginning is given none, unless that is asked for.
    let (_folder, model) = model_with("{{ messages[0].content }}");
    let first = |bos| chat::lay_out(&model, &talk, Ending::Answer, bos).expect("it lays out").ids[0];
    assert!(first(false) != 0 && first(true) == 0);
}

/// The end of a conversation: before the answer, after the last message, or inside it.
#[test]
fn a_turn_can_be_left_open() {
    let (_folder, model) = model_with(PLAIN);
    let talk = [Message::new("user", "Hi"), Message::new("assistant", "It is")];
    let text = |ending| chat::lay_out(&model, &talk, ending, false).expect("it lays out").text;
    assert!(text(Ending::Answer).ends_with("It is\n[assistant] "));
    assert!(text(Ending::Closed).ends_with("It is\n"));
    assert!(text(Ending::Open).ends_with("[assistant] It is"));
}

/// A template that puts a value into a list a hundred thousand times, then does something with it.
fn deep(then: &str) -> String {
    format!("{{% set ns=namespace(x=[]) %}}{{% for i in range(100000) %}}{{% set ns.x=[ns.x] %}}{{% endfor %}}{then}")
}

#[test]
fn what_is_no_conversation_is_one_sentence() {
    let (folder, model) = model_with("{{ raise_exception('only one\nuser') }}");
    let spec = folder.path().to_str().expect("UTF-8");
    let path = folder.path().join("talk.json");
    let file = path.to_str().expect("UTF-8");
    for (text, says) in [
        ("", "is not a conversation"),
        ("{}", "holds no list of messages"),
        ("[]", "holds no message"),
        ("[1]", "message 0"),
        (r#"[{"content": "a"}]"#, "role"),
        (r#"[{"role": "user", "content": 3}]"#, "neither a text nor a list"),
        (r#"[{"role": "user", "content": "a"}]"#, "only one"),
    ] {
        write(folder.path(), "talk.json", text);
        let sentence = common::sentence(&["run", "-m", spec, "--chat", file], 2);
        assert!(sentence.contains(says), "{text}: {sentence}");
    }
    drop(model);
    // A template that never ends, one that is none, and a model that has none.
    write(folder.path(), "talk.json", r#"[{"role": "user", "content": "a"}]"#);
    for (template, says) in [
        ("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "fuel"),
        ("{% if %}", "cannot lay this conversation out"),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "fuel",
        ),
        ("{{ messages[0].content.foo() }}", "foo"),
        // Values in values: nothing goes into them without end, not even what throws them away.
        (deep("{{ ns.x }}").as_str(), "too deep"),
        (deep("{{ ns.x | tojson }}").as_str(), "too deep"),
        (deep("{{ ns.x == [ns.x] }}{{ raise_exception('over') }}").as_str(), "over"),
        (deep("{{ raise_exception('over') }}").as_str(), "over"),
        (
            "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x=[ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "too deep",
        ),
        (
            "{% set ns=namespace(x=[1]) %}{% for i in range(100000) %}{% for j in range(9) %}{% set ns.x=[[[[[[[[ns.x]]]]]]]] %}{% endfor %}{% endfor %}",
            "fuel",
        ),
    ] {
        write(folder.path(), "chat_template.jinja", template);
        let sentence = common::sentence(&["run", "-m", spec, "--chat", file], 2);
        assert!(sentence.contains(says), "{template}: {sentence}");
    }
    assert!(common::sentence(&["run", "-m", "text", "--chat", file], 2).contains("has no chat template"));
    assert!(common::sentence(&["run", "-m", "text", "--chat", "/nowhere.json"], 1).contains("/nowhere.json"));
}

#[test]
fn the_command_line_reads_conversations_from_files_and_standard_input() {
    let (folder, _model) = model_with(PLAIN);
    let spec = folder.path().to_str().expect("UTF-8");
    let talk = r#"{"messages": [{"role": "user", "content": "Where is it?"}]}"#;
    write(folder.path(), "talk.json", talk);
    let file = folder.path().join("talk.json");
    let file = file.to_str().expect("UTF-8");
    let turns = |doc: &Value| doc["tokens"].as_array().unwrap().iter().map(|t| t["turn"].clone()).collect::<Vec<_>>();
    let doc = common::json(&["run", "-m", spec, "--chat", file]);
    assert!(turns(&doc).contains(&json!(0)) && turns(&doc)[0].is_null(), "{doc}");
    let closed = common::json(&["lens", "-m", spec, "--chat", file, "--no-generation-prompt"]);
    assert!(turns(&closed).len() < turns(&doc).len());
    // A prompt that is no conversation has no turns.
    assert!(common::json(&["run", "-m", spec, "-p", "a"])["tokens"][0].get("turn").is_none());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"))
        .args(["run", "-m", spec, "--json", "--chat", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), talk.as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("it ends").stdout;
    let piped: Value = serde_json::from_slice(&out).expect("a document");
    assert_eq!(piped["tokens"], doc["tokens"]);
}

#[test]
fn conversations_are_patched_like_any_prompts() {
    let (folder, _model) = model_with(PLAIN);
    let spec = folder.path().to_str().expect("UTF-8");
    let file = |name: &str, words: &str| {
        write(folder.path(), name, &json!([{"role": "user", "content": words}]).to_string());
        folder.path().join(name).to_str().expect("UTF-8").to_owned()
    };
    let (clean, corrupt) = (file("clean.json", "Where is it?"), file("corrupt.json", "Where is he?"));
    let ids = |file: &str| {
        let tokens = common::json(&["run", "-m", spec, "--chat", file])["tokens"].clone();
        let ids: Vec<String> = tokens.as_array().unwrap().iter().map(|t| t["id"].to_string()).collect();
        ids.join(",")
    };
    let ask = ["patch", "-m", spec, "--site", "resid_pre", "--metric", "logit", "--answer", "a"];
    let by_chat = common::json(&[&ask[..], &["--clean-chat", &clean, "--corrupt-chat", &corrupt]].concat());
    let by_ids = common::json(&[&ask[..], &["--clean-ids", &ids(&clean), "--corrupt-ids", &ids(&corrupt)]].concat());
    assert_eq!(by_chat["values"], by_ids["values"]);
    assert!(by_chat["tokens"].as_array().unwrap().iter().any(|t| t["turn"] == json!(0)), "{by_chat}");
    let twice = common::sentence(&["patch", "-m", spec, "--clean-chat", &clean, "--clean", "a", "--site", "z"], 2);
    assert!(twice.contains("cannot be used with"), "{twice}");
}
