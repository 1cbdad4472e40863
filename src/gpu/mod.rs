//! wgpu pipelines behind the widgets, colour maps, and drawing without a window.

pub mod adapter;
pub mod colormap;
pub mod heatmap;
pub mod offscreen;

pub use colormap::ColorMap;
pub use heatmap::{HeatData, NOTHING};
