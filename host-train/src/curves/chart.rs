//! A chart as SVG: lines over epochs on linear axes, without a script or a font of its own.

use std::fmt::Write as _;

/// Size of a chart in CSS pixels.
const SIZE: (f64, f64) = (460.0, 260.0);
/// Left, right, top and bottom margins around the plot.
const MARGIN: (f64, f64, f64, f64) = (56.0, 12.0, 10.0, 30.0);

/// Colours that are told apart with any colour vision (Okabe and Ito); the ninth line is the first colour, dashed.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"];

/// `stroke` attributes of line `index`.
pub fn stroke(index: usize) -> String {
    let dash = match index / COLOURS.len() {
        0 => "",
        1 => " stroke-dasharray=\"6 3\"",
        _ => " stroke-dasharray=\"2 3\"",
    };
    format!("stroke=\"{}\"{dash}", COLOURS[index % COLOURS.len()])
}

/// A linear axis from `from` to `to` in steps of `step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// First tick.
    pub from: f64,
    /// Last tick.
    pub to: f64,
    /// Between ticks: 1, 2 or 5 times a power of ten.
    pub step: f64,
}

impl Axis {
    /// About four ticks that hold all `values`; 0 to 1 without a finite one.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Self { from: 0.0, to: 1.0, step: 0.5 };
        }
        let span = if high > low { high - low } else { high.abs().max(1e-6) };
        let power = 10f64.powf((span / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|&step| step * 4.0 >= span * (1.0 - 1e-9));
        let step = step.unwrap_or(10.0 * power);
        let (from, to) = ((low / step).floor() * step, (high / step).ceil() * step);
        Self { from, to: if to > from { to } else { from + step }, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let Self { from, step, .. } = *self;
        (0..=((self.to - from) / step).round() as usize).map(move |tick| from + tick as f64 * step)
    }

    /// Digits after the point that tell ticks apart.
    fn digits(&self) -> usize {
        (-self.step.log10().floor()).max(0.0) as usize
    }

    /// 0 at `from`, 1 at `to`.
    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }
}

/// The lines as an SVG element; line `index` has [`stroke`] `index`, and one without points is left out.
pub fn svg(title: &str, lines: &[&[(f64, f64)]]) -> String {
    let all = || lines.iter().flat_map(|line| line.iter()).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (x, y) = (Axis::of(all().map(|point| point.0)), Axis::of(all().map(|point| point.1)));
    let ((width, height), (left, right, top, bottom)) = (SIZE, MARGIN);
    let across = |value: f64| left + x.share(value) * (width - left - right);
    let down = |value: f64| top + (1.0 - y.share(value)) * (height - top - bottom);
    let mut out = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title} over epochs\">\n"
    );
    for tick in y.ticks() {
        let (at, end) = (down(tick), width - right);
        let _ = writeln!(out, "<path d=\"M{left} {at:.1}H{end}\" class=\"grid\"/>");
        let label = format!("{tick:.*}", y.digits());
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", left - 6.0, at + 4.0);
    }
    for tick in x.ticks().filter(|tick| tick.fract() == 0.0) {
        let (at, foot) = (across(tick), height - 12.0);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{foot}\" text-anchor=\"middle\">{tick:.0}</text>");
    }
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            line.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).map(|&(x, y)| (across(x), down(y))).collect();
        let stroke = stroke(index);
        if let [(x, y)] = points[..] {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"none\" {stroke}/>");
        } else if !points.is_empty() {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" {stroke}/>", path.join(" "));
        }
    }
    if all().next().is_none() {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">not measured</text>",
            width / 2.0,
            height / 2.0
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_that_hold_the_values() {
        for (values, from, to, step) in [
            (vec![1.0, 20.0], 0.0, 20.0, 5.0),
            (vec![0.03, 0.11], 0.02, 0.12, 0.02),
            (vec![-1.0, 1.0], -1.0, 1.0, 0.5),
            (vec![f64::NAN, 3.0], 3.0, 4.0, 1.0),
            (vec![], 0.0, 1.0, 0.5),
        ] {
            let axis = Axis::of(values.iter().copied());
            for (value, expected) in [(axis.from, from), (axis.to, to), (axis.step, step)] {
                assert!((value - expected).abs() < 1e-9, "{values:?}: {axis:?}");
            }
        }
        assert_eq!(Axis { from: 0.02, to: 0.12, step: 0.02 }.digits(), 2);
    }

    #[test]
    fn a_line_runs_from_corner_to_corner_of_its_plot() {
        let drawn = svg("mIoU", &[&[(0.0, 0.0), (4.0, 1.0)], &[], &[(2.0, 0.5)]]);
        // The plot is 56…448 across and 10…230 down.
        assert!(drawn.contains("points=\"56.0,230.0 448.0,10.0\""), "{drawn}");
        assert!(drawn.contains("cx=\"252.0\" cy=\"120.0\""), "{drawn}");
        assert_eq!(drawn.matches("<polyline").count(), 1);
        assert!(drawn.contains(">0.5</text>") && drawn.contains(">4</text>"), "{drawn}");
    }

    #[test]
    fn nothing_to_draw_is_said_and_what_is_not_finite_is_left_out() {
        assert!(svg("x", &[&[]]).contains("not measured"));
        let drawn = svg("x", &[&[(1.0, f64::NAN), (1.0, 2.0), (2.0, 3.0), (3.0, f64::INFINITY)]]);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf") && drawn.matches(',').count() == 2, "{drawn}");
    }

    #[test]
    fn lines_are_told_apart_beyond_the_colours() {
        let strokes: std::collections::HashSet<String> = (0..24).map(stroke).collect();
        assert_eq!(strokes.len(), 24);
    }
}
