//! SVG as pixels and as PDF, with the program's own fonts.

use std::sync::{Arc, OnceLock};

use eframe::egui;
use krilla_svg::{SurfaceExt as _, SvgSettings};
use resvg::{tiny_skia, usvg};

use crate::app::look::fonts;
use crate::error::{Error, Result};

/// The fonts that pictures are set in: the program's, then the system's for what they lack.
fn database() -> Arc<usvg::fontdb::Database> {
    static FONTS: OnceLock<Arc<usvg::fontdb::Database>> = OnceLock::new();
    let made = FONTS.get_or_init(|| {
        let mut db = usvg::fontdb::Database::new();
        fonts::FACES.iter().for_each(|(_, bytes)| db.load_font_data(bytes.to_vec()));
        db.load_system_fonts();
        db.set_sans_serif_family("Inter");
        db.set_monospace_family("JetBrains Mono");
        Arc::new(db)
    });
    made.clone()
}

fn tree(svg: &str) -> Result<usvg::Tree> {
    let options = usvg::Options { fontdb: database(), ..usvg::Options::default() };
    usvg::Tree::from_str(svg, &options).map_err(|e| Error::failed(format!("the picture could not be read: {e}")))
}

/// The pixels of a picture, so many for a point.
///
/// # Errors
/// A picture too large for memory.
pub fn pixels(svg: &str, scale: f32) -> Result<egui::ColorImage> {
    let tree = tree(svg)?;
    let (w, h) = (tree.size().width() * scale, tree.size().height() * scale);
    let mut map = tiny_skia::Pixmap::new(w.ceil() as u32, h.ceil() as u32)
        .ok_or_else(|| Error::failed(format!("a picture of {w} × {h} pixels is too large; choose a smaller one")))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut map.as_mut());
    let size = [map.width() as usize, map.height() as usize];
    Ok(egui::ColorImage::from_rgba_premultiplied(size, map.data()))
}

/// As PNG.
///
/// # Errors
/// As [`pixels`].
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    let image = pixels(svg, scale)?;
    let bytes = image.pixels.iter().flat_map(egui::Color32::to_array).collect();
    let picture = image::RgbaImage::from_raw(image.size[0] as u32, image.size[1] as u32, bytes);
    crate::app::look::picture::png(&picture.ok_or_else(|| Error::failed("the picture is incomplete"))?)
}

/// As PDF, one page of the picture's size, one point to a point, with text that can be selected.
///
/// # Errors
/// A picture that cannot be written as PDF.
pub fn pdf(svg: &str) -> Result<Vec<u8>> {
    let tree = tree(svg)?;
    let fail = |what: &str| Error::failed(format!("the picture could not be written as PDF: {what}"));
    let size = krilla::geom::Size::from_wh(tree.size().width(), tree.size().height()).ok_or_else(|| fail("no size"))?;
    let settings = krilla::page::PageSettings::from_wh(size.width(), size.height()).ok_or_else(|| fail("no size"))?;
    let mut document = krilla::Document::new();
    let mut page = document.start_page_with(settings);
    let mut surface = page.surface();
    surface.draw_svg(&tree, size, SvgSettings::default()).ok_or_else(|| fail("it cannot be drawn"))?;
    surface.finish();
    page.finish();
    document.finish().map_err(|e| fail(&format!("{e:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SVG: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" viewBox="0 0 40 20">
        <rect x="0" y="0" width="20" height="20" fill="#ff0000"/>
        <text x="22" y="15" font-family="'JetBrains Mono', monospace" font-size="14" fill="#000000">!=</text></svg>"##;

    #[test]
    fn pictures_are_printed() {
        let image = pixels(SVG, 2.0).unwrap();
        assert_eq!(image.size, [80, 40]);
        assert_eq!(image.pixels[0], egui::Color32::RED);
        assert!(image.pixels.contains(&egui::Color32::BLACK), "the text is set");
        assert!(png(SVG, 1.0).unwrap().starts_with(b"\x89PNG"));
        let pdf = pdf(SVG).unwrap();
        assert!(pdf.starts_with(b"%PDF") && pdf.len() > 500);
        assert!(tree("no picture").is_err());
    }
}
