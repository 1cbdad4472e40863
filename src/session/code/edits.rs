//! Active edits, as hooks.

use super::places::{pairs, same_places, sound};
use super::script::{Script, list, one_line};
use crate::engine::edit::{Direction, Positions};
use crate::engine::resolve::Alignment;
use crate::engine::{Action, Axis, Edit, RunSide, Site, SiteKind};
use crate::error::{Error, Result};
use crate::session::Desk;

/// Writes the active edits of a stack as hooks.
pub(super) struct Edits<'s, 'a> {
    pub(super) script: &'s mut Script<'a>,
    pub(super) desk: &'s Desk,
    pub(super) base: RunSide,
}

/// What a hook of an edit takes its values from.
#[derive(Default)]
struct Needs {
    /// Hooks whose values in the unedited run are needed, and in the other prompt's.
    own: Vec<String>,
    other: Vec<String>,
    reference: Vec<String>,
    unit: bool,
}

impl Edits<'_, '_> {
    pub(super) fn write(mut self) -> Result<()> {
        let facts = self.script.facts;
        let base = facts.pair.run(self.base)?;
        self.desk.stack.check(&base.model.config, base.len())?;
        let alignment = facts.pair.alignment_from(self.base);
        let (mut needs, mut hooks, mut bodies) = (Needs::default(), Vec::new(), Vec::new());
        // Edits of generated tokens change nothing in a prompt's run.
        let held = self.desk.stack.held(&base.model.config)?;
        let active = self.desk.stack.active().filter(|e| e.positions != Positions::Generated);
        for (i, edit) in held.iter().chain(active).enumerate() {
            sound(&base.model.config, edit.site.kind)?;
            let body = self.body(edit, &alignment, &mut needs)?;
            let site = if edit.action == Action::KnockOut { SiteKind::AttnScores } else { edit.site.kind };
            hooks.push(format!("(\"{}\", edit_{})", Site::new(site, edit.site.layer), i + 1));
            bodies.push(format!(
                "\n\ndef edit_{}(value, hook):  # {}\n    value = value.clone()\n{}    return value",
                i + 1,
                one_line(&edit.to_string()),
                body.iter().map(|line| format!("    {line}\n")).collect::<String>()
            ));
        }
        self.write_sources(needs)?;
        for body in &bodies {
            self.script.line(body);
        }
        self.script.line(&format!("\n\nhooks = [{}]", hooks.join(", ")));
        Ok(())
    }

    fn write_sources(&mut self, needs: Needs) -> Result<()> {
        let facts = self.script.facts;
        let keep = |mut names: Vec<String>| {
            names.sort();
            names.dedup();
            names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
        };
        if !needs.other.is_empty() {
            let other = facts.pair.run(self.base.other())?;
            self.script.prompt("other_ids", other);
            let names = keep(needs.other);
            self.script.line(&format!("_, other = model.run_with_cache(other_ids, names_filter=[{names}])"));
        }
        if !needs.own.is_empty() {
            let names = keep(needs.own);
            self.script.line(&format!("_, own = model.run_with_cache(ids, names_filter=[{names}])"));
        }
        if !needs.reference.is_empty() {
            self.script.references(&self.desk.stack.reference, &format!("[{}]", keep(needs.reference)))?;
        }
        if needs.unit {
            self.script.line("\n\ndef unit(direction):\n    return direction / direction.norm()");
        }
        Ok(())
    }

    /// Returns the lines that change `value`.
    fn body(&self, edit: &Edit, alignment: &Alignment, needs: &mut Needs) -> Result<Vec<String>> {
        let name = edit.site.to_string();
        if edit.site.kind == SiteKind::ResidMid {
            return Err(Error::request(format!(
                "TransformerLens' hook_resid_mid changes what the MLP reads and not the stream, so that `{edit}` is not written as code; edit {}.attn_out instead",
                edit.site.layer
            )));
        }
        if edit.site.kind == SiteKind::AttnScores && edit.action != Action::KnockOut {
            return Err(unwritten(edit, "scores are only cut"));
        }
        let all = place(&edit.positions);
        let target = format!("value[{}]", index(edit, &all)?);
        Ok(match &edit.action {
            Action::Zero => vec![format!("{target} = 0.0")],
            Action::Set(v) if edit.is_edge() => {
                // A query sees no later key, whatever is written there.
                vec![format!("{target} = {v:?}"), "value = value.tril()".to_owned()]
            }
            Action::Set(v) => vec![format!("{target} = {v:?}")],
            Action::Scale(v) => vec![format!("{target} *= {v:?}")],
            Action::Mean => {
                let part = part_of_row(edit);
                if self.desk.stack.reference.is_empty() {
                    needs.own.push(name.clone());
                    vec![format!("{target} = own[\"{name}\"][0].mean(0){part}")]
                } else {
                    needs.reference.push(name.clone());
                    vec![format!("{target} = torch.cat([c[\"{name}\"][0] for c in caches]).mean(0){part}")]
                }
            }
            Action::Copy(which) if *which == self.base => {
                needs.own.push(name.clone());
                vec![format!("{target} = own[\"{name}\"][{}]", index(edit, &all)?)]
            }
            Action::Copy(_) => {
                needs.other.push(name.clone());
                let (to, from) = self.copied(edit, alignment)?;
                vec![format!("value[{}] = other[\"{name}\"][{}]", index(edit, &to)?, index(edit, &from)?)]
            }
            Action::Add { direction: Direction::Difference, factor } => {
                needs.other.push(name.clone());
                needs.own.push(name.clone());
                let (to, from) = self.copied(edit, alignment)?;
                let (to, from) = (index(edit, &to)?, index(edit, &from)?);
                let (own, other) = (format!("own[\"{name}\"][{to}]"), format!("other[\"{name}\"][{from}]"));
                let (clean, corrupted) = if self.base == RunSide::Clean { (own, other) } else { (other, own) };
                vec![format!("value[{to}] += {factor:?} * ({clean} - {corrupted})")]
            }
            Action::Add { direction, factor } => {
                vec![format!("{target} += {factor:?} * {}", self.direction(direction, edit, needs)?)]
            }
            Action::Project { direction } => vec![
                format!("direction = {}", self.direction(direction, edit, needs)?),
                format!("{target} -= ({target} @ direction)[..., None] * direction"),
            ],
            Action::Swap { from, to } => vec![
                format!("source = {}", self.direction(from, edit, needs)?),
                format!("target = {}", self.direction(to, edit, needs)?),
                format!("{target} += ({target} @ source)[..., None] * (target - source)"),
            ],
            Action::Steer { direction, factor } => {
                needs.own.push(name.clone());
                let own = format!("own[\"{name}\"][{}]", index(edit, &all)?);
                let direction = self.direction(direction, edit, needs)?;
                needs.unit = true;
                vec![format!("{target} += {factor:?} * {own}.norm(dim=-1).median() * unit({direction})")]
            }
            Action::Exchange { from, to, factor, clamped } => {
                let read = if *clamped {
                    needs.own.push(name.clone());
                    format!("own[\"{name}\"][{}]", index(edit, &all)?)
                } else {
                    target.clone()
                };
                vec![
                    format!("source = {}", self.direction(from, edit, needs)?),
                    format!("target = {}", self.direction(to, edit, needs)?),
                    "basis = torch.stack([source, target], -1)".to_owned(),
                    "inverse = torch.linalg.pinv(basis)".to_owned(),
                    format!("exchanged = ({read} @ inverse.T)[..., [1, 0]]"),
                    format!("{target} += {factor:?} * (exchanged - {target} @ inverse.T) @ basis.T"),
                ]
            }
            Action::Feature { .. } => return Err(unwritten(edit, "it changes a dictionary's feature")),
            Action::KnockOut => {
                // The first position keeps its single edge.
                let rows = match &edit.positions {
                    Positions::At(list) => place(&Positions::At(list.iter().copied().filter(|p| *p > 0).collect())),
                    _ => "1:".to_owned(),
                };
                vec![format!("value[{}] = float(\"-inf\")", index(edit, &rows)?)]
            }
            Action::Force(weight) => self.force(edit, *weight),
        })
    }

    /// Gives an edge its weight; the query's other edges share the rest in proportion.
    fn force(&self, edit: &Edit, weight: f32) -> Vec<String> {
        let src = edit.src.unwrap_or_default();
        let rows = match &edit.positions {
            Positions::At(places) => list(&sorted(places).into_iter().filter(|p| *p >= src).collect::<Vec<_>>()),
            _ => format!("range({src}, value.shape[-1])"),
        };
        let head = edit.head.map_or(":".to_owned(), |h| h.to_string());
        vec![
            format!("for dest in {rows}:"),
            format!("    row = value[:, {head}, dest].clone()"),
            format!("    rest = row.sum(-1, keepdim=True) - row[..., [{src}]]"),
            format!("    value[:, {head}, dest] = row * torch.where(rest > 1e-9, (1 - {weight:?}) / rest, 0.0)"),
            format!("    value[:, {head}, dest, {src}] = {weight:?}"),
        ]
    }

    /// Returns the positions that an edit copies to and from.
    fn copied(&self, edit: &Edit, alignment: &Alignment) -> Result<(String, String)> {
        let pair = self.script.facts.pair;
        let (base, other) = (pair.run(self.base)?.len(), pair.run(self.base.other())?.len());
        if edit.is_edge() {
            same_places(alignment, other)?;
        }
        let chosen = match &edit.positions {
            Positions::At(places) => sorted(places),
            _ if base == other && alignment.iter().enumerate().all(|(i, p)| *p == Some(i)) => {
                return Ok((":".to_owned(), ":".to_owned()));
            }
            _ => (0..base).collect(),
        };
        let (to, from) = pairs(alignment, chosen.iter().copied());
        if matches!(edit.positions, Positions::At(_)) && to.len() < chosen.len() {
            return Err(Error::request(format!(
                "a position of `{edit}` has no counterpart in the other prompt; align it or choose another position"
            )));
        }
        let one = |list_of: &[usize]| match list_of {
            [one] => one.to_string(),
            many => list(many),
        };
        Ok((one(&to), one(&from)))
    }

    fn direction(&self, direction: &Direction, edit: &Edit, needs: &mut Needs) -> Result<String> {
        let whole_row = edit.coordinate.is_none() && edit.site.kind.axes().last() == Some(&Axis::Model);
        match direction {
            Direction::Token { .. } if !whole_row => Err(unwritten(edit, "a token's direction is one of the stream")),
            Direction::Token { id, minus } => {
                needs.unit = true;
                let minus = minus.map_or(String::new(), |m| format!(" - model.W_U[:, {m}]"));
                Ok(format!("unit(model.W_U[:, {id}]{minus})"))
            }
            Direction::Difference => Err(unwritten(edit, "its direction is another one at each position")),
            Direction::Vector(_) | Direction::Concept { .. } => {
                Err(unwritten(edit, "its direction is a list of numbers that only the session holds"))
            }
            Direction::Feature { .. } => Err(unwritten(edit, "its direction belongs to a dictionary")),
        }
    }
}

fn unwritten(edit: &Edit, why: &str) -> Error {
    Error::request(format!("the edit `{edit}` is not written as code: {why}; switch it off and copy again"))
}

fn sorted(places: &[usize]) -> Vec<usize> {
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    places
}

/// Returns positions as an index.
fn place(positions: &Positions) -> String {
    match positions {
        Positions::At(places) => match &sorted(places)[..] {
            [one] => one.to_string(),
            many => list(many),
        },
        _ => ":".to_owned(),
    }
}

/// Returns the index of what an edit changes at some positions.
fn index(edit: &Edit, positions: &str) -> Result<String> {
    let of = |n: Option<usize>| n.map(|n| n.to_string());
    if edit.is_edge() {
        let head = of(edit.head).unwrap_or_else(|| ":".to_owned());
        return Ok(format!(":, {head}, {positions}, {}", of(edit.src).unwrap_or_else(|| ":".to_owned())));
    }
    let per_head = edit.site.kind.axes().len() == 3;
    if per_head && edit.head.is_none() && edit.coordinate.is_some() {
        return Err(unwritten(edit, "its coordinate is one of a head; choose a head as well"));
    }
    let parts = [Some(":".to_owned()), Some(positions.to_owned()), of(edit.head), of(edit.coordinate)];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// Returns the index of the same part of a row of means.
fn part_of_row(edit: &Edit) -> String {
    [edit.head, edit.coordinate].into_iter().flatten().map(|i| format!("[{i}]")).collect()
}
