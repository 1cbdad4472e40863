//! What the pointer is over. What is pinned belongs to the document ([`crate::session::desk::Pinned`]).

/// Pointed at in this frame, by whichever view the pointer is over. It is collected while a frame is drawn and shown in the
/// next one, so that views drawn before the one under the pointer highlight as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hovered {
    pub pos: Option<usize>,
    pub layer: Option<usize>,
    pub head: Option<(usize, usize)>,
}
