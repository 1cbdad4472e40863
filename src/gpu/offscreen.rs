//! Drawing egui into a picture without a window.

use std::time::Duration;

use eframe::egui_wgpu::{RenderState, RendererOptions, ScreenDescriptor, WgpuConfiguration, WgpuSetup};
use eframe::{egui, wgpu};

use super::adapter;
use crate::error::{Error, Result};

/// A graphics device without a surface.
pub struct Offscreen {
    state: RenderState,
}

impl Offscreen {
    /// # Errors
    /// The sentence of [`adapter::missing`] where there is no adapter.
    pub fn new() -> Result<Self> {
        let create = |setup: WgpuSetup| {
            let instance = pollster::block_on(setup.new_instance());
            let config = WgpuConfiguration { wgpu_setup: setup, ..WgpuConfiguration::default() };
            pollster::block_on(RenderState::create(&config, &instance, None, RendererOptions::PREDICTABLE))
        };
        let state = create(adapter::setup_without_gl().into())
            .or_else(|_| create(adapter::setup().into()))
            .map_err(|e| adapter::missing(&e.to_string()))?;
        super::install(&state);
        Ok(Self { state })
    }

    /// Runs `ui` for a few passes, so that sizes settle, and gives the last one's picture.
    pub fn render(
        &mut self,
        ctx: &egui::Context,
        size: egui::Vec2,
        pixels_per_point: f32,
        passes: usize,
        mut ui: impl FnMut(&mut egui::Ui),
    ) -> Result<image::RgbaImage> {
        let mut shapes = Vec::new();
        for pass in 0..passes.max(1) {
            let mut input = egui::RawInput {
                screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, size)),
                time: Some(pass as f64),
                max_texture_side: Some(adapter::MAX_TEXTURE),
                ..egui::RawInput::default()
            };
            input.viewports.entry(egui::ViewportId::ROOT).or_default().native_pixels_per_point = Some(pixels_per_point);
            let mut output = ctx.run_ui(input, &mut ui);
            let mut renderer = self.state.renderer.write();
            for (id, deltas) in output.textures_delta.set.drain() {
                for delta in deltas {
                    renderer.update_texture(&self.state.device, &self.state.queue, id, &delta);
                }
            }
            // Freed textures may still be drawn by this pass; a picture or two later they go with the device.
            output.textures_delta.free.clear();
            shapes = std::mem::take(&mut output.shapes);
        }
        self.paint(ctx, shapes)
    }

    fn paint(&mut self, ctx: &egui::Context, shapes: Vec<egui::epaint::ClippedShape>) -> Result<image::RgbaImage> {
        let fail = |e: &dyn std::fmt::Display| Error::failed(format!("the picture could not be drawn: {e}"));
        let ppp = ctx.pixels_per_point();
        let pixels = (ctx.content_rect().size() * ppp).round();
        let (w, h) = (pixels.x.max(1.0) as u32, pixels.y.max(1.0) as u32);
        let (device, queue) = (&self.state.device, &self.state.queue);
        let jobs = ctx.tessellate(shapes, ppp);
        let screen = ScreenDescriptor { size_in_pixels: [w, h], pixels_per_point: ppp };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("picture") });
        let mut renderer = self.state.renderer.write();
        let first = renderer.update_buffers(device, queue, &mut encoder, &jobs, &screen);
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size: wgpu::Extent3d { width: w, height: h, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.state.target_format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        {
            let mut pass = encoder
                .begin_render_pass(&wgpu::RenderPassDescriptor {
                    label: Some("picture"),
                    color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                        view: &view,
                        depth_slice: None,
                        resolve_target: None,
                        ops: wgpu::Operations {
                            load: wgpu::LoadOp::Clear(wgpu::Color::TRANSPARENT),
                            store: wgpu::StoreOp::Store,
                        },
                    })],
                    ..wgpu::RenderPassDescriptor::default()
                })
                .forget_lifetime();
            renderer.render(&mut pass, &jobs, &screen);
        }
        let row = (w * 4).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("picture"),
            size: u64::from(row) * u64::from(h),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_texture_to_buffer(
            texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &buffer,
                layout: wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None },
            },
            texture.size(),
        );
        let submission = queue.submit(first.into_iter().chain(std::iter::once(encoder.finish())));
        let (sender, receiver) = std::sync::mpsc::channel();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |r| {
            // The receiver waits below; if it gave up there is nobody to tell.
            drop(sender.send(r));
        });
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(Duration::from_secs(120)) };
        device.poll(wait).map_err(|e| fail(&e))?;
        receiver.recv().map_err(|e| fail(&e))?.map_err(|e| fail(&e))?;
        let mapped = buffer.slice(..).get_mapped_range().map_err(|e| fail(&e))?;
        let mut bytes: Vec<u8> =
            mapped.chunks_exact(row as usize).flat_map(|r| r[..w as usize * 4].iter().copied()).collect();
        if self.state.target_format == wgpu::TextureFormat::Bgra8Unorm {
            bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|p| p.swap(0, 2));
        }
        image::RgbaImage::from_raw(w, h, bytes).ok_or_else(|| fail(&"wrong size"))
    }
}
