//! Scripts of tiny models.

use std::path::Path;
use std::sync::Arc;

use super::script::{WIDTH, guess, one_line, quoted, weights, wrapped};
use super::*;
use crate::analysis::sweep::Axes;
use crate::engine::edit::Direction;
use crate::engine::{Action, Edit, EditStack, Site, SiteKind};
use crate::progress::Progress;
use crate::session::desk::{PatchSettings, Source};

const CLEAN: [u32; 6] = [5, 9, 23, 44, 7, 31];
const CORRUPTED: [u32; 6] = [5, 9, 61, 44, 7, 12];

/// A model and two runs of it; the tiny models have no tokenizer, so that texts are ids.
struct Bench {
    clean: Run,
    pair: Pair,
}

impl Bench {
    fn on(family: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(family);
        Self::of(Model::open(folder.to_str().unwrap()).unwrap(), &CORRUPTED)
    }

    fn of(model: Model, corrupted: &[u32]) -> Self {
        let model = Arc::new(model);
        let run = |ids: &[u32]| Arc::new(Trace::run(&model, ids.to_vec(), &Progress::new()).unwrap());
        let pair = Pair::new(run(&CLEAN), run(corrupted));
        Self { clean: Run::of(String::new(), pair.clean.clone(), Some(50), Some(60)), pair }
    }

    fn python(&self, desk: &Desk, what: Snippet) -> Result<String> {
        python(desk, what, Facts { clean: &self.clean, pair: &self.pair })
    }
}

fn desk() -> Desk {
    Desk { model: "llama".to_owned(), ..Desk::default() }
}

fn edited(base: RunSide, edits: Vec<Edit>) -> Desk {
    Desk { show: Show::Edited, stack: EditStack { base, edits, ..EditStack::default() }.into(), ..desk() }
}

fn z() -> Edit {
    Edit::new(Site::new(SiteKind::Z, 1), Action::Zero).head(2)
}

#[test]
fn texts_become_python_strings_on_one_line() {
    assert_eq!(quoted("a\n\"b\"\\ 'c'\t\r\0"), r#""a\n\"b\"\\ 'c'\t\r\u0000""#);
    assert_eq!(quoted("é 日本 🙂"), "\"é 日本 🙂\"");
    // What an editor takes for the end of a line, or turns around, is escaped.
    assert_eq!(quoted("\u{2028}\u{85}\u{202e}\u{7f}"), "\"\\u2028\\u0085\\u202e\\u007f\"");
    assert_eq!(one_line("a\"\nb\""), "a\\\"\\nb\\\"");
    for text in ["x\ny", "\u{2028}", "\"", "\\"] {
        assert_eq!(serde_json::from_str::<String>(&quoted(text)).unwrap(), text);
    }
}

#[test]
fn long_lists_are_wrapped() {
    let ids: Vec<u32> = (10_000..10_050).collect();
    let text = wrapped("ids = torch.tensor([[", &ids, "]])");
    assert!(text.lines().count() > 2 && text.lines().all(|l| l.len() <= WIDTH + 3), "{text}");
    assert_eq!(text.matches(',').count(), 49);
    assert_eq!(wrapped("x = [", &[1, 2], "]"), "x = [1, 2]");
}

#[test]
fn names_of_weights_are_guessed_from_files() {
    assert_eq!(guess("SmolLM2-135M-Instruct.Q4_1"), "HuggingFaceTB/SmolLM2-135M-Instruct");
    assert_eq!(guess("qwen2.5-0.5b-IQ4_XS"), "Qwen/qwen2.5-0.5b");
    assert_eq!(guess("my-model.f16"), "my-model");
    assert_eq!(guess("pythia-70m"), "EleutherAI/pythia-70m");
    let bench = Bench::on("llama");
    let (name, note) = weights(&bench.clean.trace.model);
    assert!(name.ends_with("llama") && Path::new(&name).is_absolute() && note.is_none(), "{name}");
}

#[test]
fn every_script_names_its_ids_model_and_program() {
    let bench = Bench::on("llama");
    for what in Snippet::ALL {
        let text = bench.python(&desk(), what).unwrap();
        assert!(text.contains("[[5, 9, 23, 44, 7, 31]]"), "{text}");
        assert!(text.contains("MODEL = \"") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert!(text.contains("result = ") && text.contains("print("), "{text}");
        assert_eq!(text.contains("[[5, 9, 61, 44, 7, 12]]"), what == Snippet::Patching, "{text}");
        let sweeps = matches!(what, Snippet::Patching | Snippet::Ablation);
        assert_eq!(sweeps, text.contains("def metric"), "{text}");
        assert!(what == Snippet::Pattern || text.contains("answer = 50") && text.contains("wrong = 60"), "{text}");
    }
}

#[test]
fn the_run_that_is_shown_is_the_one_that_is_written() {
    let bench = Bench::on("llama");
    let corrupted = bench.python(&Desk { show: Show::Corrupted, ..desk() }, Snippet::Run).unwrap();
    assert!(corrupted.contains("61") && !corrupted.contains("23, 44"), "{corrupted}");
    let text = bench.python(&edited(RunSide::Clean, vec![z().at(3)]), Snippet::Lens).unwrap();
    assert!(text.contains("value[:, 3, 2] = 0.0") && text.contains("model.hooks(fwd_hooks=hooks)"), "{text}");
    let copy = Edit { action: Action::Copy(RunSide::Corrupted), ..z() };
    let text = bench.python(&edited(RunSide::Clean, vec![copy]), Snippet::Run).unwrap();
    assert!(text.contains("other_ids = torch.tensor([[5, 9, 61") && text.contains("other[\""), "{text}");
    let difference = Desk { show: Show::Difference, ..desk() };
    let error = bench.python(&difference, Snippet::Pattern).unwrap_err();
    assert!(error.is_request() && error.to_string().contains("difference of two runs"), "{error}");
    // An edit that is switched off is not part of the run.
    let off = edited(RunSide::Clean, vec![Edit { enabled: false, ..z() }]);
    assert!(!bench.python(&off, Snippet::Run).unwrap().contains("hooks"));
}

#[test]
fn sweeps_follow_the_settings() {
    let bench = Bench::on("llama");
    let sweep = |site, by, what| {
        let patching = PatchSettings { site, by, ..PatchSettings::default() };
        bench.python(&Desk { patching, ..desk() }, what)
    };
    let text = sweep(SiteKind::K, Axes::LayerHeadPos, Snippet::Patching).unwrap();
    assert!(text.contains("torch.full([3, 2, 6]") && text.contains("value[:, pos, head] = cache[name][:, pos, head]"));
    let text = sweep(SiteKind::Pattern, Axes::DestSrc { layer: 1, head: 3 }, Snippet::Ablation).unwrap();
    assert!(text.contains("layer, head = 1, 3") && text.contains("value[:, head, dest, src] = 0.0"), "{text}");
    let text = sweep(SiteKind::ResidMid, Axes::LayerPos, Snippet::Patching).unwrap();
    assert!(text.contains("hook_attn_out\", edit)") && text.contains("- own[f"), "{text}");
    assert!(sweep(SiteKind::Z, Axes::LayerPos, Snippet::Patching).unwrap_err().is_request());
}

#[test]
fn positions_without_a_counterpart_are_left_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/llama");
    let bench = Bench::of(Model::open(folder.to_str().unwrap()).unwrap(), &[5, 9, 8, 23, 44, 7, 31]);
    let patching = |site, by| Desk { patching: PatchSettings { site, by, ..PatchSettings::default() }, ..desk() };
    let text = bench.python(&patching(SiteKind::Z, Axes::LayerHead), Snippet::Patching).unwrap();
    assert!(text.contains("positions = [0, 1, 3, 4, 5, 6]") && text.contains("sources = [0, 1, 2, 3, 4, 5]"), "{text}");
    let error = bench.python(&patching(SiteKind::Pattern, Axes::LayerHead), Snippet::Patching).unwrap_err();
    assert!(error.to_string().contains("one to one"), "{error}");
}

#[test]
fn what_cannot_be_written_is_one_sentence() {
    let bench = Bench::on("llama");
    let post = |action| Edit::new(Site::new(SiteKind::ResidPost, 1), action);
    let vector = Direction::Vector(vec![1.0; 64]);
    let feature = Action::Feature {
        dictionary: "sae".to_owned(),
        feature: 3,
        change: crate::engine::edit::FeatureChange::Set(0.0),
    };
    for (edit, part) in [
        (post(Action::Add { direction: vector, factor: 1.0 }), "list of numbers"),
        (post(feature), "dictionary"),
        (Edit::new(Site::new(SiteKind::ResidMid, 1), Action::Zero), "resid_mid"),
        (Edit::new(Site::new(SiteKind::LnFinalScale, 0), Action::Scale(2.0)), "ln_final.hook_scale"),
    ] {
        let error = bench.python(&edited(RunSide::Clean, vec![edit]), Snippet::Run).unwrap_err();
        assert!(error.is_request() && error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let approximate = PatchSettings { source: Source::Approximate, ..PatchSettings::default() };
    let error = bench.python(&Desk { patching: approximate, ..desk() }, Snippet::Patching).unwrap_err();
    assert!(error.to_string().contains("approximate"), "{error}");
    let own = Bench::of(Model::open("induction").unwrap(), &CORRUPTED);
    let error = own.python(&desk(), Snippet::Run).unwrap_err();
    assert!(error.is_request() && error.to_string().contains("own family"), "{error}");
}

#[test]
fn a_window_and_a_file_pin_the_same() {
    let bench = Bench::on("llama");
    let facts = Facts { clean: &bench.clean, pair: &bench.pair };
    let mut d = desk();
    settle(&mut d, facts).unwrap();
    assert_eq!(d.pinned.pos, 5);
    let best = direct_attribution(&bench.clean.trace, 5, 50, Some(60)).unwrap().heads;
    let largest = best.iter().flatten().copied().fold(f32::MIN, f32::max);
    assert_eq!(best[d.pinned.layer][d.pinned.head.unwrap()], largest);
    let mut chosen = Desk { chose_head: true, chose_pos: true, ..desk() };
    chosen.pinned = Pinned { pos: 2, layer: 1, head: None, ..Pinned::default() };
    let before = chosen.pinned;
    settle(&mut chosen, facts).unwrap();
    assert_eq!(chosen.pinned, before);
}
