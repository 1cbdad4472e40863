//! Short messages that fade, and the history they fade into.

use std::collections::VecDeque;

use eframe::egui;

use super::helper;
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::widgets::names::spoken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Error,
}

#[derive(Clone, Debug)]
pub struct Notice {
    pub level: Level,
    pub text: String,
    /// The change it tells of, which can be taken back from here while it is the last.
    change: Option<String>,
    /// Seconds of the window's clock at which it came.
    at: Option<f64>,
    dismissed: bool,
}

/// Messages, newest last.
#[derive(Default)]
pub struct Notices {
    list: VecDeque<Notice>,
    pub history_open: bool,
}

const KEPT: usize = 200;
const SECONDS_INFO: f64 = 4.0;
const SECONDS_ERROR: f64 = 12.0;

impl Notices {
    pub fn push(&mut self, level: Level, text: impl Into<String>) {
        self.add(level, text.into(), None);
    }

    /// Tells of a change, with a way back.
    pub fn done(&mut self, change: &str) {
        self.add(Level::Info, format!("Done: {}.", spoken(change)), Some(change.to_owned()));
    }

    fn add(&mut self, level: Level, text: String, change: Option<String>) {
        // The same message again refreshes the old one.
        self.list.retain(|n| n.text != text);
        self.list.push_back(Notice { level, text, change, at: None, dismissed: false });
        while self.list.len() > KEPT {
            self.list.pop_front();
        }
    }

    pub fn latest(&self) -> Option<&Notice> {
        self.list.back()
    }

    /// What has gone wrong so far.
    pub fn errors(&self) -> Vec<String> {
        self.list.iter().filter(|n| n.level == Level::Error).map(|n| n.text.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Draws the messages that are still fresh, so many points from the right, and the history if it is open. True if the
    /// last change, which is called so, is to be taken back.
    pub fn ui(&mut self, ctx: &egui::Context, right: f32, last: Option<&str>) -> bool {
        let mut undo = false;
        let now = ctx.input(|i| i.time);
        let palette = Palette::of(ctx);
        let mut fresh = Vec::new();
        for (i, n) in self.list.iter_mut().enumerate() {
            let at = *n.at.get_or_insert(now);
            let lasts = if n.level == Level::Error { SECONDS_ERROR } else { SECONDS_INFO };
            if !n.dismissed && now - at < lasts {
                fresh.push(i);
                ctx.request_repaint_after(std::time::Duration::from_secs_f64((lasts - (now - at)).max(0.05)));
            }
        }
        if !fresh.is_empty() {
            egui::Area::new(egui::Id::unique("notices"))
                .order(egui::Order::Foreground)
                .anchor(egui::Align2::RIGHT_BOTTOM, [-12.0 - right, -36.0])
                .show(ctx, |ui| {
                    for i in fresh {
                        let n = &mut self.list[i];
                        let color = if n.level == Level::Error { palette.error } else { palette.accent };
                        egui::Frame::popup(ui.style()).stroke(egui::Stroke::new(1.0, color)).show(ui, |ui| {
                            ui.set_max_width(460.0);
                            ui.horizontal_top(|ui| {
                                ui.add(egui::Label::new(egui::RichText::new(&n.text).color(palette.text)).wrap());
                                if n.change.as_deref().is_some_and(|c| last == Some(c))
                                    && ui.small_button("undo").clicked()
                                {
                                    (undo, n.dismissed) = (true, true);
                                }
                                if ui
                                    .add(egui::Button::new("×").small().frame(false))
                                    .on_hover_text("dismiss")
                                    .clicked()
                                {
                                    n.dismissed = true;
                                }
                            });
                        });
                    }
                });
        }
        let mut open = self.history_open;
        // Above the button that opens it.
        let (size, at) = (egui::vec2(460.0, 320.0), egui::vec2(0.94, 0.92));
        helper::show(ctx, "Messages", &mut open, (size, at), |ui| {
            if self.list.is_empty() {
                ui.weak("Nothing has happened yet.");
            } else if ui.small_button("clear").on_hover_text("forgets these messages").clicked() {
                self.list.clear();
            }
            egui::ScrollArea::vertical().min_scrolled_height(0.0).auto_shrink([false, false]).show(ui, |ui| {
                for n in self.list.iter().rev() {
                    let (mark, color) =
                        if n.level == Level::Error { ("error", palette.error) } else { ("note", palette.weak) };
                    ui.horizontal_top(|ui| {
                        ui.add_sized(
                            [40.0, 16.0],
                            egui::Label::new(egui::RichText::new(mark).font(theme::small()).color(color)),
                        );
                        ui.add(egui::Label::new(egui::RichText::new(&n.text).font(theme::small())).wrap());
                    });
                    ui.separator();
                }
            });
        });
        self.history_open = open;
        undo
    }
}
