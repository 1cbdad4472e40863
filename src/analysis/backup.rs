//! Backup components: components whose direct attribution rises when another component is ablated [Wang et al. 2022;
//! McGrath et al. 2023, "The Hydra Effect"].
//!
//! A model often repairs itself: later components take over a part of what the ablated one did. The ablation then looks
//! milder than the component's own effect. This file ranks the components by how much they rise.

use super::direct_attribution::Attribution;
use super::direct_attribution::direct_attribution;
use crate::engine::Trace;
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Question;
use std::sync::Arc;

/// A head or an MLP, which adds to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Head { layer: usize, head: usize },
    Mlp { layer: usize },
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head { layer, head } => write!(f, "a{layer}.h{head}"),
            Self::Mlp { layer } => write!(f, "m{layer}"),
        }
    }
}

/// Direct attribution of one component, before the edit and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    pub component: Component,
    pub before: f32,
    pub after: f32,
}

impl Change {
    pub fn rise(&self) -> f32 {
        self.after - self.before
    }
}

/// Returns all components, the one whose direct attribution rose most first. Each run's final norm is frozen at that
/// run's own scale.
pub fn changes(before: &Attribution, after: &Attribution) -> Vec<Change> {
    let heads = before.heads.iter().zip(&after.heads).enumerate().flat_map(|(layer, (b, a))| {
        b.iter().zip(a).enumerate().map(move |(head, (b, a))| Change {
            component: Component::Head { layer, head },
            before: *b,
            after: *a,
        })
    });
    let mlps = before.mlps.iter().zip(&after.mlps).enumerate().map(|(layer, (b, a))| Change {
        component: Component::Mlp { layer },
        before: *b,
        after: *a,
    });
    let mut all: Vec<Change> = heads.chain(mlps).collect();
    all.sort_by(|x, y| y.rise().total_cmp(&x.rise()));
    all
}

/// Asks which components step in for what edits removed, at the last position.
#[derive(Clone, PartialEq)]
pub struct BackupOf {
    pub before: Arc<Trace>,
    pub after: Arc<Trace>,
    pub answer: u32,
    pub wrong: Option<u32>,
}

impl Question for BackupOf {
    type Answer = Vec<Change>;
    const LABEL: &'static str = "backup components";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let at_end = |trace: &Trace| direct_attribution(trace, self.after.len() - 1, self.answer, self.wrong);
        Ok(changes(&at_end(&self.before)?, &at_end(&self.after)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rise_comes_first() {
        let before = Attribution { heads: vec![vec![1.0, 0.0]], mlps: vec![0.5], ..Attribution::default() };
        let after = Attribution { heads: vec![vec![0.0, 0.7]], mlps: vec![0.6], ..Attribution::default() };
        let list: Vec<String> = changes(&before, &after).iter().map(|c| c.component.to_string()).collect();
        assert_eq!(list, ["a0.h1", "m0", "a0.h0"]);
    }
}
