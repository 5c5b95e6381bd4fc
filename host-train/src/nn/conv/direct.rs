//! Direct convolution in single precision: the source is copied once into a zero-padded buffer, then every tap is a shifted read of it.
//!
//! The three passes are two loops. The output and the input's gradient are a *correlation*: the gradient is the correlation of g, spread out
//! by the stride, with the kernel turned by 180°. The weights' gradient is the *accumulation* of gradient times shifted source over
//! all pixels. Work is cut into (image, band of rows) by shape alone; a band's padded source fits the second cache.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::Shape;
use super::kernel::{self, Accumulation, BLOCK, Block, Correlation, Isa, Run};

/// f32 elements of padded source in a band: 256 KiB, a quarter to a half of a second-level cache.
const BAND: usize = 1 << 16;

/// Maps that are read as zero-padded planes with zeros between rows and columns.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// One image: `channels` planes of `h`×`w`.
    data: &'a [f32],
    channels: usize,
    h: usize,
    w: usize,
    /// Distance at which rows and columns lie in the full plane: the stride for a gradient, else 1.
    spread: usize,
}

/// Geometry of a correlation of padded planes with k×k taps.
#[derive(Clone, Copy)]
struct Window {
    k: usize,
    dilation: usize,
    padding: usize,
    /// Full-resolution columns without padding.
    columns: usize,
    /// Full-resolution pixels between outputs.
    step: usize,
}

impl Window {
    /// Row length of the padded buffer.
    fn pitch(&self) -> usize {
        self.columns + 2 * self.padding
    }

    /// Padded rows under the output rows `rows`.
    fn rows_under(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.step..(rows.end - 1) * self.step + (self.k - 1) * self.dilation + 1
    }

    /// Offsets of the taps of `channels` planes that lie `plane` apart, channel by channel in raster order.
    fn taps(&self, channels: usize, plane: usize) -> Vec<usize> {
        let kernel = (0..self.k).flat_map(|u| (0..self.k).map(move |v| (u, v)));
        (0..channels)
            .flat_map(|c| kernel.clone().map(move |(u, v)| (c, u, v)))
            .map(|(c, u, v)| c * plane + self.dilation * (u * self.pitch() + v))
            .collect()
    }
}

thread_local! {
    /// Padded sources and gradients of the band that this thread works on: kept, so that no band pays for fresh pages.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Writes the padded rows `rows` of every channel to `to`, with a vector's worth of slack behind them.
fn pad(source: &Source, window: &Window, rows: Range<usize>, slack: usize, to: &mut Vec<f32>) {
    let (pitch, p) = (window.pitch(), window.padding);
    let len = source.channels * rows.len() * pitch + slack;
    if to.len() < len {
        to.resize(len, 0.0);
    }
    // Lanes that overhang the last row read the slack; stale values there could be NaN, which a zero gradient would not silence.
    to[len - slack..len].fill(0.0);
    let mut lines = to.chunks_exact_mut(pitch);
    for channel in source.data.chunks_exact(source.h * source.w).take(source.channels) {
        for (row, line) in rows.clone().zip(&mut lines) {
            let y = row.wrapping_sub(p);
            if y < source.h * source.spread && y.is_multiple_of(source.spread) {
                let from = &channel[y / source.spread * source.w..][..source.w];
                line[..p].fill(0.0);
                spread_row(from, source.spread, &mut line[p..p + window.columns]);
                line[p + window.columns..].fill(0.0);
            } else {
                line.fill(0.0);
            }
        }
    }
}

/// `to[i·spread] = from[i]`, zero elsewhere.
fn spread_row(from: &[f32], spread: usize, to: &mut [f32]) {
    if spread == 1 {
        to.copy_from_slice(from);
        return;
    }
    to.fill(0.0);
    for (to, from) in to.iter_mut().step_by(spread).zip(from) {
        *to = *from;
    }
}

/// Cuts `rows` output rows into bands whose padded source has about [`BAND`] elements.
fn bands(rows: usize, row_elements: usize, halo: usize) -> Vec<Range<usize>> {
    let most = (BAND / row_elements).saturating_sub(halo).max(8).min(rows);
    let count = rows.div_ceil(most);
    (0..count).map(|b| rows * b / count..rows * (b + 1) / count).collect()
}

/// Blocks of output channels, group by group; sources of a group lie `group_source` apart.
fn blocks(outputs: usize, groups: usize, group_source: usize) -> Vec<Block> {
    let per_group = outputs / groups;
    (0..groups)
        .flat_map(|g| (0..per_group).step_by(BLOCK).map(move |o| (g, o)))
        .map(|(g, o)| Block { first: g * per_group + o, count: BLOCK.min(per_group - o), source: g * group_source })
        .collect()
}

/// Weights in the order of the inner loop: block, tap, channel of the block; `weight(output, tap of the group)`.
fn arrange(blocks: &[Block], taps: usize, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut arranged = Vec::with_capacity(blocks.iter().map(|b| b.count * taps).sum());
    for block in blocks {
        for tap in 0..taps {
            arranged.extend((block.first..block.first + block.count).map(|o| weight(o, tap)));
        }
    }
    arranged
}

/// Vectors over output rows `rows` of `ow` outputs, the last of a row drawn back so that it stays inside if the row is long enough.
fn runs(rows: Range<usize>, ow: usize, lanes: usize, window: &Window) -> Vec<Run> {
    let per = lanes.div_ceil(window.step);
    let mut runs = Vec::with_capacity(rows.len() * ow.div_ceil(per));
    for i in 0..rows.len() {
        for x in (0..ow).step_by(per) {
            let x = x.min(ow.saturating_sub(per));
            let source = (i * window.pitch() + x) * window.step;
            runs.push(Run { source, target: i * ow + x, count: per.min(ow - x) });
        }
    }
    runs
}

/// The correlation of `n` images of `source` (the first of which it shows) with taps `window`: [n, outputs, oh, ow].
#[allow(clippy::too_many_arguments)]
fn correlate(
    isa: Isa,
    n: usize,
    images: &[f32],
    source: Source,
    window: Window,
    (outputs, oh, ow): (usize, usize, usize),
    groups: usize,
    weight: impl Fn(usize, usize) -> f32,
    bias: Option<&[f32]>,
    floor: f32,
) -> Vec<f32> {
    let group_channels = source.channels / groups;
    let image = source.channels * source.h * source.w;
    let mut y = vec![0f32; n * outputs * oh * ow];
    // A 1×1 convolution reads the image as it lies: rows of one vector, nothing to pad.
    let lanes = isa.lanes();
    let plain = window.k == 1 && window.step == 1 && source.spread == 1 && (oh * ow).is_multiple_of(lanes);
    let (rows, width) = if plain { (oh * ow / lanes, lanes) } else { (oh, ow) };
    let window = if plain { Window { columns: lanes, ..window } } else { window };
    let bands = bands(rows, source.channels * window.pitch(), (window.k - 1) * window.dilation);
    let arranged = arrange(&blocks(outputs, groups, 0), group_channels * window.k * window.k, weight);

    // One task per image and band, with the band's slice of every output channel.
    let mut tasks: Vec<(usize, usize, Vec<&mut [f32]>)> =
        (0..n * bands.len()).map(|i| (i / bands.len(), i % bands.len(), Vec::with_capacity(outputs))).collect();
    for (i, mut plane) in y.chunks_exact_mut(oh * ow).enumerate() {
        for (b, rows) in bands.iter().enumerate() {
            let (band, rest) = plane.split_at_mut(rows.len() * width);
            tasks[i / outputs * bands.len() + b].2.push(band);
            plane = rest;
        }
    }
    tasks.into_par_iter().for_each(|(n, b, mut out)| {
        let rows = bands[b].clone();
        let source = Source { data: &images[n * image..][..image], ..source };
        let runs = runs(rows.clone(), width, lanes, &window);
        let mut run = |data: &[f32], plane: usize| {
            let (taps, blocks) = (window.taps(group_channels, plane), blocks(outputs, groups, group_channels * plane));
            let job = Correlation {
                source: data,
                taps: &taps,
                blocks: &blocks,
                runs: &runs,
                step: window.step,
                weights: &arranged,
                bias,
                floor,
            };
            kernel::correlate(isa, &job, &mut out);
        };
        if plain {
            run(&source.data[rows.start * lanes..], oh * ow);
        } else {
            SCRATCH.with_borrow_mut(|[padded, _]| {
                let under = window.rows_under(&rows);
                pad(&source, &window, under.clone(), 2 * lanes * window.step, padded);
                run(padded, under.len() * window.pitch());
            });
        }
    });
    y
}

/// y = conv(x) + b, clipped at zero if `relu`.
pub(super) fn forward(isa: Isa, s: &Shape, x: &[f32], w: &[f32], b: Option<&[f32]>, relu: bool) -> Vec<f32> {
    let taps = s.ci / s.groups * s.k * s.k;
    let source = Source { data: x, channels: s.ci, h: s.h, w: s.w, spread: 1 };
    let (window, out, weight) = (input_window(s), (s.co, s.oh(), s.ow()), |o, t| w[o * taps + t]);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    correlate(isa, s.n, x, source, window, out, s.groups, weight, b, floor)
}

fn input_window(s: &Shape) -> Window {
    Window { k: s.k, dilation: s.dilation, padding: s.padding(), columns: s.w, step: s.stride }
}

/// ∂L/∂x from g = ∂L/∂y.
pub(super) fn input_gradient(isa: Isa, s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    let (group_in, group_out, area) = (s.ci / s.groups, s.co / s.groups, s.k * s.k);
    let source = Source { data: g, channels: s.co, h: s.oh(), w: s.ow(), spread: s.stride };
    let weight = |c: usize, tap: usize| {
        let o = c / group_in * group_out + tap / area;
        w[(o * group_in + c % group_in) * area + area - 1 - tap % area]
    };
    let window = Window { step: 1, ..input_window(s) };
    correlate(isa, s.n, g, source, window, (s.ci, s.h, s.w), s.groups, weight, None, f32::NEG_INFINITY)
}

/// Vectors below which a task takes more than one image: else summing up the lanes would cost as much as filling them.
const TASK: usize = 256;

/// ∂L/∂w from g = ∂L/∂y.
pub(super) fn weight_gradient(isa: Isa, s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (group_in, lanes) = (s.ci / s.groups, isa.lanes());
    let (oh, ow, taps) = (s.oh(), s.ow(), group_in * s.k * s.k);
    let plain_source = s.k == 1 && s.stride == 1 && (oh * ow).is_multiple_of(lanes);
    let plain_gradient = s.stride == 1 && (plain_source || ow.is_multiple_of(lanes));
    let (rows, width) = if plain_source { (oh * ow / lanes, lanes) } else { (oh, ow) };
    // Outputs of a stride stay apart: the gradient is spread along the row instead, and only rows with outputs are visited.
    let window = Window { columns: if plain_source { lanes } else { s.w }, ..input_window(s) };
    let vectors = ((width - 1) * s.stride + 1).div_ceil(lanes);
    let bands = bands(rows, s.ci * window.pitch(), (s.k - 1) * s.dilation);
    let images = TASK.div_ceil(rows * vectors).clamp(1, s.n.div_ceil(4));
    let tasks: Vec<(Range<usize>, Range<usize>)> = (0..s.n)
        .step_by(images)
        .flat_map(|n| bands.iter().map(move |rows| (n..(n + images).min(s.n), rows.clone())))
        .collect();

    let partial = |(ns, rows): &(Range<usize>, Range<usize>)| {
        let under = window.rows_under(rows);
        let plane = if plain_source { oh * ow } else { under.len() * window.pitch() };
        let (offsets, blocks) = (window.taps(group_in, plane), blocks(s.co, s.groups, group_in * plane));
        let runs: Vec<Run> = (0..rows.len() * vectors)
            .map(|i| (i / vectors, i % vectors * lanes))
            .map(|(i, x)| Run {
                source: i * s.stride * window.pitch() + x,
                target: if plain_gradient { i * width + x } else { i * vectors * lanes + x },
                count: lanes,
            })
            .collect();
        let mut sums = vec![0f32; s.co * taps * lanes];
        SCRATCH.with_borrow_mut(|[padded, spread]| {
            for n in ns.clone() {
                let source = Source {
                    data: &x[n * s.ci * s.h * s.w..][..s.ci * s.h * s.w],
                    channels: s.ci,
                    h: s.h,
                    w: s.w,
                    spread: 1,
                };
                let data = if plain_source {
                    &source.data[rows.start * lanes..]
                } else {
                    pad(&source, &window, under.clone(), 2 * lanes, padded);
                    &padded[..]
                };
                let g = &g[n * s.co * oh * ow..][..s.co * oh * ow];
                let (gradient, plane) = if plain_gradient {
                    (&g[rows.start * width..], oh * ow)
                } else {
                    let pitch = vectors * lanes;
                    spread.resize((s.co * rows.len() * pitch).max(spread.len()), 0.0);
                    let lines = g.chunks_exact(ow).enumerate().filter(|(i, _)| rows.contains(&(i % oh)));
                    for (to, (_, from)) in spread.chunks_exact_mut(pitch).zip(lines) {
                        spread_row(from, s.stride, &mut to[..(ow - 1) * s.stride + 1]);
                        to[(ow - 1) * s.stride + 1..].fill(0.0);
                    }
                    (&spread[..], rows.len() * pitch)
                };
                let job = Accumulation { source: data, taps: &offsets, blocks: &blocks, runs: &runs, gradient, plane };
                kernel::accumulate(isa, &job, &mut sums);
            }
        });
        let mut totals = vec![0f32; s.co * taps];
        kernel::reduce(isa, &sums, &mut totals);
        totals
    };
    let partials: Vec<Vec<f32>> = tasks.par_iter().map(partial).collect();
    let mut arranged = vec![0f32; s.co * taps];
    for partial in partials {
        for (sum, p) in arranged.iter_mut().zip(partial) {
            *sum += p;
        }
    }
    let mut dw = vec![0f32; s.co * taps];
    let mut arranged = arranged.into_iter();
    for block in blocks(s.co, s.groups, 0) {
        for tap in 0..taps {
            for (o, v) in (block.first..block.first + block.count).zip(&mut arranged) {
                dw[o * taps + tap] = v;
            }
        }
    }
    dw
}
