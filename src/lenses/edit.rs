//! Interventions along what a lens reads: steer towards a token, take tokens out, exchange two. They are edits of the output
//! of a layer, as all others: in the stack they can be switched, moved and saved.

use std::sync::Arc;

use crate::analysis::transport::{Transport, token_vector};
use crate::engine::edit::{Action, Direction, Edit, Positions};
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question;

/// The direction of a token at a layer, as an edit holds it.
///
/// # Errors
/// As [`token_vector`], or a direction of zeros.
pub fn direction(model: &Model, lens: Option<&Transport>, layer: usize, token: u32) -> Result<Direction> {
    let vector = token_vector(model, lens, layer, token)?;
    if vector.iter().all(|v| *v == 0.0) {
        return Err(nothing(model, layer, token));
    }
    Ok(Direction::Concept { name: name(model, lens, token), vector })
}

fn nothing(model: &Model, layer: usize, token: u32) -> Error {
    Error::request(format!(
        "the direction of {:?} at layer {layer} is zero or taken out already; name another token",
        model.token_text(token)
    ))
}

fn name(model: &Model, lens: Option<&Transport>, token: u32) -> String {
    let kind = lens.map_or("logit lens", |l| l.kind);
    format!("{:?} ({kind})", model.token_text(token))
}

fn edit(layer: usize, positions: &Positions, action: Action) -> Edit {
    let mut edit = Edit::new(Site::new(SiteKind::ResidPost, layer), action);
    edit.positions = positions.clone();
    edit
}

/// An intervention on tokens of a lens.
#[derive(Clone, Debug, PartialEq)]
pub enum Intervention {
    /// Adds the token's direction, `alpha` times as long as the stream.
    Steer { token: u32, alpha: f32 },
    /// Takes the span of the tokens' directions out: h − QQᵀh.
    Ablate { tokens: Vec<u32> },
    /// Exchanges the coordinates of two tokens.
    Swap { from: u32, to: u32, alpha: f32, clamped: bool },
}

impl Intervention {
    /// The edits of one layer's output, at the positions.
    ///
    /// # Errors
    /// Tokens or a layer that are not there, or tokens whose directions are zero or the same.
    pub fn edits(
        &self,
        model: &Model,
        lens: Option<&Transport>,
        layer: usize,
        positions: &Positions,
    ) -> Result<Vec<Edit>> {
        self.edits_behind(&[], model, lens, layer, positions)
    }

    /// As [`Self::edits`], behind edits that stand already: what is taken out at the same place is left out of the
    /// directions of an ablation, which otherwise would bring some of it back.
    ///
    /// # Errors
    /// As [`Self::edits`], or nothing is left to be taken out.
    pub fn edits_behind(
        &self,
        standing: &[Edit],
        model: &Model,
        lens: Option<&Transport>,
        layer: usize,
        positions: &Positions,
    ) -> Result<Vec<Edit>> {
        let direction = |token: u32| direction(model, lens, layer, token);
        match self {
            Self::Steer { token, alpha } => {
                Ok(vec![edit(layer, positions, Action::Steer { direction: direction(*token)?, factor: *alpha })])
            }
            Self::Swap { from, to, alpha, clamped } => {
                let (from, to) = (direction(*from)?, direction(*to)?);
                Ok(vec![edit(layer, positions, Action::Exchange { from, to, factor: *alpha, clamped: *clamped })])
            }
            Self::Ablate { tokens } => {
                // Each edit takes one direction out. Directions of related tokens are far from orthogonal, so that each
                // is first freed of those before it: then together they take out the whole span and nothing else.
                let mut basis: Vec<Vec<f64>> = Vec::new();
                for vector in standing.iter().filter_map(|e| taken_out(e, layer, positions)) {
                    basis.extend(freed(vector, &basis));
                }
                let mut edits = Vec::new();
                for token in tokens {
                    let vector = token_vector(model, lens, layer, *token)?;
                    let Some(free) = freed(&vector, &basis) else {
                        return Err(nothing(model, layer, *token));
                    };
                    let mut name = name(model, lens, *token);
                    if !basis.is_empty() {
                        name.push_str(" less those before");
                    }
                    let vector = free.iter().map(|v| *v as f32).collect();
                    basis.push(free);
                    let direction = Direction::Concept { name, vector };
                    edits.push(edit(layer, positions, Action::Project { direction }));
                }
                Ok(edits)
            }
        }
    }
}

/// Asks for the edits of an intervention on the output of several layers.
#[derive(Clone, PartialEq)]
pub struct EditsOf {
    pub model: Arc<Model>,
    pub lens: Option<Arc<Transport>>,
    pub layers: Vec<usize>,
    pub positions: Positions,
    pub what: Intervention,
    /// The edits that act already, which come first.
    pub standing: Vec<Edit>,
}

impl Question for EditsOf {
    type Answer = Vec<Edit>;
    const LABEL: &'static str = "reading a lens' directions";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let mut edits = Vec::new();
        for layer in &self.layers {
            progress.check()?;
            let (model, lens) = (&self.model, self.lens.as_deref());
            edits.extend(self.what.edits_behind(&self.standing, model, lens, *layer, &self.positions)?);
        }
        Ok(edits)
    }
}

/// The same edits with another strength, where they have one.
pub fn with_strength(edits: &[Edit], alpha: f32) -> Vec<Edit> {
    let mut edits = edits.to_vec();
    for edit in &mut edits {
        if let Action::Steer { factor, .. } | Action::Exchange { factor, .. } = &mut edit.action {
            *factor = alpha;
        }
    }
    edits
}

/// The direction that an edit takes out of a layer's output at all of these positions.
fn taken_out<'a>(edit: &'a Edit, layer: usize, positions: &Positions) -> Option<&'a [f32]> {
    let Action::Project { direction: Direction::Concept { vector, .. } | Direction::Vector(vector) } = &edit.action
    else {
        return None;
    };
    let reaches = match (&edit.positions, positions) {
        (Positions::All, _) => true,
        (Positions::At(all), Positions::At(some)) => some.iter().all(|p| all.contains(p)),
        (a, b) => a == b,
    };
    let same = edit.site == Site::new(SiteKind::ResidPost, layer) && edit.coordinate.is_none() && edit.enabled;
    (same && reaches).then_some(vector)
}

/// A vector without its parts along an orthonormal basis, scaled to length 1; none where nothing is left of it.
fn freed(vector: &[f32], basis: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut v: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
    let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let before = length(&v);
    // Twice is enough for what rounding leaves.
    for _ in 0..2 {
        for b in basis {
            let along: f64 = v.iter().zip(b).map(|(x, y)| x * y).sum();
            v.iter_mut().zip(b).for_each(|(x, y)| *x -= along * y);
        }
    }
    let after = length(&v);
    if after.is_nan() || after <= 1e-6 * before || before == 0.0 {
        return None;
    }
    v.iter_mut().for_each(|x| *x /= after);
    Some(v)
}
