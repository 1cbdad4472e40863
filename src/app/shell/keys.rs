//! Keys: which command they are, and which field they reach.

use eframe::egui::{self, Event, Key, RawInput};

use crate::app::App;
use crate::app::action::Command;
use crate::app::model::views;
use crate::app::view::Workspace;

/// Lets a field that was given the keyboard have the keys that were pressed after that. On a slow frame a click or a
/// shortcut and the letters that follow it arrive together, and the field does not have the keyboard yet when they are
/// read: what comes after the first event that may move the keyboard waits for the next frame.
#[derive(Default)]
pub struct OneFocusAFrame {
    later: Vec<Event>,
}

impl egui::Plugin for OneFocusAFrame {
    fn debug_name(&self) -> &'static str {
        "one focus a frame"
    }

    fn input_hook(&mut self, ctx: &egui::Context, input: &mut RawInput) {
        let mut events = std::mem::take(&mut self.later);
        events.append(&mut input.events);
        let end = frame_end(&events, ctx.text_edit_focused());
        if events[end..].iter().any(is_typed) {
            self.later = events.split_off(end);
            ctx.request_repaint();
        }
        input.events = events;
    }
}

/// Whether this goes to what has the keyboard.
fn is_typed(event: &Event) -> bool {
    matches!(
        event,
        Event::Key { pressed: true, .. } | Event::Text(_) | Event::Paste(_) | Event::Copy | Event::Cut | Event::Ime(_)
    )
}

/// How many events can be read in one frame: up to one that may move the keyboard, or that decides about what was typed
/// before it.
fn frame_end(events: &[Event], typing: bool) -> usize {
    let mut typed = false;
    for (k, event) in events.iter().enumerate() {
        if typed && decides(event) {
            return k;
        }
        if moves_keyboard(event, typing) {
            // A key and its letter are one.
            return k + 1 + usize::from(matches!(events.get(k + 1), Some(Event::Text(_))));
        }
        typed |= matches!(event, Event::Text(_));
    }
    events.len()
}

/// Whether this takes what a field holds, or chooses among what the field has found.
fn decides(event: &Event) -> bool {
    let keys = [Key::Enter, Key::Tab, Key::Escape, Key::ArrowUp, Key::ArrowDown];
    matches!(event, Event::Key { key, pressed: true, .. } if keys.contains(key))
}

/// Whether a field may have the keyboard after this that has not got it now.
fn moves_keyboard(event: &Event, typing: bool) -> bool {
    match event {
        Event::PointerButton { .. } => true,
        // A key that is held would fall behind, one repetition a frame.
        Event::Key { repeat: true, .. } => false,
        Event::Key { key, pressed: true, modifiers, .. } => {
            let walks =
                [Key::ArrowUp, Key::ArrowDown, Key::ArrowLeft, Key::ArrowRight, Key::OpenBracket, Key::CloseBracket]
                    .contains(key);
            let leaves = [Key::Enter, Key::Tab, Key::Escape].contains(key);
            leaves || modifiers.command && !walks || !typing && !walks
        }
        _ => false,
    }
}

/// Seconds for which a second Escape stops what runs.
const OFFER: f64 = 4.0;

impl App {
    /// Turns keys into commands.
    pub(in crate::app) fn keys(&mut self, ctx: &egui::Context) {
        if self.palette.open || self.chooser.is_some() || self.export.is_some() {
            return;
        }
        let typing = ctx.text_edit_focused();
        // While the graph has the keyboard, arrows walk in it.
        let walking = ctx.memory(|m| m.has_focus(views::graph::canvas_id()));
        let mut pressed = Vec::new();
        // The more specific first: Ctrl+Shift+O is also a Ctrl+O.
        let mut commands = Command::ALL;
        commands.sort_by_key(|c| c.shortcut().is_none_or(|s| !s.modifiers.shift));
        for command in commands {
            let Some(shortcut) = command.shortcut() else { continue };
            // Escape closes a menu before anything else.
            let menu = command == Command::Back && egui::Popup::is_any_open(ctx);
            // Space presses whatever has the keyboard.
            let elsewhere = command == Command::Play
                && (self.layout.workspace != Workspace::Superposition || ctx.memory(|m| m.focused().is_some()));
            if menu || elsewhere || typing && command.yields_to_typing() || walking && command.yields_to_graph() {
                continue;
            }
            if ctx.input_mut(|i| i.consume_shortcut(&shortcut)) {
                pressed.push(command);
            }
        }
        for command in pressed {
            self.command(ctx, command);
        }
    }

    /// Closes what is on top. Where nothing is, a second time within a few seconds stops what runs.
    pub(in crate::app) fn back(&mut self, ctx: &egui::Context) {
        if self.shortcuts_open || self.guide.open || self.history_open {
            (self.shortcuts_open, self.guide.open, self.history_open) = (false, false, false);
        } else if self.state.notices.history_open {
            self.state.notices.history_open = false;
        } else if self.state.document.look.presents || self.state.document.look.filled.is_some() {
            (self.state.document.look.presents, self.state.document.look.filled) = (false, None);
        } else if !self.state.works() {
            self.stop_offered = None;
        } else if self.stop_offered.is_some_and(|at| self.now - at < OFFER) {
            self.stop_offered = None;
            self.command(ctx, Command::Cancel);
        } else {
            self.stop_offered = Some(self.now);
        }
    }

    /// The offer to stop what runs.
    pub(in crate::app) fn offer_to_stop(&mut self, ctx: &egui::Context) {
        let Some(at) = self.stop_offered else { return };
        let left = OFFER - (self.now - at);
        if left <= 0.0 || !self.state.works() {
            self.stop_offered = None;
            return;
        }
        ctx.request_repaint_after(std::time::Duration::from_secs_f64(left));
        let running = self.state.pool.running().first().map_or("what runs", |t| t.label).to_owned();
        let area = egui::Area::new(egui::Id::unique("stop")).order(egui::Order::Foreground);
        area.anchor(egui::Align2::LEFT_BOTTOM, [12.0, -36.0]).show(ctx, |ui| {
            egui::Frame::popup(ui.style()).show(ui, |ui| {
                ui.horizontal(|ui| {
                    ui.label(format!("Escape again stops: {running}"));
                    if ui.button("Stop").clicked() {
                        self.stop_offered = None;
                        self.command(ctx, Command::Cancel);
                    }
                });
            });
        });
    }
}
