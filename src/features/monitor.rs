//! What the monitor reads: directions and features on every token of the prompt, of what was generated after it, and of
//! what was generated under edits.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::resolve::{Sources, resolve_stack};
use crate::engine::{EditStack, Trace};
use crate::error::Result;
use crate::features::direction::Concept;
use crate::features::{Dictionary, Place, Store};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What a row of the monitor is of.
#[derive(Clone, Debug, PartialEq)]
pub enum MonitorRow {
    /// A direction at a layer.
    Concept(Arc<Concept>, usize),
    Feature(u32),
}

/// What is monitored on each token: directions, then features.
pub struct Monitored {
    /// Text of every token: the prompt's, and those generated after it where they are read as well.
    pub texts: Vec<String>,
    /// Tokens of the prompt.
    pub prompt: usize,
    pub rows: Vec<MonitorRow>,
    /// [row][pos].
    pub values: Vec<Vec<f32>>,
    /// The same after the first layer, for directions: little more than what the word itself says.
    pub word: Vec<Option<Vec<f32>>>,
}

/// What the monitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Follow {
    Prompt,
    /// Until something is generated, the prompt.
    #[default]
    Generated,
    /// What was generated under the edits, as the edited model reads it.
    Steered,
}

crate::identity!(Continued);

/// Tokens generated after a prompt: without edits, and with them and the edits themselves.
#[derive(Debug)]
pub struct Continued {
    /// The prompt.
    pub prompt: Vec<u32>,
    pub plain: Vec<u32>,
    pub steered: Vec<u32>,
    pub stack: Arc<EditStack>,
}

/// Asks what directions and features read on every token.
#[derive(Clone, PartialEq)]
pub struct MonitorOf {
    pub trace: Arc<Trace>,
    pub rows: Vec<MonitorRow>,
    /// Whose features the rows name.
    pub dictionary: Option<Arc<Dictionary>>,
    pub follow: Follow,
    pub continued: Option<Arc<Continued>>,
    /// Where edits find their dictionaries.
    pub store: Arc<Store>,
}

impl Question for MonitorOf {
    type Answer = Monitored;

    const LABEL: &'static str = "reading the monitor's run";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Monitored)) -> Result<Monitored> {
        monitor(self, progress)
    }
}

/// Reads every row on every token.
///
/// # Errors
/// Directions and dictionaries that do not fit the model, and as running it.
pub fn monitor(asked: &MonitorOf, progress: &Progress) -> Result<Monitored> {
    let prompt = asked.trace.len();
    let trace = follow_on(asked, progress)?;
    let model = &trace.model;
    let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
    let acts = match &asked.dictionary {
        Some(d) => {
            let (input, _) = d.check(&model.config)?;
            Some(d.encode(&input.rows(model, &trace.value(input.site)?)?, progress)?)
        }
        None => None,
    };
    let (mut values, mut word) = (Vec::new(), Vec::new());
    for row in &asked.rows {
        match row {
            MonitorRow::Concept(concept, layer) => {
                let read = |layer: usize| -> Result<Vec<f32>> {
                    let place = Place::from(concept.site(layer)?);
                    concept.read(layer, &place.rows(model, &trace.value(place.site)?)?)
                };
                values.push(read(*layer)?);
                // The first layer is compared with nothing.
                word.push((*layer > 0).then(|| read(0)).transpose()?);
            }
            MonitorRow::Feature(f) => {
                values.push((0..trace.len()).map(|p| acts.as_ref().map_or(0.0, |a| a.at(p, *f))).collect());
                word.push(None);
            }
        }
    }
    Ok(Monitored { texts, prompt, rows: asked.rows.clone(), values, word })
}

/// Runs what the monitor reads: the prompt, or the prompt with what was generated after it.
fn follow_on(asked: &MonitorOf, progress: &Progress) -> Result<Arc<Trace>> {
    let trace = asked.trace.clone();
    let Some(continued) = &asked.continued else { return Ok(trace) };
    let more = match asked.follow {
        Follow::Prompt => return Ok(trace),
        Follow::Generated => &continued.plain,
        Follow::Steered => &continued.steered,
    };
    // Another prompt's continuation is no text of this one.
    if more.is_empty() || trace.ids != continued.prompt {
        return Ok(trace);
    }
    let (model, ids) = (&trace.model, [&trace.ids[..], more].concat());
    let plain = Arc::new(Trace::run_after(&trace, ids.clone(), progress)?);
    if asked.follow == Follow::Generated || !continued.stack.is_active() {
        return Ok(plain);
    }
    // Edits of single positions, and those of the prompt or of what is generated, mean the same positions here.
    let prompt = Trace::run(model, trace.ids.clone(), progress)?;
    let ops = resolve_stack(&continued.stack, &Sources::alone(&prompt).with_dictionaries(&*asked.store))?;
    Ok(Arc::new(Trace::run_edited(model, ids, Arc::new(ops), progress)?))
}
