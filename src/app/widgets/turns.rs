//! Conversations wherever tokens are drawn: bands in the colour of whose turn it is, what the chat template wrote dimmed, and
//! thinking folded away.

use std::ops::Range;

use eframe::egui::{self, Color32};

use crate::analysis::run::Run;
use crate::app::look::theme::Palette;
use crate::session::Desk;

/// What thinking stands between.
pub const THINKING: (&str, &str) = ("<think>", "</think>");

/// Whose words a token of a conversation is of.
#[derive(Clone, Debug, PartialEq)]
enum Turn {
    /// Of a message: its index, its role and the role's colour.
    Said(usize, String, Color32),
    /// The chat template's.
    Template,
}

/// Whose words each position is of; nothing of a plain prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turns {
    of: Vec<Turn>,
    folded: Vec<Range<usize>>,
}

impl Turns {
    pub fn of(run: &Run, desk: &Desk, palette: &Palette) -> Self {
        let Some(talk) = desk.conversation.as_ref().filter(|_| !run.turns.is_empty()) else { return Self::default() };
        let turn = |t: &Option<usize>| {
            let said = t.and_then(|i| Some((i, talk.messages.get(i)?)));
            said.map_or(Turn::Template, |(i, m)| Turn::Said(i, m.role.clone(), role_color(palette, &m.role)))
        };
        Self { of: run.turns.iter().map(turn).collect(), folded: folded(run, desk) }
    }

    /// Positions that are folded away, each range drawn as its first.
    pub fn folded(&self) -> &[Range<usize>] {
        &self.folded
    }

    /// The positions that are drawn, of `n`; `None` if that is all of them.
    pub fn kept(&self, n: usize) -> Option<Vec<usize>> {
        let hidden = |i: &usize| self.folded.iter().any(|r| r.contains(i) && *i > r.start);
        (!self.folded.is_empty()).then(|| (0..n).filter(|i| !hidden(i)).collect())
    }

    /// What stands for thinking that is folded away at this position: its name, and what is said of it.
    pub fn fold(&self, pos: usize) -> Option<(String, String)> {
        let n = self.folded.iter().find(|r| r.start == pos)?.len();
        Some((format!("… {n}"), format!("{n} tokens of thinking, folded away")))
    }

    /// Those of some positions alone, nothing of which is folded.
    pub fn only(&self, kept: &[usize]) -> Self {
        Self { of: kept.iter().filter_map(|i| self.of.get(*i).cloned()).collect(), folded: Vec::new() }
    }

    /// The positions with their values, largest first, without those of no value (NaN); what is folded away is one, with
    /// its sum.
    pub fn strongest(&self, values: &[f32]) -> Vec<(usize, f32)> {
        let kept = self.kept(values.len()).unwrap_or_else(|| (0..values.len()).collect());
        let ends = kept.iter().skip(1).copied().chain([values.len()]);
        let mut sums: Vec<(usize, f32)> =
            kept.iter().zip(ends).map(|(i, end)| (*i, values[*i..end].iter().sum())).collect();
        sums.retain(|s| !s.1.is_nan());
        sums.sort_by(|a, b| b.1.total_cmp(&a.1));
        sums
    }

    /// The colour of the band under a token that was said.
    pub fn band(&self, pos: usize) -> Option<Color32> {
        match self.of.get(pos) {
            Some(Turn::Said(_, _, color)) => Some(*color),
            _ => None,
        }
    }

    pub fn are_there(&self) -> bool {
        !self.of.is_empty()
    }

    /// True of what the chat template wrote.
    pub fn is_template(&self, pos: usize) -> bool {
        self.of.get(pos) == Some(&Turn::Template)
    }

    /// True if the next token is of the same turn.
    pub fn goes_on(&self, pos: usize) -> bool {
        self.of.get(pos).is_some_and(|t| self.of.get(pos + 1) == Some(t))
    }

    /// The colour of a token's name on an axis, where nothing marks it.
    pub fn ink(&self, pos: usize, palette: &Palette) -> Color32 {
        match self.of.get(pos) {
            None => palette.weak,
            Some(Turn::Said(..)) => palette.text,
            Some(Turn::Template) => palette.faint,
        }
    }

    /// Marks a line of a list that is of a token.
    pub fn mark(&self, painter: &egui::Painter, line: egui::Rect, pos: usize) {
        if let Some(color) = self.band(pos) {
            let band = egui::Rect::from_min_size(line.min, egui::vec2(2.0, line.height()));
            painter.rect_filled(band, 0.0, color);
        }
    }

    /// Whose words they are, in words.
    pub fn whose(&self, pos: usize) -> Option<String> {
        Some(match self.of.get(pos)? {
            Turn::Said(i, role, _) => format!("message {i}, {role}"),
            Turn::Template => "written by the chat template".to_owned(),
        })
    }
}

/// The positions of a run's thinking, where the user folds it.
pub fn folded(run: &Run, desk: &Desk) -> Vec<Range<usize>> {
    let folds = desk.folds_thinking && desk.conversation.is_some() && !run.turns.is_empty();
    if folds { thinking(&run.texts) } else { Vec::new() }
}

/// The colour by which a role's turns are known.
pub fn role_color(palette: &Palette, role: &str) -> Color32 {
    match role {
        "assistant" => palette.accent,
        "user" => palette.positive,
        "system" => palette.bar,
        _ => palette.weak,
    }
}

/// The tokens between the signs of thinking, which may lie in several tokens themselves: ranges of positions.
pub fn thinking(texts: &[String]) -> Vec<Range<usize>> {
    let whole = texts.concat();
    let mut starts = Vec::with_capacity(texts.len());
    let mut at = 0;
    for text in texts {
        starts.push(at);
        at += text.len();
    }
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(begin) = whole[from..].find(THINKING.0).map(|n| from + n + THINKING.0.len()) {
        let end = whole[begin..].find(THINKING.1).map_or(whole.len(), |n| begin + n);
        let first = starts.partition_point(|s| *s < begin);
        let last = starts.partition_point(|s| *s < end);
        if last > first + 1 {
            found.push(first..last);
        }
        from = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_found_in_tokens() {
        let texts = ["a", "<th", "ink>", "x", "y", "z", "</", "think>", "b"].map(str::to_owned);
        assert_eq!(thinking(&texts), vec![3..6]);
        assert_eq!(thinking(&["<think>", "x", "y"].map(str::to_owned)), vec![1..3]);
        assert!(thinking(&["<think>", "x", "</think>"].map(str::to_owned)).is_empty());
    }

    #[test]
    fn what_is_folded_is_drawn_as_its_first() {
        let said = |i| Turn::Said(i, "user".to_owned(), Color32::RED);
        let of = vec![Turn::Template, said(0), said(0), said(0), said(1)];
        let turns = Turns { of, folded: std::iter::once(1..3).collect() };
        assert_eq!(turns.kept(5), Some(vec![0, 1, 3, 4]));
        assert_eq!(turns.fold(1).map(|f| f.0).as_deref(), Some("… 2"));
        assert_eq!((turns.fold(2), turns.fold(3)), (None, None));
        assert_eq!(turns.strongest(&[0.1, 0.25, 0.5, 0.25]), [(1, 0.75), (3, 0.25), (0, 0.1)]);
        let only = turns.only(&[0, 1, 3, 4]);
        assert_eq!((0..5).map(|i| only.band(i).is_some()).collect::<Vec<_>>(), [false, true, true, true, false]);
        assert_eq!((0..4).map(|i| only.goes_on(i)).collect::<Vec<_>>(), [false, true, false, false]);
        assert!(only.is_template(0) && only.kept(4).is_none());
        assert_eq!(turns.whose(4).as_deref(), Some("message 1, user"));
        // Of a plain prompt nothing is said.
        let plain = Turns::default();
        assert_eq!((plain.kept(3), plain.band(0), plain.whose(0), plain.is_template(0)), (None, None, None, false));
    }
}
