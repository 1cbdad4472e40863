//! What keys and the mouse do, on one page. And the changes so far, to go back to.

use eframe::egui::{self, KeyboardShortcut, RichText};

use crate::app::App;
use crate::app::action::{Action, Command, GESTURES, Group};
use crate::app::look::theme::{self, Palette};
use crate::app::shell::helper;
use crate::app::widgets::names::spoken;

/// A shortcut as it is printed on keys.
pub fn keys(ctx: &egui::Context, shortcut: &KeyboardShortcut) -> String {
    let text = ctx.format_shortcut(shortcut);
    let names = [
        ("OpenBracket", "["),
        ("CloseBracket", "]"),
        ("Escape", "Esc"),
        ("ArrowLeft", "←"),
        ("ArrowRight", "→"),
        ("ArrowUp", "↑"),
        ("ArrowDown", "↓"),
        ("Left", "←"),
        ("Right", "→"),
        ("Up", "↑"),
        ("Down", "↓"),
    ];
    let found = names.iter().find(|(name, _)| text.ends_with(name));
    found.map_or_else(|| text.clone(), |(name, sign)| format!("{}{sign}", &text[..text.len() - name.len()]))
}

/// What a command does, with its keys.
pub fn hint(ctx: &egui::Context, command: Command) -> String {
    match command.shortcut() {
        Some(s) => format!("{} ({})", command.title(), keys(ctx, &s)),
        None => command.title().to_owned(),
    }
}

impl App {
    /// The page of keys and gestures.
    pub(in crate::app) fn help(&mut self, ctx: &egui::Context) {
        let palette = Palette::of(ctx);
        let size = egui::vec2(880.0, 640.0);
        helper::show(ctx, "Keys and mouse", &mut self.shortcuts_open, (size, egui::Vec2::splat(0.5)), |ui| {
            let columns = if ui.available_width() > 660.0 { 2 } else { 1 };
            egui::ScrollArea::both().min_scrolled_height(0.0).auto_shrink(false).show(ui, |ui| {
                ui.columns(columns, |uis| {
                    for (k, group) in Group::ALL.into_iter().enumerate() {
                        let ui = &mut uis[k % columns];
                        ui.label(RichText::new(group.title()).font(theme::title()).color(palette.accent));
                        for command in Command::ALL.into_iter().filter(|c| c.group() == group) {
                            if let Some(s) = command.shortcut() {
                                line(ui, palette, command.title(), &keys(ui.ctx(), &s));
                            }
                        }
                        for (_, what, how) in GESTURES.iter().filter(|g| g.0 == group) {
                            line(ui, palette, what, how);
                        }
                        ui.add_space(2.0 * theme::GRID);
                    }
                });
            });
        });
    }

    /// The changes so far, each to be gone back to.
    pub(in crate::app) fn history(&mut self, ctx: &egui::Context) {
        let palette = Palette::of(ctx);
        let mut jump = None;
        let (size, at) = (egui::vec2(300.0, 400.0), egui::vec2(0.96, 0.25));
        helper::show(ctx, "History of changes", &mut self.history_open, (size, at), |ui| {
            ui.label(
                RichText::new("A click goes there; nothing is lost by it.").font(theme::small()).color(palette.weak),
            );
            let (names, done) = self.state.history.changes();
            egui::ScrollArea::vertical()
                .min_scrolled_height(0.0)
                .auto_shrink([false, false])
                .stick_to_bottom(true)
                .show(ui, |ui| {
                    if ui.selectable_label(done == 0, "as it was at first").clicked() {
                        jump = Some(0);
                    }
                    for (k, name) in names.enumerate() {
                        let color = if k < done { palette.text } else { palette.weak };
                        if ui.selectable_label(k + 1 == done, RichText::new(spoken(name)).color(color)).clicked() {
                            jump = Some(k + 1);
                        }
                    }
                });
        });
        if let Some(done) = jump {
            self.state.apply(Action::Jump(done), self.now);
        }
    }
}

fn line(ui: &mut egui::Ui, palette: Palette, what: &str, how: &str) {
    ui.horizontal(|ui| {
        let (rect, _) = ui.allocate_exact_size(egui::vec2(172.0, 18.0), egui::Sense::hover());
        let color = palette.weak;
        ui.painter().text(rect.left_center(), egui::Align2::LEFT_CENTER, how, theme::mono(), color);
        ui.add(egui::Label::new(what).wrap());
    });
}
