//! What of the unedited run is held still while edits act. Held values are edits as well, copies of the unedited run's
//! values, so that a stack that holds something is carried out like any other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::edit::{Action, Edit, EditStack, Positions};
use super::resolve::{Change, Op, Rows, Sources, Values};
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;

/// What is held still at the values of the unedited run, at the prompt's positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Nothing: the model goes on by itself.
    #[default]
    Free,
    /// Attention patterns; norms and MLPs follow.
    Attention,
    /// Patterns, norms and what MLPs give: what is left are direct effects, as a graph on features has them.
    Direct,
    /// Patterns, and what the MLPs of these layers give; features are changed in these layers alone.
    Part(Vec<usize>),
}

impl Hold {
    /// The name of `features intervene --mode`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Attention => "frozen-attention",
            Self::Direct => "direct",
            Self::Part(_) => "part",
        }
    }

    /// The parts that are held still, in words.
    pub fn frozen(&self) -> Vec<&'static str> {
        match self {
            Self::Free => Vec::new(),
            Self::Attention => vec!["attention patterns"],
            Self::Direct => vec!["attention patterns", "norm scales", "MLP outputs"],
            Self::Part(_) => vec!["attention patterns", "MLP outputs of the named layers"],
        }
    }

    pub fn is_free(&self) -> bool {
        *self == Self::Free
    }

    /// Whether MLPs are held, so that a feature's change is counted from its activation in the unedited run.
    pub fn holds_mlps(&self) -> bool {
        matches!(self, Self::Direct | Self::Part(_))
    }

    pub fn holds_mlp(&self, layer: usize) -> bool {
        match self {
            Self::Direct => true,
            Self::Part(layers) => layers.contains(&layer),
            Self::Free | Self::Attention => false,
        }
    }

    fn check(&self, config: &ModelConfig, active: &[&Edit]) -> Result<()> {
        if self.is_free() {
            return Ok(());
        }
        if let Some(edit) = active.iter().find(|e| e.is_edge()) {
            return Err(Error::request(format!(
                "`{edit}` changes a pattern while all patterns are held still; switch it off or hold nothing"
            )));
        }
        match self {
            Self::Direct if config.adds_up().is_err() => Err(Error::request(format!(
                "{} normalises the residual stream itself, so that nothing has a direct effect in it; hold attention alone",
                config.name
            ))),
            Self::Direct if config.norms_outputs() => Err(Error::request(format!(
                "{} normalises what attention and MLPs give, and the scale of those norms cannot be held by edits; hold attention \
                 alone, or use `features intervene --mode direct`",
                config.name
            ))),
            Self::Part(layers) if layers.is_empty() => {
                Err(Error::request("no layer is named whose MLP is held still; name one or more"))
            }
            Self::Part(layers) => match layers.iter().find(|l| **l >= config.n_layers) {
                Some(l) => Err(Error::request(format!(
                    "there is no layer {l} to be held; this model's layers go from 0 to {}",
                    config.n_layers - 1
                ))),
                None => Ok(()),
            },
            Self::Free | Self::Attention | Self::Direct => Ok(()),
        }
    }
}

impl EditStack {
    /// The copies of the unedited run's values that hold what the stack holds; none without an active edit.
    ///
    /// # Errors
    /// What is to be held cannot be, for this model or beside these edits.
    pub fn held(&self, config: &ModelConfig) -> Result<Vec<Edit>> {
        let active: Vec<&Edit> = self.active().collect();
        self.hold.check(config, &active)?;
        if active.is_empty() || self.hold.is_free() {
            return Ok(Vec::new());
        }
        // An MLP is held where features are written, so that what they write comes on top.
        let before_norm = active.iter().any(|e| e.site.kind == SiteKind::MlpResult);
        let output = if before_norm { SiteKind::MlpResult } else { SiteKind::MlpOut };
        let mut sites = Vec::new();
        for layer in 0..config.n_layers {
            let mut kinds = vec![SiteKind::Pattern];
            if self.hold == Hold::Direct {
                kinds.extend([SiteKind::Ln1Scale, SiteKind::Ln2Scale]);
            }
            if self.hold.holds_mlp(layer) {
                kinds.push(output);
            }
            sites.extend(kinds.into_iter().filter(|k| k.exists(config)).map(|k| Site::new(k, layer)));
        }
        if self.hold == Hold::Direct && SiteKind::LnFinalScale.exists(config) {
            sites.push(Site::new(SiteKind::LnFinalScale, 0));
        }
        let copy = |site: Site| {
            let edit = Edit::new(site, Action::Copy(self.base));
            Edit { positions: Positions::Prompt, ..edit }
        };
        Ok(sites.into_iter().map(copy).collect())
    }

    /// What is held and changed, in words.
    pub fn words(&self) -> Vec<String> {
        let active: Vec<String> = self.active().map(ToString::to_string).collect();
        let held = self.hold.frozen();
        let held = (!held.is_empty() && !active.is_empty()).then(|| match &self.hold {
            Hold::Part(layers) => {
                let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
                format!("hold attention patterns, and MLP outputs of layers {}", layers.join(", "))
            }
            _ => format!("hold {}", held.join(", ")),
        });
        held.into_iter().chain(active).collect()
    }
}

/// An edit's operation as it is where MLPs are held: a feature is changed from what it is in the unedited run, and only in
/// layers whose MLP is held. `None` where nothing is left of it.
///
/// # Errors
/// A dictionary whose skip path would have to stay live.
pub(super) fn beside(hold: &Hold, op: Op, sources: &Sources<'_>) -> Result<Option<Op>> {
    let Change::Feature(feature) = &op.change else { return Ok(Some(op)) };
    if !hold.holds_mlps() {
        return Ok(Some(op));
    }
    if !hold.holds_mlp(op.site.layer) {
        return Ok(None);
    }
    if feature.passes_on() {
        return Err(Error::request(format!(
            "the dictionary that writes {} has a skip path, which stays live where MLPs are held; hold attention alone, or use \
             `features intervene --mode {}`",
            op.site,
            hold.name()
        )));
    }
    let read = sources.base_values(feature.reads_elsewhere().unwrap_or(op.site))?;
    let (n, width) = (sources.base.len(), feature.writes().len());
    let rows: Vec<usize> = op.rows.inside(0..n).collect();
    let mut values = vec![0f32; n * width];
    for pos in &rows {
        let amount = read.row(*pos).map_or(0.0, |row| feature.amount(row));
        let to = &mut values[pos * width..(pos + 1) * width];
        to.iter_mut().zip(feature.writes()).for_each(|(v, w)| *v = amount * w);
    }
    let change = Change::AddRows(Arc::new(Values { width, values }), 1.0);
    Ok(Some(Op { rows: Rows::At(Arc::new(rows)), change, ..op }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::RunSide;
    use crate::model::Model;

    fn holding(hold: Hold, edits: Vec<Edit>) -> EditStack {
        EditStack { edits, hold, ..EditStack::default() }
    }

    #[test]
    fn what_is_held_comes_as_copies() {
        let model = Model::open("text").unwrap();
        let config = &model.config;
        let edit = Edit::new(Site::new(SiteKind::MlpOut, 0), Action::Zero).at(1);
        let stack = holding(Hold::Attention, vec![edit.clone()]);
        let held = stack.held(config).unwrap();
        assert_eq!(held.len(), config.n_layers);
        assert!(held.iter().all(|e| e.site.kind == SiteKind::Pattern && e.action == Action::Copy(RunSide::Clean)));
        assert!(holding(Hold::Attention, Vec::new()).held(config).unwrap().is_empty());
        let part = holding(Hold::Part(vec![0]), vec![edit.clone()]);
        let mlps = part.held(config).unwrap().iter().filter(|e| e.site.kind == SiteKind::MlpOut).count();
        assert_eq!((mlps, part.words().len()), (1, 2));
        for (hold, what) in [(Hold::Part(vec![99]), "layer 99"), (Hold::Part(Vec::new()), "no layer")] {
            let error = holding(hold, vec![edit.clone()]).held(config).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let cut = Edit::new(Site::new(SiteKind::Pattern, 0), Action::KnockOut).at(1).src(0);
        let error = holding(Hold::Attention, vec![cut]).held(config).unwrap_err().to_string();
        assert!(error.contains("held still"), "{error}");
        // A stack that holds nothing is written as it always was.
        let text = serde_json::to_string(&EditStack { edits: vec![edit], ..EditStack::default() }).unwrap();
        assert!(!text.contains("hold"), "{text}");
    }
}
