//! What sweeps and edits share: which positions correspond, and which sites can be changed there.

use crate::engine::SiteKind;
use crate::engine::resolve::Alignment;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;

/// Returns the positions of one run that have counterparts in the other, and these.
pub(super) fn pairs(alignment: &Alignment, of: impl IntoIterator<Item = usize>) -> (Vec<usize>, Vec<usize>) {
    of.into_iter().filter_map(|p| Some((p, (*alignment.get(p)?)?))).unzip()
}

/// Refuses to copy patterns between prompts whose tokens do not correspond one to one.
pub(super) fn same_places(alignment: &Alignment, other: usize) -> Result<()> {
    if alignment.len() == other && alignment.iter().enumerate().all(|(i, p)| *p == Some(i)) {
        return Ok(());
    }
    Err(Error::request(
        "attention patterns are patched edge by edge, which needs prompts whose tokens correspond one to one; patch z, q, k or v instead",
    ))
}

/// Refuses to change a site where TransformerLens does not do with it what the program does.
pub(super) fn sound(config: &ModelConfig, kind: SiteKind) -> Result<()> {
    use SiteKind::{
        AttnScores, Embed, Ln1Normalized, Ln1Scale, Ln2Normalized, Ln2Scale, LnFinalNormalized, LnFinalScale,
        MlpResult, Pattern, RotK, RotQ,
    };
    let family = config.family.as_str();
    let is_other = match kind {
        // TransformerLens reads these beside the computation, or counts gains and scales otherwise.
        Embed | Ln1Scale | Ln1Normalized | Ln2Scale | Ln2Normalized | LnFinalScale | LnFinalNormalized => true,
        // It has no such hook: circuit-tracer puts one in.
        MlpResult => true,
        // It is told of these families' patterns once they have been used.
        Pattern | AttnScores => ["gpt_neo", "gptj", "opt"].contains(&family),
        // It has no such hooks there.
        RotQ | RotK => ["gpt_neox", "gptj", "phi3"].contains(&family),
        _ => false,
    };
    if !is_other {
        return Ok(());
    }
    Err(Error::request(format!(
        "TransformerLens does not change {} of a model of the {family} family as this program does, so that this is not written as code; change another site",
        kind.hook()
    )))
}
