//! Changes of the document, to take back and to do again.

use super::labs::Labs;
use super::{Desk, Document, Look};

/// Changes kept at most; the oldest go first.
const MOST: usize = 200;
/// Seconds within which changes of one name are one change: letters that are typed, a slider that is dragged.
const TOGETHER: f64 = 1.5;

/// What a change may change: the document without the desks that are parked.
#[derive(Clone, Debug, PartialEq)]
struct State {
    desk: Desk,
    labs: Labs,
    look: Look,
}

/// A named change of the document: what it was before and after.
#[derive(Clone, Debug)]
pub struct Change {
    /// What was done: "add zero 23.3".
    pub name: String,
    before: State,
    after: State,
    /// When it was made last, seconds of the window's clock.
    at: f64,
}

/// The stack of changes. Those beyond `done` have been taken back.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: Vec<Change>,
    done: usize,
}

fn state(document: &Document) -> State {
    State { desk: document.desk.clone(), labs: document.labs.clone(), look: document.look.clone() }
}

/// Goes from the one end of a change to the other. What the change did not touch stays as it is now: pins, what is chosen
/// and tabs are where one looks, not what one decided.
fn go(document: &mut Document, here: &State, there: &State) {
    let State { desk, labs, look } = there;
    let now = &document.desk;
    let mut next = desk.clone();
    if desk.hash.is_none() {
        // It was decided before the model was there; by now it is.
        (next.hash, next.model) = (now.hash, now.model.clone());
    }
    if next.hash == now.hash {
        next.pinned = now.pinned;
        (next.chose_head, next.found_head, next.chose_pos) = (now.chose_head, now.found_head, now.chose_pos);
        if next.features.dictionary == now.features.dictionary {
            next.features.chosen = now.features.chosen;
        }
    }
    document.put(next);
    document.labs.clone_from(labs);
    let layouts = if here.look.layouts == look.layouts { &document.look.layouts } else { &look.layouts };
    document.look = Look { layouts: layouts.clone(), light: look.light, ..document.look.clone() };
}

impl History {
    /// Changes the document under a name. A change that changes nothing is none.
    pub fn change(&mut self, document: &mut Document, name: &str, now: f64, change: impl FnOnce(&mut Document)) {
        let before = state(document);
        change(document);
        let after = state(document);
        if before == after {
            return;
        }
        self.changes.truncate(self.done);
        match self.changes.last_mut() {
            Some(last) if last.name == name && now - last.at < TOGETHER => {
                (last.after, last.at) = (after, now);
                // There and back again is no change.
                if last.after == last.before {
                    self.changes.pop();
                }
            }
            _ => self.changes.push(Change { name: name.to_owned(), before, after, at: now }),
        }
        if self.changes.len() > MOST {
            self.changes.remove(0);
        }
        self.done = self.changes.len();
    }

    /// What would be taken back next.
    pub fn undoable(&self) -> Option<&str> {
        self.changes[..self.done].last().map(|c| c.name.as_str())
    }

    /// What would be done again next.
    pub fn redoable(&self) -> Option<&str> {
        self.changes.get(self.done).map(|c| c.name.as_str())
    }

    /// The names of all changes, the oldest first, and how many of them are done.
    pub fn changes(&self) -> (impl DoubleEndedIterator<Item = &str> + ExactSizeIterator, usize) {
        (self.changes.iter().map(|c| c.name.as_str()), self.done)
    }

    /// Goes to where so many changes are done.
    pub fn jump(&mut self, document: &mut Document, done: usize) {
        while self.done > done && self.undo(document).is_some() {}
        while self.done < done && self.redo(document).is_some() {}
    }

    /// Takes the last change back, and returns its name.
    pub fn undo(&mut self, document: &mut Document) -> Option<String> {
        let change = self.changes[..self.done].last()?;
        go(document, &change.after, &change.before);
        self.done -= 1;
        // What is typed next is a change of its own.
        self.changes.iter_mut().for_each(|c| c.at = f64::NEG_INFINITY);
        Some(self.changes[self.done].name.clone())
    }

    /// Does the change again that was taken back last, and returns its name.
    pub fn redo(&mut self, document: &mut Document) -> Option<String> {
        let change = self.changes.get(self.done)?;
        go(document, &change.before, &change.after);
        self.done += 1;
        Some(change.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_taken_back_and_done_again() {
        let mut d = Document::default();
        let mut h = History::default();
        for (at, text) in ["a", "ab", "abc"].into_iter().enumerate() {
            h.change(&mut d, "type the prompt", at as f64, |d| text.clone_into(&mut d.desk.prompt));
        }
        h.change(&mut d, "use the light theme", 3.0, |d| d.look.light = true);
        h.change(&mut d, "nothing", 4.0, |_| {});
        d.desk.pinned.pos = 7;
        assert_eq!((h.undoable(), h.redoable()), (Some("use the light theme"), None));
        assert_eq!(h.undo(&mut d).as_deref(), Some("use the light theme"));
        assert_eq!((d.look.light, d.desk.prompt.as_str()), (false, "abc"));
        assert_eq!(h.undo(&mut d).as_deref(), Some("type the prompt"), "letters typed together are one change");
        assert_eq!((d.desk.prompt.as_str(), d.desk.pinned.pos), ("", 7));
        assert_eq!(h.undo(&mut d), None);
        assert_eq!(h.redo(&mut d).as_deref(), Some("type the prompt"));
        assert_eq!((d.desk.prompt.as_str(), h.redoable()), ("abc", Some("use the light theme")));
        h.change(&mut d, "type the answer", 9.0, |d| " x".clone_into(&mut d.desk.answer));
        assert_eq!(h.redoable().map(str::to_owned), h.redo(&mut d), "another change leaves nothing to do again");
    }

    #[test]
    fn what_is_done_while_the_model_loads_is_taken_back_without_losing_the_model() {
        let mut d = Document::from(Desk { model: "a".to_owned(), ..Desk::default() });
        let mut h = History::default();
        h.change(&mut d, "type the prompt", 0.0, |d| "abc".clone_into(&mut d.desk.prompt));
        d.turn_to("a", 1, Desk::clone);
        h.undo(&mut d);
        assert_eq!((d.desk.prompt.as_str(), d.desk.hash, d.parked.len()), ("", Some(1), 0));
        h.redo(&mut d);
        assert_eq!((d.desk.prompt.as_str(), d.desk.hash), ("abc", Some(1)));
    }

    #[test]
    fn where_one_looks_stays_and_there_and_back_is_no_change() {
        let mut d = Document::default();
        let mut h = History::default();
        h.change(&mut d, "type the prompt", 0.0, |d| "abc".clone_into(&mut d.desk.prompt));
        d.desk.chose_head = true;
        d.desk.features.chosen = Some(crate::session::features::Chosen::Feature(7));
        let arrangement = crate::session::arrangement::Arrangement::View("lens".to_owned());
        d.look.layouts.insert("model".to_owned(), arrangement);
        let looked = (d.desk.chose_head, d.desk.features.chosen, d.look.layouts.clone());
        h.undo(&mut d);
        assert_eq!((d.desk.chose_head, d.desk.features.chosen, d.look.layouts.clone()), looked);
        h.change(&mut d, "use the light theme", 3.0, |d| d.look.light = true);
        h.change(&mut d, "use the light theme", 3.5, |d| d.look.light = false);
        assert_eq!(h.undoable(), None);
    }

    #[test]
    fn a_desk_that_was_left_comes_back() {
        let mut d = Document::from(Desk { model: "a".to_owned(), ..Desk::default() });
        let mut h = History::default();
        d.turn_to("a", 1, Desk::clone);
        h.change(&mut d, "open b", 0.0, |d| d.turn_to("b", 2, |_| Desk::default()));
        h.change(&mut d, "type the prompt", 9.0, |d| "x".clone_into(&mut d.desk.prompt));
        h.undo(&mut d);
        h.undo(&mut d);
        assert_eq!((d.desk.model.as_str(), d.parked.len()), ("a", 1));
        h.redo(&mut d);
        h.redo(&mut d);
        assert_eq!((d.desk.model.as_str(), d.desk.prompt.as_str()), ("b", "x"));
    }
}
