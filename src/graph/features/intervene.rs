//! Features are given other values, and the model goes on: freely, with attention held still, or with everything held
//! still but the direct effects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::Tensor;

use super::active::{is_before_norm, values};
use super::linear::Linear;
use crate::engine::forward::Prepared;
use crate::engine::{Hold, Hooks, NoHooks, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::features::{Dictionary, DictionarySet, Place, Sparse};
use crate::memory::available;
use crate::model::Model;
use crate::progress::Progress;

/// The value that a feature is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    To(f32),
    /// Times its activation in the unchanged run.
    Times(f32),
}

/// A feature and the value that it is given, as in `12:7:431=0` or `12:7:431=2x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    pub layer: usize,
    pub pos: usize,
    pub feature: u32,
    pub amount: Amount,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, pos, feature, amount } = self;
        match amount {
            Amount::To(v) => write!(f, "{layer}:{pos}:{feature}={v}"),
            Amount::Times(v) => write!(f, "{layer}:{pos}:{feature}={v}x"),
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong =
            || format!("`{text}` names no change; write LAYER:POS:FEATURE=VALUE, as in 12:7:431=0 or 12:7:431=2x");
        let (place, value) = text.split_once('=').ok_or_else(wrong)?;
        let parts: Vec<&str> = place.split(':').collect();
        let [layer, pos, feature] = parts[..] else { return Err(wrong()) };
        let number = |v: &str| v.parse::<f32>().ok().filter(|v| v.is_finite()).ok_or_else(wrong);
        let amount = match value.strip_suffix('x') {
            Some(times) => Amount::Times(number(times)?),
            None => Amount::To(number(value)?),
        };
        let (layer, pos) = (layer.parse().map_err(|_| wrong())?, pos.parse().map_err(|_| wrong())?);
        Ok(Self { layer, pos, feature: feature.parse().map_err(|_| wrong())?, amount })
    }
}

/// A run under changed features.
pub struct Changed {
    /// The final norm's output, [pos, d_model].
    pub normalized: Tensor,
    /// The features that the run itself gives, before values are set, by layer.
    pub activations: Vec<Sparse>,
    /// The same in the unchanged run.
    pub before: Vec<Sparse>,
    /// What each feature reads, by layer [pos, feature]; only where they were asked for.
    pub pre_activations: Vec<Tensor>,
    model: Arc<Model>,
}

impl Changed {
    /// Logits of a position, [vocabulary], after a soft cap.
    ///
    /// # Errors
    /// A position outside the prompt.
    pub fn logits(&self, pos: usize) -> Result<Vec<f32>> {
        Ok(self.model.network().unembed(&self.normalized.narrow(0, pos, 1)?)?.flatten_all()?.to_vec1()?)
    }
}

/// One layer's transcoder at work.
struct Acting {
    /// Where all layers fit into memory; else it is read again when it is its turn.
    held: Option<Arc<Dictionary>>,
    /// Features that it has.
    features: usize,
    input: Place,
    output: Place,
    /// What it reads in the unchanged run, [pos, d_in].
    x: Tensor,
}

/// How much is added of which row at a layer's output: by layer, (position, row).
type Writes = BTreeMap<usize, Vec<(usize, Vec<f32>)>>;

/// The layers of a set, made ready to be changed many times.
pub struct Stage<'a> {
    trace: &'a Trace,
    set: &'a DictionarySet,
    linear: Linear<'a>,
    layers: Vec<Acting>,
    before: Vec<Sparse>,
    silent: usize,
}

impl<'a> Stage<'a> {
    /// Layers stay in memory as long as they take no more than half of what is free.
    ///
    /// # Errors
    /// An edited run, or a set that does not fit the model.
    pub fn of(trace: &'a Trace, set: &'a DictionarySet, silent: usize, progress: &Progress) -> Result<Self> {
        Self::within(available().map_or(u64::MAX, |free| free / 2), trace, set, silent, progress)
    }

    /// `room` is the number of bytes that layers may take together.
    fn within(room: u64, trace: &'a Trace, set: &'a DictionarySet, silent: usize, progress: &Progress) -> Result<Self> {
        if !trace.edits().is_empty() {
            return Err(Error::request("features are changed in a run without edits; switch them off"));
        }
        let linear = Linear::of(trace, trace.len(), progress)?;
        let c = &trace.model.config;
        set.check(c)?;
        let (mut layers, mut before, mut taken) = (Vec::new(), Vec::new(), 0);
        for layer in 0..c.n_layers {
            progress.check()?;
            let (dictionary, input, output) = set.layer(layer, c, progress)?;
            let x = values(&linear, input)?;
            before.push(without_first(dictionary.encode(&x, progress)?, silent));
            taken += 4 * (dictionary.w_enc.elem_count() + dictionary.w_dec.elem_count()) as u64;
            let features = dictionary.d_sae;
            layers.push(Acting { held: (taken <= room).then_some(dictionary), features, input, output, x });
        }
        Ok(Self { trace, set, linear, layers, before, silent })
    }

    fn dictionary(&self, layer: usize, progress: &Progress) -> Result<Arc<Dictionary>> {
        match &self.layer(layer)?.held {
            Some(held) => Ok(held.clone()),
            None => Ok(self.set.layer(layer, &self.trace.model.config, progress)?.0),
        }
    }

    /// The sites that a layer's features write.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub fn written_sites(&self, layer: usize, progress: &Progress) -> Result<Vec<Site>> {
        let (dictionary, kind) = (self.dictionary(layer, progress)?, self.layer(layer)?.output.site.kind);
        Ok((0..=dictionary.later.len()).map(|k| Site::new(kind, layer + k)).collect())
    }

    /// First positions whose features are left alone.
    pub fn silent(&self) -> usize {
        self.silent
    }

    /// The most features that a layer has.
    pub fn widest(&self) -> usize {
        self.layers.iter().map(|l| l.features).max().unwrap_or(0)
    }

    /// A feature's activation in the unchanged run.
    pub fn activation(&self, layer: usize, pos: usize, feature: u32) -> f32 {
        self.before.get(layer).filter(|acts| pos < acts.rows()).map_or(0.0, |acts| acts.at(pos, feature))
    }

    /// What a feature reads at a position of a changed run beside what it read before: the difference of its
    /// pre-activations. `changed` must have been asked for pre-activations.
    ///
    /// # Errors
    /// A layer or feature that is not there, or [`Error::Cancelled`].
    pub fn difference(
        &self,
        changed: &Changed,
        layer: usize,
        pos: usize,
        feature: u32,
        progress: &Progress,
    ) -> Result<f32> {
        progress.check()?;
        let (acting, dictionary) = (self.layer(layer)?, self.dictionary(layer, progress)?);
        dictionary.check_feature(feature as usize)?;
        let after = changed.pre_activations.get(layer).ok_or_else(|| Error::failed("pre-activations were not kept"))?;
        let before = dictionary.pre_activations(&acting.x.narrow(0, pos, 1)?)?;
        let at = |t: &Tensor, pos: usize| -> Result<f32> { Ok(t.get(pos)?.get(feature as usize)?.to_scalar()?) };
        Ok(at(after, pos)? - at(&before, 0)?)
    }

    fn layer(&self, layer: usize) -> Result<&Acting> {
        self.layers.get(layer).ok_or_else(|| {
            let n = self.layers.len();
            Error::request(format!("there is no layer {layer}; layers go from 0 to {}", n.saturating_sub(1)))
        })
    }

    fn check(&self, changes: &[Change]) -> Result<()> {
        for (i, change) in changes.iter().enumerate() {
            let of = |c: &Change| (c.layer, c.pos, c.feature);
            if changes[..i].iter().any(|c| of(c) == of(change)) {
                return Err(Error::request(format!(
                    "`{change}` is the second value of its feature; give each feature one"
                )));
            }
            let features = self.layer(change.layer)?.features;
            if change.feature as usize >= features {
                return Err(Error::request(format!(
                    "there is no feature {} in layer {} of {}; its features go from 0 to {}",
                    change.feature,
                    change.layer,
                    self.set.name,
                    features.saturating_sub(1)
                )));
            }
            if change.pos >= self.trace.len() {
                return Err(Error::request(format!(
                    "position {} is outside the prompt of {} tokens; positions count from 0",
                    change.pos,
                    self.trace.len()
                )));
            }
        }
        Ok(())
    }

    fn value(&self, change: &Change) -> f32 {
        match change.amount {
            Amount::To(v) => v,
            Amount::Times(f) => f * self.activation(change.layer, change.pos, change.feature),
        }
    }

    /// Adds what a feature writes for `delta` more of it to what is written.
    fn write(&self, d: &Dictionary, change: &Change, delta: f32, writes: &mut Writes) -> Result<()> {
        if change.pos < self.silent || delta == 0.0 {
            return Ok(());
        }
        let own = d.direction(change.feature as usize)?;
        for (k, row) in std::iter::once(own).chain(d.later.of(change.feature as usize)?).enumerate() {
            let row = row.into_iter().map(|v| v * delta).collect();
            writes.entry(change.layer + k).or_default().push((change.pos, row));
        }
        Ok(())
    }

    /// What changes write if activations are those of the unchanged run.
    fn written(&self, changes: &[Change], progress: &Progress) -> Result<Writes> {
        let mut writes = Writes::new();
        let layers: BTreeSet<usize> = changes.iter().map(|c| c.layer).collect();
        for layer in layers {
            let dictionary = self.dictionary(layer, progress)?;
            for change in changes.iter().filter(|c| c.layer == layer) {
                let delta = self.value(change) - self.activation(layer, change.pos, change.feature);
                self.write(&dictionary, change, delta, &mut writes)?;
            }
        }
        Ok(writes)
    }

    /// Runs the model on with the features changed. `pre` keeps what every feature reads.
    ///
    /// # Errors
    /// A layer, position or feature that is not there, or [`Error::Cancelled`].
    pub fn run(&self, changes: &[Change], mode: &Hold, pre: bool, progress: &Progress) -> Result<Changed> {
        self.check(changes)?;
        if *mode == Hold::Direct {
            return self.direct(changes, pre, progress);
        }
        if let Hold::Part(layers) = mode
            && let Some(l) = layers.iter().find(|l| **l >= self.layers.len())
        {
            self.layer(*l)?;
        }
        let model = self.trace.model.clone();
        let mut hooks = Acts {
            stage: self,
            changes,
            mode,
            writes: match mode {
                Hold::Part(_) => self.written(changes, progress)?,
                _ => Writes::new(),
            },
            activations: Vec::new(),
            pre: pre.then(Vec::new),
            skips: BTreeMap::new(),
            progress,
        };
        let ids = [&self.trace.ids[..]];
        let prepared = Prepared::new(&model.config, self.trace.len());
        let network = model.network();
        let resid = network.forward_prepared(&ids, &prepared, &mut hooks, progress)?;
        let normalized = network.final_norm(&resid, &mut NoHooks)?.squeeze(0)?;
        let (activations, pre_activations) = (hooks.activations, hooks.pre.unwrap_or_default());
        Ok(Changed { normalized, activations, before: self.before.clone(), pre_activations, model })
    }

    fn encoded(&self, d: &Dictionary, x: &Tensor, pre: bool, progress: &Progress) -> Result<(Sparse, Option<Tensor>)> {
        let acts = without_first(d.encode(x, progress)?, self.silent);
        Ok((acts, if pre { Some(d.pre_activations(x)?) } else { None }))
    }

    /// Everything is held still, so that the change itself goes through the model, linearly.
    fn direct(&self, changes: &[Change], pre: bool, progress: &Progress) -> Result<Changed> {
        let (linear, n, d) = (&self.linear, self.trace.len(), self.linear.d);
        let writes = self.written(changes, progress)?;
        let mut stream = vec![0f32; n * d];
        let add = |to: &mut [f32], more: &[f32]| to.iter_mut().zip(more).for_each(|(a, b)| *a += b);
        let (mut activations, mut pre_activations) = (Vec::new(), Vec::new());
        progress.expect(self.layers.len() as u64);
        for (layer, acting) in self.layers.iter().enumerate() {
            progress.check()?;
            let before = stream.clone();
            add(&mut stream, &linear.attended(layer, &before)?);
            let mut seen = if linear.behind_attention(acting.input) { stream.clone() } else { before };
            seen.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| linear.seen(acting.input, row, pos));
            let seen = Tensor::from_vec(seen, (n, d), acting.x.device())?;
            let dictionary = self.dictionary(layer, progress)?;
            let (acts, own) = self.encoded(&dictionary, &(&acting.x + &seen)?, pre, progress)?;
            activations.push(acts);
            pre_activations.extend(own);
            let mut out = match &dictionary.skip {
                Some(skip) => seen.matmul(skip)?.flatten_all()?.to_vec1()?,
                None => vec![0f32; n * d],
            };
            for (pos, row) in writes.get(&layer).into_iter().flatten() {
                add(&mut out[pos * d..(pos + 1) * d], row);
            }
            if let Some(post) = linear.blocks[layer].mlp_post.as_ref().filter(|_| is_before_norm(acting.output)) {
                out.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| post.apply(row, pos));
            }
            add(&mut stream, &out);
            progress.step(1)?;
        }
        stream.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| linear.last.apply(row, pos));
        let model = self.trace.model.clone();
        let clean = model.network().final_norm(&self.trace.resid_final.unsqueeze(0)?, &mut NoHooks)?.squeeze(0)?;
        let normalized = (clean + Tensor::from_vec(stream, (n, d), self.trace.resid_final.device())?)?;
        Ok(Changed { normalized, activations, before: self.before.clone(), pre_activations, model })
    }
}

/// The rows of the first positions emptied.
fn without_first(acts: Sparse, silent: usize) -> Sparse {
    let mut out = Sparse::new();
    for r in 0..acts.rows() {
        for (f, v) in acts.row(r).filter(|_| r >= silent) {
            out.features.push(f);
            out.values.push(v);
        }
        out.starts.push(out.features.len());
    }
    out
}

/// Changes features while the model runs.
struct Acts<'a> {
    stage: &'a Stage<'a>,
    changes: &'a [Change],
    mode: &'a Hold,
    writes: Writes,
    activations: Vec<Sparse>,
    pre: Option<Vec<Tensor>>,
    /// By layer what the skip path adds beside the unchanged run, [pos, d_out].
    skips: BTreeMap<usize, Tensor>,
    progress: &'a Progress,
}

impl Acts<'_> {
    fn is_held(&self, layer: usize) -> bool {
        matches!(self.mode, Hold::Part(layers) if layers.contains(&layer))
    }

    fn read(&mut self, layer: usize, value: &Tensor) -> Result<()> {
        let stage = self.stage;
        let acting = &stage.layers[layer];
        let x = acting.input.rows(&stage.trace.model, value)?.contiguous()?;
        let dictionary = stage.dictionary(layer, self.progress)?;
        let (acts, pre) = stage.encoded(&dictionary, &x, self.pre.is_some(), self.progress)?;
        if !matches!(self.mode, Hold::Part(_)) {
            for change in self.changes.iter().filter(|c| c.layer == layer) {
                let delta = stage.value(change) - acts.at(change.pos, change.feature);
                stage.write(&dictionary, change, delta, &mut self.writes)?;
            }
        }
        if let (true, Some(skip)) = (self.is_held(layer), &dictionary.skip) {
            self.skips.insert(layer, (x - &acting.x)?.matmul(skip)?);
        }
        self.activations.push(acts);
        if let (Some(all), Some(pre)) = (&mut self.pre, pre) {
            all.push(pre);
        }
        Ok(())
    }

    fn written(&self, layer: usize, value: Tensor) -> Result<Tensor> {
        let held = self.is_held(layer);
        if matches!(self.mode, Hold::Part(_)) && !held {
            return Ok(value);
        }
        let shape = value.shape().clone();
        let mut rows = value;
        if held {
            let place = self.stage.layers[layer].output;
            rows = values(&self.stage.linear, place)?.reshape(&shape)?;
            if let Some(skip) = self.skips.get(&layer) {
                rows = (rows + skip.reshape(&shape)?)?;
            }
        }
        let Some(writes) = self.writes.get(&layer) else { return Ok(rows) };
        let d = self.stage.linear.d;
        let mut data: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        for (pos, row) in writes {
            data[pos * d..(pos + 1) * d].iter_mut().zip(row).for_each(|(a, b)| *a += b);
        }
        Ok(Tensor::from_vec(data, shape, rows.device())?)
    }
}

impl Hooks for Acts<'_> {
    fn wants(&self, site: Site) -> bool {
        if site.kind == SiteKind::Pattern {
            return *self.mode != Hold::Free;
        }
        self.stage.layers.get(site.layer).is_some_and(|l| l.input.site == site || l.output.site == site)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        if site.kind == SiteKind::Pattern {
            return Ok(self.stage.trace.pattern(site.layer)?.unsqueeze(0)?);
        }
        let acting = &self.stage.layers[site.layer];
        if acting.input.site == site {
            self.read(site.layer, &value)?;
            return Ok(value);
        }
        self.written(site.layer, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_and_read() {
        let change = |text: &str| text.parse::<Change>();
        let set = Change { layer: 12, pos: 7, feature: 431, amount: Amount::To(-0.5) };
        assert_eq!(change("12:7:431=-0.5"), Ok(set));
        let twice = Change { amount: Amount::Times(2.0), ..set };
        assert_eq!(change("12:7:431=2x"), Ok(twice));
        assert_eq!(change(&twice.to_string()), Ok(twice));
        for wrong in ["", "1:2=3", "1:2:3", "1:2:3=", "1:2:3=x", "1:2:3=NaN", "1:2:3:4=5", "-1:2:3=4"] {
            assert!(change(wrong).is_err_and(|e| e.contains("LAYER:POS:FEATURE=VALUE")), "{wrong}");
        }
    }

    /// Layers that do not fit into memory are read again, and nothing comes out otherwise.
    #[test]
    fn a_set_without_room_acts_the_same() {
        let model = Arc::new(Model::open("text").unwrap());
        let quiet = Progress::new();
        let trace = Trace::run(&model, (5..17).collect(), &quiet).unwrap();
        let set = DictionarySet::open("text-transcoders", &quiet).unwrap().as_large();
        let held = Stage::of(&trace, &set, 1, &quiet).unwrap();
        let read = Stage::within(0, &trace, &set, 1, &quiet).unwrap();
        assert!(held.layers.iter().all(|l| l.held.is_some()) && read.layers.iter().all(|l| l.held.is_none()));
        assert_eq!(read.widest(), 896);
        let active = |layer: usize| held.before[layer].row(7).next().unwrap().0;
        let off = |layer: usize| Change { layer, pos: 7, feature: active(layer), amount: Amount::To(0.0) };
        let changes = [off(0), off(1)];
        for mode in [Hold::Free, Hold::Attention, Hold::Direct, Hold::Part(vec![0])] {
            let [a, b] = [&held, &read].map(|stage| stage.run(&changes, &mode, true, &quiet).unwrap());
            assert_eq!((a.logits(11).unwrap(), &a.activations), (b.logits(11).unwrap(), &b.activations), "{mode:?}");
            let difference = |stage: &Stage<'_>, run: &Changed| stage.difference(run, 2, 11, 3, &quiet).unwrap();
            assert_eq!(difference(&held, &a), difference(&read, &b), "{mode:?}");
        }
        let wrong = read.run(&[Change { feature: 896, ..changes[0] }], &Hold::Free, false, &quiet).err().unwrap();
        assert!(wrong.to_string().contains("no feature 896 in layer 0"), "{wrong}");
        let stopped = quiet.part();
        quiet.cancel();
        assert!(matches!(read.run(&changes, &Hold::Direct, true, &stopped), Err(Error::Cancelled)));
    }
}
