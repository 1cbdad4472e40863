//! What a cross-layer transcoder's features write to the layers after their own. These decoders can be many times as
//! large as all else of a dictionary, and only ever some features of them are asked for: they stay in their file.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::model::store::Store;

/// Decoders to the layers that follow a dictionary's own.
#[derive(Clone, Debug)]
pub enum Later {
    /// One a layer, each [d_sae, d_out]; none for a dictionary that writes to one layer.
    Memory(Vec<Tensor>),
    /// A tensor [d_sae, layers, d_out] of a file that stays open; the own layer's is number `own`.
    File { store: Arc<Store>, name: String, shape: [usize; 3], own: usize },
}

impl Default for Later {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Later {
    /// Later layers.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(all) => all.len(),
            Self::File { shape, own, .. } => shape[1].saturating_sub(1 + own),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a feature writes to each later layer in turn, each [d_out].
    ///
    /// # Errors
    /// A feature that does not exist, a file that cannot be read any more, or values that are no numbers.
    pub fn of(&self, feature: usize) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Memory(all) => all.iter().map(|t| Ok(t.get(feature)?.to_vec1()?)).collect(),
            Self::File { store, name, shape, own } => {
                let values = store.leading(name, shape, feature, 1)?;
                let later: Vec<Vec<f32>> = values.chunks_exact(shape[2]).skip(1 + own).map(<[f32]>::to_vec).collect();
                if later.iter().flatten().any(|v| !v.is_finite()) {
                    return Err(Error::NotFinite { path: None, name: name.clone() });
                }
                Ok(later)
            }
        }
    }

    /// Checks the parts in memory against the shape that each must have, and for values that are no numbers; a file's
    /// are checked when they are read.
    pub(super) fn check(&self, expected: [usize; 2]) -> Result<()> {
        let Self::Memory(all) = self else { return Ok(()) };
        for t in all {
            if t.dims() != expected {
                return Err(Error::WrongShape {
                    name: "W_dec of a later layer".to_owned(),
                    found: t.dims().to_vec(),
                    expected: expected.to_vec(),
                });
            }
            if !crate::engine::kernels::with_values(t, |v| v.iter().map(|x| x * 0.0).sum::<f32>() == 0.0)? {
                return Err(Error::NotFinite { path: None, name: "W_dec of a later layer".to_owned() });
            }
        }
        Ok(())
    }
}
