//! Runs a text through a model once and indexes, for one or more dictionaries and layers of neurons together, where each
//! of their features was active. Memory holds the indexes and one batch of the text.

mod correlations;
pub mod index;
pub mod index_file;
pub mod kept;
pub mod question;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::analysis::plan::{OverText, cost_over};
use crate::engine::kernels::with_values;
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::encode::Sparse;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary};
use crate::features::direction::Concept;
use crate::features::harvest::{PASS, activations};
use crate::features::rows::{Batch, Rows};
use crate::features::scan::correlations::{Pairs, ROOM};
use crate::features::scan::index::{About, Entry, Example, Index, STRATA, TOP};
use crate::files::can_be_saved_again;
use crate::hash::{Hash, mix};
use crate::interrupt;
use crate::memory::piece;
use crate::model::Model;
use crate::progress::Progress;
use crate::shard::{Shard, check_goes_on, share};

/// Rows sampled of each stratum of strength, for the quantile groups.
const SAMPLE: usize = 8;
/// Bytes that the examples of a subject may take, and those of all subjects together.
const MEMORY: usize = 2 << 30;
const MEMORY_OF_ALL: usize = 6 << 30;
/// Tokens shown on either side of an example, at most.
const MOST_WINDOW: usize = 256;
/// Tokens shown on either side of an example, where nothing else is asked for.
pub const WINDOW: usize = 12;
/// Batches between two checkpoints.
const CHECKPOINT_EVERY: usize = 64;

/// Whose activations are indexed.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Features(Arc<Dictionary>),
    /// The neurons of a layer (`mlp.hook_post`), where positive.
    Neurons(usize),
    /// A concept's direction at a layer: its read-out, where that lies above halfway between the classes' means.
    Direction(Arc<Concept>, usize),
}

impl Subject {
    pub fn place(&self) -> Result<Place> {
        match self {
            Self::Features(d) => Ok(d.places()?.0),
            Self::Neurons(layer) => Ok(Site::new(SiteKind::MlpPost, *layer).into()),
            Self::Direction(concept, layer) => Ok(concept.site(*layer)?.into()),
        }
    }

    pub fn count(&self, model: &Model) -> usize {
        match self {
            Self::Features(d) => d.d_sae,
            Self::Neurons(_) => model.config.d_mlp,
            Self::Direction(..) => 1,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Features(d) => d.path.display().to_string(),
            Self::Neurons(layer) => format!("neurons of layer {layer}"),
            // As labels know it.
            Self::Direction(concept, layer) => concept.title(*layer),
        }
    }

    /// A hash of what decides its activations: all that a dictionary reads by, a layer's number.
    ///
    /// # Errors
    /// As reading the weights.
    pub fn hash(&self) -> Result<u64> {
        let mut hash = Hash::default();
        match self {
            Self::Features(d) => {
                hash.all(d.activation.name().bytes().map(u64::from));
                hash.add(d.normalisation as u64);
                let parts: Vec<u64> = with_values(&d.w_enc.contiguous()?, |w| {
                    let parts = w.par_chunks(1 << 16);
                    parts.map(|part| Hash::default().all(part.iter().map(|v| u64::from(v.to_bits())))).collect()
                })?;
                hash.all(parts.into_iter());
                let mut values = |values: &[f32]| values.iter().for_each(|v| hash.add(u64::from(v.to_bits())));
                values(&d.b_enc);
                if d.subtract_b_dec {
                    values(&d.b_dec);
                }
                if d.rescale {
                    values(&d.decoder_norms()?);
                }
                match &d.activation {
                    Activation::Relu => {}
                    Activation::JumpRelu { threshold } | Activation::Jump { threshold } => values(threshold),
                    Activation::TopK { k } | Activation::Largest { k } => values(&[*k as f32]),
                    Activation::Gated { r_mag, b_mag } => {
                        values(r_mag);
                        values(b_mag);
                    }
                }
            }
            Self::Neurons(layer) => hash.add(*layer as u64),
            Self::Direction(concept, layer) => {
                let at = concept.at(*layer)?;
                let numbers = at.vector.iter().chain([&at.threshold, &at.gap]);
                numbers.for_each(|v| hash.add(u64::from(v.to_bits())));
            }
        }
        Ok(hash.0)
    }

    /// Activations at rows of its place.
    ///
    /// # Errors
    /// As encoding.
    pub fn activations(&self, rows: &Tensor, progress: &Progress) -> Result<Sparse> {
        match self {
            Self::Features(d) => d.encode(rows, progress),
            Self::Neurons(_) => {
                let width = rows.dim(1)?;
                Ok(with_values(&rows.contiguous()?, |v| Sparse::positive(v, width))?)
            }
            Self::Direction(concept, layer) => Ok(Sparse::positive(&concept.read(*layer, rows)?, 1)),
        }
    }
}

/// What is scanned.
pub struct Plan<'a> {
    pub model: &'a Model,
    /// All of them see the same forward passes.
    pub subjects: Vec<Subject>,
    /// Whose features are correlated with neurons and directions; a dictionary's own features are with each other.
    pub companion: Option<Arc<Dictionary>>,
    pub rows: &'a Rows,
    pub texts: Vec<String>,
    pub context: usize,
    pub limit: Option<usize>,
    /// This shard, counted from 0, of so many.
    pub shard: (usize, usize),
    /// Tokens shown on either side of an example.
    pub window: usize,
}

impl Plan<'_> {
    fn about(&self, subject: &Subject, batches: usize, text_hash: u64) -> Result<About> {
        let count = subject.count(self.model);
        // Tokens, activations, and the example with its two lists.
        let bytes = (2 * self.window + 1) * 8 + size_of::<Example>() + 32;
        // Shards keep as much as each other, whatever is free where they run.
        let all = if self.shard.1 > 1 { MEMORY_OF_ALL } else { piece(MEMORY_OF_ALL) };
        let memory = MEMORY.min(all / self.subjects.len().max(1));
        let room = memory / bytes / count.max(1);
        let top = TOP.min((room / 2).max(1));
        let subject_hash = subject.hash()?;
        let features_of = match subject {
            Subject::Features(_) => None,
            _ => self.companion.as_ref().map(|d| d.path.display().to_string()),
        };
        Ok(About {
            model: self.model.config.name.clone(),
            subject: subject.name(),
            site: subject.place()?.to_string(),
            texts: self.texts.clone(),
            context: self.context,
            limit: self.limit,
            shard: Shard::new("features dashboard", self.model.fingerprint()?, text_hash, self.shard)?,
            done: 0,
            batches,
            positions: 0,
            // One of each strength at least: few features are active at all strengths.
            sample: SAMPLE.min(room.saturating_sub(top) / (STRATA + 1)).max(1),
            top,
            window: self.window,
            subject_hash,
            features_of,
        })
    }

    /// A number that two scans share only where one goes on with the other.
    ///
    /// # Errors
    /// As reading the rows.
    pub fn identity(&self, subject: &Subject) -> Result<u64> {
        let batches = self.rows.batches(PASS).len();
        let about = self.about(subject, batches, self.rows.hash()?)?;
        let about = serde_json::to_vec(&about).map_err(|e| Error::failed(e.to_string()))?;
        let mut hash = Hash::default();
        about.iter().for_each(|b| hash.add(u64::from(*b)));
        Ok(hash.0)
    }

    /// What is done at each token of the text.
    fn each(&self) -> OverText {
        let features = self.subjects.iter().map(|s| s.count(self.model)).sum();
        let bytes = self.subjects.iter().map(|s| if let Subject::Features(d) = s { 4 * d.d_sae * d.d_in } else { 0 });
        OverText::Scan { features, bytes: bytes.sum() }
    }

    /// Scans what is left of the text. With `files`, one a subject, the indexes are written there now and then and at the
    /// end, and unfinished ones there are gone on with, each from where it stopped; without, they are only given back.
    /// `look` is called with a subject's number and unfinished index early on and then each time that it has grown by
    /// half. A step of progress a token.
    ///
    /// # Errors
    /// A subject that does not fit the model, an index of another scan, a full disk (the last checkpoint stands), or
    /// [`Error::Cancelled`].
    pub fn run(
        &self,
        files: Option<&[PathBuf]>,
        progress: &Progress,
        look: &mut dyn FnMut(usize, &Index),
    ) -> Result<Vec<Index>> {
        if self.window > MOST_WINDOW {
            return Err(Error::request(format!(
                "a window of {} tokens on either side is too wide; give at most {MOST_WINDOW}",
                self.window
            )));
        }
        let _careful = files.map(|_| interrupt::careful(progress));
        let all = self.rows.batches(PASS);
        let own = share(self.shard, all.len());
        let text_hash = self.rows.hash()?;
        let begin = |(i, s)| {
            let about = self.about(s, own.len(), text_hash)?;
            Scan::begin(self, s, about, files.and_then(|f| f.get(i)).map(PathBuf::as_path))
        };
        let mut scans = self.subjects.iter().enumerate().map(begin).collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = self.rows.lengths().collect();
        let tokens = |b: &[usize]| b.iter().map(|i| lengths[*i] as u64).sum::<u64>();
        let begin = scans.iter().map(|s| s.index.about.done).min().unwrap_or(0);
        let left: u64 = all[own.clone()].iter().skip(begin).map(|b| tokens(b)).sum();
        if left > 0 {
            progress.needs(|| cost_over(self.model, left as usize, self.context, self.each()))?;
        }
        progress.expect(all[own.clone()].iter().map(|b| tokens(b)).sum());
        progress.step(all[own.clone()].iter().take(begin).map(|b| tokens(b)).sum())?;
        for (number, batch) in all[own.start..].iter().enumerate().skip(begin) {
            // The first shard sums correlations up over as much of the text as the whole scan does, beyond its share.
            let beyond = number >= own.len();
            if beyond && scans.iter().all(Scan::is_correlated) {
                break;
            }
            if beyond {
                progress.expect(tokens(batch));
            }
            let last = own.start + number + 1 == all.len();
            // Others have seen it before they were stopped.
            let due = |s: &Scan<'_>| if beyond { !s.is_correlated() } else { s.index.about.done == number };
            let mut places: Vec<Place> = Vec::new();
            for p in scans.iter().filter(|s| due(s)).flat_map(Scan::places) {
                if !places.contains(&p) {
                    places.push(p);
                }
            }
            let some = self.rows.some(batch)?;
            let mut pass = || -> Result<()> {
                let values = activations(self.model, &some.rows(), &places, progress)?;
                let values: Vec<(Place, Tensor)> = places.iter().copied().zip(values).collect();
                for scan in scans.iter_mut().filter(|s| due(s)) {
                    let acts = scan.activations(&values, progress)?;
                    scan.correlate(&acts, &some, &values, last, progress)?;
                    if !beyond {
                        scan.enter(batch, &some, &acts);
                    }
                }
                progress.step(tokens(batch))
            };
            let outcome = pass();
            for (i, scan) in scans.iter_mut().enumerate() {
                let kept = scan.keep(outcome.is_err());
                if outcome.is_ok() {
                    if kept.is_err() {
                        // What cannot be written can be looked at.
                        look(i, &scan.index);
                    }
                    kept?;
                    scan.show(|index| look(i, index));
                }
            }
            outcome?;
        }
        scans.into_iter().map(Scan::finish).collect()
    }
}

/// What a place holds.
fn held(values: &[(Place, Tensor)], place: Place) -> Result<&Tensor> {
    let found = values.iter().find(|(p, _)| *p == place).map(|(_, v)| v);
    found.ok_or_else(|| Error::failed(format!("the run kept nothing at {place}")))
}

/// One subject's part of a scan.
struct Scan<'a> {
    plan: &'a Plan<'a>,
    subject: &'a Subject,
    place: Place,
    file: Option<&'a Path>,
    index: Index,
    /// Whose features it is correlated with, and what they read.
    others: Option<(Arc<Dictionary>, Place)>,
    /// Correlations are summed up at the beginning of the text; a scan that goes on has them already.
    features: Option<Pairs>,
    neurons: Option<Pairs>,
    next_look: usize,
    /// Batches done when it was last written.
    kept: usize,
}

impl<'a> Scan<'a> {
    fn begin(plan: &'a Plan<'a>, subject: &'a Subject, about: About, file: Option<&'a Path>) -> Result<Self> {
        let model = plan.model;
        let place = match subject {
            // What its file calls a site can be another in this model.
            Subject::Features(d) => d.check(&model.config)?.0,
            other => other.place()?,
        };
        place.check(&model.config)?;
        let count = subject.count(model);
        let mut index = Index { about, entries: vec![Entry::default(); count] };
        file.map(can_be_saved_again).transpose()?;
        let kept = file.filter(|p| p.is_file());
        if let Some(path) = kept {
            let old = index_file::open(path)?;
            // More or less may be free now.
            (index.about.top, index.about.sample) = (old.about.top, old.about.sample);
            check_goes_on(path, &old.about, &index.about)?;
            if old.entries.len() != count {
                return Err(Error::request(format!(
                    "{} counts {} features and not {count}; name another file",
                    path.display(),
                    old.entries.len()
                )));
            }
            index = old;
        }
        let sums_up = kept.is_none() && plan.shard.0 == 0;
        let others = match subject {
            Subject::Features(d) => Some(d.clone()),
            _ => plan.companion.clone(),
        };
        let others = others.map(|d| d.check(&model.config).map(|(input, _)| (d, input))).transpose()?;
        let room = ROOM / (2 * plan.subjects.len().max(1));
        let pairs = |ours: usize, others: usize, dense| {
            if sums_up { Pairs::new(ours, others, dense, room) } else { None }
        };
        Ok(Self {
            features: others.as_ref().and_then(|(d, _)| match subject {
                // Many neurons are active where few features are: a row a feature, of all neurons.
                Subject::Neurons(_) => pairs(d.d_sae, count, true),
                _ => pairs(count, d.d_sae, false),
            }),
            neurons: pairs(count, if model.config.has_mlp() { model.config.d_mlp } else { 0 }, true),
            others,
            next_look: index.about.done + 1,
            kept: index.about.done,
            plan,
            subject,
            place,
            file,
            index,
        })
    }

    fn neurons_place(&self) -> Place {
        Site::new(SiteKind::MlpPost, self.place.layer()).into()
    }

    /// What it has to see of the next batch.
    fn places(&self) -> Vec<Place> {
        let mut all = vec![self.place];
        all.extend(self.neurons.is_some().then(|| self.neurons_place()));
        all.extend(self.others.iter().filter(|_| self.features.is_some()).map(|(_, input)| *input));
        all
    }

    /// All correlations are known, or another shard's.
    fn is_correlated(&self) -> bool {
        self.features.is_none() && self.neurons.is_none()
    }

    /// What of the subject is active in a batch, of which `values` holds what every place holds, [rows · len, width].
    fn activations(&self, values: &[(Place, Tensor)], progress: &Progress) -> Result<Sparse> {
        let rows = held(values, self.place)?;
        // Of the rows: what is not a number is not active either, and would go unnoticed.
        if with_values(&rows.contiguous()?, |v| v.iter().any(|v| !v.is_finite()))? {
            return Err(Error::NotFinite { path: None, name: format!("activations at {}", self.place) });
        }
        let acts = self.subject.activations(rows, progress)?;
        // Weights that are numbers can still make some that are not: a gate's exponential.
        if acts.values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite { path: None, name: format!("activations of {}", self.subject.name()) });
        }
        Ok(acts)
    }

    /// Takes a batch into the correlations, as long as they are summed up; `last` is the text's last.
    fn correlate(
        &mut self,
        acts: &Sparse,
        some: &Batch,
        values: &[(Place, Tensor)],
        last: bool,
        progress: &Progress,
    ) -> Result<()> {
        let first = |r: &usize| !r.is_multiple_of(some.len);
        let post = self.neurons_place();
        if let (Some(pairs), Some((d, input))) = (&mut self.features, &self.others) {
            let own = matches!(self.subject, Subject::Features(_));
            let theirs = if own { None } else { Some(d.encode(held(values, *input)?, progress)?) };
            let of_neurons = matches!(self.subject, Subject::Neurons(_));
            if let (true, Some(theirs)) = (of_neurons, &theirs) {
                let width = self.index.entries.len();
                let mut dense = vec![0f32; acts.rows() * width];
                for (r, row) in dense.chunks_exact_mut(width).enumerate() {
                    acts.row(r).for_each(|(n, v)| row[n as usize] = v);
                }
                let rows = dense.chunks_exact(width).enumerate().filter(|(r, _)| first(r));
                pairs.add_dense(&rows.map(|(r, row)| (theirs.row(r).collect(), row)).collect::<Vec<_>>());
            } else {
                for r in (0..acts.rows()).filter(first) {
                    let row: Vec<(u32, f32)> = acts.row(r).collect();
                    match &theirs {
                        Some(theirs) => pairs.add(&row, &theirs.row(r).collect::<Vec<_>>()),
                        None => pairs.add(&row, &row),
                    }
                }
            }
            if pairs.is_enough() || last {
                let best = |p: Pairs| if of_neurons { p.best_of_others() } else { p.best(own) };
                let best = self.features.take().map_or(Vec::new(), best);
                self.index.entries.iter_mut().zip(best).for_each(|(e, b)| e.features = b);
            }
        }
        if let Some(pairs) = &mut self.neurons {
            let width = self.plan.model.config.d_mlp;
            with_values(&held(values, post)?.contiguous()?, |v| {
                let rows = v.chunks_exact(width).enumerate().filter(|(r, _)| first(r));
                pairs.add_dense(&rows.map(|(r, row)| (acts.row(r).collect(), row)).collect::<Vec<_>>());
            })?;
            if pairs.is_enough() || last {
                let same = matches!(self.subject, Subject::Neurons(_));
                let best = self.neurons.take().map_or(Vec::new(), |p| p.best(same));
                self.index.entries.iter_mut().zip(best).for_each(|(e, b)| e.neurons = b);
            }
        }
        Ok(())
    }

    /// Enters a batch of the shard's share.
    fn enter(&mut self, batch: &[usize], some: &Batch, acts: &Sparse) {
        for (i, (row, ids)) in batch.iter().zip(some.rows()).enumerate() {
            self.take(*row, ids, acts, i * some.len);
        }
        self.index.about.done += 1;
    }

    /// Writes the index, when it is time for that or the scan is `stopping`.
    fn keep(&mut self, stopping: bool) -> Result<()> {
        let (done, last) = (self.index.about.done, self.index.about.is_complete());
        let Some(path) = self.file else { return Ok(()) };
        // A checkpoint before the correlations are known would lose them.
        if done > self.kept && self.is_correlated() && (last || stopping || done >= self.kept + CHECKPOINT_EVERY) {
            self.index.sort();
            index_file::save(&self.index, path)?;
            self.kept = done;
        }
        Ok(())
    }

    fn show(&mut self, look: impl FnOnce(&Index)) {
        let done = self.index.about.done;
        if done >= self.next_look && !self.index.about.is_complete() {
            self.next_look = done + (done / 2).max(1);
            self.index.sort();
            look(&self.index);
        }
    }

    fn finish(mut self) -> Result<Index> {
        self.index.sort();
        // A shard without any batch is a part all the same.
        if let Some(path) = self.file.filter(|p| !p.is_file()) {
            index_file::save(&self.index, path)?;
        }
        Ok(self.index)
    }

    /// Enters a row whose positions begin at `from` in `acts`; its first position is left out.
    fn take(&mut self, row: usize, ids: &[u32], acts: &Sparse, from: usize) {
        let (window, index) = (self.plan.window, &mut self.index);
        // Of each feature the largest value in the row, and where: sorted by feature, then strength.
        let mut seen: Vec<(u32, f32, u32)> = Vec::new();
        for p in 1..ids.len() {
            for (f, v) in acts.row(from + p) {
                let e = &mut index.entries[f as usize];
                e.active += 1;
                e.sum += f64::from(v);
                e.max = e.max.max(v);
                e.histogram.add(v);
                seen.push((f, v, p as u32));
            }
        }
        index.about.positions += ids.len() as u64 - 1;
        seen.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        seen.dedup_by_key(|s| s.0);
        for (f, value, position) in seen {
            let key = (mix((row as u64) << 32 | u64::from(f)) >> 32) as u32;
            let e = &mut index.entries[f as usize];
            let (top, sampled) = e.takes(value, row as u32, key, &index.about);
            if !top && !sampled {
                continue;
            }
            let start = (position as usize).saturating_sub(window);
            let end = (position as usize + window + 1).min(ids.len());
            let example = Example {
                value,
                key,
                row: row as u32,
                document: self.plan.rows.document(row),
                position,
                start: start as u32,
                tokens: ids[start..end].to_vec(),
                activations: (start..end).map(|p| acts.at(from + p, f)).collect(),
            };
            if top {
                e.keep_top(example.clone(), index.about.top);
            }
            if sampled {
                e.keep_sample(example, index.about.sample);
            }
        }
    }
}
