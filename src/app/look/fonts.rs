//! The faces that ship with the program: Inter for text, JetBrains Mono for tokens and numbers, DejaVu
//! Sans for the scripts they lack. What is missing even there comes from the system's fonts.

use std::sync::Arc;

use eframe::egui::{FontData, FontDefinitions, FontFamily};

/// The family of titles.
pub const STRONG: &str = "strong";

/// The files, by name.
pub const FACES: [(&str, &[u8]); 4] = [
    ("Inter", include_bytes!("../../../assets/fonts/Inter-Regular.otf")),
    ("Inter SemiBold", include_bytes!("../../../assets/fonts/Inter-SemiBold.otf")),
    ("JetBrains Mono", include_bytes!("../../../assets/fonts/JetBrainsMono-Regular.ttf")),
    ("DejaVu Sans", include_bytes!("../../../assets/fonts/DejaVuSans.ttf")),
];

pub fn definitions() -> FontDefinitions {
    let mut fonts = FontDefinitions::empty();
    for (name, bytes) in FACES {
        fonts.font_data.insert(name.to_owned(), Arc::new(FontData::from_static(bytes)));
    }
    let mut family = |family: FontFamily, first: &str| {
        fonts.families.insert(family, vec![first.to_owned(), "DejaVu Sans".to_owned()]);
    };
    family(FontFamily::Proportional, "Inter");
    family(FontFamily::Monospace, "JetBrains Mono");
    family(FontFamily::Name(STRONG.into()), "Inter SemiBold");
    fonts
}

#[cfg(test)]
mod tests {
    use super::*;
    use eframe::egui::{Color32, Context, FontId, RawInput};

    /// Letters beside each other look as each does alone: two tokens that differ never look alike.
    #[test]
    fn nothing_is_drawn_as_one() {
        let ctx = Context::default();
        ctx.set_fonts(definitions());
        let glyphs = |ctx: &Context, text: &str, family: &FontFamily| {
            let font = FontId::new(13.0, family.clone());
            let galley = ctx.fonts_mut(|f| f.layout_no_wrap(text.to_owned(), font, Color32::WHITE));
            galley.rows[0].glyphs.iter().map(|g| (g.chr, g.uv_rect.size)).collect::<Vec<_>>()
        };
        for family in [FontFamily::Monospace, FontFamily::Proportional, FontFamily::Name(STRONG.into())] {
            for text in ["!=", "=>", "->", "<|im_end|>", "--", "===", "fi", "ffl", "<-", "://", "www"] {
                let _ = ctx.run_ui(RawInput::default(), |ui| {
                    let together = glyphs(ui.ctx(), text, &family);
                    let alone: Vec<_> = text.chars().flat_map(|c| glyphs(ui.ctx(), &c.to_string(), &family)).collect();
                    assert_eq!(together.len(), alone.len(), "{text} in {family}");
                    for ((a, one), (b, other)) in together.iter().zip(&alone) {
                        // A pixel is a matter of where between two pixels a letter stands.
                        let near = (*one - *other).abs().max_elem() <= 1.0;
                        assert!(a == b && near, "{text} in {family}: {one:?} together, {other:?} alone");
                    }
                });
            }
        }
    }
}
