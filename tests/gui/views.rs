//! Every view: tiny and long prompts, numbers, pictures.

use crate::window::{PROMPT, causes, document, features, probes, settle, training, window};
use circuitscope::app::action::Command;
use circuitscope::app::export::provenance::Provenance;
use circuitscope::app::look::svg::paint_cells;
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::app::shell::presets::Preset;
use circuitscope::app::view::Workspace;
use circuitscope::app::{App, view};
use circuitscope::gpu::heatmap::{Coloring, HeatmapCallback};
use circuitscope::gpu::offscreen::Offscreen;
use circuitscope::gpu::{ColorMap, HeatData};
use circuitscope::session::Document;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

#[test]
fn tiny_and_long_prompts_are_drawn() {
    let mut h = window(document("a"));
    assert_eq!(h.state().state.run().unwrap().trace.len(), 1);
    h.state_mut().layout = Layout::everything(Workspace::Model);
    h.run();
    let long: String = (0..480).map(|i| if i % 7 == 0 { " the" } else { " of" }).collect();
    h.state_mut().state.apply(ModelAction::Prompt(long), 0.0);
    settle(&mut h);
    assert!(h.state().state.run().unwrap().trace.len() > 400);
}

#[test]
fn every_view_exports_its_numbers() {
    let mut h = window(document(PROMPT));
    causes(&mut h);
    let _dictionary = features(&mut h);
    probes(&mut h);
    for view in view::all() {
        training(&mut h, view.name);
        h.state_mut().layout = Layout::single(view.name);
        settle(&mut h);
        let app = h.state();
        let palette = circuitscope::app::look::theme::Palette::of(&h.ctx);
        let (mut actions, mut hovered) = (Vec::new(), Default::default());
        let cx = view::Context { state: &app.state, palette, actions: &mut actions, hovered: &mut hovered };
        let table =
            app.layout.pane(view.name).unwrap().0.table(&cx).unwrap_or_else(|| panic!("{} has no numbers", view.name));
        assert_eq!(table.values.len(), table.rows.len(), "{}", view.name);
        for table in std::iter::once(&table).chain(&table.more) {
            let full = table.values.iter().all(|row| row.len() == table.cols.len());
            assert!(full && table.values.len() == table.rows.len(), "{}", table.name);
            assert!(table.cols.iter().all(|c| !c.is_empty()), "{} has a column without a name", table.name);
        }
        let of = Provenance::of(&app.state, view);
        assert!(table.csv(&of).lines().count() > table.rows.len(), "{}", view.name);
        assert!(table.csv(&of).starts_with("# program: circuitscope"), "{}", view.name);
        let json = table.json(&of);
        assert_eq!(json["axes"].as_array().unwrap().len(), 2);
        assert!(table.npz(&of).unwrap().len() > 100);
        // And it is printed, with its title and what it is of.
        let svg = h.state_mut().plate(view.name, egui::vec2(900.0, 600.0), true);
        assert!(svg.contains(view.title) && svg.contains("circuitscope 0"), "{}", view.name);
        if let Some(folder) = std::env::var_os("CIRCUITSCOPE_PLATES") {
            let png = circuitscope::app::export::print::png(&svg, 1.0).unwrap();
            let path = std::path::Path::new(&folder).join(format!("{}.png", view.name));
            circuitscope::files::write_atomic(&path, &png).unwrap();
        }
    }
}

/// What a control does is said where it is pointed at.
#[test]
fn a_choice_says_what_it_does() {
    let mut h = window(document(PROMPT));
    let combo = egui::accesskit::Role::ComboBox;
    let at = h.get_by_role_and_label(combo, "isolate").rect().center();
    h.hover_at(at);
    h.run_steps(8);
    assert!(h.query_by_label_contains("dims everything but the pinned").is_some());
    // In a narrow pane the choices stand in a row of their own.
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Arrange(Preset::Circuit));
    settle(&mut h);
    let pane = h.state().layout.pane("attention").unwrap().1.unwrap();
    assert!(pane.width() < 340.0, "{pane:?}");
    for name in ["average", "isolate"] {
        let rect = h.get_by_role_and_label(combo, name).rect();
        assert!(pane.contains_rect(rect), "{name}: {rect:?} in {pane:?}");
    }
}

/// Values copied from a heatmap say what they are of, as everything that leaves does.
#[test]
fn copied_values_say_what_they_are_of() {
    let mut h = window(document(PROMPT));
    h.state_mut().layout = Layout::single("lens");
    settle(&mut h);
    let map = h.get_by_label_contains("logit lens: 2 × ").rect();
    h.hover_at(map.center());
    h.run();
    for pressed in [true, false] {
        let (pos, button) = (map.center(), egui::PointerButton::Secondary);
        h.event(egui::Event::PointerButton { pos, button, pressed, modifiers: egui::Modifiers::NONE });
        h.run();
    }
    h.get_by_label("Copy values as CSV").click();
    let mut copied = None;
    for _ in 0..4 {
        h.step();
        copied = copied.or_else(|| {
            h.output().platform_output.commands.iter().find_map(|c| match c {
                egui::OutputCommand::CopyText(text) => Some(text.clone()),
                _ => None,
            })
        });
    }
    let text = copied.expect("something was copied");
    assert!(text.starts_with("# program: circuitscope") && text.contains(PROMPT), "{text}");
    // Two layers below the names of the tokens.
    let rows: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    assert!(rows.len() == 3 && rows[0].starts_with(','), "{text}");
}

/// Draws with a software adapter and compares with the picture in `tests/snapshots`.
#[test]
fn every_view_looks_as_it_did() {
    let mut results = egui_kittest::SnapshotResults::new();
    for theme in [egui::Theme::Dark, egui::Theme::Light] {
        let mut h = Harness::builder()
            .with_size([640.0, 480.0])
            .with_max_steps(60)
            .with_theme(theme)
            .with_render_cursor(false)
            .with_os(egui::os::OperatingSystem::Nix)
            .wgpu()
            .build_eframe(|cc| {
                if let Some(state) = &cc.wgpu_render_state {
                    circuitscope::gpu::install(state);
                }
                let mut document = Document::from(document(PROMPT));
                document.look.light = theme == egui::Theme::Light;
                App::new(&cc.egui_ctx, document, Vec::new())
            });
        // Times and machines differ between runs; a view alone shows neither.
        settle(&mut h);
        causes(&mut h);
        let _dictionary = features(&mut h);
        probes(&mut h);
        let name = if theme == egui::Theme::Dark { "dark" } else { "light" };
        for view in view::all() {
            training(&mut h, view.name);
            h.state_mut().layout = Layout::single(view.name);
            h.state_mut().bare = true;
            // What a view shows is asked for when it is seen; the toy models are there already.
            if view.workspace == Workspace::Superposition {
                h.run();
            } else {
                settle(&mut h);
            }
            results.add(h.try_snapshot(format!("{}-{name}", view.name)));
        }
        results.extend_harness(&mut h);
    }
}

/// Many rows on few pixels are taken together by their extremes; columns wide enough for pixels of their own are not.
#[test]
fn crowded_rows_leave_their_columns_apart() {
    let (rows, cols) = (20_000, 3);
    let values = (0..rows * cols).map(|i| if i % cols == 1 && i / cols == 10_150 { 1.0 } else { 0.0 }).collect();
    let data = HeatData::new(rows, cols, values);
    let ctx = egui::Context::default();
    let map = ColorMap::ALL[0];
    let picture = Offscreen::new()
        .unwrap()
        .render(&ctx, egui::vec2(90.0, 50.0), 1.0, 2, |ui| {
            let rect = egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(90.0, 50.0));
            let coloring = Coloring {
                map,
                low: 0.0,
                high: 1.0,
                signed: false,
                nan: egui::Color32::BLACK,
                gap: egui::Color32::BLACK,
                gap_width: 0.0,
                opacity: 1.0,
            };
            let cells = HeatmapCallback {
                widget: 1,
                data: data.clone(),
                rect,
                window: [0.0, 0.0, cols as f32, rows as f32],
                coloring,
            };
            paint_cells(ui, ui.painter(), cells, || None);
        })
        .unwrap();
    let bright: Vec<(u32, u32)> = picture
        .enumerate_pixels()
        .filter(|(.., p)| p[0].abs_diff(map.at(1.0).r()) < 8)
        .map(|(x, y, _)| (x, y))
        .collect();
    assert!(!bright.is_empty(), "one cell of twenty thousand rows is seen");
    assert!(bright.iter().all(|(x, y)| (30..60).contains(x) && (24..=26).contains(y)), "{bright:?}");
    assert!((30..60).all(|x| bright.iter().any(|(b, _)| *b == x)), "{bright:?}");
}

/// What the colours are made for is chosen at the colour bar, kept in the document, and taken back like all else.
#[test]
fn colours_are_made_for_what_is_chosen_at_their_bar() {
    let mut h = window(document(PROMPT));
    causes(&mut h);
    let _dictionary = features(&mut h);
    for (view, first, other) in [
        ("activations", "all but the first token", "each row by itself"),
        ("attribution", "all", "99 % of all"),
        ("patching", "all", "each row by itself"),
        ("features", "all", "all but the first token"),
    ] {
        h.state_mut().show(view);
        h.state_mut().layout = Layout::single(view);
        settle(&mut h);
        h.get_by_label(&format!("colours for {first}")).click();
        h.run();
        h.get_by_label(other).click();
        h.run();
        h.get_by_label(&format!("colours for {other}"));
        assert!(h.state().state.desk().views.contains_key(view), "{view}");
        assert_eq!(h.state().state.history.undoable(), Some(&*format!("settings of {view}")));
    }
    // A logarithm is a range of its own; without it the largest values can be left out.
    h.state_mut().layout = Layout::single("norms");
    settle(&mut h);
    assert!(h.query_by_label_contains("colours for").is_none());
    h.get_by_label("log colour").click();
    h.run();
    h.get_by_label("colours for all").click();
    h.run();
    h.get_by_label("99 % of all").click();
    h.run();
    h.get_by_label("colours for 99 % of all");
}

/// Of tabs that do not all fit, the one that a command shows is moved into sight.
#[test]
fn a_view_that_is_shown_has_its_tab_in_sight() {
    let mut h = window(document(PROMPT));
    h.set_size(egui::vec2(1000.0, 640.0));
    h.run();
    let places = |h: &Harness<'static, App>, shown: &'static str| {
        let pane = h.state().layout.pane(shown).unwrap().1.unwrap();
        (pane.x_range(), h.get_by_label("Generation").rect().x_range())
    };
    let (pane, tab) = places(&h, "activations");
    assert!(tab.max > pane.max, "{tab:?} in {pane:?}");
    h.state_mut().show("generation");
    h.run_steps(6);
    let (pane, tab) = places(&h, "generation");
    assert!(tab.min >= pane.min && tab.max <= pane.max, "{tab:?} in {pane:?}");
}

/// Rows of fields are broken where they are full: none lies outside its panel.
#[test]
fn fields_stay_inside_their_panel() {
    let mut h = window(document(PROMPT));
    h.state_mut().show("dictionary-training");
    let _dir = features(&mut h);
    use egui::accesskit::Role;
    for (kind, role, fields) in [
        ("dictionary-training", Role::SpinButton, &["features", "k", "steps", "tokens"][..]),
        ("dictionary-training", Role::TextInput, &["text to train on"]),
        ("directions", Role::TextInput, &["tokens towards", "tokens away from", "reference text"]),
        ("directions", Role::Button, &["Try doses"]),
    ] {
        h.state_mut().show(kind);
        h.run();
        let pane = h.state().layout.pane(kind).unwrap().1.unwrap();
        for field in fields {
            let rect = h.get_by_role_and_label(role, field).rect();
            assert!(pane.contains_rect(rect), "{field}: {rect:?} in {pane:?}");
        }
    }
}
