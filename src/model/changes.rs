//! What is done to a stored tensor's values as they are read: scales of weights in 8 bits, and low-rank adapters.

/// A change of a matrix, as it is stored [rows, cols].
#[derive(Debug)]
pub enum Change {
    Scale(Scale),
    LowRank(LowRank),
}

/// Numbers by which blocks of `rows` by `cols` values are multiplied, `across` of them beside each other.
#[derive(Debug)]
pub struct Scale {
    pub values: Vec<f32>,
    pub rows: usize,
    pub cols: usize,
    pub across: usize,
}

/// left · right is added: left [rows, rank], right [rank, cols].
#[derive(Debug)]
pub struct LowRank {
    pub left: Vec<f32>,
    pub right: Vec<f32>,
    pub rank: usize,
}

impl Change {
    /// Changes whole rows of `cols` values, of which the first is row `first` of the tensor.
    pub fn apply(&self, first: usize, cols: usize, values: &mut [f32]) {
        for (r, row) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            let row_number = first + r;
            match self {
                Self::Scale(s) => {
                    let from = row_number / s.rows * s.across;
                    for (c, block) in row.chunks_mut(s.cols).enumerate() {
                        let by = s.values[from + c];
                        block.iter_mut().for_each(|v| *v *= by);
                    }
                }
                Self::LowRank(l) => {
                    let left = &l.left[row_number * l.rank..(row_number + 1) * l.rank];
                    for (by, right) in left.iter().zip(l.right.chunks_exact(cols)) {
                        row.iter_mut().zip(right).for_each(|(v, x)| *v += by * x);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_ranks_by_hand() {
        // Rows 2 and 3 of a 4 × 3 matrix in blocks of 2 × 2: the second row of scales.
        let scale = Scale { values: vec![1.0, 2.0, 3.0, 4.0], rows: 2, cols: 2, across: 2 };
        let mut values = [1f32; 6];
        Change::Scale(scale).apply(2, 3, &mut values);
        assert_eq!(values, [3.0, 3.0, 4.0, 3.0, 3.0, 4.0]);
        // Row 1: 2 · (1, 10) + 3 · (100, 1000).
        let low = LowRank { left: vec![0.0, 0.0, 2.0, 3.0], right: vec![1.0, 10.0, 100.0, 1000.0], rank: 2 };
        let mut values = [0.5f32, 0.5];
        Change::LowRank(low).apply(1, 2, &mut values);
        assert_eq!(values, [302.5, 3020.5]);
    }
}
