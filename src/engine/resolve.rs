//! Resolves edits: turns their names into numbers, against the runs that they take values from. A resolved edit says
//! which rows and columns of a site's value change, and to what.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::dictionaries::{Dictionaries, FeatureRows, NoDictionaries};
use super::edit::{Action, Direction, Edit, EditStack, Positions, RunSide};
use super::hold;
use super::site::{Site, SiteKind};
use super::trace::Trace;
use crate::error::{Error, Result};

/// For each position of one prompt, its counterpart in the other; `None` where it has none.
pub type Alignment = Vec<Option<usize>>;

/// The values of one site in one run: [pos, width], row-major, and [head, dest, src] for patterns and scores.
#[derive(Debug)]
pub struct Values {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Values {
    pub fn row(&self, pos: usize) -> Option<&[f32]> {
        self.values.get(pos * self.width..(pos + 1) * self.width)
    }
}

/// The runs that edits take values from. Positions of `other` are reached through the alignment.
pub struct Sources<'a> {
    /// The run that is edited.
    pub base: &'a Trace,
    pub base_is: RunSide,
    pub other: Option<&'a Trace>,
    /// For each position of the base run, its counterpart in the other run.
    pub alignment: Alignment,
    /// The runs over whose positions a mean is taken; the base run itself where there are none.
    pub reference: &'a [Arc<Trace>],
    /// Finds the dictionaries that edits of features name.
    pub dictionaries: &'a dyn Dictionaries,
    cache: RefCell<HashMap<(Site, Kept), Arc<Values>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kept {
    Base,
    /// Values of the other run, moved to the base run's positions.
    Other,
    Difference,
    Mean,
}

impl<'a> Sources<'a> {
    /// Returns the sources of edits of one run by itself.
    pub fn alone(base: &'a Trace) -> Self {
        Self {
            base,
            base_is: RunSide::Clean,
            other: None,
            alignment: Vec::new(),
            reference: &[],
            dictionaries: &NoDictionaries,
            cache: RefCell::default(),
        }
    }

    /// Returns the sources of edits of `base` that take values from `other`.
    pub fn pair(base: &'a Trace, base_is: RunSide, other: &'a Trace, alignment: Alignment) -> Self {
        Self { base_is, other: Some(other), alignment, ..Self::alone(base) }
    }

    #[must_use]
    pub fn with_reference(mut self, reference: &'a [Arc<Trace>]) -> Self {
        self.reference = reference;
        self
    }

    #[must_use]
    pub fn with_dictionaries(mut self, dictionaries: &'a dyn Dictionaries) -> Self {
        self.dictionaries = dictionaries;
        self
    }

    fn cached(&self, site: Site, kept: Kept, make: impl FnOnce() -> Result<Values>) -> Result<Arc<Values>> {
        if let Some(v) = self.cache.borrow().get(&(site, kept)) {
            return Ok(v.clone());
        }
        let made = Arc::new(make()?);
        self.cache.borrow_mut().insert((site, kept), made.clone());
        Ok(made)
    }

    /// Returns the base run's value at a site.
    pub fn base_values(&self, site: Site) -> Result<Arc<Values>> {
        self.cached(site, Kept::Base, || flat(self.base, site))
    }

    /// Returns the other run's value, moved to the base run's positions. It is zero where a position has no
    /// counterpart; [`Self::copied`] leaves such positions out or refuses them.
    fn other_values(&self, site: Site) -> Result<Arc<Values>> {
        self.cached(site, Kept::Other, || {
            let other = self.other_run()?;
            let from = flat(other, site)?;
            let n = self.base.len();
            if !is_edge(site) {
                let mut values = vec![0.0; n * from.width];
                for (row, at) in values.chunks_exact_mut(from.width.max(1)).zip(&self.alignment) {
                    if let Some(source) = at.and_then(|p| from.row(p)) {
                        row.copy_from_slice(source);
                    }
                }
                return Ok(Values { width: from.width, values });
            }
            let m = other.len();
            let aligned_alike = n == m && self.alignment.iter().enumerate().all(|(i, a)| *a == Some(i));
            if !aligned_alike {
                return Err(Error::request(format!(
                    "attention patterns are patched edge by edge, which needs prompts whose tokens correspond one to one; these have {n} and {m} tokens, so patch z, q, k or v instead"
                )));
            }
            Ok(from)
        })
    }

    fn other_run(&self) -> Result<&'a Trace> {
        self.other.ok_or_else(|| {
            Error::request("this edit copies from the other prompt's run, but there is no other prompt; give one")
        })
    }

    /// Returns the positions that values of the other run are copied to. Where an edit means all positions, those
    /// without a counterpart keep their own value. Where it names a position without one, that is an error.
    fn copied(&self, edit: &Edit, mut positions: Vec<usize>) -> Result<Vec<usize>> {
        self.other_run()?;
        if !matches!(edit.positions, Positions::At(_)) {
            positions.retain(|p| self.alignment.get(*p).copied().flatten().is_some());
        }
        for p in positions.iter().copied() {
            if self.alignment.get(p).copied().flatten().is_none() {
                return Err(Error::request(format!(
                    "position {p} of the {} prompt has no counterpart in the {} one, so `{edit}` has nothing to copy; align it or choose another position",
                    self.base_is.name(),
                    self.base_is.other().name()
                )));
            }
        }
        Ok(positions)
    }

    /// Returns clean − corrupted, at the base run's positions.
    pub fn difference(&self, site: Site) -> Result<Arc<Values>> {
        self.cached(site, Kept::Difference, || {
            let (base, other) = (self.base_values(site)?, self.other_values(site)?);
            let sign = if self.base_is == RunSide::Clean { 1.0 } else { -1.0 };
            let values = base.values.iter().zip(&other.values).map(|(b, o)| sign * (b - o)).collect();
            Ok(Values { width: base.width, values })
        })
    }

    /// Returns one row, the mean over all positions of the reference runs.
    fn mean(&self, site: Site) -> Result<Arc<Values>> {
        self.cached(site, Kept::Mean, || {
            let own = [self.base];
            let runs: Vec<&Trace> =
                if self.reference.is_empty() { own.to_vec() } else { self.reference.iter().map(|t| &**t).collect() };
            let mut total: Vec<f64> = Vec::new();
            let (mut rows, mut width) = (0usize, 0);
            for run in runs {
                let values = flat(run, site)?;
                width = values.width;
                total.resize(width, 0.0);
                for row in values.values.chunks_exact(width.max(1)) {
                    rows += 1;
                    for (t, v) in total.iter_mut().zip(row) {
                        *t += f64::from(*v);
                    }
                }
            }
            Ok(Values { width, values: total.iter().map(|t| (t / rows.max(1) as f64) as f32).collect() })
        })
    }
}

fn is_edge(site: Site) -> bool {
    matches!(site.kind, SiteKind::Pattern | SiteKind::AttnScores)
}

fn flat(trace: &Trace, site: Site) -> Result<Values> {
    let value = trace.value(site)?;
    let n = value.dim(0)?;
    let width = value.elem_count().checked_div(n).unwrap_or(0);
    Ok(Values { width, values: value.flatten_all()?.to_vec1()? })
}

/// The absolute positions that an operation changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// All positions from this one on, of the prompt and of what is generated after it.
    All,
    /// These positions, sorted.
    At(Arc<Vec<usize>>),
    From(usize),
    Before(usize),
}

impl Rows {
    pub fn first(&self) -> usize {
        match self {
            Self::All | Self::Before(_) => 0,
            Self::At(list) => list.first().copied().unwrap_or(usize::MAX),
            Self::From(p) => *p,
        }
    }

    /// Returns the positions inside `range`.
    pub fn inside(&self, range: Range<usize>) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::All => Box::new(range),
            Self::At(list) => Box::new(list.iter().copied().filter(move |p| range.contains(p))),
            Self::From(p) => Box::new(range.start.max(*p)..range.end),
            Self::Before(p) => Box::new(range.start..range.end.min(*p)),
        }
    }
}

/// The change that an operation makes to the chosen columns of a row.
#[derive(Clone, Debug)]
pub enum Change {
    Set(f32),
    Scale(f32),
    /// Replaces every row's columns by these.
    Row(Arc<Values>),
    /// Replaces each row by the row of the same position.
    Rows(Arc<Values>),
    /// Adds a vector as long as the columns.
    Add(Arc<Vec<f32>>),
    /// Adds `factor` times the row of the same position.
    AddRows(Arc<Values>, f32),
    /// Removes the part along a unit vector.
    Project(Arc<Vec<f32>>),
    /// Turns the part along the first unit vector into the second.
    Swap(Arc<Vec<f32>>, Arc<Vec<f32>>),
    /// Exchanges two coordinates.
    Exchange(Arc<Exchange>),
    /// Changes a feature's activation.
    Feature(Arc<dyn FeatureRows>),
    /// Sets scores to −∞.
    KnockOut,
    /// Sets a weight of a pattern and rescales the rest of the row.
    Force(f32),
}

/// An exchange of two coordinates, see [`Action::Exchange`].
#[derive(Debug)]
pub struct Exchange {
    /// The two rows of V⁺.
    pub read: [Vec<f32>; 2],
    /// The two columns of V.
    pub write: [Vec<f32>; 2],
    pub factor: f32,
    /// The coordinates that each position is brought to, where they are those of the unedited run.
    pub clamped: Option<Vec<[f32; 2]>>,
}

impl Exchange {
    /// # Errors
    /// The two directions are one, or one of them is zero.
    fn new(from: Vec<f32>, to: Vec<f32>, factor: f32, edit: &Edit) -> Result<Self> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let (aa, ab, bb) = (dot(&from, &from), dot(&from, &to), dot(&to, &to));
        let determinant = aa * bb - ab * ab;
        if determinant.is_nan() || determinant <= 1e-9 * aa * bb {
            return Err(Error::request(format!(
                "`{edit}` has two directions that are one and the same, so that there is nothing to exchange; choose another"
            )));
        }
        let row = |x: f64, y: f64| -> Vec<f32> {
            let mix = |(a, b): (&f32, &f32)| ((x * f64::from(*a) + y * f64::from(*b)) / determinant) as f32;
            from.iter().zip(&to).map(mix).collect()
        };
        let read = [row(bb, -ab), row(-ab, aa)];
        Ok(Self { read, write: [from, to], factor, clamped: None })
    }

    /// The coordinates of a row, exchanged.
    fn exchanged(&self, row: &[f32]) -> [f32; 2] {
        let [a, b] = self.coordinates(row);
        [b, a]
    }

    fn coordinates(&self, row: &[f32]) -> [f32; 2] {
        let dot = |read: &[f32]| row.iter().zip(read).map(|(x, y)| x * y).sum();
        [dot(&self.read[0]), dot(&self.read[1])]
    }

    /// Changes the row of a position.
    pub fn apply(&self, row: &mut [f32], pos: usize) {
        let [a, b] = self.coordinates(row);
        let [x, y] = match &self.clamped {
            None => [b, a],
            // A position that the unedited run does not have stays as it is.
            Some(clamped) => clamped.get(pos).copied().unwrap_or([a, b]),
        };
        let (da, db) = (self.factor * (x - a), self.factor * (y - b));
        row.iter_mut().zip(self.write[0].iter().zip(&self.write[1])).for_each(|(h, (v, w))| *h += da * v + db * w);
    }
}

/// A resolved edit.
#[derive(Clone, Debug)]
pub struct Op {
    pub site: Site,
    pub rows: Rows,
    /// The columns of a row [pos, ..]. For edges it is the whole range of heads × sources, see `head` and `src`.
    pub columns: Range<usize>,
    pub head: Option<usize>,
    pub src: Option<usize>,
    pub change: Change,
}

impl Op {
    /// Returns the first layer whose computation the operation changes or has to see; `n_layers` for the final norm.
    pub fn start_layer(&self, n_layers: usize) -> usize {
        // A feature may read at an earlier layer than it writes.
        if let Change::Feature(f) = &self.change
            && let Some(site) = f.reads_elsewhere()
        {
            return site.layer.min(self.site.layer);
        }
        match self.site.kind {
            SiteKind::Embed => 0,
            SiteKind::LnFinalScale | SiteKind::LnFinalNormalized => n_layers,
            _ => self.site.layer,
        }
    }

    /// Drops the rows whose new values equal the old ones bit for bit. Where no row is left, the edit provably changes
    /// nothing.
    pub fn without_identical(mut self, sources: &Sources<'_>) -> Result<Self> {
        let Change::Rows(new) = &self.change else { return Ok(self) };
        let old = sources.base_values(self.site)?;
        let n = sources.base.len();
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let differs = |p: usize| {
            if is_edge(self.site) {
                let heads = new.values.len() / (n * n).max(1);
                let heads = self.head.map_or(0..heads, |h| h..h + 1);
                return heads.into_iter().any(|h| {
                    let row = (h * n + p) * n;
                    let cells = self.src.map_or(row..row + n, |s| row + s..row + s + 1);
                    !same(&new.values[cells.clone()], &old.values[cells])
                });
            }
            match (new.row(p), old.row(p)) {
                (Some(a), Some(b)) => !same(&a[self.columns.clone()], &b[self.columns.clone()]),
                _ => false,
            }
        };
        let kept: Vec<usize> = self.rows.inside(0..n).filter(|p| differs(*p)).collect();
        self.rows = Rows::At(Arc::new(kept));
        Ok(self)
    }
}

/// Returns the columns of a site's row that an edit changes.
fn columns(edit: &Edit, sources: &Sources<'_>) -> Result<Range<usize>> {
    let config = &sources.base.model.config;
    let shape = edit.site.shape(config, 1);
    let width: usize = shape.iter().skip(1).product();
    let per_head = if shape.len() == 3 { shape[2] } else { width };
    let start = edit.head.unwrap_or(0) * per_head;
    match (edit.head, edit.coordinate) {
        (None, None) => Ok(0..width),
        (Some(_), None) => Ok(start..start + per_head),
        (head, Some(c)) if head.is_some() || per_head == width => Ok(start + c..start + c + 1),
        _ => Err(Error::request(format!(
            "a coordinate of {} means one dimension of one head; choose a head as well",
            edit.site
        ))),
    }
}

/// Resolves one edit. [`Edit::check`] must have accepted it.
///
/// # Errors
/// A value to be copied does not exist: there is no other prompt, or a position has no counterpart.
pub fn resolve(edit: &Edit, sources: &Sources<'_>) -> Result<Op> {
    let n = sources.base.len();
    edit.check(&sources.base.model.config, n)?;
    let mut site = edit.site;
    let rows = match &edit.positions {
        Positions::All => Rows::All,
        Positions::At(list) => {
            let mut list = list.clone();
            list.sort_unstable();
            list.dedup();
            Rows::At(Arc::new(list))
        }
        Positions::Prompt => Rows::Before(n),
        Positions::Generated => Rows::From(n),
    };
    let in_prompt = || rows.inside(0..n).collect::<Vec<_>>();
    let columns = if edit.is_edge() { 0..0 } else { columns(edit, sources)? };
    let mut rows_out = rows.clone();
    let change = match &edit.action {
        Action::Zero => Change::Set(0.0),
        Action::Set(v) => Change::Set(*v),
        Action::Scale(v) => Change::Scale(*v),
        Action::Mean => {
            let mean = sources.mean(site)?;
            Change::Row(mean)
        }
        Action::Copy(which) if *which == sources.base_is => {
            rows_out = Rows::At(Arc::new(in_prompt()));
            Change::Rows(sources.base_values(site)?)
        }
        Action::Copy(_) => {
            let chosen = sources.copied(edit, in_prompt())?;
            rows_out = Rows::At(Arc::new(chosen));
            Change::Rows(sources.other_values(site)?)
        }
        Action::Add { direction: Direction::Difference, factor } => {
            let chosen = sources.copied(edit, in_prompt())?;
            rows_out = Rows::At(Arc::new(chosen));
            Change::AddRows(sources.difference(site)?, *factor)
        }
        Action::Add { direction, factor } => {
            let vector = constant(direction, edit, columns.len(), sources)?;
            Change::Add(Arc::new(vector.iter().map(|v| v * factor).collect()))
        }
        Action::Project { direction } => {
            Change::Project(Arc::new(unit(constant(direction, edit, columns.len(), sources)?)))
        }
        Action::Swap { from, to } => {
            let [from, to] = [from, to].map(|d| constant(d, edit, columns.len(), sources).map(|v| Arc::new(unit(v))));
            Change::Swap(from?, to?)
        }
        Action::Steer { direction, factor } => {
            let vector = unit(constant(direction, edit, columns.len(), sources)?);
            let values = sources.base_values(site)?;
            let chosen = in_prompt();
            // Generated positions have no unedited value, so that the prompt's stand for them.
            let chosen = if chosen.is_empty() { (0..n).collect() } else { chosen };
            let mut lengths: Vec<f32> = chosen
                .iter()
                .filter_map(|p| values.row(*p)?.get(columns.clone()))
                .map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt())
                .collect();
            lengths.sort_by(f32::total_cmp);
            let median = lengths.get(lengths.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
            Change::Add(Arc::new(vector.iter().map(|v| v * factor * median).collect()))
        }
        Action::Exchange { from, to, factor, clamped } => {
            let [from, to] = [from, to].map(|d| constant(d, edit, columns.len(), sources));
            let mut exchange = Exchange::new(from?, to?, *factor, edit)?;
            if *clamped {
                rows_out = Rows::At(Arc::new(in_prompt()));
                let values = sources.base_values(site)?;
                let row = |p| values.row(p).and_then(|r| r.get(columns.clone())).unwrap_or_default();
                exchange.clamped = Some((0..n).map(|p| exchange.exchanged(row(p))).collect());
            }
            Change::Exchange(Arc::new(exchange))
        }
        Action::Feature { dictionary, feature, change } => {
            Change::Feature(sources.dictionaries.change(dictionary, *feature, *change, site, &sources.base.model)?)
        }
        Action::KnockOut => {
            site.kind = SiteKind::AttnScores;
            Change::KnockOut
        }
        Action::Force(w) => {
            site.kind = SiteKind::Pattern;
            Change::Force(*w)
        }
    };
    Ok(Op { site, rows: rows_out, columns, head: edit.head, src: edit.src, change })
}

/// Returns a direction that is the same at all positions, as long as the columns that the edit changes.
fn constant(direction: &Direction, edit: &Edit, width: usize, sources: &Sources<'_>) -> Result<Vec<f32>> {
    let vector = match direction {
        Direction::Vector(vector) | Direction::Concept { vector, .. } => vector.clone(),
        Direction::Token { id, minus } => unembedding(sources.base, *id, *minus)?,
        Direction::Feature { dictionary, feature } => {
            sources.dictionaries.direction(dictionary, *feature, edit.site)?
        }
        Direction::Difference => Vec::new(),
    };
    if vector.len() != width {
        return Err(Error::request(format!(
            "the direction has {} numbers, but `{edit}` changes {width} coordinates; give a direction of that length",
            vector.len(),
        )));
    }
    if vector.iter().any(|v| !v.is_finite()) {
        return Err(Error::request(format!("the direction of `{edit}` holds values that are no numbers")));
    }
    Ok(vector)
}

/// Scales a vector to length 1. A vector of zeros stays as it is.
fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        v.iter_mut().for_each(|x| *x /= length);
    }
    v
}

/// Resolves the active edits of a stack, in order, behind what it holds.
///
/// # Errors
/// As [`EditStack::check`] and [`resolve`].
pub fn resolve_stack(stack: &EditStack, sources: &Sources<'_>) -> Result<Vec<Op>> {
    let config = &sources.base.model.config;
    stack.check(config, sources.base.len())?;
    let mut ops = stack.held(config)?.iter().map(|e| resolve(e, sources)).collect::<Result<Vec<_>>>()?;
    for edit in stack.active() {
        ops.extend(hold::beside(&stack.hold, resolve(edit, sources)?, sources)?);
    }
    Ok(ops)
}

/// Returns a token's unembedding column, minus that of another token, scaled to length 1; [d_model].
pub fn unembedding(trace: &Trace, id: u32, minus: Option<u32>) -> Result<Vec<f32>> {
    let network = trace.model.network();
    network.check(&[id])?;
    let column = |id: u32| trace.model.weights.unembed.output(id as usize);
    let mut v: Vec<f32> = column(id)?.to_vec1()?;
    if let Some(minus) = minus {
        network.check(&[minus])?;
        for (a, b) in v.iter_mut().zip(column(minus)?.to_vec1::<f32>()?) {
            *a -= b;
        }
    }
    Ok(unit(v))
}
