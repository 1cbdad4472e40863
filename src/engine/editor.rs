//! Carries out resolved edits while the model runs. It serves one run, or many runs whose rows lie one behind the other
//! (see [`super::resume`]).

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::hooks::Hooks;
use super::kernels::segments::Segment;
use super::resolve::{Change, Op};
use super::site::{Site, SiteKind};
use crate::error::Result;

/// A hook that applies operations to the rows of the runs that they belong to.
pub struct Editor {
    /// The operations of each run.
    ops: Vec<Arc<Vec<Op>>>,
    /// For each site, pairs of run and operation, in the order of the stack.
    by_site: HashMap<Site, Vec<(usize, usize)>>,
    /// The operations that read one site and write another.
    readers: HashMap<Site, Vec<(usize, usize)>>,
    /// The amounts that these operations will add, by run, operation and position. They were read at the other site.
    read: HashMap<(usize, usize, usize), f32>,
    /// The present place of each run's rows; `None` where the run does not take part.
    spans: Vec<Option<Segment>>,
}

impl Editor {
    pub fn new(ops: Vec<Arc<Vec<Op>>>) -> Self {
        let mut by_site: HashMap<Site, Vec<(usize, usize)>> = HashMap::new();
        let mut readers: HashMap<Site, Vec<(usize, usize)>> = HashMap::new();
        for (run, list) in ops.iter().enumerate() {
            for (i, op) in list.iter().enumerate() {
                by_site.entry(op.site).or_default().push((run, i));
                if let Change::Feature(feature) = &op.change
                    && let Some(site) = feature.reads_elsewhere()
                {
                    readers.entry(site).or_default().push((run, i));
                }
            }
        }
        let spans = vec![None; ops.len()];
        Self { ops, by_site, readers, read: HashMap::new(), spans }
    }

    /// Makes the editor of one run of `rows` tokens that starts at position `start`.
    pub fn single(ops: Arc<Vec<Op>>, start: usize, rows: usize) -> Self {
        let mut editor = Self::new(vec![ops]);
        editor.place(0, Segment { first: 0, rows, start });
        editor
    }

    /// Sets where a run's rows lie from now on.
    pub fn place(&mut self, run: usize, segment: Segment) {
        if let Some(span) = self.spans.get_mut(run) {
            *span = Some(segment);
        }
    }

    fn rows(&self, site: Site, value: &Tensor) -> Result<Tensor> {
        let shape = value.shape().clone();
        let width = shape.dims().iter().skip(2).product::<usize>();
        let mut data = value.flatten_all()?.to_vec1::<f32>()?;
        for &(run, i) in self.by_site.get(&site).into_iter().flatten() {
            let (op, Some(span)) = (&self.ops[run][i], self.spans[run]) else { continue };
            for p in op.rows.inside(span.start..span.end()) {
                let at = (span.first + p - span.start) * width;
                if let Some(row) = data.get_mut(at..at + width) {
                    let read = self.read.get(&(run, i, p)).copied();
                    change_row(&mut row[op.columns.clone()], op, p, read);
                }
            }
        }
        Ok(Tensor::from_vec(data, shape, value.device())?)
    }

    /// Reads at this site the amounts of operations that write at another.
    fn observe(&mut self, site: Site, value: &Tensor) -> Result<()> {
        let Some(list) = self.readers.get(&site) else { return Ok(()) };
        let width = value.dims().iter().skip(2).product::<usize>();
        let data = value.flatten_all()?.to_vec1::<f32>()?;
        for &(run, i) in list {
            let (op, Some(span)) = (&self.ops[run][i], self.spans[run]) else { continue };
            let Change::Feature(feature) = &op.change else { continue };
            for p in op.rows.inside(span.start..span.end()) {
                let at = (span.first + p - span.start) * width;
                if let Some(row) = data.get(at..at + width) {
                    self.read.insert((run, i, p), feature.amount(row));
                }
            }
        }
        Ok(())
    }

    /// Edits patterns or scores, [1, head, row, src].
    fn edges(&self, site: Site, value: &Tensor) -> Result<Tensor> {
        let (_, heads, rows, width) = value.dims4()?;
        let mut data = value.flatten_all()?.to_vec1::<f32>()?;
        for &(run, i) in self.by_site.get(&site).into_iter().flatten() {
            let (op, Some(span)) = (&self.ops[run][i], self.spans[run]) else { continue };
            let chosen = op.head.map_or(0..heads, |h| h..(h + 1).min(heads));
            for h in chosen {
                for p in op.rows.inside(span.start..span.end()) {
                    let at = (h * rows + span.first + p - span.start) * width;
                    if let Some(row) = data.get_mut(at..at + width) {
                        change_edges(&mut row[..=p], op, h, p);
                    }
                }
            }
        }
        Ok(Tensor::from_vec(data, value.shape().clone(), value.device())?)
    }
}

impl Hooks for Editor {
    fn wants(&self, site: Site) -> bool {
        let any = |list: &Vec<(usize, usize)>| list.iter().any(|(run, _)| self.spans[*run].is_some());
        self.by_site.get(&site).is_some_and(any) || self.readers.get(&site).is_some_and(any)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        match site.kind {
            SiteKind::Pattern | SiteKind::AttnScores => self.edges(site, &value),
            _ => {
                let value = if self.by_site.contains_key(&site) { self.rows(site, &value)? } else { value };
                self.observe(site, &value)?;
                Ok(value)
            }
        }
    }
}

/// Edits one row. `read` is the amount that the operation has read at another site.
pub fn change_row(row: &mut [f32], op: &Op, pos: usize, read: Option<f32>) {
    match &op.change {
        Change::Set(v) => row.fill(*v),
        Change::Scale(f) => row.iter_mut().for_each(|x| *x *= f),
        Change::Row(values) => {
            if let Some(new) = values.values.get(op.columns.clone()) {
                row.copy_from_slice(new);
            }
        }
        Change::Rows(values) => {
            if let Some(new) = values.row(pos).and_then(|r| r.get(op.columns.clone())) {
                row.copy_from_slice(new);
            }
        }
        Change::Add(vector) => row.iter_mut().zip(vector.iter()).for_each(|(x, v)| *x += v),
        Change::AddRows(values, factor) => {
            if let Some(new) = values.row(pos).and_then(|r| r.get(op.columns.clone())) {
                row.iter_mut().zip(new).for_each(|(x, v)| *x += factor * v);
            }
        }
        Change::Project(direction) => {
            let along = dot(row, direction);
            row.iter_mut().zip(direction.iter()).for_each(|(x, d)| *x -= along * d);
        }
        Change::Swap(from, to) => {
            let along = dot(row, from);
            row.iter_mut().zip(from.iter().zip(to.iter())).for_each(|(x, (s, t))| *x += along * (t - s));
        }
        Change::Exchange(exchange) => exchange.apply(row, pos),
        Change::Feature(feature) => {
            let amount = match feature.reads_elsewhere() {
                // The amount was read at an earlier site. Without it nothing is changed.
                Some(_) => read.unwrap_or(0.0),
                None => feature.amount(row),
            };
            row.iter_mut().zip(feature.writes()).for_each(|(x, d)| *x += amount * d);
        }
        Change::KnockOut | Change::Force(_) => {}
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Edits one row of a pattern or of scores. `row` holds the sources 0..=pos, all that the query may see.
fn change_edges(row: &mut [f32], op: &Op, head: usize, pos: usize) {
    let chosen = match op.src {
        Some(s) if s > pos => return,
        Some(s) => s..s + 1,
        None => 0..pos + 1,
    };
    match &op.change {
        Change::Set(v) => row[chosen].fill(*v),
        Change::Scale(f) => row[chosen].iter_mut().for_each(|x| *x *= f),
        Change::Rows(values) => {
            // [head, dest, src], so a "row" of the first axis is a whole head.
            let n = (values.width as f64).sqrt() as usize;
            let from = pos * n;
            if let Some(new) = values.row(head).and_then(|h| h.get(from + chosen.start..from + chosen.end)) {
                row[chosen].copy_from_slice(new);
            }
        }
        // The first position has a single edge. It stays, since there is nothing else to attend to.
        Change::KnockOut if pos > 0 => row[chosen].fill(f32::NEG_INFINITY),
        Change::Force(weight) => {
            let old = row[chosen.clone()].first().copied().unwrap_or(0.0);
            let rest = row.iter().sum::<f32>() - old;
            // The query sees no other key, so that no edge can take the rest.
            let factor = if rest > 1e-9 { (1.0 - weight) / rest } else { 0.0 };
            row.iter_mut().for_each(|x| *x *= factor);
            row[chosen].fill(*weight);
        }
        _ => {}
    }
}
