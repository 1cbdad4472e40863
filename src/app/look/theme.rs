//! Every colour and size of the window. Nothing else holds a colour literal.

use eframe::egui::{
    self, Color32, CornerRadius, FontFamily, FontId, Margin, Stroke, TextStyle, Theme, Visuals, style::WidgetVisuals,
};

use crate::app::look::fonts::STRONG;
use crate::gpu::ColorMap;

/// The colours of one theme.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Palette {
    pub dark: bool,
    /// Behind the panels.
    pub base: Color32,
    pub panel: Color32,
    pub header: Color32,
    /// Fields and buttons.
    pub raised: Color32,
    pub hovered: Color32,
    pub border: Color32,
    pub text: Color32,
    pub weak: Color32,
    pub faint: Color32,
    /// The one accent: selection, focus, the thing to look at.
    pub accent: Color32,
    pub error: Color32,
    /// Words about what is not to be trusted as it stands.
    pub warning: Color32,
    /// A quiet bar's fill.
    pub bar: Color32,
    pub positive: Color32,
    pub negative: Color32,
    pub nan: Color32,
}

const DARK: Palette = Palette {
    dark: true,
    base: Color32::from_rgb(15, 17, 21),
    panel: Color32::from_rgb(23, 26, 31),
    header: Color32::from_rgb(28, 31, 37),
    raised: Color32::from_rgb(36, 40, 48),
    hovered: Color32::from_rgb(47, 52, 62),
    border: Color32::from_rgb(42, 46, 55),
    text: Color32::from_rgb(226, 229, 235),
    weak: Color32::from_rgb(150, 157, 170),
    faint: Color32::from_rgb(128, 135, 148),
    accent: Color32::from_rgb(245, 183, 75),
    error: Color32::from_rgb(235, 106, 96),
    warning: Color32::from_rgb(255, 167, 38),
    bar: Color32::from_rgb(58, 134, 150),
    positive: Color32::from_rgb(78, 149, 214),
    negative: Color32::from_rgb(219, 96, 84),
    nan: Color32::from_rgb(214, 40, 160),
};

const LIGHT: Palette = Palette {
    dark: false,
    base: Color32::from_rgb(236, 238, 242),
    panel: Color32::from_rgb(255, 255, 255),
    header: Color32::from_rgb(247, 248, 250),
    raised: Color32::from_rgb(238, 240, 244),
    hovered: Color32::from_rgb(224, 228, 234),
    border: Color32::from_rgb(214, 218, 225),
    text: Color32::from_rgb(26, 29, 35),
    weak: Color32::from_rgb(88, 96, 110),
    faint: Color32::from_rgb(100, 107, 120),
    accent: Color32::from_rgb(158, 88, 0),
    error: Color32::from_rgb(192, 48, 40),
    warning: Color32::from_rgb(150, 84, 0),
    bar: Color32::from_rgb(72, 144, 160),
    positive: Color32::from_rgb(38, 104, 172),
    negative: Color32::from_rgb(184, 50, 44),
    nan: Color32::from_rgb(214, 40, 160),
};

impl Palette {
    pub fn of(ctx: &egui::Context) -> Self {
        match ctx.theme() {
            Theme::Dark => DARK,
            Theme::Light => LIGHT,
        }
    }

    /// Signed values.
    pub fn diverging(&self) -> ColorMap {
        if self.dark { ColorMap::DivergingDark } else { ColorMap::DivergingLight }
    }

    /// Magnitudes.
    pub fn sequential(&self) -> ColorMap {
        if self.dark { ColorMap::Magma } else { ColorMap::MagmaLight }
    }

    /// Words about an answer that was right, and about one that was wrong.
    pub fn verdict(&self, right: bool) -> Color32 {
        if right { self.positive } else { self.error }
    }

    /// What is behind words, faded into the panel because it is out of date: the text's own colour reads on it.
    pub fn stale(&self, back: Color32) -> Color32 {
        self.panel.lerp_to_gamma(back, 0.3)
    }

    /// Blue for positive, red for negative.
    pub fn signed(&self, value: f32) -> Color32 {
        if value < 0.0 { self.negative } else { self.positive }
    }
}

/// The spacing grid, points.
pub const GRID: f32 = 4.0;

/// Labels inside panels.
pub fn small() -> FontId {
    FontId::new(12.0, FontFamily::Proportional)
}

pub fn body() -> FontId {
    FontId::new(13.0, FontFamily::Proportional)
}

pub fn title() -> FontId {
    FontId::new(13.0, FontFamily::Name(STRONG.into()))
}

pub fn mono() -> FontId {
    FontId::new(12.5, FontFamily::Monospace)
}

pub fn mono_small() -> FontId {
    FontId::new(12.0, FontFamily::Monospace)
}

/// Installs fonts and both themes' styles.
pub fn install(ctx: &egui::Context) {
    ctx.set_fonts(crate::app::look::fonts::definitions());
    for (theme, palette) in [(Theme::Dark, DARK), (Theme::Light, LIGHT)] {
        ctx.style_mut_of(theme, |style| {
            style.text_styles = [
                (TextStyle::Small, small()),
                (TextStyle::Body, body()),
                (TextStyle::Button, body()),
                (TextStyle::Heading, FontId::new(15.0, FontFamily::Name(STRONG.into()))),
                (TextStyle::Monospace, mono()),
            ]
            .into();
            style.visuals = visuals(&palette);
            let s = &mut style.spacing;
            s.item_spacing = egui::vec2(8.0, GRID);
            s.button_padding = egui::vec2(8.0, 3.0);
            s.menu_margin = Margin::same(6);
            s.interact_size = egui::vec2(24.0, 22.0);
            s.combo_width = 24.0;
            s.tooltip_width = 360.0;
            s.scroll = egui::style::ScrollStyle::thin();
            style.interaction.tooltip_delay = 0.3;
        });
    }
}

fn visuals(p: &Palette) -> Visuals {
    let mut v = if p.dark { Visuals::dark() } else { Visuals::light() };
    let radius = CornerRadius::same(4);
    let widget = |fill: Color32, border: Color32, text: Color32| WidgetVisuals {
        bg_fill: fill,
        weak_bg_fill: fill,
        bg_stroke: Stroke::new(1.0, border),
        corner_radius: radius,
        fg_stroke: Stroke::new(1.0, text),
        expansion: 0.0,
    };
    v.widgets.noninteractive = widget(p.panel, p.border, p.text);
    v.widgets.inactive = widget(p.raised, Color32::TRANSPARENT, p.text);
    v.widgets.hovered = widget(p.hovered, p.faint, p.text);
    v.widgets.active = widget(p.hovered, p.accent, p.text);
    v.widgets.open = widget(p.hovered, p.border, p.text);
    v.selection.bg_fill = p.accent.gamma_multiply(if p.dark { 0.30 } else { 0.22 });
    v.selection.stroke = Stroke::new(1.0, if p.dark { p.accent } else { p.text });
    v.weak_text_color = Some(p.weak);
    v.hyperlink_color = p.accent;
    v.faint_bg_color = p.header;
    v.extreme_bg_color = p.base;
    v.text_edit_bg_color = Some(p.base);
    v.code_bg_color = p.raised;
    v.warn_fg_color = p.accent;
    v.error_fg_color = p.error;
    v.window_fill = p.panel;
    v.window_stroke = Stroke::new(1.0, p.border);
    v.window_corner_radius = CornerRadius::same(8);
    v.menu_corner_radius = CornerRadius::same(6);
    v.panel_fill = p.base;
    v.slider_trailing_fill = true;
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::colormap::contrast;

    #[test]
    fn what_is_read_and_what_is_seen_stands_out_in_both_themes() {
        for p in [DARK, LIGHT] {
            let grounds = [("base", p.base), ("panel", p.panel), ("header", p.header), ("raised", p.raised)];
            let words = [
                ("text", p.text),
                ("weak", p.weak),
                ("accent", p.accent),
                ("error", p.error),
                ("right", p.verdict(true)),
                ("wrong", p.verdict(false)),
            ];
            let marks = [("faint", p.faint), ("bar", p.bar), ("positive", p.positive), ("negative", p.negative)];
            for (on, ground) in grounds {
                for (least, list) in [(4.5, &words[..]), (3.0, &marks[..])] {
                    for (name, color) in list {
                        let c = contrast(*color, ground);
                        assert!(c >= least, "{name} on {on}, dark {}: {c:.2}", p.dark);
                    }
                }
                // What is quiet is words too, where they do not stand on a button.
                assert!(on == "raised" || contrast(p.faint, ground) >= 4.5, "faint on {on}, dark {}", p.dark);
            }
            // Words on the filled button of a lesson.
            assert!(contrast(p.base, p.accent) >= 4.5, "dark {}", p.dark);
        }
    }

    #[test]
    fn words_that_are_out_of_date_can_be_read() {
        for p in [DARK, LIGHT] {
            for i in 0..=100 {
                let back = p.stale(ColorMap::Magma.at(0.12 + 0.78 * i as f32 / 100.0));
                let c = contrast(p.text, back);
                assert!(c >= 4.5, "dark {}, {i}: {c:.2}", p.dark);
            }
        }
    }
}
