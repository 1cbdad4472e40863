//! A sweep: the same edit tried at every cell of a grid of layers, heads and positions, each cell an exact
//! run. Activation patching and ablation are sweeps with different edits (see [`super::patching`]).
//!
//! Cells whose edit provably changes nothing are not run. The rest goes through [`crate::engine::resume`]
//! in chunks, coarse layers first, and every finished chunk is handed out.

use std::sync::OnceLock;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::pair::Pair;
use crate::engine::edit::Positions;
use crate::engine::forward::Prepared;
use crate::engine::resolve::{Sources, resolve};
use crate::engine::resume::{Variant, bytes_per_row, layer_weights, resume, rows_at_once};
use crate::engine::site::Axis;
use crate::engine::{Action, Edit, RunSide, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::progress::Progress;

/// The axes of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axes {
    /// One edit for each layer, over all positions.
    Layer,
    LayerPos,
    /// One edit for each head, over all positions.
    LayerHead,
    LayerHeadPos,
    /// The edges of one head's pattern.
    DestSrc {
        layer: usize,
        head: usize,
    },
}

impl Axes {
    /// Returns the axes that make sense at a site. The first ones are the default.
    pub fn choices(kind: SiteKind) -> Vec<Self> {
        let heads = kind.axes().iter().any(|a| matches!(a, Axis::Head | Axis::KvHead));
        match kind {
            SiteKind::Pattern => vec![Self::LayerHead, Self::LayerHeadPos, Self::DestSrc { layer: 0, head: 0 }],
            _ if heads => vec![Self::LayerHead, Self::LayerHeadPos],
            _ => vec![Self::LayerPos, Self::Layer],
        }
    }

    /// Returns the spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::LayerPos => "layer,pos",
            Self::LayerHead => "layer,head",
            Self::LayerHeadPos => "layer,head,pos",
            Self::DestSrc { .. } => "dest,src",
        }
    }

    fn alike(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// Sites at which a sweep can be made.
pub const SITES: [SiteKind; 9] = [
    SiteKind::ResidPre,
    SiteKind::ResidMid,
    SiteKind::AttnOut,
    SiteKind::MlpOut,
    SiteKind::Z,
    SiteKind::Q,
    SiteKind::K,
    SiteKind::V,
    SiteKind::Pattern,
];

/// The settings of a sweep: the site, the edit, the axes, and what is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepSettings {
    pub site: SiteKind,
    pub by: Axes,
    /// The run that is edited.
    pub base: RunSide,
    pub action: Action,
    pub metric: Metric,
}

impl SweepSettings {
    /// # Errors
    /// A site that the model lacks, or axes that the site does not have.
    pub fn check(&self, trace: &Trace) -> Result<()> {
        let config = &trace.model.config;
        let name = |kind: SiteKind| kind.hook().rsplit("hook_").next().unwrap_or_default().to_owned();
        if !self.site.exists(config) {
            return Err(Error::request(format!("this model has no {}; choose another site", name(self.site))));
        }
        let choices = Axes::choices(self.site);
        if !choices.iter().any(|c| c.alike(self.by)) {
            let known: Vec<&str> = choices.into_iter().map(Axes::name).collect();
            return Err(Error::request(format!(
                "{} cannot be swept by {}; choose {}",
                name(self.site),
                self.by.name(),
                known.join(" or ")
            )));
        }
        if let Axes::DestSrc { layer, head } = self.by
            && (layer >= config.n_layers || head >= config.n_heads)
        {
            return Err(Error::request(format!(
                "there is no head {layer}.{head}; layers go to {} and heads to {}",
                config.n_layers - 1,
                config.n_heads - 1
            )));
        }
        Ok(())
    }

    /// Returns the names and lengths of the axes.
    pub fn axes(&self, base: &Trace) -> Vec<(&'static str, usize)> {
        let config = &base.model.config;
        let head = self.site.axes().iter().find(|a| matches!(a, Axis::Head | Axis::KvHead)).copied();
        let head = head.map_or(("head", 0), |a| (a.name(), a.len(config, base.len())));
        let (layer, pos) = (("layer", config.n_layers), ("pos", base.len()));
        match self.by {
            Axes::Layer => vec![layer],
            Axes::LayerPos => vec![layer, pos],
            Axes::LayerHead => vec![layer, head],
            Axes::LayerHeadPos => vec![layer, head, pos],
            Axes::DestSrc { .. } => vec![("dest", base.len()), ("src", base.len())],
        }
    }

    /// Returns the edit that a cell tries. `cell` holds its indices along the axes.
    pub fn edit(&self, cell: &[usize]) -> Edit {
        let at = |i: usize| cell.get(i).copied().unwrap_or(0);
        let edit = |layer: usize| Edit::new(Site::new(self.site, layer), self.action.clone());
        match self.by {
            Axes::Layer => edit(at(0)),
            Axes::LayerPos => edit(at(0)).at(at(1)),
            Axes::LayerHead => edit(at(0)).head(at(1)),
            Axes::LayerHeadPos => edit(at(0)).head(at(1)).at(at(2)),
            Axes::DestSrc { layer, head } => edit(layer).head(head).at(at(0)).src(at(1)),
        }
    }
}

/// The values of a sweep, of all cells or of those that are known so far.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepResult {
    pub settings: SweepSettings,
    pub axes: Vec<(&'static str, usize)>,
    /// Row-major over the axes: the metric with the cell's edit; NaN where it is still being computed.
    pub values: Vec<f32>,
    /// The metric of the edited run without any edit, and of the clean and corrupted runs.
    pub baseline: f32,
    pub clean: f32,
    pub corrupted: Option<f32>,
    /// Number of cells that were run; `skipped` counts the cells that provably equal the baseline.
    pub run: usize,
    pub skipped: usize,
    /// Number of cells at positions without a counterpart in the other prompt. Their values stay NaN.
    pub unaligned: usize,
    pub done: bool,
    pub seconds: f64,
}

impl SweepResult {
    /// Returns (value − corrupted)/(clean − corrupted) for each cell: 0 where a patch does nothing, 1 where it restores
    /// the clean run's metric [TransformerLens, `patching.py`].
    ///
    /// # Errors
    /// Both runs have the same metric.
    pub fn normalised(&self) -> Result<Vec<f32>> {
        let span = span(self.settings.metric, self.clean, self.corrupted)?;
        let corrupted = self.corrupted.unwrap_or_default();
        Ok(self.values.iter().map(|v| (v - corrupted) / span).collect())
    }

    /// Returns the cell that tries this edit, if one does.
    pub fn index_of(&self, edit: &Edit) -> Option<usize> {
        let at = match &edit.positions {
            Positions::At(list) => list.first().copied(),
            _ => None,
        };
        let layer = Some(edit.site.layer);
        let indices = match self.settings.by {
            Axes::Layer => [layer].into_iter().collect::<Option<Vec<_>>>(),
            Axes::LayerPos => [layer, at].into_iter().collect(),
            Axes::LayerHead => [layer, edit.head].into_iter().collect(),
            Axes::LayerHeadPos => [layer, edit.head, at].into_iter().collect(),
            Axes::DestSrc { .. } => [at, edit.src].into_iter().collect(),
        }?;
        let inside = indices.len() == self.axes.len() && indices.iter().zip(&self.axes).all(|(i, (_, n))| i < n);
        let index = indices.iter().zip(&self.axes).fold(0, |sum, (i, (_, n))| sum * n + i);
        (inside && self.settings.edit(&indices) == *edit).then_some(index)
    }

    /// Returns the indices of a cell along the axes.
    pub fn cell(&self, mut index: usize) -> Vec<usize> {
        let mut out = vec![0; self.axes.len()];
        for (slot, (_, n)) in out.iter_mut().zip(&self.axes).rev() {
            *slot = index % n.max(&1);
            index /= n.max(&1);
        }
        out
    }
}

/// Returns clean − corrupted, the unit of normalised values.
fn span(metric: Metric, clean: f32, corrupted: Option<f32>) -> Result<f32> {
    let corrupted = corrupted.ok_or_else(|| Error::request("there is no corrupted run to normalise by"))?;
    let span = clean - corrupted;
    if span == 0.0 || !span.is_finite() {
        return Err(Error::request(format!(
            "the clean and the corrupted prompt have the same {} ({clean}), so patching between them has no scale; choose prompts that differ in it",
            metric.kind().label()
        )));
    }
    Ok(span)
}

/// Returns the metric of the clean and of the corrupted run, before anything else is run.
fn ends(pair: &Pair, metric: Metric) -> Result<(f32, Option<f32>)> {
    let readout = pair.readout(metric)?;
    let of = |t: &Trace| readout.of(t, t.len() - 1);
    Ok((of(&pair.clean)?, pair.corrupted.as_deref().map(of).transpose()?))
}

/// Refuses a pair of prompts between which nothing can be normalised.
///
/// # Errors
/// As [`SweepResult::normalised`].
pub fn check_span(pair: &Pair, metric: Metric) -> Result<()> {
    let (clean, corrupted) = ends(pair, metric)?;
    span(metric, clean, corrupted).map(drop)
}

/// The estimated cost of a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub cells: usize,
    pub to_run: usize,
    /// Bytes of working memory beyond the runs themselves.
    pub bytes: usize,
    pub seconds: f64,
}

/// A sweep whose edits are resolved.
pub struct Sweep<'a> {
    pair: &'a Pair,
    settings: SweepSettings,
    base: &'a Trace,
    axes: Vec<(&'static str, usize)>,
    /// The cells to run, in order: (index into the grid, variant).
    variants: Vec<(usize, Variant)>,
    chunk_rows: usize,
    /// The cells asked for, if not all.
    chosen: Option<Vec<bool>>,
    unaligned: Vec<usize>,
    /// Bytes of the values that edits copy.
    copies: usize,
    /// Tables for all positions of the base run.
    prepared: Prepared,
}

/// Number of rows of the first chunk. It is small, so that something is seen at once.
const FIRST_ROWS: usize = 64;

impl<'a> Sweep<'a> {
    /// Resolves every cell's edit and finds the ones that need no run.
    ///
    /// # Errors
    /// The settings make no sense for these runs, or the sweep would not fit in memory.
    pub fn new(pair: &'a Pair, settings: SweepSettings, progress: &Progress) -> Result<Self> {
        let base: &Trace = pair.run(settings.base)?;
        settings.check(base)?;
        if !base.edits().is_empty() {
            return Err(Error::failed("a sweep starts from an unedited run"));
        }
        let axes = settings.axes(base);
        let config = &base.model.config;
        let edges = settings.site == SiteKind::Pattern;
        let layers = if matches!(settings.by, Axes::DestSrc { .. }) { 1 } else { config.n_layers };
        let values = layers * Site::new(settings.site, 0).shape(config, base.len()).iter().product::<usize>();
        // Loads the values of the base run, and those that are copied from the other run or averaged.
        let copies = 2 * values;
        afford_sweep(settings.site, base.len(), 4 * copies)?;
        let sources = pair.sources(settings.base)?;
        let total: usize = axes.iter().map(|(_, n)| n).product();
        let (mut variants, mut unaligned) = (Vec::new(), Vec::new());
        let pos = base.len() - 1;
        let shell = SweepResult {
            settings: settings.clone(),
            axes: axes.clone(),
            values: Vec::new(),
            baseline: 0.0,
            clean: 0.0,
            corrupted: None,
            run: 0,
            skipped: 0,
            unaligned: 0,
            done: false,
            seconds: 0.0,
        };
        for index in 0..total {
            progress.check()?;
            match cell_of(&settings.edit(&shell.cell(index)), &sources, pos)? {
                Cell::Run(variant) => variants.push((index, variant)),
                Cell::Unaligned => unaligned.push(index),
                Cell::Unchanged => {}
            }
        }
        let last = config.n_layers.saturating_sub(1);
        variants.sort_by_key(|(index, v)| (coarseness(v.layer, last), v.layer, *index));
        let prepared = Prepared::new(config, base.len());
        Ok(Self {
            pair,
            settings,
            base,
            axes,
            variants,
            chunk_rows: rows_at_once(config, base.len(), edges),
            chosen: None,
            unaligned,
            copies: 4 * copies,
            prepared,
        })
    }

    /// Keeps only these cells of the grid. The others stay unknown (NaN).
    #[must_use]
    pub fn only(mut self, cells: &[usize]) -> Self {
        let mut chosen = vec![false; self.axes.iter().map(|(_, n)| n).product()];
        for cell in cells {
            if let Some(slot) = chosen.get_mut(*cell) {
                *slot = true;
            }
        }
        self.variants.retain(|(index, _)| chosen[*index]);
        self.unaligned.retain(|index| chosen[*index]);
        self.chosen = Some(chosen);
        self
    }

    fn rows(&self, v: &Variant) -> usize {
        self.base.len() - v.start
    }

    /// Refuses a sweep that would not fit in memory even one run at a time.
    ///
    /// # Errors
    /// One sentence with what it would need.
    pub fn check_memory(&self) -> Result<()> {
        afford_sweep(self.settings.site, self.base.len(), self.estimate().bytes)
    }

    /// Estimates memory and time before any cell is run. The time is a guess from this machine's speed at the model's
    /// widest product.
    pub fn estimate(&self) -> Estimate {
        let c = &self.base.model.config;
        let rows: usize = self.variants.iter().map(|(_, v)| self.rows(v)).sum();
        let row_layers: usize = self.variants.iter().map(|(_, v)| v.row_layers(self.base)).sum();
        let per_layer = layer_weights(c);
        let full = matches!(self.settings.metric, Metric::Probability { .. } | Metric::Rank { .. } | Metric::Kl);
        let unembed = if full { self.variants.len() * c.d_model * c.d_vocab } else { 0 };
        let flops = 2.0 * (row_layers as f64 * per_layer as f64 + unembed as f64);
        // A run longer than a chunk goes through by itself.
        let longest = self.variants.iter().map(|(_, v)| self.rows(v)).max().unwrap_or(0);
        let held = rows.min(self.chunk_rows.max(longest));
        let edges = if self.settings.site == SiteKind::Pattern { 12 * c.n_heads * self.base.len() * held } else { 0 };
        Estimate {
            cells: self.axes.iter().map(|(_, n)| n).product(),
            to_run: self.variants.len(),
            bytes: self.copies + held * bytes_per_row(c) + edges,
            // Small products, attention and norms keep a sweep at about two thirds of the peak.
            seconds: flops / (0.65 * speed()),
        }
    }

    /// Runs the sweep; `partial` is handed what is known after every chunk.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn run(&self, progress: &Progress, mut partial: impl FnMut(&SweepResult)) -> Result<SweepResult> {
        self.check_memory()?;
        let started = Instant::now();
        let pos = self.base.len() - 1;
        let readout = self.pair.readout(self.settings.metric)?;
        let (clean, corrupted) = ends(self.pair, self.settings.metric)?;
        let baseline = match self.settings.base {
            RunSide::Clean => clean,
            RunSide::Corrupted => corrupted.unwrap_or(f32::NAN),
        };
        let total: usize = self.axes.iter().map(|(_, n)| n).product();
        let mut values = vec![baseline; total];
        for (index, _) in &self.variants {
            values[*index] = f32::NAN;
        }
        let mut skipped = total - self.variants.len() - self.unaligned.len();
        for index in &self.unaligned {
            values[*index] = f32::NAN;
        }
        if let Some(chosen) = &self.chosen {
            let asked = chosen.iter().filter(|c| **c).count();
            skipped = asked - self.variants.len() - self.unaligned.len();
            values.iter_mut().zip(chosen).filter(|(_, c)| !**c).for_each(|(v, _)| *v = f32::NAN);
        }
        let mut found = SweepResult {
            settings: self.settings.clone(),
            axes: self.axes.clone(),
            values,
            baseline,
            clean,
            corrupted,
            run: 0,
            skipped,
            unaligned: self.unaligned.len(),
            done: false,
            seconds: 0.0,
        };
        progress.expect(self.variants.iter().map(|(_, v)| v.row_layers(self.base) as u64).sum());
        let mut rest = &self.variants[..];
        let mut limit = FIRST_ROWS.min(self.chunk_rows);
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = |(_, v): &&(usize, Variant)| {
                rows += self.rows(v);
                rows <= limit
            };
            let n = rest.iter().take_while(fits).count().max(1);
            let (chunk, later) = rest.split_at(n);
            rest = later;
            limit = self.chunk_rows;
            let variants: Vec<Variant> = chunk.iter().map(|(_, v)| v.clone()).collect();
            let normalized = resume(self.base, &self.prepared, &variants, pos, progress)?;
            for ((index, _), value) in chunk.iter().zip(readout.read(&normalized, progress)?) {
                found.values[*index] = value;
            }
            found.run += n;
            found.seconds = started.elapsed().as_secs_f64();
            if !rest.is_empty() {
                partial(&found);
            }
        }
        found.done = true;
        found.seconds = started.elapsed().as_secs_f64();
        Ok(found)
    }
}

fn afford_sweep(site: SiteKind, tokens: usize, bytes: usize) -> Result<()> {
    let what = format!("sweeping {} over {tokens} tokens", site.hook());
    afford(bytes, &what, "shorten the prompt or sweep another site")
}

/// The way in which one cell gets its value.
enum Cell {
    Run(Variant),
    /// The edit cannot change the metric: it changes no bit, only later positions, or edges that causality forbids.
    Unchanged,
    /// There is nothing to copy: the position has no counterpart in the other prompt.
    Unaligned,
}

fn cell_of(edit: &Edit, sources: &Sources<'_>, pos: usize) -> Result<Cell> {
    if let Positions::At(list) = &edit.positions {
        if edit.src.is_some_and(|src| list.iter().all(|dest| src > *dest)) {
            return Ok(Cell::Unchanged);
        }
        let counterpart = |p: &usize| sources.alignment.get(*p).copied().flatten();
        let copies = matches!(&edit.action, Action::Copy(which) if *which != sources.base_is);
        if copies && sources.other.is_some() && list.iter().all(|p| counterpart(p).is_none()) {
            return Ok(Cell::Unaligned);
        }
    }
    let op = resolve(edit, sources)?.without_identical(sources)?;
    let variant = Variant::new(vec![op], sources.base).filter(|v| v.start <= pos);
    Ok(variant.map_or(Cell::Unchanged, Cell::Run))
}

/// Returns 0 for the layers that are run first, up to 3 for those that only fill the gaps between them.
fn coarseness(layer: usize, last: usize) -> usize {
    if layer.is_multiple_of(8) || layer == last {
        0
    } else if layer.is_multiple_of(4) {
        1
    } else if layer.is_multiple_of(2) {
        2
    } else {
        3
    }
}

/// Returns the floating-point operations a second of a middle-sized product on this machine, measured once.
pub(super) fn speed() -> f64 {
    static SPEED: OnceLock<f64> = OnceLock::new();
    *SPEED.get_or_init(|| {
        let measure = || -> candle_core::Result<f64> {
            let (m, k, n) = (256, 512, 1024);
            let a = Tensor::ones((m, k), candle_core::DType::F32, &Device::Cpu)?;
            let b = Tensor::ones((k, n), candle_core::DType::F32, &Device::Cpu)?;
            let mut best = 0f64;
            // Other programs may use the machine at the same time, so that the best of several timings counts.
            for _ in 0..8 {
                let start = Instant::now();
                std::hint::black_box(a.matmul(&b)?);
                best = best.max(2.0 * (m * k * n) as f64 / start.elapsed().as_secs_f64());
            }
            Ok(best)
        };
        measure().unwrap_or(5e10)
    })
}
