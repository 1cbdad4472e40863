//! Choosing a graphics adapter, in one place.

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
    setup.power_preference = wgpu::PowerPreference::HighPerformance;
    setup
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
