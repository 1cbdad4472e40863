//! Features are given other values, and the model goes on: freely, with attention held still, or with everything held
//! still but the direct effects.

use std::collections::BTreeMap;
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
    dictionary: Arc<Dictionary>,
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
    linear: Linear<'a>,
    layers: Vec<Acting>,
    before: Vec<Sparse>,
    silent: usize,
}

impl<'a> Stage<'a> {
    /// # Errors
    /// An edited run, or a set that does not fit the model.
    pub fn of(trace: &'a Trace, set: &DictionarySet, silent: usize, progress: &Progress) -> Result<Self> {
        if !trace.edits().is_empty() {
            return Err(Error::request("features are changed in a run without edits; switch them off"));
        }
        let linear = Linear::of(trace, trace.len(), progress)?;
        let c = &trace.model.config;
        set.check(c)?;
        let (mut layers, mut before) = (Vec::new(), Vec::new());
        for layer in 0..c.n_layers {
            progress.check()?;
            let (dictionary, input, output) = set.layer(layer, c, progress)?;
            let x = values(&linear, input)?;
            before.push(without_first(dictionary.encode(&x, progress)?, silent));
            layers.push(Acting { dictionary, input, output, x });
        }
        Ok(Self { trace, linear, layers, before, silent })
    }

    /// A feature's activation in the unchanged run.
    pub fn activation(&self, layer: usize, pos: usize, feature: u32) -> f32 {
        self.before.get(layer).map_or(0.0, |acts| acts.at(pos, feature))
    }

    /// What a feature reads at a position of a changed run beside what it read before: the difference of its
    /// pre-activations. `changed` must have been asked for pre-activations.
    pub fn difference(&self, changed: &Changed, layer: usize, pos: usize, feature: u32) -> Result<f32> {
        let acting = self.layer(layer)?;
        acting.dictionary.check_feature(feature as usize)?;
        let after = changed.pre_activations.get(layer).ok_or_else(|| Error::failed("pre-activations were not kept"))?;
        let before = acting.dictionary.pre_activations(&acting.x.narrow(0, pos, 1)?)?;
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
            self.layer(change.layer)?.dictionary.check_feature(change.feature as usize)?;
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
    fn write(&self, change: &Change, delta: f32, writes: &mut Writes) -> Result<()> {
        if change.pos < self.silent || delta == 0.0 {
            return Ok(());
        }
        let d = &self.layer(change.layer)?.dictionary;
        let own = d.direction(change.feature as usize)?;
        for (k, row) in std::iter::once(own).chain(d.later.of(change.feature as usize)?).enumerate() {
            let row = row.into_iter().map(|v| v * delta).collect();
            writes.entry(change.layer + k).or_default().push((change.pos, row));
        }
        Ok(())
    }

    /// What changes write if activations are those of the unchanged run.
    fn written(&self, changes: &[Change]) -> Result<Writes> {
        let mut writes = Writes::new();
        for change in changes {
            let delta = self.value(change) - self.activation(change.layer, change.pos, change.feature);
            self.write(change, delta, &mut writes)?;
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
                Hold::Part(_) => self.written(changes)?,
                _ => Writes::new(),
            },
            activations: Vec::new(),
            pre: pre.then(Vec::new),
            skips: BTreeMap::new(),
        };
        let ids = [&self.trace.ids[..]];
        let prepared = Prepared::new(&model.config, self.trace.len());
        let network = model.network();
        let resid = network.forward_prepared(&ids, &prepared, &mut hooks, progress)?;
        let normalized = network.final_norm(&resid, &mut NoHooks)?.squeeze(0)?;
        let (activations, pre_activations) = (hooks.activations, hooks.pre.unwrap_or_default());
        Ok(Changed { normalized, activations, before: self.before.clone(), pre_activations, model })
    }

    fn encoded(&self, layer: usize, x: &Tensor, pre: bool) -> Result<(Sparse, Option<Tensor>)> {
        let d = &self.layers[layer].dictionary;
        let acts = without_first(d.encode(x, &Progress::new())?, self.silent);
        Ok((acts, if pre { Some(d.pre_activations(x)?) } else { None }))
    }

    /// Everything is held still, so that the change itself goes through the model, linearly.
    fn direct(&self, changes: &[Change], pre: bool, progress: &Progress) -> Result<Changed> {
        let (linear, n, d) = (&self.linear, self.trace.len(), self.linear.d);
        let writes = self.written(changes)?;
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
            let (acts, own) = self.encoded(layer, &(&acting.x + &seen)?, pre)?;
            activations.push(acts);
            pre_activations.extend(own);
            let mut out = match &acting.dictionary.skip {
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
}

impl Acts<'_> {
    fn is_held(&self, layer: usize) -> bool {
        matches!(self.mode, Hold::Part(layers) if layers.contains(&layer))
    }

    fn read(&mut self, layer: usize, value: &Tensor) -> Result<()> {
        let stage = self.stage;
        let acting = &stage.layers[layer];
        let x = acting.input.rows(&stage.trace.model, value)?.contiguous()?;
        let (acts, pre) = stage.encoded(layer, &x, self.pre.is_some())?;
        if !matches!(self.mode, Hold::Part(_)) {
            for change in self.changes.iter().filter(|c| c.layer == layer) {
                let delta = stage.value(change) - acts.at(change.pos, change.feature);
                stage.write(change, delta, &mut self.writes)?;
            }
        }
        if let (true, Some(skip)) = (self.is_held(layer), &acting.dictionary.skip) {
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
}
