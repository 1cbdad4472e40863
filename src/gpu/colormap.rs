//! Colour maps: the perceptually even, colour-blind-safe ones of the viridis and ColorBrewer families,
//! by the `colorgrad` crate.

use std::sync::OnceLock;

use colorgrad::Gradient;
use eframe::egui::Color32;

/// A map from [0, 1] to colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColorMap {
    /// Attention and other magnitudes.
    Magma,
    /// Probabilities.
    Viridis,
    /// Signed values: blue is positive, red negative, the theme's background zero.
    DivergingDark,
    DivergingLight,
    /// Magma turned round, so that zero is paper.
    MagmaLight,
}

/// Colours in each map.
pub const STEPS: usize = 256;

impl ColorMap {
    pub const ALL: [Self; 5] =
        [Self::Magma, Self::Viridis, Self::DivergingDark, Self::DivergingLight, Self::MagmaLight];

    fn compute(self) -> Vec<Color32> {
        let take = |g: &dyn Fn(f32) -> [u8; 4]| {
            (0..STEPS)
                .map(|i| {
                    let [r, g, b, _] = g(i as f32 / (STEPS - 1) as f32);
                    Color32::from_rgb(r, g, b)
                })
                .collect()
        };
        match self {
            Self::Magma => take(&|t| colorgrad::preset::magma().at(0.04 + 0.96 * t).to_rgba8()),
            Self::MagmaLight => take(&|t| {
                // The palest end of magma is yellowish; the first steps fade to white.
                let [r, g, b, a] = colorgrad::preset::magma().at(1.0 - t).to_rgba8();
                let fade = (1.0 - t * 6.0).max(0.0);
                let mix = |c: u8| (f32::from(c) * (1.0 - fade) + 255.0 * fade) as u8;
                [mix(r), mix(g), mix(b), a]
            }),
            Self::Viridis => take(&|t| colorgrad::preset::viridis().at(t).to_rgba8()),
            Self::DivergingLight => take(&|t| colorgrad::preset::rd_bu().at(0.06 + 0.88 * t).to_rgba8()),
            Self::DivergingDark => take(&|t| {
                // RdBu's two arms, darkened towards a dark middle instead of a white one.
                let arm = (2.0 * t - 1.0).abs();
                let [r, g, b, a] = colorgrad::preset::rd_bu().at(if t < 0.5 { 0.17 } else { 0.84 }).to_rgba8();
                let mix = |c: u8, m: f32| (m + (f32::from(c).mul_add(1.12, 12.0) - m) * arm).clamp(0.0, 255.0) as u8;
                [mix(r, 30.0), mix(g, 32.0), mix(b, 38.0), a]
            }),
        }
    }

    /// The map's [`STEPS`] colours.
    pub fn colors(self) -> &'static [Color32] {
        static MAPS: OnceLock<Vec<Vec<Color32>>> = OnceLock::new();
        &MAPS.get_or_init(|| Self::ALL.iter().map(|m| m.compute()).collect())[self.row()]
    }

    /// Its row in the colour texture.
    pub fn row(self) -> usize {
        Self::ALL.iter().position(|m| *m == self).unwrap_or(0)
    }

    /// The colour at t in [0, 1].
    pub fn at(self, t: f32) -> Color32 {
        self.colors()[((t.clamp(0.0, 1.0) * (STEPS - 1) as f32) + 0.5) as usize]
    }
}

/// Relative luminance of an opaque colour, from 0 to 1 [WCAG 2.2].
fn luminance(c: Color32) -> f64 {
    let linear = |v: u8| {
        let v = f64::from(v) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(c.r()) + 0.7152 * linear(c.g()) + 0.0722 * linear(c.b())
}

/// How far one opaque colour stands out from another, from 1 to 21 [WCAG 2.2].
pub fn contrast(a: Color32, b: Color32) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Black or white, whichever reads better on `background`: one of them has a contrast of at least 4.58.
pub fn ink_on(background: Color32) -> Color32 {
    let better = contrast(Color32::BLACK, background) > contrast(Color32::WHITE, background);
    if better { Color32::BLACK } else { Color32::WHITE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diverging_maps_are_red_then_blue() {
        for map in [ColorMap::DivergingDark, ColorMap::DivergingLight] {
            let (low, high) = (map.at(0.0), map.at(1.0));
            assert!(low.r() > low.b() && high.b() > high.r(), "{map:?}");
        }
    }

    #[test]
    fn ink_is_read_on_every_colour() {
        assert!((contrast(Color32::BLACK, Color32::WHITE) - 21.0).abs() < 1e-9);
        for map in ColorMap::ALL {
            for c in map.colors() {
                assert!(contrast(ink_on(*c), *c) >= 4.5, "{map:?} {c:?}");
            }
        }
    }

    #[test]
    fn every_map_is_complete() {
        for map in ColorMap::ALL {
            assert_eq!(map.colors().len(), STEPS);
        }
    }
}
