//! What a lens does to the stream before the model's own final norm and unembedding read it.
//!
//! The logit lens reads the stream after a layer as if it were the last one. A fitted lens first takes it there by an
//! affine map of its own for each layer: h → h · M + b. For a Jacobian lens M = Jᵀ and b = 0; for a tuned lens M = 1 + Aᵀ.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::engine::kernels::product;
use crate::error::{Error, Result};
use crate::model::Model;

/// The maps of a lens, by layer.
#[derive(Debug)]
pub struct Transport {
    /// What it is called: the kind of lens and its file's name.
    pub name: String,
    /// What its kind is called: `Jacobian lens`, `tuned lens`.
    pub kind: &'static str,
    pub layers: BTreeMap<usize, Affine>,
    /// The file that it is from, where it is from one.
    pub path: Option<std::path::PathBuf>,
}

crate::identity!(Transport);

/// x → x · matrix + bias
#[derive(Clone, Debug)]
pub struct Affine {
    /// [d_model in, d_model out]
    pub matrix: Tensor,
    /// [d_model]
    pub bias: Option<Tensor>,
}

impl Transport {
    /// Takes rows [n, d_model] of the stream after a layer to where the final norm reads. The last layer is there.
    ///
    /// # Errors
    /// The lens has no map for the layer.
    pub fn apply(&self, layer: usize, n_layers: usize, rows: &Tensor) -> Result<Tensor> {
        if layer + 1 == n_layers {
            return Ok(rows.clone());
        }
        let map = self.layer(layer)?;
        let rows = rows.contiguous()?.matmul(&map.matrix)?;
        Ok(match &map.bias {
            Some(b) => rows.broadcast_add(b)?,
            None => rows,
        })
    }

    /// The map of a layer.
    ///
    /// # Errors
    /// There is none.
    pub fn layer(&self, layer: usize) -> Result<&Affine> {
        self.layers.get(&layer).ok_or_else(|| {
            let known: Vec<String> = self.layers.keys().map(ToString::to_string).collect();
            Error::request(format!(
                "{} was not fitted for layer {layer}; it knows {}, and the last layer needs no lens",
                self.name,
                known.join(", ")
            ))
        })
    }

    /// True where the layer can be read.
    pub fn reads(&self, layer: usize, n_layers: usize) -> bool {
        layer + 1 == n_layers || self.layers.contains_key(&layer)
    }
}

/// The direction of the stream after a layer along which a lens reads a token: M · W_U[:, token], [d_model]; the
/// unembedding's column itself without a lens and at the last layer.
///
/// # Errors
/// The token or the layer is not there.
pub fn token_vector(model: &Model, lens: Option<&Transport>, layer: usize, token: u32) -> Result<Vec<f32>> {
    let network = model.network();
    network.check(&[token])?;
    if layer >= model.config.n_layers {
        return Err(Error::request(format!(
            "there is no layer {layer}; this model's layers go from 0 to {}",
            model.config.n_layers - 1
        )));
    }
    let (column, _) = network.unembed_columns(&[token])?;
    let column = product::back(&Tensor::ones((1, 1), DType::F32, &Device::Cpu)?, &column)?.t()?.contiguous()?;
    let vector = match lens.filter(|_| layer + 1 < model.config.n_layers) {
        Some(lens) => lens.layer(layer)?.matrix.matmul(&column)?,
        None => column,
    };
    Ok(vector.flatten_all()?.to_vec1()?)
}
