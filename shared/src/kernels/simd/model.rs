//! The inner loops in plain Rust, in the layouts of every core: what the host's tests run the maps' code over.

use super::micro::{Cells, Micro, Run, ordered};

/// The layouts of [`super::helium`].
pub struct HeliumModel;
/// The layouts of [`super::dsp`].
pub struct DspModel;
/// The layouts of `neon`.
pub struct NeonModel;

macro_rules! model {
    ($name:ident, $tap:ty, $lanes:expr, $group:expr, $column:expr, $order:expr) => {
        impl Micro for $name {
            type Tap = $tap;
            const LANES: usize = $lanes;
            const GROUP: usize = $group;
            const COLUMN: usize = $column;
            const ORDER: [usize; 4] = $order;

            fn copy(cells: Cells, from: &[i8], to: &mut [$tap]) {
                let column = (cells.at + cells.channels).next_multiple_of($column);
                assert!(cells.fit(from.len(), to.len(), column), "{cells:?}");
                for (j, c) in (0..cells.count).flat_map(|j| (0..cells.channels).map(move |c| (j, c))) {
                    to[j * cells.to_step + ordered::<Self>(cells.at + c)] = from[j * cells.from_step + c].into();
                }
            }

            fn run(run: Run<$tap>, out: &mut [i8]) {
                assert!(run.fits(out.len(), $lanes, $group), "{run:?}");
                let [zero, low, high] = run.bounds.map(i64::from);
                for (pixel, channel) in (0..run.count).flat_map(|p| (0..run.channels).map(move |c| (p, c))) {
                    let mut sum = run.constants.bias[channel];
                    for t in 0..run.vectors * $lanes {
                        let weight = run.weights[(t / $lanes * $group + channel) * $lanes + t % $lanes];
                        sum += i32::from(run.patches[pixel * run.step + t]) * i32::from(weight);
                    }
                    let high_word = (i64::from(sum) * i64::from(run.constants.factor[channel])) >> 32;
                    let shift = run.constants.shift[channel];
                    let value = (high_word + (1 << (shift - 1))) >> shift;
                    out[pixel * run.out_step + channel] = (value + zero).clamp(low, high) as i8;
                }
            }
        }
    };
}

model!(HeliumModel, i8, 16, 4, 1, [0, 1, 2, 3]);
model!(DspModel, i16, 4, 2, 4, [0, 2, 1, 3]);
model!(NeonModel, i8, 4, 4, 1, [0, 1, 2, 3]);
