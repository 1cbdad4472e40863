//! The lines at the top: workspaces, model and look; the prompt and what is asked of it; what it is compared with.

use crate::app::model::{ModelAction, trust};
use crate::app::view::{Context, Workspace};
use crate::app::widgets::ragged;
use eframe::egui::{self, RichText};

use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::shell::help::{hint, keys};
use crate::app::shell::lessons::Lessons;
use crate::app::shell::presets::Preset;
use crate::app::shell::talk::{self, Talk};
use crate::app::widgets::token_field::TokenField;
use crate::app::widgets::token_text;
use crate::guide;
use crate::jobs::AnySlot;
use crate::jobs::slot::Slot;
use crate::memory;
use crate::model::builtin::BUILTINS;
use crate::model::found::FoundModels;
use crate::model::matrix::Held;
use crate::session::desk::Show;

/// Texts being edited; the document follows them.
#[derive(Default)]
pub struct TopBar {
    prompt: String,
    answer: String,
    wrong: String,
    path: String,
    corrupted: String,
    /// The second line is open.
    comparing: bool,
    /// Set once from the document, then whenever the document changes by itself.
    seen: Option<[String; 4]>,
    pub focus_prompt: bool,
    focus_corrupted: bool,
    /// What the fields of the answer and of the token against it offer.
    choices: [TokenField; 2],
    /// The conversation in the prompt's place.
    talk: Talk,
    /// Models of other programs on this machine, asked for while the menu is open.
    found: Slot<FoundModels>,
}

/// Points of the line from which the workspaces are called by their full titles.
const BROAD: f32 = 1250.0;
/// Points from which the program's name stands there too, and the model's is not cut.
const ROOMY: f32 = 960.0;
/// Points below which the line scrolls.
const LEAST: f32 = 690.0;
/// Points of the palette's button.
const PALETTE: f32 = 62.0;
/// Lines of a prompt that are shown at once; longer ones scroll.
const LINES: f32 = 6.0;

pub const PROMPT_ID: &str = "prompt";
pub const ANSWER_ID: &str = "answer";

impl TopBar {
    pub fn slots(&mut self) -> [&mut dyn AnySlot; 1] {
        [&mut self.found]
    }

    /// The first line: workspaces, lessons, model, and how the window looks.
    pub fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, workspace: Workspace, lessons: &Lessons) {
        let width = ui.available_width();
        if width >= LEAST {
            return self.line(ui, cx, workspace, lessons, width);
        }
        // What does not fit is reached by scrolling.
        egui::ScrollArea::horizontal().id_salt("top").show(ui, |ui| {
            ui.set_width(LEAST);
            self.line(ui, cx, workspace, lessons, LEAST);
        });
    }

    fn line(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, workspace: Workspace, lessons: &Lessons, width: f32) {
        ui.horizontal_centered(|ui| {
            if width >= ROOMY {
                ui.label(RichText::new("circuitscope").font(theme::title()).size(14.0));
                ui.add_space(theme::GRID);
            }
            workspaces(ui, cx, workspace, width < BROAD);
            let button = ui.button("Lessons  ▾").on_hover_text("guided tours");
            egui::Popup::menu(&button).show(|ui| lessons.menu(ui, cx.actions));
            if matches!(workspace, Workspace::Model | Workspace::Features) {
                ui.separator();
                self.model_menu(ui, cx, width < ROOMY);
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| appearance(ui, cx, workspace));
        });
    }

    /// The texts follow the document where it changes by itself.
    fn follow(&mut self, cx: &Context<'_>) {
        let d = cx.state.desk();
        let current = [&d.prompt, &d.answer, &d.wrong, &d.corrupted].map(Clone::clone);
        if self.seen.as_ref() != Some(&current) {
            [self.prompt, self.answer, self.wrong, self.corrupted] = current.clone();
            self.seen = Some(current);
        }
    }

    /// The prompt, and what is asked of it.
    pub fn question(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        self.follow(cx);
        ui.with_layout(egui::Layout::right_to_left(egui::Align::TOP), |ui| {
            if ui.available_width() >= ROOMY {
                run_time(ui, cx);
            }
            self.answers(ui, cx);
            let open = self.is_comparing(cx);
            let text = RichText::new("vs.").color(if open { cx.palette.accent } else { cx.palette.text });
            if ui.button(text).on_hover_text("compare with a corrupted prompt").clicked() {
                self.comparing = !open;
                self.focus_corrupted = self.comparing;
                if open && !self.corrupted.is_empty() {
                    self.corrupted.clear();
                    cx.push(ModelAction::Corrupted(String::new()));
                    self.remember();
                }
            }
            talk::toggle(ui, cx);
            if let Some(conversation) = cx.state.desk().conversation.clone() {
                self.focus_prompt = false;
                return self.talk.ui(ui, cx, &conversation);
            }
            let hint = "Prompt: a text for the model to go on with";
            let response = editor(ui, &mut self.prompt, PROMPT_ID, "Prompt", hint);
            let said = "the prompt; Shift+Enter begins a line, Enter leaves the field";
            let response = response.on_hover_text(said);
            if std::mem::take(&mut self.focus_prompt) {
                response.request_focus();
            }
            if response.changed() {
                cx.push(ModelAction::Prompt(self.prompt.clone()));
                self.remember();
            }
        });
    }

    /// Whether the line of the corrupted prompt and the runs is shown.
    pub fn is_comparing(&self, cx: &Context<'_>) -> bool {
        self.comparing || !cx.state.desk().corrupted.is_empty() || !cx.state.desk().stack.edits.is_empty()
    }

    /// The line below: the corrupted prompt, and which run the views show.
    pub fn compare(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        ui.with_layout(egui::Layout::right_to_left(egui::Align::TOP), |ui| {
            which_run(ui, cx);
            let hint = "Corrupted prompt: one that differs in what is being investigated";
            let response = editor(ui, &mut self.corrupted, "corrupted prompt", "Corrupted prompt", hint);
            let response = response.on_hover_text("the corrupted prompt, which the one above is compared with");
            if std::mem::take(&mut self.focus_corrupted) {
                response.request_focus();
            }
            if response.changed() {
                cx.push(ModelAction::Corrupted(self.corrupted.clone()));
                self.remember();
            }
        });
    }

    fn remember(&mut self) {
        self.seen = Some([&self.prompt, &self.answer, &self.wrong, &self.corrupted].map(Clone::clone));
    }

    fn model_menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, narrow: bool) {
        let name = match (cx.state.opened.is_running(), &cx.state.model) {
            (true, _) => "opening …".to_owned(),
            (false, Some(m)) => m.config.name.clone(),
            (false, None) => "no model".to_owned(),
        };
        let facts = cx.state.model.as_ref().map(|m| format!("{} × {}", m.config.n_layers, m.config.n_heads));
        let text = match facts {
            Some(_) if narrow => format!("{}  ▾", token_text::short(&name, 12)),
            Some(f) => format!("{}  {f}  ▾", token_text::short(&name, 30)),
            None => format!("{name}  ▾"),
        };
        let button = ui.button(text).on_hover_text("open another model; facts of this one");
        trust::line(ui, cx, narrow);
        egui::Popup::menu(&button).close_behavior(egui::PopupCloseBehavior::CloseOnClickOutside).show(|ui| {
            ui.set_min_width(340.0);
            ui.label(RichText::new("Built in").font(theme::small()).color(cx.palette.weak));
            for b in BUILTINS {
                if ui.button(b.name).clicked() {
                    cx.push(Action::Open(b.name.to_owned()));
                    ui.close();
                }
                below_a_name(ui, cx, egui::Label::wrap, b.purpose);
            }
            let recent: Vec<&String> =
                cx.state.recent.iter().filter(|r| BUILTINS.iter().all(|b| b.name != r.as_str())).collect();
            if !recent.is_empty() {
                ui.label(RichText::new("Recent").font(theme::small()).color(cx.palette.weak));
                for spec in recent {
                    let short = std::path::Path::new(spec)
                        .file_name()
                        .map_or_else(|| spec.clone(), |n| n.to_string_lossy().into_owned());
                    if ui.button(short).on_hover_text(spec).clicked() {
                        cx.push(Action::Open(spec.clone()));
                        ui.close();
                    }
                    below_a_name(ui, cx, egui::Label::truncate, spec);
                }
            }
            self.found_models(ui, cx);
            sessions(ui, cx);
            ui.separator();
            if let Some(m) = &cx.state.model {
                ui.collapsing("This model", |ui| {
                    ragged(ui, |ui| {
                        facts_table(ui, m);
                        weights_choice(ui, cx);
                        trust::report(ui, cx);
                    });
                });
                ui.separator();
            }
            ui.horizontal(|ui| {
                if ui.button("Open file…").on_hover_text("a .gguf file").clicked() {
                    cx.push(Action::Do(Command::OpenFile));
                    ui.close();
                }
                if ui.button("Open folder…").on_hover_text("config.json with *.safetensors").clicked() {
                    cx.push(Action::Do(Command::OpenFolder));
                    ui.close();
                }
            });
            let field = egui::TextEdit::singleline(&mut self.path).hint_text("Path of a model, or hf:org/name").desired_width(330.0);
            let response = ui
                .add(field)
                .accessible_name("Path of a model")
                .on_hover_text("a .gguf file or a model folder, or hf:org/name[@revision][:file], which is downloaded once; Enter opens it");
            if response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter)) && !self.path.trim().is_empty() {
                cx.push(Action::Open(self.path.trim().to_owned()));
                ui.close();
            }
            ui.label(
                RichText::new("or drop a file or folder on the window").font(theme::small()).color(cx.palette.weak),
            );
        });
    }

    /// Models in the caches of other programs; those that cannot be opened say why.
    pub fn found_models(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        // Looked for again whenever the menu is opened.
        let (frame, id) = (ui.ctx().cumulative_frame_nr(), egui::Id::unique("found models"));
        let (last, round) = ui.data(|d| d.get_temp::<(u64, u64)>(id)).unwrap_or((0, 0));
        let round = if frame > last + 1 { round + 1 } else { round };
        ui.data_mut(|d| d.insert_temp(id, (frame, round)));
        self.found.want(&cx.state.pool, Some(FoundModels { round }));
        self.found.poll();
        let Some(list) = self.found.value().filter(|list| !list.models.is_empty()).cloned() else { return };
        ui.menu_button(format!("Found on this machine ({})", list.models.len()), |ui| {
            let free = list.available;
            egui::ScrollArea::vertical().max_height(360.0).show(ui, |ui| {
                for (found, facts) in &list.models {
                    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
                    let (about, fits) = match facts {
                        Ok(f) => {
                            let (decoded, stored) = (f.memory_bytes(), f.stored_bytes);
                            let fits = free.is_none_or(|free| decoded.min(stored) <= free);
                            (format!("{} · {} stored, {} f32", f.family, gb(stored), gb(decoded)), fits)
                        }
                        Err(_) => ("cannot be opened".to_owned(), false),
                    };
                    let color = if fits { cx.palette.weak } else { cx.palette.warning };
                    let about = RichText::new(about).font(theme::small()).color(color);
                    let button = egui::Button::new(token_text::short(&found.name, 44)).right_text(about);
                    let said = match facts {
                        Ok(_) => format!("{}\n{}, {} on the disk", found.path.display(), found.cache, gb(found.bytes)),
                        Err(reason) => reason.clone(),
                    };
                    let response = ui.add_enabled(facts.is_ok(), button);
                    if response.on_hover_text(&said).on_disabled_hover_text(&said).clicked() {
                        // Two caches may hold models of one name.
                        cx.push(Action::Open(found.path.display().to_string()));
                        ui.close();
                    }
                }
            });
        });
    }

    fn answers(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let difference = cx.state.run().filter(|_| cx.state.cover.hides("strip").is_none()).and_then(|r| {
            let a = cx.state.results.attribution.get()?;
            (a.pos + 1 == r.trace.len()).then_some(a.logit)
        });
        let text = difference.map_or_else(String::new, |d| format!("{d:+.2}"));
        let said =
            if self.wrong.is_empty() { "logit of the answer" } else { "logit of the answer, minus that of the other" };
        let label = RichText::new(text).font(theme::mono()).color(cx.palette.accent);
        ui.add_sized([52.0, 24.0], egui::Label::new(label)).on_hover_text(said);
        let notes = cx.state.clean().map_or_else(Vec::new, |r| r.notes.clone());
        let wrong = self.choices[1].ui(ui, cx, &mut self.wrong, ("against", "Wrong answer", "wrong"), &notes);
        ui.add_sized([10.0, 24.0], egui::Label::new(RichText::new("−").color(cx.palette.weak)));
        let answer = self.choices[0].ui(ui, cx, &mut self.answer, ("answer", "Answer", ANSWER_ID), &notes);
        if answer {
            cx.push(ModelAction::Answer(self.answer.clone()));
            self.remember();
        }
        if wrong {
            cx.push(ModelAction::Wrong(self.wrong.clone()));
            self.remember();
        }
    }
}

/// A field of several lines that grows with its text. Enter leaves it, Shift+Enter begins a line.
pub fn editor(ui: &mut egui::Ui, text: &mut String, id: &str, name: &str, hint: &str) -> egui::Response {
    const MARGIN: egui::Vec2 = egui::vec2(8.0, 4.0);
    let width = ui.available_width();
    let room = width - 2.0 * MARGIN.x - ui.spacing().scroll.bar_width;
    let whole = ui.painter().layout(text.clone(), theme::mono(), egui::Color32::PLACEHOLDER, room.max(40.0));
    let line = whole.size().y / whole.rows.len().max(1) as f32;
    let height = line * (whole.rows.len() as f32).clamp(1.0, LINES) + 2.0 * MARGIN.y;
    let field = egui::TextEdit::multiline(text)
        .id(egui::Id::unique(id))
        .hint_text(hint)
        .font(theme::mono())
        .margin(MARGIN)
        .desired_rows(1)
        .return_key(egui::KeyboardShortcut::new(egui::Modifiers::SHIFT, egui::Key::Enter))
        .desired_width(f32::INFINITY);
    let down = egui::Layout::top_down(egui::Align::Min);
    ui.allocate_ui_with_layout(egui::vec2(width, height), down, |ui| {
        ui.set_min_height(height);
        let scroll = egui::ScrollArea::vertical().id_salt(id).max_height(height).min_scrolled_height(height);
        let response = scroll.show(ui, |ui| ui.add(field).accessible_name(name)).inner;
        let done = |i: &egui::InputState| i.key_pressed(egui::Key::Enter) && !i.modifiers.shift;
        if response.has_focus() && ui.input(done) {
            response.surrender_focus();
        }
        response
    })
    .inner
}

/// The line under a model's name.
fn below_a_name(ui: &mut egui::Ui, cx: &Context<'_>, cut: impl Fn(egui::Label) -> egui::Label, text: &str) {
    let text = RichText::new(text).font(theme::small()).color(cx.palette.weak);
    ragged(ui, |ui| ui.add(cut(egui::Label::new(text))));
}

/// Which run the views show; right to left.
fn which_run(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let possible = cx.state.showable();
    for show in Show::ALL.into_iter().rev() {
        let text = RichText::new(show.label()).font(theme::small());
        let button = egui::Button::selectable(cx.state.desk().show == show, text);
        let response = ui.add_enabled(possible.contains(&show), button);
        let help = match show {
            Show::Clean => "all views show the prompt's own run",
            Show::Corrupted => "all views show the corrupted prompt's run",
            Show::Edited => "all views show the run under the active edits",
            Show::Difference => "edited − base where there are edits, else clean − corrupted",
        };
        let disabled = match show {
            Show::Edited => "there are no active edits; click a cell of the patching view or use the edits view",
            _ => "type a corrupted prompt first",
        };
        if response.on_hover_text(help).on_disabled_hover_text(disabled).clicked() {
            cx.push(ModelAction::Show(show));
        }
    }
    // As high as the buttons beside it.
    let label = egui::Label::new(RichText::new("show").font(theme::small()).color(cx.palette.weak));
    ui.add_sized([34.0, 22.0], label).on_hover_text(hint(ui.ctx(), Command::NextRun));
    let n = cx.state.desk().stack.edits.len();
    if n > 0 {
        let active = cx.state.desk().stack.active().count();
        let text = RichText::new(format!("{active} of {n} edits on")).font(theme::small()).color(cx.palette.accent);
        if ui.button(text).on_hover_text(hint(ui.ctx(), Command::ToggleEdits)).clicked() {
            cx.push(Action::Do(Command::ToggleEdits));
        }
    }
    if ui.button("⇄").on_hover_text(hint(ui.ctx(), Command::SwapPrompts)).clicked() {
        cx.push(Action::Do(Command::SwapPrompts));
    }
}

fn run_time(ui: &mut egui::Ui, cx: &Context<'_>) {
    let time = cx.state.run().map_or_else(|| "run –".to_owned(), |r| format!("run {:.3} s", r.trace.seconds));
    let label = egui::Label::new(RichText::new(time).font(theme::mono()).color(cx.palette.weak));
    ui.add_sized([88.0, 24.0], label).on_hover_text("time of the last run: forward pass, loss and next tokens");
}

/// Which workspace is shown.
fn workspaces(ui: &mut egui::Ui, cx: &mut Context<'_>, current: Workspace, narrow: bool) {
    for w in Workspace::ALL {
        let text = RichText::new(if narrow { w.short() } else { w.title() }).font(theme::body());
        let button = egui::Button::selectable(current == w, text);
        let response = ui.add(button).accessible_name(w.title()).on_hover_text(w.help());
        if response.clicked() {
            cx.push(Action::Enter(w));
        }
    }
}

/// The guide, theme, layout and command palette; right to left.
fn appearance(ui: &mut egui::Ui, cx: &mut Context<'_>, workspace: Workspace) {
    let about = ui.button("?").on_hover_text(hint(ui.ctx(), Command::Guide));
    about.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, "help"));
    if about.clicked() {
        cx.push(Action::Guide(guide::of_workspace(workspace.name())));
    }
    let dark = cx.palette.dark;
    if ui.button(if dark { "☀" } else { "☾" }).on_hover_text(hint(ui.ctx(), Command::ToggleTheme)).clicked() {
        cx.push(Action::Do(Command::ToggleTheme));
    }
    let button = ui.button("Layout  ▾").on_hover_text("where the views stand");
    egui::Popup::menu(&button).show(|ui| {
        let presets = Preset::ALL.map(Command::Arrange);
        for command in presets.into_iter().chain([Command::ResetLayout, Command::Fill, Command::Present]) {
            let shortcut = command.shortcut().map(|s| keys(ui.ctx(), &s)).unwrap_or_default();
            if ui.add(egui::Button::new(command.title()).shortcut_text(shortcut)).clicked() {
                cx.push(Action::Do(command));
                ui.close();
            }
        }
    });
    // Where there is no room the key does it alone.
    if ui.available_width() < PALETTE {
        return;
    }
    let shortcut = Command::Palette.shortcut().map(|s| ui.ctx().format_shortcut(&s)).unwrap_or_default();
    if ui.button(RichText::new(shortcut).font(theme::small())).on_hover_text(Command::Palette.title()).clicked() {
        cx.push(Action::Do(Command::Palette));
    }
}

/// How the weights are held in memory, with the bytes that each way takes.
fn weights_choice(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let Some(m) = &cx.state.model else { return };
    let chosen = cx.state.desk().weights;
    let auto = if chosen == Held::Auto { format!("auto: {}", m.held.name()) } else { "auto".to_owned() };
    let ways = [
        (Held::Auto, auto, "f32 where that leaves half of the free memory free, else as stored"),
        (
            Held::Stored,
            format!("stored, {}", memory::bytes(m.stored_bytes)),
            "as the file holds them: less memory, slower products, the same numbers to rounding",
        ),
        (Held::F32, format!("f32, {}", memory::bytes(4 * m.n_params as u64)), "decoded once: the fastest products"),
    ];
    ui.horizontal(|ui| {
        ui.label(RichText::new("hold weights").font(theme::small()).color(cx.palette.weak));
        for (held, name, what) in ways {
            if ui.selectable_label(held == chosen, name).on_hover_text(what).clicked() && held != chosen {
                cx.push(Action::Model(ModelAction::Weights(held)));
            }
        }
    });
}

/// What is known of a model.
pub fn facts_table(ui: &mut egui::Ui, m: &crate::model::Model) {
    let c = &m.config;
    let family = crate::model::families::by_name(&c.family).map_or(c.family.as_str(), |f| f.title);
    let rows = [
        ("family", family.to_owned()),
        ("parameters", millions(m.n_params)),
        ("layers × heads", format!("{} × {}", c.n_layers, c.n_heads)),
        ("KV heads", c.n_kv_heads.to_string()),
        ("d_model, d_head", format!("{}, {}", c.d_model, c.d_head)),
        ("d_mlp", if c.has_mlp() { c.d_mlp.to_string() } else { "no MLP".to_owned() }),
        ("vocabulary", c.d_vocab.to_string()),
        ("context", format!("{} tokens", c.n_ctx)),
        ("file", format!("{}, computed in f32", m.format)),
        ("weights in memory", memory::bytes(m.weight_bytes() as u64)),
        ("opened in", format!("{:.2} s", m.load_seconds)),
    ];
    egui::Grid::new("facts").num_columns(2).spacing([16.0, 2.0]).show(ui, |ui| {
        for (name, value) in rows {
            ui.label(RichText::new(name).font(theme::small()).color(ui.visuals().weak_text_color()));
            ui.label(RichText::new(value).font(theme::small()));
            ui.end_row();
        }
    });
}

fn millions(n: usize) -> String {
    if n >= 1_000_000_000 { format!("{:.2} billion", n as f64 / 1e9) } else { format!("{:.1} million", n as f64 / 1e6) }
}

/// The session's own menu: save, begin a new one, open one again.
fn sessions(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    ui.separator();
    ui.menu_button("Sessions", |ui| {
        for command in [Command::SaveSession, Command::SaveSessionAs, Command::NewSession] {
            let keys = command.shortcut().map(|s| ui.ctx().format_shortcut(&s)).unwrap_or_default();
            if ui.add(egui::Button::new(command.title()).shortcut_text(keys)).clicked() {
                cx.push(Action::Do(command));
                ui.close();
            }
        }
        if !cx.state.sessions.is_empty() {
            ui.separator();
            ui.label(RichText::new("Open again").font(theme::small()).color(cx.palette.weak));
        }
        for (path, name) in &cx.state.sessions {
            if ui.button(name).on_hover_text(path.display().to_string()).clicked() {
                cx.push(Action::OpenSession(path.clone()));
                ui.close();
            }
        }
    });
}
