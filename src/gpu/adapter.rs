//! Choosing a graphics adapter, in one place.

use std::sync::Arc;

use eframe::egui_wgpu;
use eframe::wgpu;

use crate::error::Error;

/// Textures are tiled to this side; egui-wgpu asks for no more.
pub const MAX_TEXTURE: usize = 8192;

/// How the window and off-screen drawing ask for an adapter: any, a software one included.
pub fn setup() -> egui_wgpu::WgpuSetupCreateNew {
    let mut setup = egui_wgpu::WgpuSetupCreateNew::without_display_handle();
    setup.instance_descriptor.backends = wgpu::Backends::from_env()
        .unwrap_or(wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::GL);
    setup.native_adapter_selector = Some(Arc::new(|adapters, surface| {
        let fits = |a: &&wgpu::Adapter| surface.is_none_or(|s| a.is_surface_supported(s));
        let best = adapters.iter().filter(fits).min_by_key(|a| rank(&a.get_info()));
        best.cloned().ok_or_else(|| "none that can draw here".to_owned())
    }));
    setup
}

/// The place of an adapter among several: graphics cards before processors that draw. Of the drivers that draw on the
/// processor OpenGL's comes first, because Mesa's Vulkan one keeps about 2 MB of every frame that a window shows.
fn rank(info: &wgpu::AdapterInfo) -> (u8, bool) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let gl = info.backend == wgpu::Backend::Gl;
    (kind, if kind < 4 { gl } else { !gl })
}

/// The same without OpenGL, whose loader complains on machines that have no desktop.
pub fn setup_without_gl() -> egui_wgpu::WgpuSetupCreateNew {
    let mut setup = setup();
    setup.instance_descriptor.backends.remove(wgpu::Backends::GL);
    setup
}

/// The one sentence for a machine without a usable adapter.
pub fn missing(detail: &str) -> Error {
    let driver = if cfg!(target_os = "linux") {
        "install a Vulkan driver (Debian/Ubuntu: mesa-vulkan-drivers, Fedora: mesa-vulkan-drivers, Arch: vulkan-swrast) or set WGPU_BACKEND=gl"
    } else {
        "update the graphics driver"
    };
    Error::failed(format!(
        "no usable graphics adapter was found ({detail}); {driver}, or use a subcommand, which needs none"
    ))
}
