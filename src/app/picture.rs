//! Pictures of views: cut out of a screenshot, or drawn without a window.

use std::path::PathBuf;
use std::time::Duration;

use eframe::egui;

use super::App;
use super::layout::Layout;
use super::theme::Palette;
use super::views::{Context, ViewKind};
use crate::error::{Error, Result};
use crate::gpu::offscreen::Offscreen;
use crate::session::Document;

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The whole window.
    Window,
    View(ViewKind),
}

/// Longest time that a picture's results may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Draws `subject` for a document, `size` in points; `pixels_per_point` scales it up. `prepare` may
/// change the state once the results are there.
pub fn draw(
    document: Document,
    subject: Subject,
    size: egui::Vec2,
    pixels_per_point: f32,
    theme: egui::Theme,
    prepare: impl FnOnce(&mut App),
) -> Result<image::RgbaImage> {
    let ctx = egui::Context::default();
    ctx.add_font_provider(std::sync::Arc::new(egui_system_font_provider::SystemFontProvider::new()));
    ctx.set_theme(theme);
    let mut offscreen = Offscreen::new()?;
    let mut app = App::new(&ctx, document, Vec::new());
    app.adapter = "off-screen".to_owned();
    if let Subject::View(kind) = subject {
        app.layout = Layout::single(kind);
    }
    app.settle(&ctx, LIMIT)?;
    // An error that a window would show as a message is this command's failure.
    if app.state.model.is_none() {
        let text =
            app.state.notices.latest().map_or_else(|| "the model could not be opened".to_owned(), |n| n.text.clone());
        return Err(Error::failed(text.trim_end_matches('.').to_owned()));
    }
    if let Some(error) = &app.state.results.run.error {
        return Err(Error::failed(error.clone()));
    }
    prepare(&mut app);
    app.settle(&ctx, LIMIT)?;
    ctx.all_styles_mut(|s| s.animation_time = 0.0);
    offscreen.render(&ctx, size, pixels_per_point, 4, |ui| match subject {
        Subject::Window => app.draw(ui),
        Subject::View(_) => app.draw_view(ui),
    })
}

impl App {
    /// The docked views alone, without the window's bars.
    pub fn draw_view(&mut self, ui: &mut egui::Ui) {
        let palette = Palette::of(ui.ctx());
        let (mut actions, mut hovered) = (Vec::new(), super::selection::Hovered::default());
        let mut cx = Context { state: &self.state, palette, actions: &mut actions, hovered: &mut hovered };
        let frame = egui::Frame::new().fill(palette.base);
        egui::CentralPanel::default().frame(frame).show(ui, |ui| self.layout.ui(ui, &mut cx));
        for action in actions {
            self.state.apply(action, 0.0);
        }
    }
}

/// A screenshot, or the part of it inside `rect` (points), as PNG.
pub fn encode(image: &egui::ColorImage, rect: Option<egui::Rect>, pixels_per_point: f32) -> Result<Vec<u8>> {
    let [w, h] = image.size;
    let whole = egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(w as f32, h as f32));
    let rect = rect.map_or(whole, |r| (r * pixels_per_point).intersect(whole));
    let (x0, y0) = (rect.min.x.max(0.0) as usize, rect.min.y.max(0.0) as usize);
    let (x1, y1) = ((rect.max.x as usize).min(w), (rect.max.y as usize).min(h));
    if x1 <= x0 || y1 <= y0 {
        return Err(Error::failed("the view is not on screen, so there is no picture of it; show it first"));
    }
    let bytes: Vec<u8> =
        (y0..y1).flat_map(|y| image.pixels[y * w + x0..y * w + x1].iter().flat_map(egui::Color32::to_array)).collect();
    let picture = image::RgbaImage::from_raw((x1 - x0) as u32, (y1 - y0) as u32, bytes);
    png(&picture.ok_or_else(|| Error::failed("the screenshot is incomplete"))?)
}

/// PNG bytes of a picture.
pub fn png(picture: &image::RgbaImage) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| Error::failed(format!("the picture could not be encoded: {e}")))?;
    Ok(bytes.into_inner())
}

/// `name` in the working folder, with a number if it is taken.
pub fn free_name(name: &str) -> PathBuf {
    let path = PathBuf::from(name);
    let (stem, extension) = (
        path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
        path.extension().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
    );
    (1..)
        .map(|i| if i == 1 { path.clone() } else { PathBuf::from(format!("{stem}-{i}.{extension}")) })
        .find(|p| !p.exists())
        .unwrap_or(path)
}
