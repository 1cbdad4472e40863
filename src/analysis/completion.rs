//! Tokens that a text may be meant to be: what a field for one token offers while it is being typed.

use std::sync::Arc;

use crate::engine::logits::row_summary;
use crate::engine::{NoHooks, Trace};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Question;

/// Tokens offered at most.
const MOST: usize = 8;

/// A token that may be meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub id: u32,
    pub text: String,
    /// Its probability after the run's last token.
    pub prob: f32,
}

/// Asks which tokens begin with what is typed. Case and a leading space do not count; without any text, the most probable
/// tokens are given.
#[derive(Clone, PartialEq)]
pub struct CompletionsOf {
    pub trace: Arc<Trace>,
    pub typed: String,
}

impl Question for CompletionsOf {
    type Answer = Vec<Completion>;
    const LABEL: &'static str = "finding tokens";

    /// Whole matches come first, among them those with a space before, as words in a text have it; then by probability.
    fn run(&self, _: &Progress, _: &mut dyn FnMut(Vec<Completion>)) -> Result<Vec<Completion>> {
        let model = &self.trace.model;
        let network = model.network();
        let row = self.trace.resid_final.narrow(0, self.trace.len() - 1, 1)?;
        let logits: Vec<f32> = network
            .unembed(&network.final_norm(&row.unsqueeze(0)?, &mut NoHooks)?.squeeze(0)?)?
            .flatten_all()?
            .to_vec1()?;
        let all = row_summary(&logits, 0, &[]);
        let typed = self.typed.trim_start().to_lowercase();
        let mut found: Vec<(bool, bool, u32, String)> = (0..logits.len() as u32)
            .map(|id| (id, model.token_text(id)))
            .filter_map(|(id, text)| {
                let word = text.trim_start().to_lowercase();
                // What is only space is found by typing nothing.
                let fits = word.starts_with(&typed) && (typed.is_empty() || !word.is_empty());
                fits.then(|| (word == typed && !typed.is_empty(), text.starts_with(' '), id, text))
            })
            .collect();
        let order = |a: &(bool, bool, u32, String), b: &(bool, bool, u32, String)| {
            let likelier = logits[b.2 as usize].total_cmp(&logits[a.2 as usize]);
            (b.0, b.0 && b.1).cmp(&(a.0, a.0 && a.1)).then(likelier)
        };
        if found.len() > MOST {
            found.select_nth_unstable_by(MOST, order);
            found.truncate(MOST);
        }
        found.sort_by(order);
        let of =
            |(_, _, id, text): (bool, bool, u32, String)| Completion { id, text, prob: all.prob(logits[id as usize]) };
        Ok(found.into_iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn words_with_a_space_come_first() {
        let model = Arc::new(Model::open("text").unwrap());
        let ids = model.encode("Mr. Quilp went to the", false).unwrap();
        let trace = Arc::new(Trace::run(&model, ids, &Progress::default()).unwrap());
        let ask = |typed: &str| {
            let of = CompletionsOf { trace: trace.clone(), typed: typed.to_owned() };
            of.run(&Progress::default(), &mut |_| {}).unwrap()
        };
        let found = ask("the");
        let texts: Vec<&str> = found.iter().map(|c| c.text.as_str()).collect();
        let whole: Vec<&str> = texts.iter().copied().filter(|t| t.trim().eq_ignore_ascii_case("the")).collect();
        let spaced_first = whole.is_sorted_by_key(|t| !t.starts_with(' '));
        assert!(whole.len() > 1 && texts[0] == " the" && spaced_first && texts.starts_with(&whole), "{texts:?}");
        assert!(found.iter().all(|c| c.text.trim_start().to_lowercase().starts_with("the")), "{found:?}");
        // Without a text: the model's own favourites, with the probabilities of the run.
        let free = ask("");
        let next = &trace.next[trace.len() - 1];
        assert_eq!(free[0].id, next[0].id);
        assert!((free[0].prob - next[0].prob).abs() < 1e-5);
        assert!(free.is_sorted_by(|a, b| a.prob >= b.prob) && free.len() == MOST);
        assert!(ask("qqqqqq").is_empty());
    }
}
