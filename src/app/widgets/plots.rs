//! Plots: the numbers on their axes, and what is said of a point.

use eframe::egui::text::LayoutJob;
use eframe::egui::{AsIdSalt, Color32, Label, Rangef, RichText, TextFormat, Ui};
use egui_plot::{AxisHints, GridInput, GridMark, HoverPosition, Plot};

use crate::app::look::theme;
use crate::app::look::theme::Palette;

/// Says what a point is, by its plot's name and its place (x, y); nothing between points.
pub fn said_of_points<'a>(
    say: impl Fn(&str, f64, f64) -> String + 'a,
) -> impl Fn(&HoverPosition<'_>) -> Option<String> + 'a {
    move |h| match h {
        HoverPosition::NearDataPoint { plot_name, position, .. } => Some(say(plot_name, position.x, position.y)),
        HoverPosition::Elsewhere { .. } => None,
    }
}

/// Numbers on an axis: multiples of 1, 2 or 5 times a power of ten, at least `apart` of the library's smallest distances
/// from each other, and whole where the axis is `counted`. The library's own powers of ten leave small plots with one.
fn round_marks(input: &GridInput, apart: f64, counted: bool) -> Vec<GridMark> {
    // Numbers with many digits need more room: the library leaves out those that do not have it.
    let digits = input.bounds.0.abs().max(input.bounds.1.abs()).max(1.0).log10().floor() + 1.0;
    let apart = if counted { apart.max(digits + 1.0) } else { apart };
    let least = (apart * input.base_step_size).max(if counted { 1.0 } else { f64::MIN_POSITIVE });
    let power = 10f64.powf(least.log10().floor());
    let step_size = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= least).unwrap_or(10.0 * power);
    let (from, to) = ((input.bounds.0 / step_size).ceil(), (input.bounds.1 / step_size).floor());
    // A plot that is not laid out yet has no bounds to speak of.
    let count = if to >= from { (to - from).min(100.0) as usize + 1 } else { 0 };
    (0..count).map(|i| GridMark { value: (from + i as f64) * step_size, step_size }).collect()
}

/// A mark's number with as many places as tell it from the next.
fn mark_text(mark: GridMark) -> String {
    let places = (-mark.step_size.log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{:.places$}", mark.value)
}

/// What the colours of a plot's curves mean, in lines above it: a legend inside a small plot hides the curves.
pub fn key(ui: &mut Ui, title: &str, curves: impl IntoIterator<Item = (String, Color32)>, rest: &str) {
    let weak = Palette::of(ui.ctx()).weak;
    let mut job = LayoutJob::default();
    let mut add = |text: &str, color| job.append(text, 0.0, TextFormat::simple(theme::small(), color));
    add(&format!("{title}: "), weak);
    for (name, color) in curves {
        // A name is not broken from its mark.
        add(&format!("—\u{a0}{}", name.replace(' ', "\u{a0}")), color);
        add("  ", weak);
    }
    add(&format!(" {rest}"), weak);
    // Columns would spread the words over the whole line.
    ui.vertical(|ui| ui.add(Label::new(job).wrap()));
}

/// A plot's axes with numbers closer together than the library has them. Layers and steps are `counted`: between whole
/// numbers stands nothing.
pub fn axes<'a>(plot: Plot<'a>, x: &str, counted: bool) -> Plot<'a> {
    let label = RichText::new(x).font(theme::small());
    // The library learns how high the numbers are only while it draws them: in its first frame the label would lie on them.
    let high = if x.is_empty() { 16.0 } else { 34.0 };
    let across = AxisHints::new_x().label(label).label_spacing(Rangef::new(20.0, 30.0)).min_thickness(high);
    let across = across.formatter(|m, _| mark_text(m));
    let upwards = AxisHints::new_y().min_thickness(44.0).label_spacing(Rangef::new(13.0, 18.0));
    let upwards = upwards.formatter(|m, _| mark_text(m));
    plot.x_grid_spacer(move |input| round_marks(&input, 5.0, counted))
        .y_grid_spacer(|input| round_marks(&input, 2.5, false))
        .custom_x_axes(vec![across])
        .custom_y_axes(vec![upwards])
}

/// Marks at 1, 2 and 5 times the powers of ten, on a scale of powers of ten; at round numbers where fewer than two of
/// those are in sight.
fn log_marks(input: &GridInput) -> Vec<GridMark> {
    let (from, to) = input.bounds;
    // A plot that is not laid out yet has no bounds to speak of.
    let powers = from.floor().clamp(-12.0, 12.0) as i32..=to.ceil().clamp(-12.0, 12.0) as i32;
    let at =
        |k: i32| [(1.0f64, 1.0), (2.0, 0.3), (5.0, 0.3)].map(|(m, step_size)| (m.log10() + f64::from(k), step_size));
    let marks = powers.flat_map(at).filter(|(value, _)| (from..=to).contains(value));
    let marks: Vec<GridMark> = marks.map(|(value, step_size)| GridMark { value, step_size }).collect();
    if marks.len() > 1 || to - from > 1.0 {
        return marks;
    }
    let bounds = (10f64.powf(from), 10f64.powf(to));
    let part = (bounds.1 - bounds.0) / (to - from).max(f64::MIN_POSITIVE);
    let round = round_marks(&GridInput { bounds, base_step_size: part * input.base_step_size }, 2.5, false);
    let log = |m: GridMark| GridMark { value: m.value.log10(), step_size: m.step_size / part };
    round.into_iter().filter(|m| m.value > 0.0).map(log).collect()
}

/// The number whose logarithm a mark stands at, without the rests of its calculation.
fn power_text(log: f64) -> String {
    let value = 10f64.powf(log);
    let value = format!("{value:.4e}").parse().unwrap_or(value);
    if (1e-3..1e6).contains(&value) { value.to_string() } else { format!("{value:e}") }
}

/// A plot over the steps of a training; where it is `log`, its heights are logarithms to the base of ten and its numbers
/// are what they are of.
pub fn over_steps<'a>(id: impl AsIdSalt, below: &str, log: bool) -> Plot<'a> {
    let plot = axes(Plot::new(id), below, true).show_grid([false, true]);
    let value = move |y: f64| if log { 10f64.powf(y) } else { y };
    let plot = plot.label_formatter(said_of_points(move |name, x, y| format!("{name}\nstep {x:.0}\n{:.4}", value(y))));
    if log { plot.y_grid_spacer(|input| log_marks(&input)).y_axis_formatter(|m, _| power_text(m.value)) } else { plot }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_not_too_many() {
        let marks = |bounds, base_step_size, counted| {
            let input = GridInput { bounds, base_step_size };
            round_marks(&input, 5.0, counted).iter().map(|m| m.value).collect::<Vec<_>>()
        };
        assert_eq!(marks((-30.0, 850.0), 36.0, true), [0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(marks((-1.0, 4.0), 0.05, true), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(marks((-2.2, 2.2), 0.1, false), [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]);
        // Seven digits take more than the 40 points that short ones are apart (the library's distances are of 8).
        assert_eq!(marks((0.0, 1e6), 1e6 / 64.0, true), [0.0, 2e5, 4e5, 6e5, 8e5, 1e6]);
        let texts = |step_size| [-2.0, 0.0, 1.0].map(|n| mark_text(GridMark { value: n * step_size, step_size }));
        assert_eq!(texts(0.05), ["-0.10", "0.00", "0.05"]);
        assert_eq!(
            (texts(0.5), texts(200.0)),
            (["-1.0", "0.0", "0.5"].map(str::to_owned), ["-400", "0", "200"].map(str::to_owned))
        );
        assert_eq!(marks((0.0, 0.0), 0.0, false).len(), 1);
        assert!(marks((f64::NEG_INFINITY, f64::INFINITY), 1.0, false).len() < 102);
        assert!(marks((f64::NAN, 1.0), f64::NAN, true).len() < 102);
    }

    #[test]
    fn numbers_of_logarithms_are_short() {
        let texts = [0.05, 0.002, 1.0, 500.0, 25.0, 2e-4, 5e6].map(|v: f64| power_text(v.log10()));
        assert_eq!(texts, ["0.05", "0.002", "1", "500", "25", "2e-4", "5e6"]);
        assert_eq!(power_text(f64::NAN), "NaN");
    }

    #[test]
    fn sizes_have_round_numbers_at_any_scale() {
        let marks = |from: f64, to: f64| {
            let bounds = (from.log10(), to.log10());
            let input = GridInput { bounds, base_step_size: (bounds.1 - bounds.0) / 15.0 };
            log_marks(&input).iter().map(|m| 10f64.powf(m.value).round()).collect::<Vec<_>>()
        };
        assert_eq!(marks(3.0, 1500.0), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(marks(21.0, 47.0), [25.0, 30.0, 35.0, 40.0, 45.0]);
        let input = GridInput { bounds: (f64::NEG_INFINITY, f64::NAN), base_step_size: f64::NAN };
        assert!(log_marks(&input).len() < 102);
    }
}
