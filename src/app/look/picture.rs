//! Pictures of views and of the window, drawn without one.

use std::time::Duration;

use eframe::egui;

use crate::app::App;
use crate::app::look::svg::Recorder;
use crate::app::look::theme::Palette;
use crate::app::shell::layout::Layout;
use crate::app::view::Context;
use crate::error::{Error, Result};
use crate::gpu::offscreen::Offscreen;
use crate::session::Document;

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The whole window.
    Window,
    View(&'static str),
}

/// Longest time that a picture's results may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A finished analysis, ready to be drawn.
pub struct Scene {
    ctx: egui::Context,
    app: App,
    subject: Subject,
    size: egui::Vec2,
}

/// Passes after which egui's sizes have settled.
const PASSES: usize = 4;

impl Scene {
    /// Computes everything that `subject` shows for a document, at `size` points. `prepare` may change the
    /// state once the first results are there.
    ///
    /// # Errors
    /// Whatever a window would have shown as a message.
    pub fn new(
        document: Document,
        subject: Subject,
        size: egui::Vec2,
        theme: egui::Theme,
        prepare: impl FnOnce(&mut App),
    ) -> Result<Self> {
        let ctx = egui::Context::default();
        ctx.add_font_provider(std::sync::Arc::new(egui_system_font_provider::SystemFontProvider::new()));
        let mut document = document;
        document.look.light = theme == egui::Theme::Light;
        let mut app = App::new(&ctx, document, Vec::new());
        app.adapter = "off-screen".to_owned();
        if let Subject::View(kind) = subject {
            app.layout = Layout::single(kind);
        }
        app.settle(&ctx, LIMIT)?;
        opened(&app)?;
        prepare(&mut app);
        app.settle(&ctx, LIMIT)?;
        ctx.all_styles_mut(|s| s.animation_time = 0.0);
        Ok(Self { ctx, app, subject, size })
    }

    /// What went wrong with the graph or the circuit that `prepare` asked for.
    pub fn circuit_error(&self) -> Option<String> {
        let r = &self.app.state.results;
        let tried = r.tried.get().and_then(|t| t.set_error.clone());
        [r.graph.error(), r.drawing.error(), r.tried.error()].into_iter().flatten().next().cloned().or(tried)
    }

    fn frame(app: &mut App, subject: Subject, ui: &mut egui::Ui) {
        match subject {
            Subject::Window => app.draw(ui),
            Subject::View(_) => app.draw_view(ui),
        }
    }

    /// The picture, drawn by a graphics adapter; `pixels_per_point` scales it up.
    pub fn image(&mut self, pixels_per_point: f32) -> Result<image::RgbaImage> {
        let Self { ctx, app, subject, size } = self;
        Offscreen::new()?.render(ctx, *size, pixels_per_point, PASSES, |ui| Self::frame(app, *subject, ui))
    }

    /// The picture as SVG, which needs no adapter.
    pub fn svg(&mut self) -> String {
        let Self { ctx, app, subject, size } = self;
        let recorder = Recorder::install(ctx);
        let mut shapes = Vec::new();
        for pass in 0..PASSES {
            recorder.clear();
            let input = egui::RawInput {
                screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, *size)),
                time: Some(pass as f64),
                ..egui::RawInput::default()
            };
            let mut output = ctx.run_ui(input, |ui| Self::frame(app, *subject, ui));
            shapes = std::mem::take(&mut output.shapes);
            output.drop_without_applying_deltas();
        }
        crate::app::look::svg::document(&shapes, &recorder, *size, Palette::of(ctx).base)
    }
}

/// Whether the model is open and its runs are there.
///
/// # Errors
/// Why not, as a window would have shown it.
pub fn opened(app: &App) -> Result<()> {
    if app.state.model.is_none() {
        let text = app.state.notices.latest().map(|n| n.text.trim_end_matches('.').to_owned());
        return Err(Error::failed(text.unwrap_or_else(|| "the model could not be opened".to_owned())));
    }
    let results = &app.state.results;
    let errors = [results.run.error(), results.corrupted.error(), results.edited.error()];
    errors.into_iter().flatten().next().map_or(Ok(()), |e| Err(Error::failed(e.clone())))
}

impl App {
    /// The docked views alone, without the window's bars.
    pub fn draw_view(&mut self, ui: &mut egui::Ui) {
        let palette = Palette::of(ui.ctx());
        let (mut actions, mut hovered) = (Vec::new(), crate::app::selection::Hovered::default());
        let mut cx = Context { state: &self.state, palette, actions: &mut actions, hovered: &mut hovered };
        let frame = egui::Frame::new().fill(palette.base);
        egui::CentralPanel::default().frame(frame).show(ui, |ui| self.layout.ui(ui, &mut cx));
        for action in actions {
            self.state.apply(action, 0.0);
        }
    }
}

/// PNG bytes of a picture.
pub fn png(picture: &image::RgbaImage) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| Error::failed(format!("the picture could not be encoded: {e}")))?;
    Ok(bytes.into_inner())
}
