//! Element-wise functions written so that the compiler turns loops over them into SIMD, under whatever
//! instruction set `pulp` finds at run time.

/// Returns e^x to about 2 units in the last place. A result below the smallest normal number becomes that number.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting this rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // Written with comparisons rather than min and max, so that NaN stays NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // The low bits of `shifted` hold n as an integer; moved to the exponent they are 2^n.
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000));
    y * scale
}

#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Returns 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// Returns the largest value; −∞ for an empty slice.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    // Eight maxima run side by side, because a single one is a chain of dependent steps.
    let (head, tail) = values.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for chunk in head {
        for (m, v) in lanes.iter_mut().zip(chunk) {
            *m = if *v > *m { *v } else { *m };
        }
    }
    tail.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
}

/// Replaces `values` by e^(v − max) and returns their sum.
#[inline(always)]
pub fn exp_and_sum(values: &mut [f32], max: f32) -> f32 {
    let (head, tail) = values.as_chunks_mut::<16>();
    let mut lanes = [0f32; 16];
    for chunk in head {
        for (s, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - max);
            *s += *v;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for v in tail {
        *v = exp(*v - max);
        sum += *v;
    }
    sum
}

/// Computes the softmax in place. A row of nothing but −∞ (a query whose edges are all knocked out) becomes zeros.
#[inline(always)]
pub fn softmax(values: &mut [f32]) {
    let top = max(values);
    if top == f32::NEG_INFINITY {
        values.fill(0.0);
        return;
    }
    let sum = exp_and_sum(values, top);
    let factor = 1.0 / sum;
    for v in values {
        *v *= factor;
    }
}

/// Whether all are numbers that are not infinite.
pub fn all_finite(values: &[f32]) -> bool {
    const LANES: usize = 16;
    // Only infinity and what is no number do not become zero.
    let mut sums = [0f32; LANES];
    simd(|| values.chunks(LANES).for_each(|x| sums.iter_mut().zip(x).for_each(|(s, v)| *s += v * 0.0)));
    sums.iter().sum::<f32>() == 0.0
}

/// Runs `f` under the widest instruction set of this machine.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8600..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - want) / want).abs() < 4e-7, "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1e-37);
    }

    #[test]
    fn what_is_not_finite_is_found_anywhere() {
        for n in [1, 16, 37] {
            for at in 0..n {
                for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = vec![f32::MAX; n];
                    assert!(all_finite(&values));
                    values[at] = v;
                    assert!(!all_finite(&values), "{v} at {at} of {n}");
                }
            }
        }
    }

    #[test]
    fn softmax_by_hand() {
        let mut v = [0.0, 2f32.ln(), f32::ln(5.0)];
        softmax(&mut v);
        for (got, want) in v.iter().zip([0.125, 0.25, 0.625]) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn activations_at_known_points() {
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
        assert!((gelu_tanh(1.0) - 0.841_192).abs() < 1e-5);
        assert_eq!(gelu_tanh(0.0), 0.0);
    }
}
