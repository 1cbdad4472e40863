//! A site: a named point in the forward pass (a hook point), such as `blocks.5.attn.hook_z`. This file is the one
//! definition of its name, axes and shape, used by captures, edits, the command line, files and views. Names are
//! TransformerLens'.

use std::fmt;

use crate::model::config::{ModelConfig, NormPlacement, Parallel, Positions};

/// The kind of value that a site holds. Most kinds exist once in each layer (see [`SiteKind::layered`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum SiteKind {
    Embed,
    ResidPre,
    Ln1Scale,
    Ln1Normalized,
    Q,
    K,
    V,
    RotQ,
    RotK,
    AttnScores,
    Pattern,
    Z,
    AttnOut,
    ResidMid,
    Ln2Scale,
    Ln2Normalized,
    /// The probability of each expert, where the MLP is a mixture.
    MlpRouter,
    MlpPre,
    MlpPreLinear,
    MlpPost,
    /// What each expert adds to the MLP's output, its share included.
    MlpExperts,
    /// What the MLP gives, before the norm that stands behind it in some models.
    MlpResult,
    /// What the MLP adds to the residual stream.
    MlpOut,
    ResidPost,
    LnFinalScale,
    LnFinalNormalized,
}

/// An axis of a site's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Pos,
    Dest,
    Src,
    Head,
    KvHead,
    Model,
    HeadDim,
    Mlp,
    Expert,
    One,
}

impl Axis {
    /// Returns the axis' name in JSON and tooltips.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pos => "pos",
            Self::Dest => "dest",
            Self::Src => "src",
            Self::Head => "head",
            Self::KvHead => "kv_head",
            Self::Model => "d_model",
            Self::HeadDim => "d_head",
            Self::Mlp => "d_mlp",
            Self::Expert => "expert",
            Self::One => "1",
        }
    }

    pub fn len(self, config: &ModelConfig, positions: usize) -> usize {
        match self {
            Self::Pos | Self::Dest | Self::Src => positions,
            Self::Head => config.n_heads,
            Self::KvHead => config.n_kv_heads,
            Self::Model => config.d_model,
            Self::HeadDim => config.d_head,
            Self::Mlp => config.d_mlp,
            Self::Expert => config.experts.map_or(0, |e| e.count),
            Self::One => 1,
        }
    }
}

impl SiteKind {
    /// All kinds, in the order of the forward pass.
    pub const ALL: [Self; 26] = [
        Self::Embed,
        Self::ResidPre,
        Self::Ln1Scale,
        Self::Ln1Normalized,
        Self::Q,
        Self::K,
        Self::V,
        Self::RotQ,
        Self::RotK,
        Self::AttnScores,
        Self::Pattern,
        Self::Z,
        Self::AttnOut,
        Self::ResidMid,
        Self::Ln2Scale,
        Self::Ln2Normalized,
        Self::MlpRouter,
        Self::MlpPre,
        Self::MlpPreLinear,
        Self::MlpPost,
        Self::MlpExperts,
        Self::MlpResult,
        Self::MlpOut,
        Self::ResidPost,
        Self::LnFinalScale,
        Self::LnFinalNormalized,
    ];

    /// Returns the name of the hook, without the layer.
    pub fn hook(self) -> &'static str {
        match self {
            Self::Embed => "hook_embed",
            Self::ResidPre => "hook_resid_pre",
            Self::Ln1Scale => "ln1.hook_scale",
            Self::Ln1Normalized => "ln1.hook_normalized",
            Self::Q => "attn.hook_q",
            Self::K => "attn.hook_k",
            Self::V => "attn.hook_v",
            Self::RotQ => "attn.hook_rot_q",
            Self::RotK => "attn.hook_rot_k",
            Self::AttnScores => "attn.hook_attn_scores",
            Self::Pattern => "attn.hook_pattern",
            Self::Z => "attn.hook_z",
            Self::AttnOut => "hook_attn_out",
            Self::ResidMid => "hook_resid_mid",
            Self::Ln2Scale => "ln2.hook_scale",
            Self::Ln2Normalized => "ln2.hook_normalized",
            Self::MlpRouter => "mlp.hook_router",
            Self::MlpPre => "mlp.hook_pre",
            Self::MlpPreLinear => "mlp.hook_pre_linear",
            Self::MlpPost => "mlp.hook_post",
            Self::MlpExperts => "mlp.hook_experts",
            Self::MlpResult => "mlp.hook_out",
            Self::MlpOut => "hook_mlp_out",
            Self::ResidPost => "hook_resid_post",
            Self::LnFinalScale => "ln_final.hook_scale",
            Self::LnFinalNormalized => "ln_final.hook_normalized",
        }
    }

    /// Returns the hook's last word, as in `resid_post`.
    pub fn short(self) -> &'static str {
        let hook = self.hook();
        hook.rsplit_once("hook_").map_or(hook, |(_, word)| word)
    }

    /// Returns the kind of each layer with a hook's name or its last word.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.layered() && (k.hook() == name || k.short() == name))
    }

    /// Returns the newer spelling of a hook that TransformerLens also accepts.
    fn alias(self) -> Option<&'static str> {
        match self {
            Self::ResidPre => Some("hook_in"),
            Self::ResidPost => Some("hook_out"),
            _ => None,
        }
    }

    pub fn layered(self) -> bool {
        !matches!(self, Self::Embed | Self::LnFinalScale | Self::LnFinalNormalized)
    }

    pub fn axes(self) -> &'static [Axis] {
        use Axis::{Dest, Expert, Head, HeadDim, KvHead, Mlp, Model, One, Pos, Src};
        match self {
            Self::Ln1Scale | Self::Ln2Scale | Self::LnFinalScale => &[Pos, One],
            Self::Q | Self::RotQ | Self::Z => &[Pos, Head, HeadDim],
            Self::K | Self::V | Self::RotK => &[Pos, KvHead, HeadDim],
            Self::AttnScores | Self::Pattern => &[Head, Dest, Src],
            Self::MlpPre | Self::MlpPreLinear | Self::MlpPost => &[Pos, Mlp],
            Self::MlpRouter => &[Pos, Expert],
            Self::MlpExperts => &[Pos, Expert, Model],
            _ => &[Pos, Model],
        }
    }

    /// True where a model of this config has such a site.
    pub fn exists(self, config: &ModelConfig) -> bool {
        let normed = matches!(config.norm_placement, NormPlacement::Pre | NormPlacement::Sandwich);
        match self {
            Self::ResidMid => config.has_mlp() && config.parallel == Parallel::Sequential,
            Self::Ln1Scale | Self::Ln1Normalized => normed,
            Self::Ln2Scale | Self::Ln2Normalized => {
                config.has_mlp() && config.parallel != Parallel::SharedNorm && normed
            }
            Self::MlpPre | Self::MlpPost | Self::MlpResult | Self::MlpOut => config.has_mlp(),
            Self::MlpRouter | Self::MlpExperts => config.experts.is_some(),
            Self::MlpPreLinear => config.has_mlp() && config.gated_mlp,
            Self::RotQ | Self::RotK => matches!(config.positions, Positions::Rotary(_)),
            Self::LnFinalScale | Self::LnFinalNormalized => config.norm_placement != NormPlacement::Stream,
            _ => true,
        }
    }
}

/// A kind at a layer. Kinds outside the layers have layer 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    pub layer: usize,
    pub kind: SiteKind,
}

impl Site {
    pub fn new(kind: SiteKind, layer: usize) -> Self {
        Self { layer, kind }
    }

    /// Returns all sites of a model, in the order of the forward pass.
    pub fn all(config: &ModelConfig) -> Vec<Self> {
        let kinds = || SiteKind::ALL.into_iter().filter(|k| k.exists(config));
        let outer = |last: bool| kinds().filter(move |k| !k.layered() && (*k != SiteKind::Embed) == last);
        outer(false)
            .map(|k| Self::new(k, 0))
            .chain((0..config.n_layers).flat_map(|l| kinds().filter(|k| k.layered()).map(move |k| Self::new(k, l))))
            .chain(outer(true).map(|k| Self::new(k, 0)))
            .collect()
    }

    /// Reads a full name, or an alias of one.
    pub fn parse(name: &str) -> Option<Self> {
        let (layer, hook) = match name.strip_prefix("blocks.") {
            Some(rest) => {
                let (layer, hook) = rest.split_once('.')?;
                (Some(layer.parse().ok()?), hook)
            }
            None => (None, name),
        };
        let kind = SiteKind::ALL.into_iter().find(|k| k.hook() == hook || k.alias() == Some(hook))?;
        (kind.layered() == layer.is_some()).then(|| Self::new(kind, layer.unwrap_or(0)))
    }

    /// Returns the spelling with the newer alias, where there is one.
    pub fn alias(self) -> Option<String> {
        self.kind.alias().map(|hook| format!("blocks.{}.{hook}", self.layer))
    }

    pub fn shape(self, config: &ModelConfig, positions: usize) -> Vec<usize> {
        self.kind.axes().iter().map(|a| a.len(config, positions)).collect()
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.layered() {
            write!(f, "blocks.{}.{}", self.layer, self.kind.hook())
        } else {
            f.write_str(self.kind.hook())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for kind in SiteKind::ALL {
            let site = Site::new(kind, if kind.layered() { 7 } else { 0 });
            assert_eq!(Site::parse(&site.to_string()), Some(site));
        }
        assert_eq!(Site::parse("blocks.3.hook_in"), Some(Site::new(SiteKind::ResidPre, 3)));
        assert_eq!(Site::parse("blocks.3.hook_embed"), None);
        assert_eq!(Site::parse("hook_resid_pre"), None);
        assert_eq!(Site::parse("blocks.x.hook_resid_pre"), None);
    }
}
