//! What the monitor reads: directions and features on every token of the prompt, of what was generated after it, and of
//! what was generated under edits.

use std::sync::Arc;

use crate::analysis::run::Run;
use crate::app::features::Chosen;
use crate::app::features::FeaturesState;
use crate::engine::resolve::{Sources, resolve_stack};
use crate::engine::{EditStack, Trace};
use crate::error::Result;
use crate::features::direction::Concept;
use crate::features::{Place, Store};
use crate::model::Model;
use crate::progress::Progress;

/// What a row is of.
#[derive(Clone, Debug)]
pub enum Row {
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
    pub rows: Vec<Row>,
    pub names: Vec<String>,
    /// [row][pos].
    pub values: Vec<Vec<f32>>,
    /// The same after the first layer, for directions: little more than what the word itself says.
    pub word: Vec<Option<Vec<f32>>>,
}

/// What the monitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Follow {
    Prompt,
    /// Until something is generated, the prompt.
    #[default]
    Generated,
    /// What was generated under the edits, as the edited model reads it.
    Steered,
}

/// Tokens generated after a prompt: without edits, and with them and the edits themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continued {
    /// The prompt.
    pub prompt: Vec<u32>,
    pub plain: Vec<u32>,
    pub steered: Vec<u32>,
    pub stack: EditStack,
}

impl FeaturesState {
    /// The value above which a row marks a token: as it is now, whatever has been read since. `None` for what is not
    /// monitored any more.
    pub fn threshold(&self, row: &Row) -> Option<f32> {
        match row {
            Row::Concept(concept, _) => {
                self.watched.iter().find(|w| Arc::ptr_eq(&w.concept, concept)).map(|w| w.threshold)
            }
            Row::Feature(f) => self.kept.iter().find(|k| k.0 == *f).map(|k| k.1),
        }
    }

    pub fn monitor(&mut self, model: &Arc<Model>, run: &Arc<Run>) {
        let (model, trace) = (model.clone(), run.trace.clone());
        let mut rows: Vec<Row> = self.watched.iter().map(|w| Row::Concept(w.concept.clone(), w.layer)).collect();
        let mut names: Vec<String> = (0..rows.len()).map(|i| self.name(Chosen::Concept(i))).collect();
        let dictionary = self.dictionary.value.clone().filter(|_| !self.kept.is_empty());
        if dictionary.is_some() {
            rows.extend(self.kept.iter().map(|k| Row::Feature(k.0)));
            names.extend(self.kept.iter().map(|k| self.name(Chosen::Feature(k.0))));
        }
        let (follow, continued, store) = (self.follow, self.continued.clone(), self.store.clone());
        self.monitored.start(&self.wake, move |progress, _| {
            let prompt = trace.len();
            let trace = follow_on(&model, trace, follow, &continued, &store, progress)?;
            let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
            let acts = match &dictionary {
                Some(d) => {
                    let (input, _) = d.check(&model.config)?;
                    Some(d.encode(&input.rows(&model, &trace.value(input.site)?)?, progress)?)
                }
                None => None,
            };
            let (mut values, mut word) = (Vec::new(), Vec::new());
            for row in &rows {
                match row {
                    Row::Concept(concept, layer) => {
                        let read = |layer: usize| -> Result<Vec<f32>> {
                            let place = Place::from(concept.site(layer)?);
                            concept.read(layer, &place.rows(&model, &trace.value(place.site)?)?)
                        };
                        values.push(read(*layer)?);
                        // The first layer is compared with nothing.
                        word.push((*layer > 0).then(|| read(0)).transpose()?);
                    }
                    Row::Feature(f) => {
                        values.push((0..trace.len()).map(|p| acts.as_ref().map_or(0.0, |a| a.at(p, *f))).collect());
                        word.push(None);
                    }
                }
            }
            Ok(Monitored { texts, prompt, rows, names, values, word })
        });
    }
}

/// The run that the monitor reads: the prompt's, or one of the prompt with what was generated after it.
fn follow_on(
    model: &Arc<Model>,
    trace: Arc<Trace>,
    follow: Follow,
    continued: &Continued,
    store: &Store,
    progress: &Progress,
) -> Result<Arc<Trace>> {
    let more = match follow {
        Follow::Prompt => return Ok(trace),
        Follow::Generated => &continued.plain,
        Follow::Steered => &continued.steered,
    };
    // Another prompt's continuation is no text of this one.
    if more.is_empty() || trace.ids != continued.prompt {
        return Ok(trace);
    }
    let ids = [&trace.ids[..], more].concat();
    let plain = Arc::new(Trace::run(model, ids.clone(), progress)?);
    if follow == Follow::Generated || !continued.stack.is_active() {
        return Ok(plain);
    }
    // Edits of single positions, and those of the prompt or of what is generated, mean the same positions here.
    let prompt = Trace::run(model, trace.ids.clone(), progress)?;
    let ops = resolve_stack(&continued.stack, &Sources::alone(&prompt).with_dictionaries(store))?;
    Ok(Arc::new(Trace::run_edited(model, ids, Arc::new(ops), progress)?))
}
