//! Rotary positions as options: which dimensions turn, how fast, and how a longer context is reached.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`: linear [kaiokendev 2023], dynamic NTK [emozilla
//! 2023], YaRN [Peng et al. 2023], LongRoPE [Ding et al. 2024] and Llama 3's.

use std::f64::consts::TAU;

use serde::Serialize;

/// The rotation of q and k in one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotary {
    /// The first `dims` of each head's d_head are rotated.
    pub dims: usize,
    pub base: f64,
    pub style: RotaryStyle,
    pub scaling: RotaryScaling,
    /// The rotated dimensions of q and of k are multiplied by this (transformers' `attention_factor`).
    pub magnitude: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RotaryStyle {
    /// Dimension i turns with i + dims/2 (Llama, NeoX).
    Half,
    /// Dimension 2i turns with 2i + 1 (GPT-J).
    Adjacent,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum RotaryScaling {
    None,
    Linear {
        factor: f64,
    },
    /// A prompt beyond `original` tokens is reached by a larger base.
    Dynamic {
        factor: f64,
        original: f64,
    },
    /// Pairs that turn fewer than `slow` times within `original` tokens are slowed by `factor`, those that turn more
    /// than `fast` times are kept, a ramp between. `whole` rounds the ends of the ramp to whole pairs.
    Yarn {
        factor: f64,
        original: f64,
        fast: f64,
        slow: f64,
        whole: bool,
    },
    /// Each pair has a divisor of its own: `short` for prompts of at most `original` tokens, `long` beyond; length
    /// dims/2 each.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        original: usize,
    },
    /// Llama 3's: long wavelengths are slowed by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

impl Rotary {
    /// A rotation without any scaling.
    pub fn plain(dims: usize, base: f64, style: RotaryStyle) -> Self {
        Self { dims, base, style, scaling: RotaryScaling::None, magnitude: 1.0 }
    }

    /// The number of tokens that dynamic scaling is made to reach; 0 for other kinds.
    pub fn reach(&self) -> usize {
        match self.scaling {
            RotaryScaling::Dynamic { factor, original } => (factor * original).min(f64::from(1 << 24)) as usize,
            _ => 0,
        }
    }

    /// True where the turning speed depends on the length of the prompt.
    pub fn by_length(&self) -> bool {
        matches!(self.scaling, RotaryScaling::Dynamic { .. } | RotaryScaling::Long { .. })
    }

    /// The turning speed of each pair in a prompt of `n` tokens, in radians for each position; length dims/2.
    pub fn frequencies(&self, n: usize) -> Vec<f64> {
        let dims = self.dims as f64;
        let base = match self.scaling {
            RotaryScaling::Dynamic { factor, original } if dims > 2.0 => {
                let length = original.max(n as f64);
                self.base * (factor * length / original - (factor - 1.0)).powf(dims / (dims - 2.0))
            }
            _ => self.base,
        };
        (0..self.dims / 2)
            .map(|i| {
                let f = base.powf(-2.0 * i as f64 / dims);
                match &self.scaling {
                    RotaryScaling::None | RotaryScaling::Dynamic { .. } => f,
                    RotaryScaling::Linear { factor } => f / factor,
                    RotaryScaling::Long { short, long, original } => {
                        let divisors = if n > *original { long } else { short };
                        f / divisors.get(i).copied().unwrap_or(1.0)
                    }
                    RotaryScaling::Yarn { factor, original, fast, slow, whole } => {
                        // The pair that turns `turns` times within the original length.
                        let pair = |turns: f64| dims * (original / (turns * TAU)).ln() / (2.0 * self.base.ln());
                        let (mut low, mut high) = (pair(*fast), pair(*slow));
                        if *whole {
                            (low, high) = (low.floor(), high.ceil());
                        }
                        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
                        if high <= low {
                            high = low + 0.001;
                        }
                        let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * slowed + f * (1.0 - slowed)
                    }
                    RotaryScaling::Llama3 { factor, low, high, original } => {
                        let wavelength = TAU / f;
                        if wavelength > original / low {
                            f / factor
                        } else if wavelength < original / high {
                            f
                        } else {
                            let smooth = (original / wavelength - low) / (high - low);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    }
                }
            })
            .collect()
    }
}

/// YaRN's factor on q and k for a context that is `scale` times as long.
pub fn yarn_magnitude(scale: f64, weight: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * weight * scale.ln() + 1.0 }
}

/// LongRoPE's factor on q and k for a context that is `scale` times the `original` length.
pub fn long_magnitude(scale: f64, original: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / original.ln()).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_of_four_dims() {
        // base^0 = 1 and 100^(-2/4) = 0.1
        let f = Rotary::plain(4, 100.0, RotaryStyle::Half).frequencies(1);
        assert!((f[0] - 1.0).abs() < 1e-12 && (f[1] - 0.1).abs() < 1e-12);
    }

    #[test]
    fn long_and_dynamic_change_beyond_the_original_length() {
        let mut r = Rotary::plain(4, 100.0, RotaryStyle::Half);
        r.scaling = RotaryScaling::Long { short: vec![1.0, 2.0], long: vec![4.0, 5.0], original: 8 };
        assert!((r.frequencies(8)[1] - 0.05).abs() < 1e-12);
        assert!((r.frequencies(9)[1] - 0.02).abs() < 1e-12);
        // Twice the length at factor 2: base · (2·2 − 1)^(4/2) = 900, so the second pair turns at 1/30.
        r.scaling = RotaryScaling::Dynamic { factor: 2.0, original: 8.0 };
        assert!((r.frequencies(8)[1] - 0.1).abs() < 1e-12);
        assert!((r.frequencies(16)[1] - 1.0 / 30.0).abs() < 1e-12);
    }
}
