//! Which token of one prompt plays the part of which in the other.

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::engine::resolve::Alignment;

/// For each token of `a` its counterpart in `b`. Prompts of equal length correspond place by place. Otherwise
/// equal tokens are matched (a longest common subsequence, Myers 1986), and replaced stretches of equal length
/// place by place; what was inserted or deleted has no counterpart.
pub fn align(a: &[u32], b: &[u32]) -> Alignment {
    if a.len() == b.len() {
        return (0..a.len()).map(Some).collect();
    }
    let mut alignment = vec![None; a.len()];
    for op in capture_diff_slices(Algorithm::Myers, a, b) {
        let (from, to, n) = match op {
            DiffOp::Equal { old_index, new_index, len } => (old_index, new_index, len),
            DiffOp::Replace { old_index, old_len, new_index, new_len } if old_len == new_len => {
                (old_index, new_index, old_len)
            }
            _ => continue,
        };
        for i in 0..n {
            alignment[from + i] = Some(to + i);
        }
    }
    alignment
}

/// The same correspondence seen from the other prompt, of `len` tokens.
pub fn inverse(alignment: &Alignment, len: usize) -> Alignment {
    let mut out = vec![None; len];
    for (i, p) in alignment.iter().enumerate() {
        if let Some(slot) = p.and_then(|p| out.get_mut(p)) {
            *slot = Some(i);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inserted_token_has_no_counterpart() {
        let a = [1, 2, 3, 4, 5];
        assert_eq!(align(&a, &[1, 2, 9, 4, 5]), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        let longer = [1, 2, 7, 3, 4, 5];
        let there = align(&a, &longer);
        assert_eq!(there, [Some(0), Some(1), Some(3), Some(4), Some(5)]);
        assert_eq!(inverse(&there, 6), [Some(0), Some(1), None, Some(2), Some(3), Some(4)]);
    }
}
