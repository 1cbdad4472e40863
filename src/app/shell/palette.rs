//! The command palette: everything that has a name, by typing part of it.

use eframe::egui::{self, RichText};

use crate::app::action::{Action, Command};
use crate::app::features::{Chosen, FeatureAction};
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::model::ModelAction;
use crate::app::shell::help::keys;
use crate::app::shell::lessons::LessonAction;
use crate::app::state::State;
use crate::app::view;
use crate::app::widgets::token_text;
use crate::guide::{self, Place};
use crate::model::builtin::BUILTINS;
use crate::session::desk::{Focus, Pinned};
use crate::session::lesson;

#[derive(Default)]
pub struct CommandPalette {
    pub open: bool,
    query: String,
    selected: usize,
}

impl CommandPalette {
    pub fn show(&mut self) {
        self.open = true;
        self.query.clear();
        self.selected = 0;
    }

    pub fn ui(&mut self, ctx: &egui::Context, state: &State, actions: &mut Vec<Action>) {
        if !self.open {
            return;
        }
        let palette = Palette::of(ctx);
        let entries = found(ctx, state, &self.query);
        let last = entries.len().saturating_sub(1);
        let at = self.selected.min(last);
        let pressed = |key| ctx.input_mut(|i| i.consume_key(egui::Modifiers::NONE, key));
        let (down, up) = (pressed(egui::Key::ArrowDown), pressed(egui::Key::ArrowUp));
        self.selected = if down { (at + 1).min(last) } else { at.saturating_sub(usize::from(up)) };
        let mut chosen =
            if pressed(egui::Key::Enter) { entries.get(self.selected).map(|e| e.action.clone()) } else { None };
        let id = egui::Id::unique("command palette");
        // It hangs from the top: the list below grows and shrinks without moving the field.
        let room = ctx.content_rect().size();
        let above = (0.1 * room.y).min(72.0);
        let area = egui::Modal::default_area(id).anchor(egui::Align2::CENTER_TOP, [0.0, above]);
        let modal = egui::Modal::new(id).area(area).show(ctx, |ui| {
            ui.set_width((room.x - 40.0).clamp(60.0, 560.0));
            let hint = "A command, a view, a head (23.3), a token, a model, a lesson";
            let field = egui::TextEdit::singleline(&mut self.query).hint_text(hint).desired_width(f32::INFINITY);
            let response = ui.add(field).accessible_name("Type a command");
            response.request_focus();
            if response.changed() {
                self.selected = 0;
            }
            ui.add_space(theme::GRID);
            let height = (room.y - above - 70.0).clamp(24.0, 420.0);
            let list = egui::ScrollArea::vertical().max_height(height).min_scrolled_height(height).auto_shrink(false);
            list.show(ui, |ui| {
                for (i, entry) in entries.iter().enumerate() {
                    let right = RichText::new(&entry.right).font(theme::mono_small()).color(palette.weak);
                    let button = egui::Button::selectable(i == self.selected, RichText::new(&entry.title));
                    let response = ui.add_sized([ui.available_width(), 24.0], button.right_text(right).truncate());
                    if (down || up) && i == self.selected {
                        response.scroll_to_me(None);
                    }
                    if response.clicked() {
                        chosen = Some(entry.action.clone());
                    }
                }
                if entries.is_empty() {
                    ui.label(RichText::new("nothing has these letters").color(palette.weak));
                }
            });
        });
        if modal.should_close() {
            self.open = false;
        }
        if let Some(action) = chosen {
            self.open = false;
            actions.push(action);
        }
    }
}

/// Something that can be found and done.
struct Entry {
    title: String,
    /// Keys, or what it is.
    right: String,
    action: Action,
}

/// What fits, the best first: what begins with the letters or ends in them, then what contains them, then what has them
/// in this order.
fn found(ctx: &egui::Context, state: &State, query: &str) -> Vec<Entry> {
    let query = query.trim().to_lowercase();
    let mut all = commands(ctx);
    all.extend(things(state));
    let rank = |title: &str| {
        let title = title.to_lowercase();
        if title.starts_with(&query) {
            Some(0)
        } else if title.ends_with(&format!(" {query}")) {
            // "Show Circuit" for "circuit", before what only speaks of circuits.
            Some(1)
        } else if title.contains(&query) {
            Some(2)
        } else {
            is_subsequence(&query, &title).then_some(3)
        }
    };
    let mut ranked: Vec<(i32, Entry)> = all.into_iter().filter_map(|e| Some((rank(&e.title)?, e))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut entries: Vec<Entry> = ranked.into_iter().map(|(_, e)| e).collect();
    if !query.is_empty() {
        entries.splice(0..0, named(state, &query));
    }
    entries
}

/// Commands and views.
fn commands(ctx: &egui::Context) -> Vec<Entry> {
    let commands = Command::ALL.into_iter().filter(|c| *c != Command::Palette).map(|c| Entry {
        title: c.title().to_owned(),
        right: c.shortcut().map(|s| keys(ctx, &s)).unwrap_or_default(),
        action: Action::Do(c),
    });
    let views = view::all().map(|v| Entry {
        title: format!("Show {}", v.title),
        right: v.workspace.short().to_owned(),
        action: Action::Show(v.name),
    });
    commands.chain(views).collect()
}

/// Models, lessons, sessions and pages of the guide.
fn things(state: &State) -> Vec<Entry> {
    let entry = |title: String, right: &str, action| Entry { title, right: right.to_owned(), action };
    let models = BUILTINS.iter().map(|b| b.name.to_owned());
    let recent = state.recent.iter().filter(|r| BUILTINS.iter().all(|b| b.name != r.as_str())).cloned();
    let models = models.chain(recent).map(|spec| entry(format!("Open {spec}"), "model", Action::Open(spec)));
    let lessons = lesson::shipped();
    let lessons = lessons.iter().enumerate().map(|(k, l)| {
        let begin = LessonAction::Begin(k);
        entry(format!("Lesson: {}", l.title), "lesson", Action::Lesson(begin))
    });
    let sessions = state.sessions.iter();
    let sessions = sessions
        .map(|(path, name)| entry(format!("Open session {name}"), "session", Action::OpenSession(path.clone())));
    let pages = guide::pages()
        .iter()
        .map(|p| entry(format!("Guide: {}", p.title()), "guide", Action::Guide(Place::page(p.name))));
    models.chain(lessons).chain(sessions).chain(pages).collect()
}

/// What is meant by its own name: a head by its numbers, tokens of the prompt by their letters, a feature by its number.
fn named(state: &State, query: &str) -> Vec<Entry> {
    let pinned = state.pinned();
    let mut entries = Vec::new();
    let pin =
        |title: String, right: &str, p| Entry { title, right: right.to_owned(), action: ModelAction::Pin(p).into() };
    let config = state.model.as_ref().map(|m| &m.config);
    let numbers = query.trim_start_matches('a').replace(".h", ".");
    if let Some((layer, head)) = numbers.split_once('.').and_then(|(l, h)| Some((l.parse().ok()?, h.parse().ok()?)))
        && config.is_some_and(|c| layer < c.n_layers && head < c.n_heads)
    {
        let p = Pinned { layer, head: Some(head), all_heads: false, focus: Focus::Head, ..pinned };
        entries.push(pin(format!("Head {layer}.{head}"), "head", p));
    }
    if let Some(run) = state.run() {
        let fits = |text: &String| token_text::visible(text).to_lowercase().contains(query);
        for (pos, text) in run.texts.iter().enumerate().filter(|(_, t)| fits(t)).take(8) {
            let p = Pinned { pos, focus: Focus::Token, ..pinned };
            entries.push(pin(format!("Token {pos} {}", token_text::short(text, 24)), "token", p));
        }
    }
    if let Some(dictionary) = state.features.dictionary()
        && let Some(feature) =
            query.trim_start_matches(['#', 'f']).parse().ok().filter(|f| (*f as usize) < dictionary.d_sae)
    {
        let action = FeatureAction::Choose(Chosen::Feature(feature));
        entries.push(Entry {
            title: format!("Feature {feature}"),
            right: "feature".to_owned(),
            action: Action::Feature(action),
        });
    }
    entries
}

/// Whether the letters of `needle` stand in `hay` in this order.
fn is_subsequence(needle: &str, hay: &str) -> bool {
    let mut letters = hay.chars();
    needle.chars().filter(|c| !c.is_whitespace()).all(|c| letters.any(|h| h == c))
}

#[cfg(test)]
mod tests {
    use super::is_subsequence;

    #[test]
    fn letters_in_order() {
        assert!(is_subsequence("sat", "show attention"));
        assert!(!is_subsequence("xs", "show attention"));
        assert!(is_subsequence("", "anything"));
    }
}
