//! The heatmap pipeline: raw f32 textures coloured by `shaders/heatmap.wgsl`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytemuck::{Pod, Zeroable};
use eframe::egui_wgpu::{CallbackResources, CallbackTrait, ScreenDescriptor};
use eframe::{egui, wgpu};

use super::adapter::MAX_TEXTURE;
use super::colormap::{ColorMap, STEPS};

/// A cell that is not there: drawn as nothing. Everything beyond 3e38 counts as such, here and in the shader.
pub const NOTHING: f32 = 3.1e38;

/// An immutable matrix to draw, with the range of its values.
#[derive(Clone, Debug)]
pub struct HeatData {
    id: Arc<u64>,
    pub rows: usize,
    pub cols: usize,
    values: Arc<[f32]>,
    /// Smallest and largest finite value; 0 and 1 if there is none.
    pub min: f32,
    pub max: f32,
}

fn new_id() -> Arc<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl HeatData {
    /// `values` row by row; a wrong length is filled up with [`NOTHING`].
    pub fn new(rows: usize, cols: usize, mut values: Vec<f32>) -> Self {
        values.resize(rows * cols, NOTHING);
        let finite = values.iter().copied().filter(|v| v.abs() < 3.0e38);
        let (min, max) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (min, max) = if min <= max { (min, max) } else { (0.0, 1.0) };
        Self { id: new_id(), rows, cols, values: values.into(), min, max }
    }

    /// As [`Self::new`], for rows × cols values that are shared and whose smallest and largest are known.
    pub fn shared(rows: usize, cols: usize, values: Arc<[f32]>, (min, max): (f32, f32)) -> Self {
        if values.len() != rows * cols {
            return Self::new(rows, cols, values.to_vec());
        }
        Self { id: new_id(), rows, cols, values, min, max }
    }

    /// Tells one matrix from another.
    pub fn id(&self) -> u64 {
        *self.id
    }

    pub fn get(&self, row: usize, col: usize) -> Option<f32> {
        if row >= self.rows || col >= self.cols {
            return None;
        }
        self.values.get(row * self.cols + col).copied().filter(|v| v.is_nan() || v.abs() < 3.0e38)
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Largest |value|.
    pub fn max_abs(&self) -> f32 {
        self.max.abs().max(self.min.abs())
    }
}

/// How a matrix is coloured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coloring {
    pub map: ColorMap,
    pub low: f32,
    pub high: f32,
    /// Zooming out keeps the value of the largest size rather than the largest one.
    pub signed: bool,
    pub nan: egui::Color32,
    pub gap: egui::Color32,
    /// Width of the gaps between large cells, pixels.
    pub gap_width: f32,
    /// 1 is opaque; stale results are dimmed.
    pub opacity: f32,
}

/// One drawing of a matrix.
pub struct HeatmapCallback {
    /// Distinguishes several drawings of the same matrix in one frame.
    pub widget: u64,
    pub data: HeatData,
    /// Where it is drawn, points; may reach beyond the clip rectangle.
    pub rect: egui::Rect,
    /// Visible part in cells: column, row, columns, rows (negative rows flip).
    pub window: [f32; 4],
    pub coloring: Coloring,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rect: [f32; 4],
    window: [f32; 4],
    tile: [f32; 4],
    range: [f32; 4],
    nan_color: [f32; 4],
    gap: [f32; 4],
    look: [f32; 4],
}

/// A part of a matrix that fits one texture.
struct Tile {
    values: wgpu::TextureView,
    reduced: wgpu::TextureView,
    levels: u32,
    /// Column, row, columns, rows.
    place: [f32; 4],
}

struct Uploaded {
    alive: Weak<u64>,
    tiles: Vec<Tile>,
}

/// Uniforms and bindings of one drawing.
struct Drawing {
    alive: Weak<u64>,
    data: u64,
    parts: Vec<(wgpu::Buffer, wgpu::BindGroup)>,
}

/// The pipeline and everything uploaded; lives in egui-wgpu's callback resources.
pub struct HeatmapPipeline {
    pipeline: wgpu::RenderPipeline,
    layout: wgpu::BindGroupLayout,
    colors: wgpu::TextureView,
    uploaded: HashMap<u64, Uploaded>,
    drawings: HashMap<u64, Drawing>,
}

pub const SHADER: &str = include_str!("../../shaders/heatmap.wgsl");

impl HeatmapPipeline {
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, format: wgpu::TextureFormat) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("heatmap"),
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let texture = |binding| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::FRAGMENT,
            count: None,
            ty: wgpu::BindingType::Texture {
                sample_type: wgpu::TextureSampleType::Float { filterable: false },
                view_dimension: wgpu::TextureViewDimension::D2,
                multisampled: false,
            },
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("heatmap"),
            entries: &[
                wgpu::BindGroupLayoutEntry {
                    binding: 0,
                    visibility: wgpu::ShaderStages::FRAGMENT,
                    count: None,
                    ty: wgpu::BindingType::Buffer {
                        ty: wgpu::BufferBindingType::Uniform,
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                },
                texture(1),
                texture(2),
                texture(3),
            ],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("heatmap"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("heatmap"),
            layout: Some(&pipeline_layout),
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("vs_main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: Some("fs_main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                targets: &[Some(wgpu::ColorTargetState {
                    format,
                    blend: Some(wgpu::BlendState::PREMULTIPLIED_ALPHA_BLENDING),
                    write_mask: wgpu::ColorWrites::ALL,
                })],
            }),
            multiview_mask: None,
            cache: None,
        });
        let bytes: Vec<u8> =
            ColorMap::ALL.iter().flat_map(|m| m.colors()).flat_map(|c| [c.r(), c.g(), c.b(), 255]).collect();
        let size = (STEPS as u32, ColorMap::ALL.len() as u32);
        let colors = create(device, "colour maps", size, 1, wgpu::TextureFormat::Rgba8Unorm);
        write(queue, &colors, 0, size, 4, &bytes);
        Self {
            pipeline,
            layout,
            colors: colors.create_view(&wgpu::TextureViewDescriptor::default()),
            uploaded: HashMap::new(),
            drawings: HashMap::new(),
        }
    }

    /// Registers the pipeline with a renderer.
    pub fn install(state: &egui_wgpu::RenderState) {
        let pipeline = Self::new(&state.device, &state.queue, state.target_format);
        state.renderer.write().callback_resources.insert(pipeline);
    }
}

fn create(
    device: &wgpu::Device,
    label: &str,
    (width, height): (u32, u32),
    mip_level_count: u32,
    format: wgpu::TextureFormat,
) -> wgpu::Texture {
    device.create_texture(&wgpu::TextureDescriptor {
        label: Some(label),
        size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        mip_level_count,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    })
}

fn write(
    queue: &wgpu::Queue,
    texture: &wgpu::Texture,
    level: u32,
    size: (u32, u32),
    bytes_per_cell: u32,
    bytes: &[u8],
) {
    let (width, height) = size;
    queue.write_texture(
        wgpu::TexelCopyTextureInfo {
            texture,
            mip_level: level,
            origin: wgpu::Origin3d::ZERO,
            aspect: wgpu::TextureAspect::All,
        },
        bytes,
        wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(bytes_per_cell * width),
            rows_per_image: Some(height),
        },
        wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
    );
}

/// Smallest and largest of each 2 × 2 block, sizes halved rounding down (a last odd row or column joins
/// its neighbour), as textures' own levels are sized. NaN wins, cells that are not there lose.
fn reduce(cells: &[[f32; 2]], cols: usize, rows: usize) -> (Vec<[f32; 2]>, usize, usize) {
    let (c2, r2) = ((cols / 2).max(1), (rows / 2).max(1));
    let mut out = vec![[NOTHING, -NOTHING]; c2 * r2];
    for y in 0..rows {
        for x in 0..cols {
            let slot = &mut out[(y / 2).min(r2 - 1) * c2 + (x / 2).min(c2 - 1)];
            let [low, high] = cells[y * cols + x];
            if low.is_nan() || slot[0].is_nan() {
                *slot = [f32::NAN, f32::NAN];
            } else if low.abs() < 3.0e38 {
                *slot = [slot[0].min(low), slot[1].max(high)];
            }
        }
    }
    (out, c2, r2)
}

impl Tile {
    fn upload(device: &wgpu::Device, queue: &wgpu::Queue, data: &HeatData, x0: usize, y0: usize) -> Self {
        let (cols, rows) = ((data.cols - x0).min(MAX_TEXTURE), (data.rows - y0).min(MAX_TEXTURE));
        let cut: Vec<f32> = (y0..y0 + rows)
            .flat_map(|y| data.values[y * data.cols + x0..y * data.cols + x0 + cols].iter().copied())
            .collect();
        let size = (cols as u32, rows as u32);
        let values = create(device, "heatmap values", size, 1, wgpu::TextureFormat::R32Float);
        write(queue, &values, 0, size, 4, bytemuck::cast_slice(&cut));
        let mut level: Vec<[f32; 2]> = cut.iter().map(|v| [*v, *v]).collect();
        let (mut c, mut r) = (cols, rows);
        let mut levels = Vec::new();
        // Once an axis is down to one cell the shader's loop does the rest.
        while c.min(r) > 1 {
            (level, c, r) = reduce(&level, c, r);
            levels.push((level.clone(), c, r));
        }
        let base = levels.first().map_or((1, 1), |(_, c, r)| (*c as u32, *r as u32));
        let count = levels.len().max(1) as u32;
        let reduced = create(device, "heatmap levels", base, count, wgpu::TextureFormat::Rg32Float);
        for (i, (cells, c, r)) in levels.iter().enumerate() {
            write(queue, &reduced, i as u32, (*c as u32, *r as u32), 8, bytemuck::cast_slice(cells));
        }
        Self {
            values: values.create_view(&wgpu::TextureViewDescriptor::default()),
            reduced: reduced.create_view(&wgpu::TextureViewDescriptor::default()),
            levels: levels.len() as u32,
            place: [x0 as f32, y0 as f32, cols as f32, rows as f32],
        }
    }
}

fn rgb(c: egui::Color32) -> [f32; 3] {
    [c.r(), c.g(), c.b()].map(|v| f32::from(v) / 255.0)
}

impl CallbackTrait for HeatmapCallback {
    fn prepare(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        screen: &ScreenDescriptor,
        _encoder: &mut wgpu::CommandEncoder,
        resources: &mut CallbackResources,
    ) -> Vec<wgpu::CommandBuffer> {
        let Some(gpu) = resources.get_mut::<HeatmapPipeline>() else { return Vec::new() };
        let HeatmapPipeline { layout, colors, uploaded, drawings, .. } = gpu;
        uploaded.retain(|_, u| u.alive.strong_count() > 0);
        drawings.retain(|_, d| d.alive.strong_count() > 0);
        let data_id = *self.data.id;
        let entry = uploaded.entry(data_id).or_insert_with(|| {
            let (cols, rows) = (self.data.cols, self.data.rows);
            let starts =
                (0..rows).step_by(MAX_TEXTURE).flat_map(|y| (0..cols).step_by(MAX_TEXTURE).map(move |x| (x, y)));
            let tiles = starts.map(|(x, y)| Tile::upload(device, queue, &self.data, x, y)).collect();
            Uploaded { alive: Arc::downgrade(&self.data.id), tiles }
        });
        let drawing =
            drawings.entry(self.widget).or_insert_with(|| Drawing { alive: Weak::new(), data: 0, parts: Vec::new() });
        if drawing.data != data_id {
            drawing.data = data_id;
            drawing.alive = Arc::downgrade(&self.data.id);
            drawing.parts = entry
                .tiles
                .iter()
                .map(|tile| {
                    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("heatmap parameters"),
                        size: size_of::<Params>() as u64,
                        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                        mapped_at_creation: false,
                    });
                    let view = |binding, view| wgpu::BindGroupEntry {
                        binding,
                        resource: wgpu::BindingResource::TextureView(view),
                    };
                    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some("heatmap"),
                        layout,
                        entries: &[
                            wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() },
                            view(1, &tile.values),
                            view(2, &tile.reduced),
                            view(3, colors),
                        ],
                    });
                    (buffer, group)
                })
                .collect();
        }
        let ppp = screen.pixels_per_point;
        let c = &self.coloring;
        let [nan, gap] = [c.nan, c.gap].map(rgb);
        for (tile, (buffer, _)) in entry.tiles.iter().zip(&drawing.parts) {
            let params = Params {
                rect: [self.rect.min.x, self.rect.min.y, self.rect.width(), self.rect.height()].map(|v| v * ppp),
                window: self.window,
                tile: tile.place,
                range: [c.low, c.high, f32::from(u8::from(c.signed)), c.map.row() as f32],
                nan_color: [nan[0], nan[1], nan[2], 1.0],
                gap: [gap[0], gap[1], gap[2], c.gap_width * ppp],
                look: [c.opacity, tile.levels as f32, 0.0, 0.0],
            };
            queue.write_buffer(buffer, 0, bytemuck::bytes_of(&params));
        }
        Vec::new()
    }

    fn paint(
        &self,
        info: egui::PaintCallbackInfo,
        pass: &mut wgpu::RenderPass<'static>,
        resources: &CallbackResources,
    ) {
        let Some(gpu) = resources.get::<HeatmapPipeline>() else { return };
        let Some(drawing) = gpu.drawings.get(&self.widget) else { return };
        if info.clip_rect_in_pixels().width_px <= 0 || info.clip_rect_in_pixels().height_px <= 0 {
            return;
        }
        pass.set_pipeline(&gpu.pipeline);
        for (_, group) in &drawing.parts {
            pass.set_bind_group(0, group, &[]);
            pass.draw(0..3, 0..1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduction_keeps_extremes_and_nan() {
        let cells: Vec<[f32; 2]> = [1.0, -5.0, 2.0, 3.0, NOTHING, 0.5].iter().map(|v| [*v, *v]).collect();
        // 3 columns, 2 rows become one cell: everything joins it.
        let (out, c, r) = reduce(&cells, 3, 2);
        assert_eq!((out[0], c, r), ([-5.0, 3.0], 1, 1));
        let (out, ..) = reduce(&[[f32::NAN, f32::NAN], [1.0, 1.0]], 2, 1);
        assert!(out[0][0].is_nan());
    }

    #[test]
    fn range_ignores_what_is_not_there() {
        let d = HeatData::new(1, 3, vec![NOTHING, 2.0, -1.0]);
        assert_eq!((d.min, d.max, d.max_abs()), (-1.0, 2.0, 2.0));
        assert_eq!(d.get(0, 0), None);
        assert_eq!(d.get(0, 9), None);
    }
}
