//! What comes of what a lens reads: the options for it, and how it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::analysis::logit_lens::Cell;
use crate::analysis::transport::Transport;
use crate::engine::Trace;
use crate::error::Result;
use crate::lenses::faithful::{Effect, FaithfulOf, Target};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question;

#[derive(clap::Args, Debug)]
pub struct FaithfulArgs {
    /// Also take the first token of each layer and position out there, and compare what comes of it with what the lens says
    #[arg(long)]
    faithful: bool,
    /// Swap it with this token in the place of taking it out; its text, or id:N
    #[arg(long, value_name = "TOKEN", requires = "faithful", allow_hyphen_values = true)]
    swap: Option<String>,
}

/// Cells of a lens that are read, [layer][pos].
pub struct Cells<'a> {
    pub layers: Vec<usize>,
    pub positions: Vec<usize>,
    pub cells: Vec<Vec<&'a Cell>>,
}

/// What came of them.
pub struct Faithful {
    layers: Vec<usize>,
    positions: Vec<usize>,
    effects: BTreeMap<(usize, usize), Effect>,
    swap: Option<u32>,
}

impl FaithfulArgs {
    /// The token that is swapped with.
    ///
    /// # Errors
    /// The text is no token.
    pub fn token(&self, model: &Model) -> Result<Option<u32>> {
        self.swap.as_ref().map(|t| model.single_token(t)).transpose()
    }

    /// What comes of the cells, where that was asked for; without a lens they are the logit lens'.
    ///
    /// # Errors
    /// As [`FaithfulOf`].
    pub fn measure(
        &self,
        trace: &Arc<Trace>,
        lens: Option<&Arc<Transport>>,
        read: &Cells<'_>,
        swap: Option<u32>,
        progress: &Progress,
    ) -> Result<Option<Faithful>> {
        if !self.faithful {
            return Ok(None);
        }
        let firsts = |(layer, row): (&usize, &Vec<&Cell>)| {
            let first =
                |(pos, cell): (&usize, &&Cell)| Some(Target { layer: *layer, pos: *pos, token: cell.top.first()?.id });
            read.positions.iter().zip(row).filter_map(first).collect::<Vec<_>>()
        };
        let targets = read.layers.iter().zip(&read.cells).flat_map(firsts).collect();
        let question = FaithfulOf { trace: trace.clone(), lens: lens.cloned(), targets, swap };
        let found = question.run(progress, &mut |_| {})?;
        let effects = found.into_iter().map(|e| ((e.target.layer, e.target.pos), e)).collect();
        Ok(Some(Faithful { layers: read.layers.clone(), positions: read.positions.clone(), effects, swap }))
    }
}

impl Faithful {
    /// Grids [layer][pos]; nothing for the last layer, behind which nothing runs.
    pub fn json(&self) -> Value {
        let grid = |number: fn(&Effect) -> Option<f32>| -> Vec<Vec<Option<f32>>> {
            let cell = |layer: usize, pos: usize| self.effects.get(&(layer, pos)).and_then(number);
            self.layers.iter().map(|l| self.positions.iter().map(|p| cell(*l, *p)).collect()).collect()
        };
        json!({"faithfulness": grid(Effect::faithfulness), "said": grid(|e| Some(e.said)), "real": grid(|e| Some(e.real)),
            "unit": Effect::UNIT, "swapped_with": self.swap})
    }

    /// A cell's share for people.
    pub fn share(&self, layer: usize, pos: usize) -> String {
        let share = self.effects.get(&(layer, pos)).and_then(Effect::faithfulness);
        share.map_or("–".to_owned(), |f| format!("{f:.2}"))
    }
}
