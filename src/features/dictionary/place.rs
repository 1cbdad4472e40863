//! Where a dictionary or direction reads or writes: a site with a vector at each position, or the input of an MLP,
//! which is the normalised stream with the norm's weight and bias applied.

use std::fmt;

use candle_core::Tensor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{Axis, Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub site: Site,
    /// The site is `ln2.hook_normalized`, and its norm's weight and bias are applied: circuit-tracer's `mlp.hook_in`.
    pub mlp_input: bool,
}

/// What a place shows of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Stream,
    /// Divided by the norm, before its weight.
    Quotient,
    /// The norm's whole output.
    Normed,
}

impl From<Site> for Place {
    fn from(site: Site) -> Self {
        Self { site, mlp_input: false }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mlp_input { write!(f, "blocks.{}.mlp.hook_in", self.site.layer) } else { self.site.fmt(f) }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}

impl Place {
    /// The input of a layer's MLP, behind the norm's weight and bias.
    pub fn mlp_input(layer: usize) -> Self {
        Self { site: Site::new(SiteKind::Ln2Normalized, layer), mlp_input: true }
    }

    /// By the site's full name.
    ///
    /// # Errors
    /// A name of no site.
    pub fn parse(name: &str) -> Result<Self> {
        let mut parts = name.split('.');
        if let (Some("blocks"), Some(layer), Some("mlp"), Some("hook_in"), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
            && let Ok(layer) = layer.parse()
        {
            return Ok(Self::mlp_input(layer));
        }
        Site::parse(name).map(Self::from).ok_or_else(|| {
            Error::request(format!(
                "`{name}` is not the name of a site; sites are named like blocks.5.hook_resid_post or blocks.5.hook_mlp_out"
            ))
        })
    }

    /// Whether what is written here is added to the residual stream as it is, in a model that may not be known.
    pub fn in_stream(self, config: Option<&ModelConfig>) -> bool {
        use SiteKind::{AttnOut, Embed, MlpOut, MlpResult, ResidMid, ResidPost, ResidPre};
        match self.site.kind {
            MlpResult => config.is_some_and(|c| !c.norms_outputs()),
            kind => !self.mlp_input && matches!(kind, Embed | ResidPre | AttnOut | ResidMid | MlpOut | ResidPost),
        }
    }

    /// Whether directions here and there can be compared: both in the residual stream, or at the same place.
    pub fn comparable(self, other: Self, config: Option<&ModelConfig>) -> bool {
        self == other || self.in_stream(config) && other.in_stream(config)
    }

    /// What it shows of the stream before a layer's MLP.
    pub fn view(self) -> View {
        match (self.site.kind, self.mlp_input) {
            (_, true) => View::Normed,
            (SiteKind::Ln2Normalized, false) => View::Quotient,
            _ => View::Stream,
        }
    }

    pub fn layer(self) -> usize {
        self.site.layer
    }

    /// Numbers at each position; heads lie side by side.
    pub fn width(self, config: &ModelConfig) -> usize {
        self.site.shape(config, 1).iter().skip(1).product()
    }

    /// Whether the model has it, with one vector a position.
    ///
    /// # Errors
    /// One sentence saying what it lacks.
    pub fn check(self, config: &ModelConfig) -> Result<()> {
        if self.site.layer >= config.n_layers {
            return Err(Error::request(format!(
                "{self} is in layer {}, but {}'s layers go from 0 to {}",
                self.site.layer,
                config.name,
                config.n_layers - 1
            )));
        }
        if !self.site.kind.exists(config) {
            return Err(Error::request(format!("{} has no site {self}", config.name)));
        }
        if self.site.kind.axes().first() != Some(&Axis::Pos) {
            return Err(Error::request(format!(
                "{self} holds no vector at each position; choose a site like blocks.{}.hook_resid_post",
                self.site.layer
            )));
        }
        Ok(())
    }

    /// What a run holds here, as rows: `value` is the site's, [.., pos, ...]; gives [rows, width].
    pub fn rows(self, model: &Model, value: &Tensor) -> Result<Tensor> {
        let width = self.width(&model.config);
        let rows = value.reshape((value.elem_count() / width.max(1), width))?;
        if !self.mlp_input {
            return Ok(rows);
        }
        let Some(norm) = model.weights.blocks.get(self.site.layer).and_then(|b| b.ln2.as_ref()) else {
            return Ok(rows);
        };
        let rows = rows.broadcast_mul(&norm.weight)?;
        Ok(match &norm.bias {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        })
    }
}
