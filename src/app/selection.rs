//! What all views speak about: pinned by a click, pointed at by hovering.

use crate::analysis::patterns::Which;

/// Pinned by clicks and keys; kept until changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Position in the prompt.
    pub pos: usize,
    pub layer: usize,
    /// `None`: the mean over the layer's heads.
    pub head: Option<usize>,
    /// Mean over all heads of the model instead of one layer.
    pub all_heads: bool,
    /// Position attended to.
    pub key: Option<usize>,
    pub neuron: Option<usize>,
    /// What was chosen last, which the inspector puts first.
    pub focus: Focus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Focus {
    #[default]
    Token,
    Head,
    Neuron,
}

impl Pinned {
    pub fn which(&self) -> Which {
        match self.head {
            _ if self.all_heads => Which::ModelMean,
            Some(h) => Which::Head(self.layer, h),
            None => Which::LayerMean(self.layer),
        }
    }
}

/// Pointed at in this frame, by whichever view the pointer is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hovered {
    pub pos: Option<usize>,
    pub layer: Option<usize>,
    pub head: Option<(usize, usize)>,
}

/// Hovering is collected while a frame is drawn and shown in the next one, so that views drawn before the
/// one under the pointer highlight as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    pub pinned: Pinned,
    pub hovered: Hovered,
}
