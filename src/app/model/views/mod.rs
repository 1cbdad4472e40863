//! The views of a transformer and a prompt.

use crate::app::view::views;

views![
    attention,
    lens,
    graph,
    patching,
    norms,
    entropy,
    heads,
    attribution,
    circuit,
    edits,
    activations,
    projection,
    geometry,
    generation,
];
