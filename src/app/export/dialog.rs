//! The dialog that exports a view: what it will look like, in which form, and of what it is.

use std::sync::Arc;

use eframe::egui::{self, RichText};

use super::commands::snippet;
use super::print;
use super::provenance::Provenance;
use super::table::Table;
use crate::app::App;
use crate::app::look::theme::{self, Palette};
use crate::app::shell::files::Message;
use crate::app::shell::helper;
use crate::app::shell::notices::Level;
use crate::app::view::{self, Context, ViewDef};
use crate::error::{Error, Result};
use crate::jobs::slot::Slot;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::session::code::{Facts, Snippet, python};

/// The forms that a view is exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    Svg,
    Pdf,
    Csv,
    Json,
    Npz,
}

impl Format {
    pub const ALL: [Self; 6] = [Self::Png, Self::Svg, Self::Pdf, Self::Csv, Self::Json, Self::Npz];

    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
            Self::Pdf => "pdf",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Npz => "npz",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Svg => "SVG",
            Self::Pdf => "PDF",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Npz => "NumPy (.npz)",
        }
    }

    fn is_picture(self) -> bool {
        matches!(self, Self::Png | Self::Svg | Self::Pdf)
    }
}

/// Sizes of pictures, points: as on a page, wide, square.
const SIZES: [(&str, [f32; 2]); 4] = [
    ("900 × 600", [900.0, 600.0]),
    ("1200 × 700", [1200.0, 700.0]),
    ("700 × 700", [700.0, 700.0]),
    ("480 × 360", [480.0, 360.0]),
];

/// Rows and columns of the numbers that are shown beforehand.
const PREVIEWED: usize = 24;

/// A small picture of the picture.
#[derive(Clone)]
struct PreviewOf {
    svg: Arc<str>,
}

impl PartialEq for PreviewOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.svg, &other.svg)
    }
}

impl Question for PreviewOf {
    type Answer = egui::ColorImage;
    const LABEL: &'static str = "drawing the preview";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(egui::ColorImage)) -> Result<egui::ColorImage> {
        print::pixels(&self.svg, 1.0)
    }
}

/// An export that is being prepared.
pub struct Export {
    view: &'static ViewDef,
    format: Format,
    /// Pixels for a point.
    scale: f32,
    light: bool,
    size: [f32; 2],
    svg: Arc<str>,
    preview: Slot<PreviewOf>,
    texture: Option<(u64, egui::TextureHandle)>,
    /// The numbers, and the beginning of their text.
    table: Option<Table>,
    of: Provenance,
    text: String,
}

/// What the user wants.
enum Choice {
    Redraw,
    Save,
    Copy,
    Close,
}

impl App {
    /// The numbers of a view, where it has any now.
    pub fn table(&mut self, view: &str) -> Option<Table> {
        let (mut actions, mut hovered) = (Vec::new(), Default::default());
        let palette = Palette::of(&egui::Context::default());
        let cx = Context { state: &self.state, palette, actions: &mut actions, hovered: &mut hovered };
        self.layout.pane(view).and_then(|(v, _)| v.table(&cx))
    }

    /// Begins to export a view.
    pub fn begin_export(&mut self, view: &'static str) {
        let Some(def) = view::by_name(view) else { return };
        self.export = Some(Export {
            view: def,
            format: Format::Png,
            scale: 2.0,
            light: true,
            size: SIZES[0].1,
            svg: Arc::from(""),
            preview: Slot::default(),
            texture: None,
            table: None,
            of: Provenance::of(&self.state, def),
            text: String::new(),
        });
        self.draw_export();
    }

    /// Draws the picture, with the numbers and what they are of: all three as the window stands now, so that none is of
    /// another model or prompt than the others.
    fn draw_export(&mut self) {
        let Some((def, size, light)) = self.export.as_ref().map(|e| (e.view, e.size, e.light)) else { return };
        let svg = self.plate(def.name, size.into(), light).into();
        let (table, of) = (self.table(def.name), Provenance::of(&self.state, def));
        if let Some(export) = &mut self.export {
            export.text = table.as_ref().map_or_else(String::new, |t| t.first(PREVIEWED).csv(&of));
            (export.svg, export.table, export.of) = (svg, table, of);
        }
    }

    /// The dialog, and what follows from it.
    pub(in crate::app) fn exporting(&mut self, ctx: &egui::Context) {
        let Some(export) = &mut self.export else { return };
        export.preview.want(&self.state.pool, Some(PreviewOf { svg: export.svg.clone() }));
        export.preview.poll();
        let Some(choice) = export.ui(ctx) else { return };
        match choice {
            Choice::Close => self.export = None,
            Choice::Redraw => self.draw_export(),
            Choice::Copy => self.copy_export(),
            Choice::Save => {
                if let Some(export) = self.export.take() {
                    let name = format!("{}.{}", export.view.name, export.format.extension());
                    let (format, scale, svg) = (export.format, export.scale, export.svg);
                    let (table, of) = (export.table, export.of);
                    self.background(move || match bytes(format, scale, &svg, table.as_ref(), &of) {
                        Ok(bytes) => Message::Save(name.clone(), bytes),
                        Err(e) => Message::Say(Level::Error, e.to_string()),
                    });
                }
            }
        }
    }

    /// Puts a picture or numbers on the clipboard, once they are made. Both say what they are of: the picture below itself.
    fn copy_export(&mut self) {
        let Some(export) = self.export.take() else { return };
        let Export { format, scale, svg, table, of, .. } = export;
        self.background(move || {
            if format.is_picture() {
                return match print::pixels(&svg, scale) {
                    Ok(image) => Message::CopyPicture(image, "Copied the picture, with what it is of below it."),
                    Err(e) => Message::Say(Level::Error, e.to_string()),
                };
            }
            let text = table.as_ref().map(|t| match format {
                Format::Json => t.json(&of).to_string(),
                _ => t.csv(&of),
            });
            Message::CopyText(text.unwrap_or_default(), "Copied the numbers, with what they are of before them.")
        });
    }

    /// Copies a view's numbers as the script that computes them.
    pub fn copy_code(&mut self, ctx: &egui::Context, view: &'static str) {
        let Some(what) = view::by_name(view).and_then(|def| snippet(&self.state, def)) else { return };
        match self.code(what) {
            Ok(text) => {
                ctx.copy_text(text);
                self.state
                    .notices
                    .push(Level::Info, format!("Copied the {} as Python for TransformerLens.", what.title()));
            }
            Err(e) => self.state.notices.push(Level::Error, e.to_string()),
        }
    }

    /// A number of the desk as Python for TransformerLens.
    ///
    /// # Errors
    /// The runs are not there yet, or what is shown cannot be written.
    pub fn code(&self, what: Snippet) -> Result<String> {
        let missing = || Error::request("the prompt has not been run yet; wait until it has");
        let (clean, pair) = (self.state.clean().ok_or_else(missing)?, self.state.pair().ok_or_else(missing)?);
        python(self.state.desk(), what, Facts { clean, pair })
    }
}

/// The bytes of a file.
fn bytes(format: Format, scale: f32, svg: &str, table: Option<&Table>, of: &Provenance) -> Result<Vec<u8>> {
    let numbers = || table.ok_or_else(|| Error::request("this view has no numbers yet; wait until it shows some"));
    match format {
        Format::Png => print::png(svg, scale),
        Format::Svg => Ok(svg.as_bytes().to_vec()),
        Format::Pdf => print::pdf(svg),
        Format::Csv => Ok(numbers()?.csv(of).into_bytes()),
        Format::Json => Ok(numbers()?.json(of).to_string().into_bytes()),
        Format::Npz => numbers()?.npz(of),
    }
}

impl Export {
    fn ui(&mut self, ctx: &egui::Context) -> Option<Choice> {
        let palette = Palette::of(ctx);
        let mut choice = None;
        let modal = egui::Modal::new(egui::Id::unique("export")).show(ctx, |ui| {
            let room = ctx.content_rect().size() - egui::vec2(120.0, 240.0);
            helper::scrolled(ui, 760.0, |ui| {
                ui.heading(format!("Export {}", self.view.title));
                choice = self.settings(ui, palette);
                ui.add_space(theme::GRID);
                let space = egui::vec2(ui.available_width(), room.y.clamp(140.0, 460.0));
                if self.format.is_picture() {
                    self.picture(ui, space);
                } else {
                    egui::ScrollArea::both().max_height(space.y).auto_shrink(false).show(ui, |ui| {
                        let text = if self.table.is_some() { &*self.text } else { "This view has no numbers yet." };
                        ui.add(
                            egui::Label::new(RichText::new(text).font(theme::mono_small()).color(palette.weak))
                                .extend(),
                        );
                    });
                }
                ui.separator();
                let about = RichText::new(self.of.caption()).font(theme::small()).color(palette.weak);
                ui.add(egui::Label::new(about).truncate()).on_hover_text("what is written into the file with it");
                ui.horizontal(|ui| {
                    let usable = self.format.is_picture() || self.table.is_some();
                    let save = ui.add_enabled(usable, egui::Button::new("Save…"));
                    if save.on_disabled_hover_text("this view has no numbers yet").clicked() {
                        choice = Some(Choice::Save);
                    }
                    let copies = usable && self.format != Format::Npz && self.format != Format::Pdf;
                    let why = if usable {
                        "other programs take no such file from the clipboard; save it"
                    } else {
                        "this view has no numbers yet"
                    };
                    if ui.add_enabled(copies, egui::Button::new("Copy")).on_disabled_hover_text(why).clicked() {
                        choice = Some(Choice::Copy);
                    }
                    if ui.button("Close").clicked() {
                        choice = Some(Choice::Close);
                    }
                });
            });
        });
        if modal.should_close() {
            choice = Some(Choice::Close);
        }
        choice
    }

    fn settings(&mut self, ui: &mut egui::Ui, palette: Palette) -> Option<Choice> {
        let before = (self.light, self.size);
        let weak = |text: &str| RichText::new(text).font(theme::small()).color(palette.weak);
        ui.horizontal_wrapped(|ui| {
            for (title, pictures) in [("picture", true), ("numbers", false)] {
                ui.label(weak(title));
                for format in Format::ALL.into_iter().filter(|f| f.is_picture() == pictures) {
                    ui.selectable_value(&mut self.format, format, format.title());
                }
                ui.add_space(theme::GRID);
            }
        });
        if self.format.is_picture() {
            ui.horizontal_wrapped(|ui| {
                ui.label(weak("size"));
                for (name, size) in SIZES {
                    ui.selectable_value(&mut self.size, size, name).on_hover_text("points");
                }
                if self.format == Format::Png {
                    ui.label(weak("pixels for a point"));
                    for scale in [1.0, 2.0, 4.0] {
                        ui.selectable_value(&mut self.scale, scale, format!("{scale:.0}×"));
                    }
                }
                ui.selectable_value(&mut self.light, true, "light").on_hover_text("for paper");
                ui.selectable_value(&mut self.light, false, "dark");
            });
        }
        (before != (self.light, self.size)).then_some(Choice::Redraw)
    }

    fn picture(&mut self, ui: &mut egui::Ui, space: egui::Vec2) {
        if let Some(preview) = self.preview.get()
            && self.texture.as_ref().is_none_or(|(stamp, _)| *stamp != preview.stamp)
        {
            let image = (*preview.value).clone();
            let texture = ui.ctx().load_texture("export", image, egui::TextureOptions::LINEAR);
            self.texture = Some((preview.stamp, texture));
        }
        ui.allocate_ui_with_layout(space, egui::Layout::centered_and_justified(egui::Direction::TopDown), |ui| match (
            &self.texture,
            self.preview.error(),
        ) {
            (_, Some(error)) => _ = ui.label(error),
            (Some((_, texture)), None) => {
                let image = egui::Image::new(texture).max_size(space).maintain_aspect_ratio(true);
                ui.add(image.fit_to_exact_size(space));
            }
            (None, None) => _ = ui.label("drawing …"),
        });
    }
}
