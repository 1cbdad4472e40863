//! The views of a transformer and a prompt.

use crate::app::view::views;

views![
    attention,
    lens,
    graph,
    patching,
    norms,
    entropy,
    attribution,
    circuit,
    edits,
    activations,
    projection,
    geometry,
    heads,
    generation,
];
