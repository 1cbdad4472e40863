//! The window's icon, which is the desktop's as well.

use eframe::egui;
use resvg::{tiny_skia, usvg};

const ICON: &str = include_str!("../../../assets/desktop/circuitscope.svg");

/// The pixels of the icon, 128 by 128. It holds no text, so that no font is looked for.
pub fn icon() -> Option<egui::IconData> {
    let tree = usvg::Tree::from_str(ICON, &usvg::Options::default()).ok()?;
    let size = tree.size().to_int_size();
    let mut map = tiny_skia::Pixmap::new(size.width(), size.height())?;
    resvg::render(&tree, tiny_skia::Transform::identity(), &mut map.as_mut());
    Some(egui::IconData { rgba: map.take_demultiplied(), width: size.width(), height: size.height() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_icon_is_drawn() {
        let icon = icon().unwrap();
        assert_eq!((icon.width, icon.height, icon.rgba.len()), (128, 128, 128 * 128 * 4));
        let at = |x: usize, y: usize| &icon.rgba[4 * (128 * y + x)..][..4];
        // A rounded corner, the ground, and the node at the top.
        assert_eq!(at(0, 0), [0; 4]);
        assert_eq!(at(20, 110), [0x14, 0x17, 0x1d, 0xff]);
        assert_eq!(at(64, 38), [0xf5, 0xb7, 0x4b, 0xff]);
    }
}
