//! Reads `config.json`. Every option is used, or known to change nothing, or known to change the computation in a way
//! that is not implemented and then refused by name. Any other option is passed over with a warning that names it.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::config::Activation;
use super::known_options::{CHANGES, WITHOUT_EFFECT};
use super::rotary::{Rotary, RotaryScaling, RotaryStyle, long_magnitude, yarn_magnitude};
use crate::error::{Error, Result};
use crate::typed::typed;

/// A config that is being read. It remembers which options were asked for, so that the others can be refused.
pub struct Options<'a> {
    family: &'a str,
    map: &'a Map<String, Value>,
    used: RefCell<HashSet<String>>,
    /// Warnings of objects within this one.
    within: RefCell<Vec<String>>,
}

impl<'a> Options<'a> {
    pub fn new(family: &'a str, map: &'a Map<String, Value>) -> Self {
        let used = RefCell::new(HashSet::from(["model_type".to_owned()]));
        Self { family, map, used, within: RefCell::default() }
    }

    pub fn bad(&self, option: &str, what: impl Into<String>) -> Error {
        Error::BadOption { family: self.family.to_owned(), option: option.to_owned(), what: what.into() }
    }

    pub fn refuse(&self, option: &str, value: impl ToString) -> Error {
        Error::UnsupportedOption { family: self.family.to_owned(), option: option.to_owned(), value: value.to_string() }
    }

    /// Returns the option, unless it is absent or null.
    pub fn raw(&self, option: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(option.to_owned());
        self.map.get(option).filter(|v| !v.is_null())
    }

    /// Returns a size by the first of several spellings.
    pub fn size_of(&self, options: &[&str]) -> Result<Option<usize>> {
        // All spellings count as read, since old configs hold several.
        for option in options {
            self.raw(option);
        }
        for option in options {
            if let Some(v) = self.raw(option) {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= 1 << 24);
                return n.map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a usable size")));
            }
        }
        Ok(None)
    }

    /// Returns a size that must be there, by the first of several spellings.
    pub fn need(&self, options: &[&str]) -> Result<usize> {
        match self.size_of(options)? {
            Some(0) => Err(self.bad(options[0], "is 0")),
            Some(n) => Ok(n),
            None => Err(self.bad(options[0], "is missing")),
        }
    }

    pub fn size(&self, option: &str) -> Result<usize> {
        self.need(&[option])
    }

    /// Returns a number of layers. It is limited, since lists with one entry for each layer are made from it.
    pub fn layers(&self, options: &[&str]) -> Result<usize> {
        match self.need(options)? {
            n if n <= 1024 => Ok(n),
            n => Err(self.bad(options[0], format!("is {n}; models of at most 1024 layers can be opened"))),
        }
    }

    pub fn size_or(&self, option: &str, default: usize) -> Result<usize> {
        Ok(self.size_of(&[option])?.unwrap_or(default))
    }

    pub fn number(&self, option: &str) -> Result<Option<f64>> {
        match self.raw(option) {
            None => Ok(None),
            Some(v) => {
                let n = v.as_f64().filter(|n| n.is_finite());
                n.map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a number")))
            }
        }
    }

    pub fn number_or(&self, option: &str, default: f64) -> Result<f64> {
        Ok(self.number(option)?.unwrap_or(default))
    }

    pub fn flag_or(&self, option: &str, default: bool) -> Result<bool> {
        match self.raw(option) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(option, format!("is {v}, not true or false"))),
        }
    }

    pub fn text(&self, option: &str) -> Result<Option<&'a str>> {
        match self.raw(option) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a text"))),
        }
    }

    /// Requires that an option has the only value that is implemented.
    pub fn only(&self, option: &str, implemented: impl Into<Value>) -> Result<()> {
        match self.raw(option) {
            Some(v) if *v != implemented.into() => Err(self.refuse(option, v)),
            _ => Ok(()),
        }
    }

    /// Returns the activation function, by the first of several spellings of the option.
    pub fn activation(&self, options: &[&str], default: &str) -> Result<Activation> {
        for option in options {
            self.raw(option);
        }
        for option in options {
            if let Some(name) = self.text(option)? {
                return Activation::by_name(name).ok_or_else(|| self.refuse(option, format!("\"{name}\"")));
            }
        }
        Activation::by_name(default).ok_or_else(|| self.refuse("activation", default))
    }

    /// Returns the rotation of a layer: from `rope_parameters` in newer configs, from `rope_theta` and `rope_scaling` in
    /// older ones. `share` is the part of d_head that turns where `partial_rotary_factor` is not given; `None` for
    /// families that turn whole heads whatever that option says.
    pub fn rotary(&self, d_head: usize, style: RotaryStyle, share: Option<f64>) -> Result<Rotary> {
        self.rotary_of(None, d_head, style, share, 10_000.0)
    }

    /// As [`Self::rotary`] for a kind of layer (`full_attention`, …), where `rope_parameters` has an object for each
    /// kind; `base` is what `rope_theta` is where it is not given.
    pub fn rotary_of(
        &self,
        kind: Option<&str>,
        d_head: usize,
        style: RotaryStyle,
        share: Option<f64>,
        base: f64,
    ) -> Result<Rotary> {
        let base = self.number_or("rope_theta", base)?;
        let empty = Value::Object(Map::new());
        let (old, new) = (self.raw("rope_scaling"), self.raw("rope_parameters"));
        let by_kind = new.filter(|p| p.as_object().is_some_and(|m| m.values().any(Value::is_object)));
        let (option, value) = match (by_kind, kind) {
            (Some(p), Some(kind)) => (format!("rope_parameters.{kind}"), p.get(kind).unwrap_or(&empty)),
            (Some(_), None) => {
                return Err(self.refuse("rope_parameters", "(one description for each kind of layer)"));
            }
            (None, _) if new.is_some() => ("rope_parameters".to_owned(), new.unwrap_or(&empty)),
            _ => ("rope_scaling".to_owned(), old.unwrap_or(&empty)),
        };
        self.rotary_from(&option, value, d_head, style, base, share)
    }

    /// Reads one object that describes a rotation.
    pub fn rotary_from(
        &self,
        option: &str,
        value: &Value,
        d_head: usize,
        style: RotaryStyle,
        base: f64,
        share: Option<f64>,
    ) -> Result<Rotary> {
        let map = value.as_object().ok_or_else(|| self.bad(option, "is not an object"))?;
        let given = |key: &str| map.get(key).filter(|v| !v.is_null());
        let number = |key: &str| -> Result<Option<f64>> {
            let bad = |v: &Value| self.bad(&format!("{option}.{key}"), format!("is {v}, not a number"));
            given(key).map(|v| v.as_f64().filter(|n| n.is_finite()).ok_or_else(|| bad(v))).transpose()
        };
        let kind = match given("rope_type").or_else(|| given("type")) {
            None => "default",
            Some(v) => v.as_str().ok_or_else(|| self.bad(&format!("{option}.rope_type"), format!("is {v}")))?,
        };
        // Families that turn whole heads by default read the share for the other kinds all the same, as transformers.
        let own = self.number("partial_rotary_factor")?;
        let asked = number("partial_rotary_factor")?.or(own);
        let share = match share {
            Some(default) => asked.unwrap_or(default),
            None if kind == "default" => 1.0,
            None => asked.unwrap_or(1.0),
        };
        let base = number("rope_theta")?.unwrap_or(base);
        let dims = (d_head as f64 * share) as usize;
        if dims == 0 || dims > d_head || !dims.is_multiple_of(2) || base <= 1.0 {
            return Err(self.bad(option, format!("rotates {dims} of {d_head} dimensions with base {base}")));
        }
        let (scaling, magnitude, uses) = self.scaling(option, kind, map, dims)?;
        for (key, v) in map {
            let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"].contains(&key.as_str());
            if !common && !uses.contains(&key.as_str()) && !v.is_null() {
                return Err(self.refuse(&format!("{option}.{key}"), v));
            }
        }
        Ok(Rotary { dims, base, style, scaling, magnitude })
    }

    /// How a rotation reaches a longer context, the factor on q and k, and the keys that say so.
    fn scaling(
        &self,
        option: &str,
        kind: &str,
        map: &Map<String, Value>,
        dims: usize,
    ) -> Result<(RotaryScaling, f64, &'static [&'static str])> {
        let at = |key: &str| format!("{option}.{key}");
        let positive = |key: &str| -> Result<Option<f64>> {
            let Some(v) = map.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
            let n = v.as_f64().filter(|n| n.is_finite() && *n > 0.0);
            n.map(Some).ok_or_else(|| self.bad(&at(key), format!("is {v}, not a number above 0")))
        };
        let need = |key: &str| positive(key)?.ok_or_else(|| self.bad(&at(key), "is missing"));
        let context = || -> Result<f64> {
            self.number("max_position_embeddings")?.ok_or_else(|| self.bad("max_position_embeddings", "is missing"))
        };
        // transformers gives precedence to the option outside.
        let original = || -> Result<f64> {
            let outside = self.number("original_max_position_embeddings")?;
            let inside = positive("original_max_position_embeddings")?;
            outside.or(inside).map_or_else(context, Ok)
        };
        let stretch =
            |original: f64| -> Result<f64> { positive("factor")?.map_or_else(|| Ok(context()? / original), Ok) };
        Ok(match kind {
            // Sections of the three axes of images; for text they are one.
            "default" | "mrope" => (RotaryScaling::None, 1.0, &["mrope_section"]),
            "linear" => (RotaryScaling::Linear { factor: need("factor")? }, 1.0, &["factor"]),
            "dynamic" => (
                RotaryScaling::Dynamic { factor: need("factor")?, original: context()? },
                1.0,
                &["factor", "original_max_position_embeddings"],
            ),
            "llama3" => (
                RotaryScaling::Llama3 {
                    factor: need("factor")?,
                    low: need("low_freq_factor")?,
                    high: need("high_freq_factor")?,
                    original: original()?,
                },
                1.0,
                &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            ),
            "yarn" => {
                let original = original()?;
                let factor = stretch(original)?;
                let magnitude = match (positive("attention_factor")?, positive("mscale")?, positive("mscale_all_dim")?)
                {
                    (Some(given), ..) => given,
                    (None, Some(a), Some(b)) => yarn_magnitude(factor, a) / yarn_magnitude(factor, b),
                    _ => yarn_magnitude(factor, 1.0),
                };
                let whole = typed(map.get("truncate"), "truncate");
                let whole =
                    whole.map_err(|what| self.bad(option, format!("is malformed: its {what}")))?.unwrap_or(true);
                let (fast, slow) = (positive("beta_fast")?.unwrap_or(32.0), positive("beta_slow")?.unwrap_or(1.0));
                let uses = &[
                    "factor",
                    "original_max_position_embeddings",
                    "attention_factor",
                    "mscale",
                    "mscale_all_dim",
                    "truncate",
                    "beta_fast",
                    "beta_slow",
                ];
                (RotaryScaling::Yarn { factor, original, fast, slow, whole }, magnitude, uses)
            }
            // Phi-3's first name for it is `su`.
            "longrope" | "su" => {
                let list = |key: &str| -> Result<Vec<f64>> {
                    let list: Option<Vec<f64>> = map
                        .get(key)
                        .and_then(Value::as_array)
                        .and_then(|l| l.iter().map(|v| v.as_f64().filter(|n| n.is_finite() && *n > 0.0)).collect());
                    list.filter(|l| l.len() == dims / 2)
                        .ok_or_else(|| self.bad(&at(key), format!("does not list {} divisors", dims / 2)))
                };
                let original = original()?;
                // Where both lengths are known, their ratio says how far the context is stretched.
                let factor = match self.number("original_max_position_embeddings")? {
                    Some(o) if o > 0.0 => context()? / o,
                    _ => stretch(original)?,
                };
                let magnitude = positive("attention_factor")?.unwrap_or_else(|| long_magnitude(factor, original));
                let uses =
                    &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"];
                let (short, long) = (list("short_factor")?, list("long_factor")?);
                (RotaryScaling::Long { short, long, original: original as usize }, magnitude, uses)
            }
            other => return Err(self.refuse(&at("rope_type"), format!("\"{other}\""))),
        })
    }

    /// Returns true for each layer that `layer_types` says is of kind `kind`; `None` where the option is absent.
    pub fn layers_of_kind(&self, n_layers: usize, kind: &str) -> Result<Option<Vec<bool>>> {
        let Some(types) = self.raw("layer_types") else { return Ok(None) };
        let list = types.as_array().filter(|l| l.len() == n_layers);
        let list = list.ok_or_else(|| self.bad("layer_types", format!("does not list {n_layers} layers")))?;
        let is_kind = |t: &Value| match t.as_str() {
            Some(name) => Ok(name == kind),
            None => Err(self.bad("layer_types", format!("lists {t}, which is no kind of layer"))),
        };
        list.iter().map(is_kind).collect::<Result<_>>().map(Some)
    }

    /// Returns the sliding window of each layer: from `layer_types` where that is given, else from `default(layer)`.
    pub fn windows(&self, n_layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<Option<usize>>> {
        let window = self.size_of(&["sliding_window"])?;
        let enabled = self.flag_or("use_sliding_window", true)?;
        let window = window.filter(|_| enabled);
        if window == Some(0) {
            return Err(self.bad("sliding_window", "is 0"));
        }
        match self.raw("layer_types") {
            None => Ok((0..n_layers).map(|l| window.filter(|_| default(l))).collect()),
            Some(types) => {
                let list = types.as_array().filter(|l| l.len() == n_layers);
                let list = list.ok_or_else(|| self.bad("layer_types", format!("does not list {n_layers} layers")))?;
                list.iter()
                    .map(|t| match t.as_str() {
                        Some("full_attention") => Ok(None),
                        Some("sliding_attention") => window
                            .map(Some)
                            .ok_or_else(|| self.bad("sliding_window", "is missing, but layer_types asks for it")),
                        _ => Err(self.refuse("layer_types", t)),
                    })
                    .collect()
            }
        }
    }

    /// Deals with the options of an object within this config, as [`Self::finish`] does.
    pub fn finish_within(&self, object: &Options) -> Result<()> {
        self.within.borrow_mut().extend(object.finish()?);
        Ok(())
    }

    /// Deals with every option that was not asked for: refuses those that change the computation, and returns a warning
    /// for each that is not known.
    pub fn finish(&self) -> Result<Vec<String>> {
        let used = self.used.borrow();
        let mut unknown = Vec::new();
        for (option, value) in self.map {
            let name = option.as_str();
            if used.contains(option) || name.starts_with('_') || value.is_null() || WITHOUT_EFFECT.contains(&name) {
                continue;
            }
            if !CHANGES.contains(&name) {
                unknown.push(format!("`{}`", crate::error::short(option)));
            } else if !off(value) {
                return Err(self.refuse(option, value));
            }
        }
        let own = match &unknown[..] {
            [] => None,
            [one] => Some(format!(
                "The config option {one} is not known and was passed over; if it changes what the model computes, the \
                 numbers are wrong."
            )),
            many => Some(format!(
                "The config options {} are not known and were passed over; if one of them changes what the model \
                 computes, the numbers are wrong.",
                many.join(", ")
            )),
        };
        Ok(self.within.borrow().iter().cloned().chain(own).collect())
    }
}

/// True for a value that switches an option off.
fn off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}
