//! Scenes in three dimensions: a turning camera, and shaded capsules drawn by `shaders/scene.wgsl`.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use eframe::egui_wgpu::{CallbackResources, CallbackTrait, ScreenDescriptor};
use eframe::{egui, wgpu};

pub const SHADER: &str = include_str!("../../shaders/scene.wgsl");

/// Where the scene is looked at from: turned by `yaw` around the vertical axis, then tipped by `pitch`; radians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    pub yaw: f32,
    pub pitch: f32,
    /// Points for one unit in the middle of the scene.
    pub scale: f32,
}

/// Distance of the eye, in units: far enough for a mild perspective.
const EYE: f32 = 6.0;

impl Camera {
    /// Place relative to the scene's middle, in points with y down, and depth: larger is farther.
    pub fn project(&self, p: [f32; 3]) -> (egui::Vec2, f32) {
        let (sy, cy) = self.yaw.sin_cos();
        let (sp, cp) = self.pitch.sin_cos();
        let x = cy * p[0] + sy * p[2];
        let z = cy * p[2] - sy * p[0];
        let y = cp * p[1] - sp * z;
        let depth = sp * p[1] + cp * z;
        let near = EYE / (EYE + depth).max(0.5);
        (egui::vec2(x, -y) * self.scale * near, depth)
    }

    /// How much larger something at `depth` looks than in the middle.
    pub fn magnification(depth: f32) -> f32 {
        EYE / (EYE + depth).max(0.5)
    }
}

/// A capsule on the screen: two ends (x, y relative to the scene's rectangle, radius), points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capsule {
    pub a: [f32; 3],
    pub b: [f32; 3],
    pub color: egui::Color32,
    pub depth: f32,
}

/// Sorts from far to near, as the pipeline wants it.
pub fn sorted(mut capsules: Vec<Capsule>) -> Arc<[Capsule]> {
    capsules.sort_by(|a, b| b.depth.total_cmp(&a.depth));
    capsules.into()
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Raw {
    a: [f32; 4],
    b: [f32; 4],
    color: [f32; 4],
}

impl From<&Capsule> for Raw {
    fn from(c: &Capsule) -> Self {
        let [r, g, b, a] = c.color.to_srgba_unmultiplied().map(|v| f32::from(v) / 255.0);
        Self { a: [c.a[0], c.a[1], c.a[2], 0.0], b: [c.b[0], c.b[1], c.b[2], 0.0], color: [r, g, b, a] }
    }
}

/// One drawing of a scene.
pub struct SceneCallback {
    pub widget: u64,
    pub capsules: Arc<[Capsule]>,
    pub rect: egui::Rect,
}

struct Drawing {
    uniform: wgpu::Buffer,
    group: wgpu::BindGroup,
    vertices: wgpu::Buffer,
    room: usize,
    count: u32,
    /// The frame in which it was drawn last.
    used: u64,
}

/// The pipeline; lives in egui-wgpu's callback resources.
pub struct ScenePipeline {
    pipeline: wgpu::RenderPipeline,
    layout: wgpu::BindGroupLayout,
    drawings: HashMap<u64, Drawing>,
    clock: u64,
}

impl ScenePipeline {
    pub fn new(device: &wgpu::Device, format: wgpu::TextureFormat) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("scene"),
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("scene"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::VERTEX_FRAGMENT,
                count: None,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
            }],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("scene"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let attributes = wgpu::vertex_attr_array![0 => Float32x4, 1 => Float32x4, 2 => Float32x4];
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("scene"),
            layout: Some(&pipeline_layout),
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("vs_main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[Some(wgpu::VertexBufferLayout {
                    array_stride: size_of::<Raw>() as u64,
                    step_mode: wgpu::VertexStepMode::Instance,
                    attributes: &attributes,
                })],
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
        Self { pipeline, layout, drawings: HashMap::new(), clock: 0 }
    }

    /// Registers the pipeline with a renderer.
    pub fn install(state: &egui_wgpu::RenderState) {
        let pipeline = Self::new(&state.device, state.target_format);
        state.renderer.write().callback_resources.insert(pipeline);
    }

    fn room(&mut self, device: &wgpu::Device, widget: u64, capsules: usize) -> &mut Drawing {
        let layout = &self.layout;
        let make = || {
            let room = capsules.next_power_of_two().max(64);
            let buffer = |label, size, usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: usage | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            let uniform = buffer("scene frame", 16, wgpu::BufferUsages::UNIFORM);
            let bytes = (room * size_of::<Raw>()) as u64;
            let vertices = buffer("scene capsules", bytes, wgpu::BufferUsages::VERTEX);
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("scene"),
                layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: uniform.as_entire_binding() }],
            });
            Drawing { uniform, group, vertices, room, count: 0, used: 0 }
        };
        let drawing = self.drawings.entry(widget).or_insert_with(make);
        if drawing.room < capsules {
            *drawing = make();
        }
        drawing
    }
}

impl CallbackTrait for SceneCallback {
    fn prepare(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        screen: &ScreenDescriptor,
        _encoder: &mut wgpu::CommandEncoder,
        resources: &mut CallbackResources,
    ) -> Vec<wgpu::CommandBuffer> {
        let Some(gpu) = resources.get_mut::<ScenePipeline>() else { return Vec::new() };
        gpu.clock += 1;
        let clock = gpu.clock;
        // What has not been drawn for long is given back.
        gpu.drawings.retain(|_, d| clock - d.used < 4096);
        let drawing = gpu.room(device, self.widget, self.capsules.len());
        drawing.used = clock;
        let ppp = screen.pixels_per_point;
        let frame = [self.rect.width(), self.rect.height(), ppp, 0.0];
        queue.write_buffer(&drawing.uniform, 0, bytemuck::cast_slice(&frame));
        let raw: Vec<Raw> = self.capsules.iter().map(Raw::from).collect();
        queue.write_buffer(&drawing.vertices, 0, bytemuck::cast_slice(&raw));
        drawing.count = raw.len() as u32;
        Vec::new()
    }

    fn paint(
        &self,
        _info: egui::PaintCallbackInfo,
        pass: &mut wgpu::RenderPass<'static>,
        resources: &CallbackResources,
    ) {
        let Some(gpu) = resources.get::<ScenePipeline>() else { return };
        let Some(drawing) = gpu.drawings.get(&self.widget).filter(|d| d.count > 0) else { return };
        pass.set_pipeline(&gpu.pipeline);
        pass.set_bind_group(0, &drawing.group, &[]);
        pass.set_vertex_buffer(0, drawing.vertices.slice(..));
        pass.draw(0..6, 0..drawing.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_turns() {
        let front = Camera { yaw: 0.0, pitch: 0.0, scale: 100.0 };
        let (at, depth) = front.project([1.0, 1.0, 0.0]);
        assert_eq!((at, depth), (egui::vec2(100.0, -100.0), 0.0));
        // A quarter turn brings what pointed right away from the eye or towards it.
        let side = Camera { yaw: std::f32::consts::FRAC_PI_2, ..front };
        let (at, depth) = side.project([1.0, 0.0, 0.0]);
        assert!(at.x.abs() < 1e-3 && (depth.abs() - 1.0).abs() < 1e-5);
        assert!(Camera::magnification(1.0) < 1.0 && Camera::magnification(-1.0) > 1.0);
    }

    #[test]
    fn far_capsules_come_first() {
        let c = |depth| Capsule { a: [0.0; 3], b: [0.0; 3], color: egui::Color32::RED, depth };
        let list = sorted(vec![c(0.0), c(2.0), c(-1.0)]);
        assert_eq!(list.iter().map(|c| c.depth).collect::<Vec<_>>(), [2.0, 0.0, -1.0]);
    }
}
