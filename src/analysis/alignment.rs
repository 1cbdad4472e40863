//! Finds, for each token of one prompt, the token of another prompt that plays the same part.
//!
//! Patching copies values from one run into another, so it must know which positions belong together. Two prompts of
//! equal length correspond position by position. Prompts of different length are aligned as a text comparison aligns
//! lines: equal tokens are matched (a longest common subsequence, Myers 1986).

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::engine::resolve::Alignment;

/// Returns for each token of `a` the position of its counterpart in `b`. Prompts of equal length correspond position by
/// position. In others, equal tokens are matched, and a replaced stretch is matched position by position where both
/// sides have the same length. A token that was inserted or deleted has no counterpart.
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

/// Returns the same alignment seen from the other prompt, which has `len` tokens.
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
