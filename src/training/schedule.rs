//! Learning rates over a training.

/// Returns the learning rate of a step, of `total` steps. It rises linearly over the first `warmup` steps, stays at
/// `rate`, and falls linearly to a tenth over the last `decay` steps.
pub fn warm_constant_fall(step: usize, total: usize, warmup: usize, decay: usize, rate: f64) -> f64 {
    let up = ((step + 1) as f64 / warmup.max(1) as f64).min(1.0);
    let left = total.saturating_sub(step) as f64;
    let down = (left / decay.max(1) as f64).clamp(0.1, 1.0);
    rate * up * down
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_holds_falls() {
        let rate = |step| warm_constant_fall(step, 1000, 100, 200, 1.0);
        assert!((rate(0) - 0.01).abs() < 1e-12);
        assert_eq!(rate(500), 1.0);
        assert!((rate(900) - 0.5).abs() < 1e-12);
        assert!((rate(999) - 0.1).abs() < 1e-12);
    }
}
