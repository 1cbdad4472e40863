//! An edit: a change to the value of one site while the model runs.
//!
//! A stack of edits is a plain value that can be saved, switched on and off, and reordered. It says *what* to change,
//! in the names of the field. It becomes concrete numbers only when it is resolved against runs (see
//! [`super::resolve`]).

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hold::Hold;
use super::site::{Axis, Site, SiteKind};
use crate::error::{Error, Result};
use crate::files::{SMALL, read_text};
use crate::model::config::ModelConfig;

/// One of the two runs of a pair of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RunSide {
    #[default]
    Clean,
    Corrupted,
}

impl RunSide {
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Corrupted => "corrupted",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Clean => Self::Corrupted,
            Self::Corrupted => Self::Clean,
        }
    }
}

/// The positions that an edit changes. For patterns and scores they are destinations (queries).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    #[default]
    All,
    /// The listed positions, counted from 0.
    At(Vec<usize>),
    /// All positions of the prompt, none of those generated after it.
    Prompt,
    /// All generated positions, none of the prompt.
    Generated,
}

/// A direction in the space of a site's last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The unembedding's column of a token, minus that of another token, scaled to length 1.
    Token { id: u32, minus: Option<u32> },
    /// The difference of the two runs at this site and position: clean − corrupted.
    Difference,
    /// Given numbers, as many as the site has (chosen) coordinates.
    Vector(Vec<f32>),
    /// A named direction that was found from two sets of texts.
    Concept { name: String, vector: Vec<f32> },
    /// The decoder row of a dictionary's feature. A cross-layer transcoder has one for each layer; the edited layer's
    /// counts.
    Feature { dictionary: String, feature: usize },
}

impl Direction {
    /// True where the direction is the same at all positions.
    fn is_constant(&self) -> bool {
        !matches!(self, Self::Difference)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { id, minus: None } => write!(f, "unembedding of token {id}"),
            Self::Token { id, minus: Some(m) } => write!(f, "unembedding of token {id} − {m}"),
            Self::Difference => f.write_str("clean − corrupted"),
            Self::Vector(v) => write!(f, "a vector of {}", v.len()),
            Self::Concept { name, .. } => f.write_str(name),
            Self::Feature { dictionary, feature } => write!(f, "feature {feature} of {}", file_name(dictionary)),
        }
    }
}

/// Returns the last part of a path.
fn file_name(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}

/// The change of a feature's activation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureChange {
    Set(f32),
    Scale(f32),
}

/// The change of the chosen coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Zero,
    Set(f32),
    Scale(f32),
    /// Replaces the value by the mean over all positions of the reference texts, or of the edited run itself where
    /// there are none.
    Mean,
    /// Replaces the value by that of the other run at the aligned position. Copying the clean run into the corrupted
    /// one is activation patching; the other way round it is resample ablation.
    Copy(RunSide),
    /// Adds `factor` times the direction.
    Add {
        direction: Direction,
        factor: f32,
    },
    /// Removes the part along a direction: h − (h·d̂)d̂.
    Project {
        direction: Direction,
    },
    /// Turns one direction into another: h − (h·ŝ)ŝ + (h·ŝ)t̂.
    Swap {
        from: Direction,
        to: Direction,
    },
    /// Adds the direction, scaled to length 1, times `factor` times the median length of the value over the chosen
    /// positions of the unedited run (the lower of two middle ones). A strength of 1 is about the size of what is there.
    Steer {
        direction: Direction,
        factor: f32,
    },
    /// Exchanges two coordinates: h + factor · V(c* − c) with V = [from, to], c = V⁺h, and c* = c with its two entries
    /// exchanged. The directions keep their lengths. With `clamped`, c* is that of the unedited run, so that the same
    /// exchange at several layers does not undo itself.
    Exchange {
        from: Direction,
        to: Direction,
        factor: f32,
        #[serde(default)]
        clamped: bool,
    },
    /// Changes the activation of a dictionary's feature: h + (new − a)·W_dec[feature], where a is the activation that
    /// the encoder reads in the edited run. The part that the dictionary does not reconstruct stays.
    Feature {
        dictionary: String,
        feature: usize,
        change: FeatureChange,
    },
    /// Patterns only: cuts the edge before the softmax, so that the query's attention goes to its other keys.
    KnockOut,
    /// Patterns only: gives the edge this weight. The query's other edges share the rest in proportion.
    Force(f32),
}

impl Action {
    /// True where the earlier value is lost. Two such edits of one cell contradict each other.
    fn overwrites(&self) -> bool {
        matches!(self, Self::Zero | Self::Set(_) | Self::Mean | Self::Copy(_) | Self::KnockOut | Self::Force(_))
    }
}

/// One edit: a site, positions, a part of the value, and an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    #[serde(serialize_with = "site_name", deserialize_with = "site_from_name")]
    pub site: Site,
    /// Query head, or KV head at k and v; `None` for all.
    #[serde(default)]
    pub head: Option<usize>,
    #[serde(default)]
    pub positions: Positions,
    /// Source (key) position, for patterns and scores; `None` for all.
    #[serde(default)]
    pub src: Option<usize>,
    /// Coordinate of the last axis (a neuron of mlp.hook_post, a dimension of the residual stream); `None`
    /// for all.
    #[serde(default)]
    pub coordinate: Option<usize>,
    pub action: Action,
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

fn site_name<S: Serializer>(site: &Site, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_str(site)
}

fn site_from_name<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Site, D::Error> {
    let name = String::deserialize(d)?;
    Site::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("`{name}` is not the name of a site")))
}

impl Edit {
    pub fn new(site: Site, action: Action) -> Self {
        Self { site, head: None, positions: Positions::All, src: None, coordinate: None, action, enabled: true }
    }

    #[must_use]
    pub fn head(mut self, head: usize) -> Self {
        self.head = Some(head);
        self
    }

    #[must_use]
    pub fn at(mut self, position: usize) -> Self {
        self.positions = Positions::At(vec![position]);
        self
    }

    #[must_use]
    pub fn src(mut self, src: usize) -> Self {
        self.src = Some(src);
        self
    }

    #[must_use]
    pub fn coordinate(mut self, coordinate: usize) -> Self {
        self.coordinate = Some(coordinate);
        self
    }

    /// True where the site is a pattern or its scores.
    pub fn is_edge(&self) -> bool {
        matches!(self.site.kind, SiteKind::Pattern | SiteKind::AttnScores)
    }

    /// Checks the edit against a model and a prompt of `len` tokens.
    ///
    /// # Errors
    /// The model or the prompt lacks a part that the edit names.
    pub fn check(&self, config: &ModelConfig, len: usize) -> Result<()> {
        let site = self.site;
        if site.layer >= config.n_layers {
            return Err(Error::request(format!(
                "the edit of {site} asks for layer {}, but this model's layers go from 0 to {}",
                site.layer,
                config.n_layers - 1
            )));
        }
        if !site.kind.exists(config) {
            return Err(Error::request(format!("this model has no site {site}; choose another for the edit")));
        }
        let axes = site.kind.axes();
        let head_axis = axes.iter().find(|a| matches!(a, Axis::Head | Axis::KvHead | Axis::Expert));
        match (self.head, head_axis) {
            (Some(_), None) => {
                return Err(Error::request(format!("{site} has no heads; leave the head out of the edit")));
            }
            (Some(h), Some(axis)) if h >= axis.len(config, len) => {
                return Err(Error::request(format!(
                    "the edit of {site} asks for head {h}, but its {} axis goes from 0 to {}",
                    axis.name(),
                    axis.len(config, len) - 1
                )));
            }
            _ => {}
        }
        if let Positions::At(list) = &self.positions {
            if list.is_empty() {
                return Err(Error::request(format!("the edit of {site} names no position; give one or all")));
            }
            if let Some(p) = list.iter().find(|p| **p >= len) {
                return Err(Error::request(format!(
                    "the edit of {site} asks for position {p}, but the prompt's {len} tokens are at 0 to {}",
                    len - 1
                )));
            }
        }
        if self.src.is_some() && !self.is_edge() {
            return Err(Error::request(format!("{site} has no source positions; only patterns and scores have")));
        }
        if let Some(s) = self.src
            && s >= len
        {
            return Err(Error::request(format!(
                "the edit of {site} asks for source position {s}, but the prompt's tokens are at 0 to {}",
                len - 1
            )));
        }
        if let (Some(c), Some(axis)) = (self.coordinate, axes.last()) {
            if self.is_edge() {
                return Err(Error::request(format!("{site} has no coordinates; choose a source position instead")));
            }
            if c >= axis.len(config, len) {
                return Err(Error::request(format!(
                    "the edit of {site} asks for coordinate {c}, but its {} axis goes from 0 to {}",
                    axis.name(),
                    axis.len(config, len) - 1
                )));
            }
        }
        if let (Some(s), Positions::At(list)) = (self.src, &self.positions)
            && list.iter().all(|dest| *dest < s)
        {
            return Err(Error::request(format!(
                "position {} cannot attend to the later position {s}; swap the two ends of the edge",
                list[0]
            )));
        }
        self.check_action()
    }

    /// Checks that the action can be done at the edit's site and positions.
    fn check_action(&self) -> Result<()> {
        let site = self.site;
        match &self.action {
            Action::Copy(_) | Action::Add { direction: Direction::Difference, .. }
                if self.positions == Positions::Generated =>
            {
                Err(Error::request(format!(
                    "the edit of {site} copies at generated positions, which the other run does not have; choose positions of the prompt"
                )))
            }
            Action::KnockOut | Action::Force(_) if !self.is_edge() => Err(Error::request(format!(
                "an attention edge can be cut or forced only at hook_pattern, not at {site}"
            ))),
            Action::KnockOut | Action::Force(_) if self.src.is_none() => {
                Err(Error::request(format!("the edit of {site} needs a source position: an edge has two ends")))
            }
            Action::KnockOut if self.site.kind == SiteKind::Pattern => match (&self.positions, self.src) {
                (Positions::At(list), Some(0)) if list == &[0] => Err(Error::request(
                    "position 0 attends to nothing but itself, so its edge cannot be cut; choose a later position",
                )),
                _ => Ok(()),
            },
            Action::Force(w) if !(0.0..=1.0).contains(w) => {
                Err(Error::request(format!("an attention edge cannot be forced to {w}; give a weight from 0 to 1")))
            }
            Action::Mean
            | Action::Add { .. }
            | Action::Project { .. }
            | Action::Swap { .. }
            | Action::Steer { .. }
            | Action::Exchange { .. }
            | Action::Feature { .. }
                if self.is_edge() =>
            {
                Err(Error::request(format!(
                    "{site} can be set, zeroed, scaled, copied, cut or forced, but not averaged, added to or taken apart into directions"
                )))
            }
            Action::Project { direction }
            | Action::Swap { from: direction, .. }
            | Action::Swap { to: direction, .. }
            | Action::Steer { direction, .. }
            | Action::Exchange { from: direction, .. }
            | Action::Exchange { to: direction, .. }
                if !direction.is_constant() =>
            {
                Err(Error::request(format!(
                    "the edit of {site} needs one direction for all positions; {direction} is another at each"
                )))
            }
            Action::Feature { .. } if self.head.is_some() || self.coordinate.is_some() => Err(Error::request(format!(
                "a feature writes the whole of {site}; leave head and coordinate out of the edit"
            ))),
            Action::Feature { change: FeatureChange::Set(v) | FeatureChange::Scale(v), .. } if !v.is_finite() => {
                Err(Error::request(format!("the edit of {site} has the value {v}; give a finite number")))
            }
            Action::Exchange { clamped: true, .. } if self.positions == Positions::Generated => {
                Err(Error::request(format!(
                    "the edit of {site} is clamped to the unedited run, which has no generated positions; choose positions of the prompt"
                )))
            }
            Action::Set(v)
            | Action::Scale(v)
            | Action::Add { factor: v, .. }
            | Action::Steer { factor: v, .. }
            | Action::Exchange { factor: v, .. }
                if !v.is_finite() =>
            {
                Err(Error::request(format!("the edit of {site} has the value {v}; give a finite number")))
            }
            _ => Ok(()),
        }
    }

    /// True where both change the same feature at the same place, to whatever value.
    pub fn changes_feature_of(&self, other: &Self) -> bool {
        let (Action::Feature { dictionary: x, feature: f, .. }, Action::Feature { dictionary: y, feature: g, .. }) =
            (&self.action, &other.action)
        else {
            return false;
        };
        x == y && f == g && Self { enabled: true, action: other.action.clone(), ..self.clone() } == *other
    }

    /// True where both edits change some cell in common.
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<usize>, b: Option<usize>| a.is_none() || b.is_none() || a == b;
        let positions = match (&self.positions, &other.positions) {
            (Positions::At(a), Positions::At(b)) => a.iter().any(|p| b.contains(p)),
            (Positions::Prompt, Positions::Generated) | (Positions::Generated, Positions::Prompt) => false,
            (Positions::At(_), Positions::Generated) | (Positions::Generated, Positions::At(_)) => false,
            _ => true,
        };
        let forces = |e: &Self| matches!(e.action, Action::Force(_));
        let kind = |k| if k == SiteKind::AttnScores { SiteKind::Pattern } else { k };
        self.site.layer == other.site.layer
            && kind(self.site.kind) == kind(other.site.kind)
            && meet(self.head, other.head)
            // Forcing one edge rescales the others of its row, so two forced edges of a row contradict each other.
            && (meet(self.src, other.src) || forces(self) && forces(other))
            && meet(self.coordinate, other.coordinate)
            && positions
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Zero => f.write_str("zero ")?,
            Action::Set(v) => write!(f, "set to {v} ")?,
            Action::Scale(v) => write!(f, "scale by {v} ")?,
            Action::Mean => f.write_str("mean of ")?,
            Action::Copy(which) => write!(f, "copy from {}: ", which.name())?,
            Action::Add { direction, factor } => write!(f, "add {factor} × {direction} to ")?,
            Action::Project { direction } => write!(f, "take {direction} out of ")?,
            Action::Swap { from, to } => write!(f, "turn {from} into {to} in ")?,
            Action::Steer { direction, factor } => write!(f, "steer by {factor} along {direction} in ")?,
            Action::Exchange { from, to, factor, clamped } => {
                let clamped = if *clamped { ", clamped" } else { "" };
                write!(f, "exchange {from} and {to} × {factor}{clamped} in ")?;
            }
            Action::Feature { dictionary, feature, change } => {
                let of = file_name(dictionary);
                match change {
                    FeatureChange::Set(0.0) | FeatureChange::Scale(0.0) => {
                        write!(f, "ablate feature {feature} of {of} in ")?;
                    }
                    FeatureChange::Set(v) => write!(f, "set feature {feature} of {of} to {v} in ")?,
                    FeatureChange::Scale(v) => write!(f, "scale feature {feature} of {of} by {v} in ")?,
                }
            }
            Action::KnockOut => f.write_str("cut ")?,
            Action::Force(w) => write!(f, "force {w} on ")?,
        }
        let short = self.site.kind.short();
        match self.head {
            Some(h) => write!(f, "{}.{h} {short}", self.site.layer)?,
            None if self.site.kind.layered() => write!(f, "{}.{short}", self.site.layer)?,
            None => f.write_str(short)?,
        }
        if let Some(c) = self.coordinate {
            write!(f, " [{c}]")?;
        }
        match &self.positions {
            Positions::All => {}
            Positions::At(list) => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                write!(f, " @ {}", list.join(","))?;
            }
            Positions::Prompt => f.write_str(" @ prompt")?,
            Positions::Generated => f.write_str(" @ generated")?,
        }
        match self.src {
            Some(s) => write!(f, " ← {s}"),
            None => Ok(()),
        }
    }
}

/// A list of edits, and the run that they are applied to. A later edit sees the values that earlier ones left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
pub struct EditStack {
    /// The run that is edited.
    #[serde(default)]
    pub base: RunSide,
    pub edits: Vec<Edit>,
    /// The texts over whose positions [`Action::Mean`] averages; without any, the edited run itself.
    #[serde(default)]
    pub reference: Vec<String>,
    /// What is held at the values of the unedited run while the edits act.
    #[serde(default, skip_serializing_if = "Hold::is_free")]
    pub hold: Hold,
}

impl EditStack {
    /// Reads a saved stack (JSON).
    ///
    /// # Errors
    /// The file cannot be read, or is no stack of edits.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, SMALL)?;
        serde_json::from_str(&text).map_err(|e| {
            Error::request(format!(
                "{} is not a stack of edits: {e}; save one from the window, or see `circuitscope guide files`",
                path.display()
            ))
        })
    }

    /// Returns the edits that are switched on.
    pub fn active(&self) -> impl Iterator<Item = &Edit> {
        self.edits.iter().filter(|e| e.enabled)
    }

    pub fn is_active(&self) -> bool {
        self.active().next().is_some()
    }

    /// Checks every active edit, and that no two of them overwrite the same cell.
    ///
    /// # Errors
    /// An edit does not fit the model or the prompt, or two edits contradict each other.
    pub fn check(&self, config: &ModelConfig, len: usize) -> Result<()> {
        let active: Vec<(usize, &Edit)> = self.edits.iter().enumerate().filter(|(_, e)| e.enabled).collect();
        for (i, (n, edit)) in active.iter().enumerate() {
            edit.check(config, len)?;
            if !edit.action.overwrites() {
                continue;
            }
            if let Some((m, earlier)) = active[..i].iter().find(|(_, e)| e.action.overwrites() && e.overlaps(edit)) {
                return Err(Error::request(format!(
                    "edits {} ({earlier}) and {} ({edit}) contradict each other, the second would hide the first; switch one of them off",
                    m + 1,
                    n + 1
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_survives_saving() {
        let edit = Edit::new(Site::new(SiteKind::Z, 23), Action::Copy(RunSide::Clean)).head(3).at(13);
        let text = serde_json::to_string(&edit).unwrap();
        assert!(text.contains("blocks.23.attn.hook_z"), "{text}");
        assert_eq!(serde_json::from_str::<Edit>(&text).unwrap(), edit);
        assert_eq!(edit.to_string(), "copy from clean: 23.3 z @ 13");
    }

    #[test]
    fn contradictions_are_found() {
        let z = |action| Edit::new(Site::new(SiteKind::Z, 1), action).head(2);
        let model = crate::model::Model::open(&crate::model::builtin::default_name().unwrap()).unwrap();
        let stack = |edits| EditStack { edits, ..EditStack::default() };
        let config = &model.config;
        assert!(stack(vec![z(Action::Zero).at(3), z(Action::Zero).at(4)]).check(config, 6).is_ok());
        assert!(stack(vec![z(Action::Zero).at(3), z(Action::Scale(2.0))]).check(config, 6).is_ok());
        let error = stack(vec![z(Action::Zero).at(3), z(Action::Mean)]).check(config, 6).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("edits 1"), "{error}");
        let mut off = z(Action::Zero).at(3);
        off.enabled = false;
        assert!(stack(vec![off, z(Action::Mean)]).check(config, 6).is_ok());
        assert!(stack(vec![z(Action::Zero).at(6)]).check(config, 6).is_err());
        assert!(stack(vec![z(Action::KnockOut)]).check(config, 6).is_err());
    }
}
