//! The faces that ship with the program: Inter for text, JetBrains Mono for tokens and numbers, DejaVu
//! Sans for the scripts they lack. What is missing even there comes from the system's fonts.

use std::sync::Arc;

use eframe::egui::{FontData, FontDefinitions, FontFamily};

/// The family of titles.
pub const STRONG: &str = "strong";

pub fn definitions() -> FontDefinitions {
    let faces: [(&str, &'static [u8]); 4] = [
        ("Inter", include_bytes!("../../../assets/fonts/Inter-Regular.otf")),
        ("Inter SemiBold", include_bytes!("../../../assets/fonts/Inter-SemiBold.otf")),
        ("JetBrains Mono", include_bytes!("../../../assets/fonts/JetBrainsMono-Regular.ttf")),
        ("DejaVu Sans", include_bytes!("../../../assets/fonts/DejaVuSans.ttf")),
    ];
    let mut fonts = FontDefinitions::empty();
    for (name, bytes) in faces {
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
