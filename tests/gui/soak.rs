//! Random use of the window, for as long as is asked for: `scripts/soak` runs it. Whatever is done, nothing panics, no file is
//! damaged, no frame takes more than 100 ms of the window's own work, and memory stays flat.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use circuitscope::app::action::{Action, Command};
use circuitscope::app::view::{self, Workspace};
use circuitscope::app::{App, model::ModelAction};
use circuitscope::session::Document;
use circuitscope::session::file::Session;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::NodeT as _;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::window::{PROMPT, document, settle, window};

const MODELS: [&str; 3] = ["induction", "addition", "text"];
const TEXTS: [&str; 7] = [" Mary", "The cat sat on", "0.5", "-1", "12", "naïve 日本語 😀", "\"{}\\ \n"];
const KEYS: [egui::Key; 14] = {
    use egui::Key;
    [
        Key::Escape,
        Key::Tab,
        Key::Enter,
        Key::Space,
        Key::ArrowLeft,
        Key::ArrowRight,
        Key::ArrowUp,
        Key::ArrowDown,
        Key::Delete,
        Key::Home,
        Key::P,
        Key::Z,
        Key::F,
        Key::Plus,
    ]
};
/// What would leave the window: the system's dialog, the network, the end.
const OUTSIDE: [&str; 4] = ["Browse", "Download", "Fetch", "Quit"];
/// How often memory is measured in the whole time, each time in the same state.
const MEASURED: u32 = 30;
/// A session of what every window begins with.
const START: &str = "start.scope";
/// Steps that are told where something fails.
const TOLD: usize = 25;

/// What this thread has computed, as Linux counts it, so that other work of the machine does not count.
fn own_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Megabytes of the process that lie in memory.
fn megabytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

struct Soak {
    random: ChaCha8Rng,
    folder: tempfile::TempDir,
    h: Harness<'static, App>,
    /// Frames of this window: the first lays fonts out.
    frames: usize,
    all_frames: usize,
    steps: usize,
    told: VecDeque<String>,
    worst: (Duration, String),
    slow: Vec<(Duration, String)>,
    limit: Duration,
}

impl Soak {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn number(&mut self, n: usize) -> usize {
        self.random.random_range(0..n.max(1))
    }

    fn place(&mut self) -> egui::Pos2 {
        let size = self.h.ctx.content_rect().size();
        egui::pos2(self.random.random_range(0.0..1.0) * size.x, self.random.random_range(0.0..1.0) * size.y)
    }

    fn tell(&mut self, step: String) {
        self.steps += 1;
        println!("{} {step}", self.steps);
        self.told.push_back(step);
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
    }

    fn frame(&mut self) {
        let before = own_time();
        self.h.step();
        let took = own_time().saturating_sub(before);
        self.frames += 1;
        self.all_frames += 1;
        if self.frames < 3 {
            return;
        }
        let step = || self.told.back().cloned().unwrap_or_default();
        if took > self.worst.0 {
            self.worst = (took, step());
        }
        if took > self.limit {
            println!("  a frame took {took:?}");
            self.slow.push((took, step()));
        }
    }

    fn rest(&mut self, frames: usize) {
        for _ in 0..frames {
            self.frame();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Clicks on something that can be clicked.
    fn click(&mut self) {
        let roles = [
            egui::accesskit::Role::Button,
            egui::accesskit::Role::CheckBox,
            egui::accesskit::Role::ComboBox,
            egui::accesskit::Role::RadioButton,
            egui::accesskit::Role::Slider,
            egui::accesskit::Role::TextInput,
            egui::accesskit::Role::Link,
            egui::accesskit::Role::Tab,
        ];
        let list: Vec<(String, egui::Pos2)> = self
            .h
            .root()
            .children_recursive()
            .filter(|n| roles.contains(&n.accesskit_node().role()) && !n.accesskit_node().is_disabled())
            .map(|n| (n.accesskit_node().label().unwrap_or_default(), n.rect().center()))
            .filter(|(label, _)| !OUTSIDE.iter().any(|o| label.contains(o)))
            .collect();
        if list.is_empty() {
            return;
        }
        let (label, at) = list[self.number(list.len())].clone();
        let button = if self.number(8) == 0 { egui::PointerButton::Secondary } else { egui::PointerButton::Primary };
        self.tell(format!("click {label:?} at {at:?} with {button:?}"));
        self.press(at, button);
    }

    fn press(&mut self, at: egui::Pos2, button: egui::PointerButton) {
        self.h.event(egui::Event::PointerMoved(at));
        self.frame();
        for pressed in [true, false] {
            self.h.event(egui::Event::PointerButton { pos: at, button, pressed, modifiers: egui::Modifiers::NONE });
            self.frame();
        }
    }

    fn drag(&mut self) {
        let (from, to) = (self.place(), self.place());
        self.tell(format!("drag from {from:?} to {to:?}"));
        let button = |pressed, pos| egui::Event::PointerButton {
            pos,
            button: egui::PointerButton::Primary,
            pressed,
            modifiers: egui::Modifiers::NONE,
        };
        self.h.event(egui::Event::PointerMoved(from));
        self.h.event(button(true, from));
        self.frame();
        self.h.event(egui::Event::PointerMoved(from + (to - from) / 2.0));
        self.frame();
        self.h.event(egui::Event::PointerMoved(to));
        self.h.event(button(false, to));
    }

    fn scroll(&mut self) {
        let (at, zooms) = (self.place(), self.number(3) == 0);
        let delta = egui::vec2(0.0, self.random.random_range(-200.0..200.0));
        self.tell(format!("scroll {delta:?} at {at:?}{}", if zooms { " with Ctrl" } else { "" }));
        self.h.event(egui::Event::PointerMoved(at));
        let modifiers = if zooms { egui::Modifiers::COMMAND } else { egui::Modifiers::NONE };
        let unit = egui::MouseWheelUnit::Point;
        self.h.event(egui::Event::MouseWheel {
            unit,
            delta,
            phase: egui::TouchPhase::Move,
            modifiers,
            source: egui::MouseWheelSource::Wheel,
        });
    }

    fn command(&mut self) {
        let all: Vec<Command> = Command::ALL.into_iter().filter(|c| *c != Command::Quit).collect();
        let command = all[self.number(all.len())];
        self.tell(format!("command {command:?}"));
        let ctx = self.h.ctx.clone();
        self.h.state_mut().command(&ctx, command);
    }

    fn act(&mut self, action: Action) {
        self.tell(format!("{action:?}"));
        let ctx = self.h.ctx.clone();
        self.h.state_mut().act(&ctx, action);
    }

    fn keys(&mut self) {
        let key = KEYS[self.number(KEYS.len())];
        let modifiers = [egui::Modifiers::NONE, egui::Modifiers::COMMAND, egui::Modifiers::SHIFT][self.number(3)];
        self.tell(format!("key {modifiers:?} {key:?}"));
        self.h.key_press_modifiers(modifiers, key);
    }

    fn size(&mut self) {
        let size =
            [egui::vec2(1280.0, 800.0), egui::vec2(1920.0, 1080.0), egui::vec2(200.0, 120.0), egui::vec2(640.0, 900.0)];
        let size = size[self.number(4)];
        self.tell(format!("size {size:?}"));
        self.h.set_size(size);
    }

    fn step(&mut self) {
        match self.number(100) {
            0..32 => self.click(),
            32..40 => self.drag(),
            40..48 => self.scroll(),
            48..60 => self.command(),
            60..72 => {
                let all: Vec<&'static str> = view::all().map(|v| v.name).collect();
                let view = all[self.number(all.len())];
                self.act(Action::Show(view));
            }
            72..77 => {
                let workspace = Workspace::ALL[self.number(Workspace::ALL.len())];
                self.act(Action::Enter(workspace));
            }
            77..84 => self.keys(),
            84..89 => {
                let text = TEXTS[self.number(TEXTS.len())];
                self.tell(format!("type {text:?}"));
                self.h.event(egui::Event::Text(text.to_owned()));
            }
            89..92 => {
                let model = MODELS[self.number(MODELS.len())];
                self.act(Action::Open(model.to_owned()));
            }
            92..94 => {
                let text = TEXTS[self.number(TEXTS.len())];
                self.act(Action::Model(ModelAction::Answer(text.to_owned())));
            }
            94..96 => self.size(),
            96 => {
                let file = self.path("mine.scope");
                self.h.state_mut().keeping.file = Some(file.clone());
                self.act(Action::Do(Command::SaveSession));
            }
            97 => {
                let file = self.path("mine.scope");
                if file.exists() {
                    self.act(Action::OpenSession(file));
                }
            }
            _ => self.rest(12),
        }
        let more = 1 + self.number(3);
        self.rest(more);
    }

    /// The program dies without a word, and the session that it kept is opened.
    fn kill(&mut self) {
        self.tell("killed".to_owned());
        let kept = self.path("window-0.scope");
        // The window that dies lets go of its files.
        self.h = window(document(PROMPT));
        let document = if kept.exists() { Session::open(&kept).unwrap().document } else { document(PROMPT).into() };
        if self.path("mine.scope").exists() {
            Session::open(&self.path("mine.scope")).unwrap();
        }
        self.h = opened(document, self.folder.path());
        self.frames = 0;
    }

    /// Memory of the window that was used, back at the model and prompt that it began with.
    fn measure_used(&mut self) -> f64 {
        self.tell("memory is measured as it is".to_owned());
        // A training goes on in whatever session, for as long as it takes.
        let ctx = self.h.ctx.clone();
        self.h.state_mut().command(&ctx, Command::Cancel);
        self.act(Action::OpenSession(self.path(START)));
        self.rest(20);
        settle(&mut self.h);
        circuitscope::memory::trim();
        let found = megabytes();
        println!("  {found:.0} MB in use");
        found
    }

    /// Memory of a fresh window on the same model each time.
    fn measure(&mut self) -> f64 {
        self.tell("memory is measured".to_owned());
        self.h = window(document(PROMPT));
        settle(&mut self.h);
        self.frames = 0;
        self.rest(20);
        // As the program does once nothing runs, so that only what is held counts.
        circuitscope::memory::trim();
        let found = megabytes();
        println!("  {found:.0} MB");
        found
    }
}

fn opened(document: Document, folder: &Path) -> Harness<'static, App> {
    let mut h = Harness::builder()
        .with_size([1280.0, 800.0])
        .with_max_steps(60)
        .with_os(egui::os::OperatingSystem::Nix)
        // Fonts of the system are not there, and what is typed is in any language.
        .allow_missing_glyphs()
        .build_eframe(move |cc| App::new(&cc.egui_ctx, document, Vec::new()));
    h.state_mut().keep_in(folder).unwrap();
    h
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Minutes, seed and the most milliseconds of a frame are read from CIRCUITSCOPE_SOAK, "10 1 100".
#[test]
#[ignore = "scripts/soak runs it"]
fn random_use() {
    let asked = std::env::var("CIRCUITSCOPE_SOAK").unwrap_or_else(|_| "1 1 100".to_owned());
    let numbers: Vec<u64> = asked.split_whitespace().map(|n| n.parse().expect("whole numbers")).collect();
    let [minutes, seed, limit] = numbers[..] else { panic!("CIRCUITSCOPE_SOAK is MINUTES SEED MILLISECONDS") };
    circuitscope::memory::keep_freed();
    let folder = tempfile::tempdir().unwrap();
    // What is saved under a bare name lies there.
    std::env::set_current_dir(folder.path()).unwrap();
    let mut soak = Soak {
        random: ChaCha8Rng::seed_from_u64(seed),
        h: opened(document(PROMPT).into(), folder.path()),
        folder,
        frames: 0,
        all_frames: 0,
        steps: 0,
        told: VecDeque::new(),
        worst: (Duration::ZERO, String::new()),
        slow: Vec::new(),
        limit: Duration::from_millis(limit),
    };
    Session { file: None, document: document(PROMPT).into() }.save(&soak.path(START)).unwrap();
    println!("{minutes} minutes with seed {seed}");
    let (started, time) = (Instant::now(), Duration::from_secs(60 * minutes));
    let (mut memory, mut used) = (Vec::new(), Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while started.elapsed() < time {
            soak.step();
            if started.elapsed() > time / MEASURED * (memory.len() as u32 + 1) {
                used.push(soak.measure_used());
                soak.kill();
                soak.rest(20);
                memory.push(soak.measure());
                soak.kill();
            }
        }
    }));
    if let Err(panic) = outcome {
        println!("it panicked after these steps, with seed {seed}:");
        soak.told.iter().for_each(|s| println!("  {s}"));
        resume_unwind(panic);
    }
    let third = memory.len() / 3;
    let ends = |memory: &[f64]| (median(&memory[third..2 * third]), median(&memory[2 * third..]));
    let ((before, after), (used_before, used_after)) = (ends(&memory), ends(&used));
    println!(
        "{} steps, {} frames, the worst {:?} after {:?}; {} over {limit} ms; memory {before:.0} MB in the middle, {after:.0} MB at the end; \
         of used windows {used_before:.0} and {used_after:.0} MB",
        soak.steps,
        soak.all_frames,
        soak.worst.0,
        soak.worst.1,
        soak.slow.len()
    );
    assert!(soak.slow.is_empty(), "frames over {limit} ms: {:?}", soak.slow);
    assert!(after <= 1.05 * before, "memory grows: {memory:.0?}");
    // What a window has opened and drawn meanwhile differs more.
    assert!(used_after <= 1.1 * used_before, "memory of used windows grows: {used:.0?}");
}
