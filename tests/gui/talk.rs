//! Conversations in the prompt's place; the trust line.

use crate::common::{json, smollm2_path};
use crate::window::{settle, window};
use circuitscope::analysis::patterns::THUMB;
use circuitscope::analysis::sweep::Axes;
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::look::theme::Palette;
use circuitscope::app::model::ModelAction;
use circuitscope::app::model::talk::TalkAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::app::widgets::turns::{self, role_color, thinking};
use circuitscope::engine::SiteKind;
use circuitscope::engine::generate::Sampling;
use circuitscope::model::chat::{Conversation, Ending, Message};
use circuitscope::session::Desk;
use circuitscope::session::desk::PatchSettings;
use circuitscope::session::file::Session;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::path::Path;

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}[assistant] {% endif %}";

/// The built-in text model as a folder that has a chat template. `change` may spoil its tokenizer.
fn model(folder: &Path, change: impl Fn(&mut serde_json::Value)) -> String {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-model");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(assets.join(name), folder.join(name)).unwrap();
    }
    let text = std::fs::read_to_string(assets.join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    change(&mut tokenizer);
    let write = |name: &str, text: &str| {
        circuitscope::files::write_atomic(&folder.join(name), text.as_bytes()).unwrap();
    };
    write("tokenizer.json", &tokenizer.to_string());
    write("tokenizer_config.json", &serde_json::json!({"chat_template": TEMPLATE}).to_string());
    folder.to_str().unwrap().to_owned()
}

fn desk(model: &str) -> Desk {
    Desk { model: model.to_owned(), prompt: "Where is she?".to_owned(), ..Desk::default() }
}

fn apply(h: &mut Harness<'static, App>, action: impl Into<Action>) {
    // Nothing is joined to the change before.
    let now = h.state().state.round() as f64 * 10.0;
    h.state_mut().state.apply(action, now);
    settle(h);
}

fn talk(messages: &[(&str, &str)], ending: Ending) -> Conversation {
    Conversation { messages: messages.iter().map(|(r, c)| Message::new(r, c)).collect(), ending }
}

/// The run's text, and that of each message's tokens.
fn run(h: &Harness<'static, App>) -> (String, Vec<String>) {
    let run = h.state().state.run().expect("a run").clone();
    let n = run.turns.iter().flatten().max().map_or(0, |n| n + 1);
    let of = |turn: usize| {
        run.texts.iter().zip(&run.turns).filter(|(_, t)| **t == Some(turn)).map(|(text, _)| text.as_str()).collect()
    };
    (run.texts.concat(), (0..n).map(of).collect())
}

#[test]
fn a_conversation_takes_the_prompts_place_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    let plain = run(&h).0;
    h.get_by_label("chat").click();
    h.run();
    settle(&mut h);
    let (text, turns) = run(&h);
    assert_eq!(text, "[user] Where is she?\n[assistant] ");
    assert!(turns.len() == 1 && turns[0].contains("Where is she?"), "{turns:?}");
    // Typed into the message itself.
    h.get_by_label("Message 0").focus();
    h.run();
    h.get_by_label("Message 0").type_text(" Now.");
    h.run();
    settle(&mut h);
    assert!(run(&h).0.contains("Now."), "{}", run(&h).0);
    // A second turn, for the assistant, is left open: what is predicted goes on with it.
    h.get_by_label("+ assistant").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.desk().conversation.as_ref().unwrap().ending, Ending::Open);
    h.get_by_label("Message 1").focus();
    h.run();
    h.get_by_label("Message 1").type_text("She is");
    h.run();
    settle(&mut h);
    assert!(run(&h).0.ends_with("[assistant] She is"), "{:?}", run(&h).0);
    h.get_by_label("remove message 1").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.desk().conversation.as_ref().unwrap().messages.len(), 1);
    // Closed and opened again it is as it was; a prompt that was written since begins another.
    let held = h.state().state.desk().conversation.clone().unwrap();
    h.get_by_label("chat").click();
    h.run();
    settle(&mut h);
    assert!(h.state().state.desk().conversation.is_none() && run(&h).1.is_empty());
    h.get_by_label("chat").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.desk().conversation.as_ref(), Some(&held));
    // Each step is taken back by its name, to the prompt itself.
    for _ in 0..20 {
        if h.state().state.history.undoable().is_some() {
            apply(&mut h, Action::Undo);
        }
    }
    assert_eq!(run(&h), (plain, Vec::new()));
}

#[test]
fn a_conversation_is_part_of_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    let said = talk(&[("system", "Be brief."), ("user", "Where is she?")], Ending::Answer);
    apply(&mut h, TalkAction::Converse("begin a conversation", Some(said.clone())));
    apply(&mut h, TalkAction::Fold(true));
    let path = folder.path().join("a.scope");
    let document = h.state().state.document.clone();
    Session { file: None, document: document.clone() }.save(&path).unwrap();
    let again = Session::open(&path).unwrap().document;
    assert_eq!(again.desk, document.desk);
    assert_eq!(again.desk.conversation, Some(said));
    // Its numbers again, by the command line.
    let doc = json(&["session", "run", path.to_str().unwrap(), "--view", "lens"]);
    let ids: Vec<u64> = doc["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    let own: Vec<u64> = h.state().state.run().unwrap().trace.ids.iter().map(|id| u64::from(*id)).collect();
    assert_eq!(ids, own);
    // A model that has a template gets the conversation along, one that has none the last words.
    let beside = folder.path().join("other");
    std::fs::create_dir(&beside).unwrap();
    let other = model(&beside, |_| {});
    let weights = beside.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&0.5f32.to_le_bytes());
    circuitscope::files::write_atomic(&weights, &bytes).unwrap();
    apply(&mut h, Action::Open(other));
    assert_eq!(h.state().state.desk().conversation, again.desk.conversation);
    // A model without a template says so in the strip, and the prompt comes back by typing one.
    apply(&mut h, Action::Open("induction".to_owned()));
    assert!(h.state().state.desk().conversation.is_none(), "nothing of one model is shown on another");
    apply(&mut h, TalkAction::Converse("begin a conversation", Some(talk(&[("user", "Hi")], Ending::Answer))));
    assert!(h.state().state.shown_error().is_some_and(|e| e.contains("no chat template")));
    apply(&mut h, ModelAction::Prompt("Hi".to_owned()));
    assert!(h.state().state.shown_error().is_none() && h.state().state.desk().conversation.is_none());
}

#[test]
fn what_is_written_is_kept_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    apply(&mut h, TalkAction::Converse("begin", Some(talk(&[("user", "Where is she?")], Ending::Answer))));
    apply(&mut h, ModelAction::Sampling(Sampling::default(), 6));
    h.get_by_label("Write on").click();
    h.run();
    settle(&mut h);
    let written = h.state().state.generated_text().expect("it was generated");
    h.get_by_label("Keep").click();
    h.run();
    settle(&mut h);
    let c = h.state().state.desk().conversation.clone().unwrap();
    assert_eq!((c.messages.len(), c.messages[1].role.as_str(), c.ending), (2, "assistant", Ending::Open));
    assert_eq!(c.messages[1].text(), written.trim_start());
    // Generation goes on with the turn.
    apply(&mut h, ModelAction::Generate);
    let more = h.state().state.generated_text().expect("it was generated");
    apply(&mut h, TalkAction::Keep);
    let c = h.state().state.desk().conversation.clone().unwrap();
    assert_eq!(c.messages.len(), 2);
    assert_eq!(c.messages[1].text(), format!("{}{more}", written.trim_start()));
}

#[test]
fn thinking_is_folded_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    let thought = "<think>\nShe was here before.\n</think>\n\nThere.";
    let said = talk(&[("user", "Where is she?"), ("assistant", thought)], Ending::Open);
    apply(&mut h, TalkAction::Converse("begin", Some(said.clone())));
    assert!(h.query_by_label_contains("… ").is_none());
    apply(&mut h, TalkAction::Fold(true));
    // One chip stands for the thinking, and one bar of the inspector.
    assert_eq!(h.query_all_by_label_contains("… ").count(), 2);
    assert!(h.query_by_label_contains("thinking, ").is_some());
    // In every view: one row and column, one bar, one column of the graph, one point.
    let folded = |h: &Harness<'static, App>| turns::folded(h.state().state.run().unwrap(), h.state().state.desk());
    let ranges = folded(&h);
    let (n, hidden) = (h.state().state.run().unwrap().trace.len(), ranges[0].len() - 1);
    assert!(ranges.len() == 1 && hidden > 3);
    let name = format!("… {}", hidden + 1);
    let mut drawn = |folds: bool, view: &'static str| {
        apply(&mut h, TalkAction::Fold(folds));
        h.state_mut().layout = Layout::single(view);
        settle(&mut h);
        let shown = h.state().state.results.thumbnails.get().map(|t| t.value.now.side);
        let svg = h.state_mut().plate(view, egui::vec2(1200.0, 900.0), false);
        (svg.contains(&name), shown)
    };
    let long = n.min(THUMB);
    assert_eq!(drawn(false, "attention"), (false, Some(long)));
    assert_eq!(drawn(true, "attention"), (true, Some((n - hidden).min(THUMB))));
    for view in ["graph", "lens"] {
        assert!(!drawn(false, view).0 && drawn(true, view).0, "{view}");
    }
    h.state_mut().layout = Layout::default();
    settle(&mut h);
    // What is folded stays in the conversation when the rest is changed.
    h.get_by_label("Message 1").focus();
    h.run();
    h.get_by_label("Message 1").type_text(" Now.");
    h.run();
    settle(&mut h);
    let text = h.state().state.desk().conversation.as_ref().unwrap().messages[1].text().to_owned();
    assert_eq!(text, format!("{thought} Now."));
}

/// The bands of a printed view: how many there are in each role's colour.
fn bands(h: &mut Harness<'static, App>, view: &'static str) -> Vec<usize> {
    h.state_mut().layout = Layout::single(view);
    settle(h);
    let svg = h.state_mut().plate(view, egui::vec2(900.0, 600.0), false);
    let palette = Palette::of(&h.ctx);
    let thin = |rect: &&str| rect.contains("height=\"2\"") || rect.contains("width=\"2\"");
    let rects: Vec<&str> = svg.split('<').filter(|e| e.starts_with("rect")).filter(thin).collect();
    let of = |role: &str| {
        let [r, g, b, _] = role_color(&palette, role).to_array();
        let fill = format!("fill=\"#{r:02x}{g:02x}{b:02x}\"");
        rects.iter().filter(|e| e.contains(&fill)).count()
    };
    ["system", "user", "assistant"].map(of).to_vec()
}

const THOUGHT: &str = "<think>\nShe was here before.\n</think>\n\nThere.";

#[test]
fn every_view_with_tokens_tells_whose_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    let views = ["attention", "lens", "norms", "entropy", "activations", "patching", "graph"];
    let by_position = PatchSettings { site: SiteKind::ResidPost, by: Axes::LayerPos, ..Default::default() };
    apply(&mut h, ModelAction::Patch(by_position));
    for view in views {
        assert_eq!(bands(&mut h, view), [0, 0, 0], "{view} of a plain prompt");
    }
    let said = talk(&[("system", "Be brief."), ("user", "Where is she?"), ("assistant", THOUGHT)], Ending::Open);
    apply(&mut h, TalkAction::Converse("begin", Some(said)));
    let turns = h.state().state.run().unwrap().turns.clone();
    let of = |i: usize| turns.iter().filter(|t| **t == Some(i)).count();
    let each = [of(0), of(1), of(2)];
    assert!(each.iter().all(|n| *n > 0) && turns.iter().any(Option::is_none), "{turns:?}");
    for view in views {
        apply(&mut h, ModelAction::Patch(by_position));
        let found = bands(&mut h, view);
        // A pattern has tokens on both axes; beside it, and in the graph, more lines may be marked.
        let least: Vec<usize> = each.iter().map(|n| if view == "attention" { 2 * n } else { *n }).collect();
        assert!(found.iter().zip(&least).all(|(a, b)| a >= b), "{view}: {found:?}, not {least:?}");
    }
}

#[test]
fn folded_thinking_is_one_column() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk(&model(folder.path(), |_| {})));
    let said = talk(&[("user", "Where is she?"), ("assistant", THOUGHT)], Ending::Open);
    apply(&mut h, TalkAction::Converse("begin", Some(said)));
    let run = h.state().state.run().unwrap().clone();
    let folds = thinking(&run.texts);
    let (n, hidden) = (run.texts.len(), folds.iter().map(|r| r.len() - 1).sum::<usize>());
    assert!(folds.len() == 1 && hidden > 2, "{folds:?}");
    h.state_mut().layout = Layout::single("lens");
    settle(&mut h);
    h.get_by_label(&format!("logit lens: 3 × {n}"));
    apply(&mut h, TalkAction::Fold(true));
    let map = h.get_by_label(&format!("logit lens: 3 × {}", n - hidden)).rect();
    // Pointed at from left to right, each column answers for the position that is drawn there.
    let mut pointed = Vec::new();
    let mut x = map.min.x;
    while x < map.max.x {
        h.hover_at(egui::pos2(x, map.min.y + 40.0));
        h.run();
        pointed.extend(h.state().state.hovered.pos.filter(|p| pointed.last() != Some(p)));
        x += 6.0;
    }
    let kept: Vec<usize> = (0..n).filter(|i| !folds[0].contains(i) || *i == folds[0].start).collect();
    assert_eq!(pointed, kept);
    // A pattern folds on both axes.
    h.state_mut().layout = Layout::single("attention");
    settle(&mut h);
    h.get_by_label(&format!("attention pattern: {0} × {0}", n - hidden));
}

#[test]
fn a_conversation_runs_without_a_prompt_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let said = talk(&[("user", "Where is she?")], Ending::Answer);
    let h = window(Desk { prompt: String::new(), conversation: Some(said), ..desk(&model(folder.path(), |_| {})) });
    assert_eq!(run(&h).0, "[user] Where is she?\n[assistant] ");
}

#[test]
fn the_trust_line_says_what_speaks_against_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let mixed_up = |t: &mut serde_json::Value| {
        for id in t["model"]["vocab"].as_object_mut().unwrap().values_mut() {
            let old = id.as_u64().unwrap();
            *id = serde_json::json!(if old == 0 { 0 } else { 1 + (old * 7 + 3) % 1023 });
        }
    };
    let mut h = window(desk(&model(folder.path(), mixed_up)));
    let said = h.state().state.trust.warnings();
    assert!(said.len() == 1 && said[0].contains("nats a token"), "{said:?}");
    assert!(h.query_by_label_contains("trust: The loss on ordinary English").is_some());
    // Of another model nothing is said.
    apply(&mut h, Action::Open("induction".to_owned()));
    assert!(h.state().state.trust.warnings().is_empty());
    assert!(h.query_by_label_contains("trust: ").is_none());
    let good = tempfile::tempdir().unwrap();
    apply(&mut h, Action::Open(model(good.path(), |_| {})));
    assert!(h.state().state.trust.warnings().is_empty());
    assert!(h.query_by_label_contains("trust: 3.4").is_some());
}

#[test]
fn smollm2_answers() {
    let mut h =
        window(Desk { model: smollm2_path().to_str().unwrap().to_owned(), prompt: "x".to_owned(), ..Desk::default() });
    let question = talk(&[("user", "What is the capital of France?")], Ending::Answer);
    apply(&mut h, TalkAction::Converse("begin", Some(question)));
    let (text, turns) = run(&h);
    assert!(text.ends_with("<|im_start|>assistant\n"), "{text:?}");
    assert_eq!(turns, ["What is the capital of France?"]);
    apply(&mut h, ModelAction::Sampling(Sampling::default(), 12));
    apply(&mut h, ModelAction::Generate);
    apply(&mut h, TalkAction::Keep);
    let c = h.state().state.desk().conversation.clone().unwrap();
    assert!(c.messages[1].text().contains("Paris"), "{c:?}");
}
