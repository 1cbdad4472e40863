//! Helper windows: they stay inside the window however small it gets, and come back to their place and size when it grows.

use eframe::egui;

/// Points between a helper window and the edge.
const EDGE: f32 = 4.0;

/// Where the user has a helper window, whatever room there is for it now.
#[derive(Clone, Copy)]
struct Kept {
    rect: egui::Rect,
    squeezed: bool,
}

/// The part of `room` that a window gets which wants `rect`: as large as it wants where that fits, and moved inside.
fn inside(rect: egui::Rect, room: egui::Rect) -> egui::Rect {
    let size = rect.size().min(room.size());
    let min = rect.min.min(room.max - size).max(room.min);
    egui::Rect::from_min_size(min, size)
}

/// Shows a helper window of this title while it is open. It stands at `at` in the window at first: 0 is left and up, 1 right
/// and down.
pub fn show(
    ctx: &egui::Context,
    title: &str,
    open: &mut bool,
    (size, at): (egui::Vec2, egui::Vec2),
    add: impl FnOnce(&mut egui::Ui),
) {
    let id = egui::Id::unique(("helper", title));
    let screen = ctx.content_rect();
    if !*open {
        return;
    }
    let room = screen.shrink(EDGE.min(screen.size().min_elem() / 8.0));
    let first = || {
        let min = room.min + at * (room.size() - size).max(egui::Vec2::ZERO);
        Kept { rect: egui::Rect::from_min_size(min, size), squeezed: true }
    };
    let kept = ctx.data(|d| d.get_temp::<Kept>(id)).unwrap_or_else(first);
    let fits = inside(kept.rect, room);
    let squeezed = fits != kept.rect;
    let window = egui::Window::new(title).open(open).collapsible(false).constrain_to(screen).min_size([60.0, 40.0]);
    // In the frame after, it is put back where it was.
    let window = if squeezed || kept.squeezed { window.fixed_size(fits.size()).fixed_pos(fits.min) } else { window };
    let shown = window.default_size(fits.size()).show(ctx, |ui| {
        ui.set_min_size(egui::Vec2::ZERO);
        add(ui);
    });
    let Some(shown) = shown else { return };
    let rect = if squeezed || kept.squeezed { kept.rect } else { shown.response.rect };
    ctx.data_mut(|d| d.insert_temp(id, Kept { rect, squeezed }));
}

/// What a dialog holds, in the room that the window has for it: what is larger scrolls. It is `width` wide at most.
pub fn scrolled<R>(ui: &mut egui::Ui, width: f32, add: impl FnOnce(&mut egui::Ui) -> R) -> R {
    let screen = ui.ctx().content_rect().size();
    let margin = ui.spacing().window_margin.sum() + egui::vec2(12.0, 12.0);
    let room = (screen - margin).max(egui::vec2(40.0, 30.0));
    let width = width.min(room.x);
    ui.set_width(width);
    // A dialog is given the room below its middle only, at first: it may take all that it needs.
    let area = egui::ScrollArea::both().id_salt("dialog").max_height(room.y).max_width(width);
    let area = area.min_scrolled_height(room.y).min_scrolled_width(width);
    let inner = |ui: &mut egui::Ui| {
        // What scrolls sideways has no width of its own.
        ui.set_max_width(width);
        add(ui)
    };
    area.show(ui, inner).inner
}

#[cfg(test)]
mod tests {
    use super::*;
    use eframe::egui::{Rect, pos2, vec2};

    #[test]
    fn a_window_is_moved_and_cut_to_the_room_there_is() {
        let room = Rect::from_min_max(pos2(4.0, 4.0), pos2(204.0, 104.0));
        let at = |x, y, w, h| Rect::from_min_size(pos2(x, y), vec2(w, h));
        assert_eq!(inside(at(10.0, 20.0, 50.0, 60.0), room), at(10.0, 20.0, 50.0, 60.0));
        assert_eq!(inside(at(180.0, 90.0, 50.0, 60.0), room), at(154.0, 44.0, 50.0, 60.0));
        assert_eq!(inside(at(-9.0, 0.0, 500.0, 60.0), room), at(4.0, 4.0, 200.0, 60.0));
        assert_eq!(inside(at(300.0, 300.0, 900.0, 900.0), room), room);
    }
}
