//! wgpu pipelines behind the widgets, colour maps, and drawing without a window.

pub mod adapter;
pub mod colormap;
pub mod heatmap;
pub mod offscreen;
pub mod scene;

pub use colormap::ColorMap;
pub use heatmap::{HeatData, NOTHING};

/// Registers every pipeline with a renderer.
pub fn install(state: &egui_wgpu::RenderState) {
    heatmap::HeatmapPipeline::install(state);
    scene::ScenePipeline::install(state);
}
