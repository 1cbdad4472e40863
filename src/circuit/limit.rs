//! MLPs of which only some neurons belong to a circuit.
//!
//! While such an MLP runs, its neurons outside the circuit are set to what they hold in the reference: their activation in
//! the corrupted run, their mean, or 0. The others are computed from what arrives.

use std::collections::BTreeSet;

use candle_core::Tensor;

use crate::engine::hooks::Hooks;
use crate::engine::{Site, SiteKind};
use crate::error::Result;

/// Neurons outside a circuit hold what the reference says: by variant, those inside.
pub(super) struct Limit<'a> {
    pub inside: Vec<Option<&'a BTreeSet<usize>>>,
    /// [rows, d_mlp]; `None` where that is nothing.
    pub outside: Option<&'a [f32]>,
    pub rows: usize,
}

impl Hooks for Limit<'_> {
    fn wants(&self, site: Site) -> bool {
        site.kind == SiteKind::MlpPost && self.inside.iter().any(Option::is_some)
    }

    fn visit(&mut self, _: Site, value: Tensor) -> Result<Tensor> {
        let shape = value.shape().clone();
        let mut values: Vec<f32> = value.flatten_all()?.to_vec1()?;
        let size = values.len() / self.inside.len();
        let width = size / self.rows;
        for (run, inside) in values.chunks_exact_mut(size).zip(&self.inside) {
            let Some(inside) = inside else { continue };
            let mut limited = self.outside.map_or_else(|| vec![0f32; size], <[f32]>::to_vec);
            for row in 0..self.rows {
                for n in inside.iter().filter(|n| **n < width) {
                    limited[row * width + n] = run[row * width + n];
                }
            }
            run.copy_from_slice(&limited);
        }
        Ok(Tensor::from_vec(values, shape, value.device())?)
    }
}
