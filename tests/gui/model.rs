//! Two prompts, patching, edits, generation.

use crate::window::{document, look, settle, until, window};
use circuitscope::analysis::audit::audit;
use circuitscope::analysis::metric::{Metric, MetricKind};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{EditStack, RunSide, Site, SiteKind};
use circuitscope::model::matrix::Held;
use circuitscope::session::desk::{PatchSettings, Show, Source};
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};

pub const CLEAN: &str = "The President of the United States and the President of the";

pub const CORRUPTED: &str = "The President of the Roman States and the President of the";

/// A window with both prompts, once everything has been computed.
pub fn two_prompts() -> Harness<'static, App> {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(ModelAction::Corrupted(CORRUPTED.to_owned()), 0.0);
    settle(&mut h);
    h
}

#[test]
fn typing_a_corrupted_prompt_gives_a_second_run_and_a_difference() {
    let mut h = window(document(CLEAN));
    h.get_by_label("vs.").click();
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Corrupted prompt").type_text(CORRUPTED);
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.corrupted().unwrap().prompt, CORRUPTED);
    assert_eq!(state.showable(), [Show::Clean, Show::Corrupted, Show::Difference]);
    assert!(h.query_by_label_contains("other token 4").is_some());
    h.get_by_label("difference").click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.desk().show, Show::Difference);
    let lens = state.results.lens.get().unwrap();
    assert!(lens.fresh && lens.value.minus.is_some());
    // Before the first differing token nothing differs.
    let same = |l: usize| {
        let (a, b) = (lens.value.now.cell(l, 2).unwrap(), lens.value.minus.as_ref().unwrap().cell(l, 2).unwrap());
        (a.entropy - b.entropy).abs() < 1e-4
    };
    assert!((0..2).all(same));
}

/// Whichever run is shown, the clean prompt's tokens stand above, and the pinned one stays in sight when the second row
/// takes its room.
#[test]
fn the_rows_of_two_prompts_keep_their_places() {
    let mut h = window(document(CLEAN));
    let last = h.state().state.run().unwrap().trace.len() - 1;
    let found = |h: &Harness<'static, App>, name: &str| {
        let node = h.get_all_by_role(egui::accesskit::Role::Button);
        let named = node.filter(|n| n.accesskit_node().label().is_some_and(|l| l.starts_with(name)));
        named.map(|n| n.rect()).next().unwrap_or_else(|| panic!("no {name}"))
    };
    h.state_mut().state.apply(ModelAction::Corrupted(CORRUPTED.to_owned()), 0.0);
    settle(&mut h);
    let name = format!("token {last} ");
    let (own, other) = (found(&h, &name), found(&h, &format!("other {name}")));
    assert!(own.max.y <= other.min.y + 1.0, "clean {own:?}, corrupted {other:?}");
    assert!(h.query_by_label("clean tokens are shown, compared with the corrupted ones").is_some());
    let next = found(&h, "next ");
    assert!(own.max.x <= next.min.x, "{own:?} reaches under what comes next, {next:?}");
    h.state_mut().state.apply(ModelAction::Show(Show::Corrupted), 0.0);
    settle(&mut h);
    let (own, other) = (found(&h, &name), found(&h, &format!("other {name}")));
    assert!(other.max.y <= own.min.y + 1.0, "corrupted {own:?}, clean {other:?}");
    assert!(h.query_by_label("corrupted tokens are shown, compared with the clean ones").is_some());
    // In a window that is too narrow for all of them the last one is still seen.
    h.set_size(egui::vec2(900.0, 640.0));
    h.run_steps(4);
    let (own, next) = (found(&h, &name), found(&h, "next "));
    assert!(own.max.x <= next.min.x + 1.0, "{own:?} {next:?}");
}

#[test]
fn clicking_a_cell_of_the_patching_view_edits_the_run() {
    let mut h = two_prompts();
    h.get_by_label("Patching").click();
    h.run();
    settle(&mut h);
    let sweep = h.state().state.results.sweep.get().unwrap().found.clone().unwrap();
    assert!(sweep.done && sweep.values.len() == 8 && sweep.run == 8);
    // The bars at the side are the cells as well, strongest first.
    let values = sweep.normalised().unwrap();
    let strongest = (0..8).max_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs())).unwrap();
    let name = format!("{}.{} {:+.2}", strongest / 4, strongest % 4, values[strongest]);
    h.get_by_label(&name).click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.desk().stack.edits, [sweep.settings.edit(&sweep.cell(strongest))]);
    assert_eq!((state.desk().stack.base, state.desk().show), (RunSide::Corrupted, Show::Edited));
    // The edited run is the one the sweep measured.
    let edited = state.edited().unwrap();
    let Metric::LogitDifference { answer, wrong } = sweep.settings.metric else {
        panic!("{:?}", sweep.settings.metric)
    };
    let model = state.model.as_ref().unwrap();
    let row = edited.trace.normalized(edited.trace.len() - 1).unwrap();
    let logits = model.network().unembed(&row).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!((logits[answer as usize] - logits[wrong as usize] - sweep.values[strongest]).abs() < 1e-3);
    look(&mut h, "edits");
    assert!(!h.state().state.results.backup.get().unwrap().value.is_empty());
    look(&mut h, "patching");
    // Again: the edit leaves.
    h.get_by_label(&name).click();
    h.run();
    settle(&mut h);
    assert!(h.state().state.desk().stack.edits.is_empty() && h.state().state.desk().show != Show::Edited);
}

#[test]
fn edits_can_be_switched_moved_and_removed() {
    let mut h = two_prompts();
    let zero = |layer, head| Edit::new(Site::new(SiteKind::Z, layer), Do::Zero).head(head);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero(0, 1)]), 0.0);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero(1, 2)]), 0.0);
    h.state_mut().layout = Layout::single("edits");
    settle(&mut h);
    assert_eq!(h.state().state.desk().show, Show::Edited);
    h.get_by_label("move edit down 0").click();
    h.run();
    assert_eq!(h.state().state.desk().stack.edits, [zero(1, 2), zero(0, 1)]);
    h.get_by_label("edit 0").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.desk().stack.active().count(), 1);
    // E switches all off, and the views go back to the plain run.
    h.key_press(egui::Key::E);
    h.run();
    settle(&mut h);
    assert_eq!((h.state().state.desk().stack.active().count(), h.state().state.desk().show), (0, Show::Clean));
    h.get_by_label("remove edit 1").click();
    h.run();
    assert_eq!(h.state().state.desk().stack.edits.len(), 1);
    // A contradiction is refused in one sentence, and nothing else is lost.
    let same = zero(1, 2);
    let stack = EditStack { edits: vec![same.clone(), same], ..EditStack::default() };
    h.state_mut().state.apply(ModelAction::Edits("test", stack), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(state.results.edited.error().unwrap().contains("contradict"));
    assert!(state.results.run.get().is_some() && state.results.run.error().is_none());
}

#[test]
fn text_is_generated_with_and_without_edits() {
    let mut h = two_prompts();
    let zero = Edit::new(Site::new(SiteKind::AttnOut, 1), Do::Zero);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero]), 0.0);
    settle(&mut h);
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::G);
    h.run();
    settle(&mut h);
    let texts = h.state().state.results.generated.get().unwrap().value.clone();
    assert!(texts.done && texts.base.len() == 30);
    assert_ne!(texts.base, *texts.edited.as_ref().unwrap());
}

#[test]
fn prompts_of_different_length_are_aligned_and_patterns_refused() {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(ModelAction::Corrupted(CORRUPTED.replace("Roman", "old Roman")), 0.0);
    settle(&mut h);
    let state = &mut h.state_mut().state;
    let counterparts = state.runs.counterparts.clone();
    assert!(counterparts.iter().filter(|c| c.is_none()).count() >= 1, "{counterparts:?}");
    // Changed by hand.
    state.apply(ModelAction::Align(1, None), 0.0);
    assert_eq!(state.runs.counterparts[1], None);
    state.apply(ModelAction::Align(1, Some(1)), 0.0);
    let settings = PatchSettings { site: SiteKind::Pattern, ..state.desk().patching };
    state.apply(ModelAction::Patch(settings), 0.0);
    look(&mut h, "patching");
    let error = h.state().state.results.sweep.error().cloned().unwrap();
    assert!(error.contains("correspond one to one"), "{error}");
    h.state_mut().state.apply(ModelAction::Patch(PatchSettings { site: SiteKind::Z, ..settings }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.sweep.get().unwrap().found.as_ref().unwrap().done);
}

#[test]
fn the_approximation_is_audited_against_exact_runs() {
    let mut h = two_prompts();
    let settings = PatchSettings { source: Source::Gap, ..h.state().state.desk().patching };
    h.state_mut().state.apply(ModelAction::Patch(settings), 0.0);
    look(&mut h, "patching");
    let state = &h.state().state;
    let exact = state.results.sweep.get().unwrap().found.clone().unwrap();
    let close = state.results.approximation.get().unwrap();
    assert_eq!(exact.settings, close.value.settings);
    let report = audit(&close.value.normalised().unwrap(), &exact.normalised().unwrap()).unwrap();
    assert_eq!(report.cells, 8);
    // Cells that are known stay known when some are asked for by themselves.
    let before = exact.values.clone();
    h.state_mut().state.apply(ModelAction::Sweep(Some(vec![3, 5])), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.sweep.get().unwrap().found.as_ref().unwrap().values, before);
    // A rank has no gradient: the view says so instead of showing something else.
    h.state_mut().state.apply(ModelAction::Patch(PatchSettings { metric: MetricKind::Rank, ..settings }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.approximation.error().unwrap().contains("no gradient"));
}

#[test]
fn failures_of_the_other_runs_are_said_and_mend() {
    let mut h = two_prompts();
    look(&mut h, "patching");
    assert!(h.state().state.results.sweep.get().unwrap().fresh);
    // A corrupted prompt that cannot be run: nothing of the old one is taken for it.
    h.state_mut().state.apply(ModelAction::Corrupted("word ".repeat(600)), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(state.results.corrupted.error().unwrap().contains("512") && state.corrupted().is_none());
    assert!(state.pair().unwrap().corrupted.is_none() && !state.results.sweep.get().unwrap().fresh);
    look(&mut h, "lens");
    assert!(h.state().state.results.lens.get().unwrap().fresh);
    // Cleared while it is shown: back to the clean run.
    h.state_mut().state.apply(ModelAction::Show(Show::Corrupted), 0.0);
    h.state_mut().state.apply(ModelAction::Corrupted(String::new()), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.desk().show, Show::Clean);
    assert!(h.state().state.results.lens.get().unwrap().fresh);
    // Edits of another model: said where the edited run would be, and the clean one is a key away.
    let stack =
        EditStack { edits: vec![Edit::new(Site::new(SiteKind::Z, 23), Do::Zero).head(3)], ..EditStack::default() };
    h.state_mut().state.apply(ModelAction::Edits("test", stack), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.desk().show, Show::Edited);
    assert!(state.shown_error().unwrap().contains("layer 23") && state.run().is_none());
    h.state_mut().state.apply(ModelAction::Show(Show::Clean), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.lens.get().unwrap().fresh && h.state().state.run().is_some());
}

/// What is shown as fresh always belongs to what the selector says.
#[test]
fn a_difference_follows_its_edits() {
    let mut h = two_prompts();
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(1);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero.clone()]), 0.0);
    h.state_mut().state.apply(ModelAction::Show(Show::Difference), 0.0);
    settle(&mut h);
    let entropy = |h: &Harness<'static, App>| {
        let lens = h.state().state.results.lens.get().unwrap();
        assert!(lens.fresh);
        lens.value.minus.as_ref().unwrap().cell(1, 5).unwrap().entropy
    };
    let with_edit = entropy(&h);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero]), 0.0);
    settle(&mut h);
    // Now it is clean − corrupted, and position 5 of the corrupted run is another.
    assert_eq!(h.state().state.desk().show, Show::Difference);
    assert_ne!(with_edit, entropy(&h));
    // Edits of a corrupted run that cannot be made say so, and text asked for meanwhile is not waited for for ever.
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(2);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Corrupted, vec![zero]), 0.0);
    h.state_mut().state.apply(ModelAction::Corrupted("word ".repeat(600)), 0.0);
    settle(&mut h);
    h.state_mut().state.apply(ModelAction::Generate, 0.0);
    settle(&mut h);
    let r = &h.state().state.results;
    assert!(r.edited.error().unwrap().contains("cannot be made"));
    assert!(r.generated.error().unwrap().contains("cannot be made"));
}

/// Another way of holding the weights opens the model again; what is asked is asked again, with the same numbers.
#[test]
fn weights_are_held_as_chosen_and_the_numbers_stay() {
    let mut h = window(document(CLEAN));
    settle(&mut h);
    let read = |h: &Harness<'_, App>| {
        let state = &h.state().state;
        let model = state.model.as_ref().unwrap();
        (model.held, model.weight_bytes(), state.run().unwrap().trace.next.last().unwrap()[0])
    };
    let (held, bytes, top) = read(&h);
    assert_eq!(held, Held::F32);
    h.state_mut().state.apply(ModelAction::Weights(Held::Stored), 0.0);
    settle(&mut h);
    let (held, fewer, same) = read(&h);
    assert!(held == Held::Stored && fewer < bytes);
    assert!(same.id == top.id && (same.logit - top.logit).abs() < 1e-5 * top.logit.abs().max(1.0));
    h.state_mut().state.apply(Action::Undo, 1.0);
    settle(&mut h);
    assert_eq!(read(&h).0, Held::F32);
}

/// Text asked for while the prompt is still running comes once it has run.
#[test]
fn generation_waits_for_the_run() {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(ModelAction::Prompt(format!("{CLEAN} United")), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    h.state_mut().state.apply(ModelAction::Sampling(Default::default(), 5), 0.0);
    h.state_mut().state.apply(ModelAction::Generate, 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.generated.get().unwrap().value.base.len(), 5);
}

#[test]
fn the_end_stays_pinned_while_the_edited_prompt_grows() {
    let mut h = window(document(CLEAN));
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(1);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero]), 0.0);
    settle(&mut h);
    h.state_mut().state.apply(ModelAction::Prompt(format!("{CLEAN} United States")), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.pinned().pos + 1, state.run().unwrap().trace.len());
    assert_eq!(state.edited().unwrap().trace.len(), state.clean().unwrap().trace.len());
    // A click is answered while a text is being written: it has a thread of its own.
    h.state_mut().state.apply(ModelAction::Sampling(Default::default(), 400), 0.0);
    h.state_mut().state.apply(ModelAction::Generate, 0.0);
    let pinned = h.state().state.pinned();
    h.state_mut()
        .state
        .apply(ModelAction::Pin(circuitscope::session::desk::Pinned { layer: 0, head: Some(3), ..pinned }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.generated.get().unwrap().value.done);
}

/// What costs much says what it needs and waits; the rest of the window goes on.
#[test]
fn dear_work_waits_for_a_word() {
    let mut h = window(document(CLEAN));
    h.state().state.pool.ask_from(0.0);
    h.state_mut().show("graph");
    let asks = |h: &mut Harness<'static, App>| !h.state().state.pool.asking().is_empty();
    until(&mut h, "the graph asks first", asks);
    h.step();
    h.get_by_label_contains("attribution graph: needs ");
    h.get_by_label_contains("waits for your word");
    assert!(h.state().state.results.graph.get().is_none());
    h.get_by_label("Not now").click();
    until(&mut h, "it is not done", |h| h.state().state.results.graph.is_stopped());
    assert!(h.query_by_label("Go on").is_none());
    h.state_mut().state.results.graph.again();
    h.state_mut().state.ask();
    until(&mut h, "it asks again", asks);
    h.get_by_label("Go on").click();
    until(&mut h, "it is done", |h| h.state().state.results.graph.fresh().is_some());
    // Another prompt is another price.
    h.state_mut().state.apply(ModelAction::Prompt("The Secretary of".to_owned()), 0.0);
    until(&mut h, "the run asks first", |h| {
        h.state().state.pool.asking().iter().any(|a| a.label == "running the prompt")
    });
}
