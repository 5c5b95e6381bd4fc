//! The kernels by themselves: each fast form against its plain twin over random layers, and instructions by shape.
use core::num::NonZeroU32;

use gsacp_core::kernels::add::add_int8;
use gsacp_core::kernels::conv::{Window, conv_int8, conv_plain, output_size, scratch_len};
use gsacp_core::kernels::dot::Tap;
use gsacp_core::kernels::{Map, MapMut, Shape};
use gsacp_core::quant::{ConvChannel, Multiplier, MultiplierPair, Output};
use gsacp_edge::Clock;

use crate::clock::InstructionClock;
use crate::memory::Once;
use crate::semihosting::{Outcome, exit};

/// Random layers that are compared, of each operation.
const LAYERS: u32 = 200;
/// Height, width, input and output channels, kernel, dilation: what the network's convolutions are made of, and two
/// wide ones, as CMSIS-NN was measured on them.
const SHAPES: [[usize; 6]; 11] = [
    [128, 160, 4, 4, 3, 1],
    [128, 160, 4, 4, 5, 1],
    [64, 80, 8, 8, 3, 1],
    [64, 80, 8, 8, 3, 3],
    [64, 80, 8, 8, 3, 5],
    [32, 40, 16, 16, 3, 1],
    [32, 40, 64, 16, 3, 1],
    [64, 64, 64, 64, 3, 1],
    [64, 64, 64, 64, 1, 1],
    [64, 80, 8, 8, 1, 1],
    [128, 160, 16, 4, 3, 1],
];
const MAP: usize = 128 * 160 * 16;
const WEIGHTS: usize = 64 * 64 * 9;
const CHANNELS: usize = 64;
/// More than the widest of these layers asks for.
const SCRATCH: usize = scratch_len(3, CHANNELS) + scratch_len(5, 32);

#[repr(C, align(16))]
struct Memory {
    scratch: [i8; SCRATCH],
    input: [i8; MAP],
    output: [i8; MAP],
    weights: [i8; WEIGHTS],
    channels: [ConvChannel; CHANNELS],
}

static MEMORY: Once<Memory> = Once::new(Memory {
    scratch: [0; SCRATCH],
    input: [0; MAP],
    output: [0; MAP],
    weights: [0; WEIGHTS],
    // All zero, so that nothing of it is stored in flash.
    channels: [ConvChannel { bias: 0, scale: Multiplier { m: 0, shift: 0 } }; CHANNELS],
});

/// Compares and measures everything, then ends the emulation; a failure where a shape is refused.
pub fn run_kernels(core_mhz: NonZeroU32) -> ! {
    let done = MEMORY.take().and_then(|memory| {
        let clock = InstructionClock::start(cortex_m::Peripherals::take()?.SYST, core_mhz);
        compare(memory)?;
        SHAPES.iter().try_for_each(|&shape| measure(shape, memory, &clock))
    });
    match done {
        Some(()) => exit(Outcome::Success),
        None => exit(Outcome::Failure),
    }
}

/// A splitmix64 stream.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in low..=high.
    fn within(&mut self, low: i32, high: i32) -> i32 {
        low.wrapping_add(((self.next() >> 33).wrapping_mul(high.wrapping_sub(low) as u64 + 1) >> 31) as i32)
    }

    fn size(&mut self, low: i32, high: i32) -> usize {
        self.within(low, high) as usize
    }

    fn fill(&mut self, values: &mut [i8]) {
        values.iter_mut().for_each(|v| *v = self.next() as i8);
    }

    /// Mostly factors that leave some values unsaturated; every fourth is any that is valid.
    fn multiplier(&mut self, taps: usize) -> Multiplier {
        let wild = self.next().is_multiple_of(4);
        let m = self.within(if wild { 0 } else { 1 << 30 }, i32::MAX);
        let usual = 37 + taps.checked_ilog2().unwrap_or(0);
        Multiplier { m, shift: if wild { self.within(1, 62) as u32 } else { usual } }
    }
}

/// Reports how many random layers were compared and how many differed.
fn compare(memory: &mut Memory) -> Option<()> {
    let mut stream = Stream(1);
    let mut different = [0u32; 3];
    for _ in 0..LAYERS {
        different[0] += u32::from(!same_convolution(&mut stream, memory)?);
        different[1] += u32::from(!same_sum(&mut stream, memory)?);
        different[2] += u32::from(!same_dots(&mut stream));
    }
    let [conv, add, dots] = different;
    defmt::info!("compared layers={=u32} conv={=u32} add={=u32} dots={=u32}", LAYERS, conv, add, dots);
    Some(())
}

// Not inlined, like the two below: the kernels' buffers on the stack would add up.
#[inline(never)]
fn same_convolution(stream: &mut Stream, memory: &mut Memory) -> Option<bool> {
    let window = match stream.within(0, 5) {
        0 => Window { kernel: 1, stride: 1, dilation: 1 },
        1 => Window { kernel: 3, stride: 2, dilation: 1 },
        2 => Window { kernel: 3, stride: 1, dilation: stream.size(2, 5) },
        3 => Window { kernel: 5, stride: stream.size(1, 2), dilation: 1 },
        _ => Window { kernel: 3, stride: 1, dilation: 1 },
    };
    let mut channels = || if stream.next().is_multiple_of(2) { 4 * stream.size(1, 8) } else { stream.size(1, 20) };
    let (inputs, outputs) = (channels(), channels());
    let (height, width) = (stream.size(1, 16), stream.size(1, 40));
    let from = Shape { height, width, channels: inputs, stride: inputs + stream.size(0, 2) };
    let stride = outputs + stream.size(0, 2);
    let (height, width) = (output_size(height, window.stride), output_size(width, window.stride));
    let to = Shape { height, width, channels: outputs, stride };

    let taps = window.kernel * window.kernel * inputs;
    let Memory { input, output, weights, channels, scratch } = memory;
    let (weights, channels) = (weights.get_mut(..outputs * taps)?, channels.get_mut(..outputs)?);
    let scratch = scratch.get_mut(..scratch_len(window.kernel, inputs))?;
    let input = input.get_mut(..from.extent()?)?;
    let (fast, plain) = output.split_at_mut_checked(MAP / 2)?;
    let (fast, plain) = (fast.get_mut(..to.extent()?)?, plain.get_mut(..to.extent()?)?);
    stream.fill(input);
    stream.fill(weights);
    weights.iter_mut().for_each(|w| *w = (*w).max(-127));
    for channel in channels.iter_mut() {
        *channel = ConvChannel { bias: stream.within(-20_000, 20_000), scale: stream.multiplier(taps) };
    }
    fast.fill(99);
    plain.fill(99);
    let zero = stream.next() as i8;
    let place = Output::int8(stream.within(-128, 127), stream.next().is_multiple_of(2));
    let map = Map::new(input, from).ok()?;
    let (fast_map, plain_map) = (MapMut::new(fast, to).ok()?, MapMut::new(plain, to).ok()?);
    conv_int8(window, map, zero, weights, channels, place, scratch, fast_map).ok()?;
    conv_plain(window, map, zero, weights, channels, place, scratch, plain_map).ok()?;
    Some(fast == plain)
}

#[inline(never)]
fn same_sum(stream: &mut Stream, memory: &mut Memory) -> Option<bool> {
    let (width, channels) = (stream.size(1, 40), stream.size(1, 20));
    let mut shape = || Shape { height: 2, width, channels, stride: channels + stream.size(0, 1) * stream.size(0, 2) };
    let shapes = [shape(), shape(), shape()];
    let scale = MultiplierPair {
        first: stream.within(0, i32::MAX),
        second: stream.within(0, i32::MAX),
        shift: if stream.next().is_multiple_of(4) { stream.within(1, 48) } else { stream.within(30, 33) } as u32,
    };
    let zeros = [stream.within(-128, 127), stream.within(-128, 127)];
    let place = Output::int8(stream.within(-128, 127), stream.next().is_multiple_of(2));
    let (a, b) = memory.input.split_at_mut_checked(MAP / 2)?;
    let (a, b) = (a.get_mut(..shapes[0].extent()?)?, b.get_mut(..shapes[1].extent()?)?);
    let output = memory.output.get_mut(..shapes[2].extent()?)?;
    stream.fill(a);
    stream.fill(b);
    output.fill(99);
    let (a, b) = (Map::new(a, shapes[0]).ok()?, Map::new(b, shapes[1]).ok()?);
    add_int8(a, b, zeros, scale, place, MapMut::new(output, shapes[2]).ok()?).ok()?;
    let sums = a.pixels().zip(b.pixels()).map(|(a, b)| a.iter().zip(b));
    let mut all = true;
    let gaps = shapes[2].stride - channels;
    let mut found = output.iter();
    for sums in sums {
        for (&a, &b) in sums {
            let sum = scale.apply(i32::from(a).wrapping_sub(zeros[0]), i32::from(b).wrapping_sub(zeros[1]));
            all &= found.next().is_some_and(|&found| i32::from(found) == place.place(sum));
        }
        all &= found.by_ref().take(gaps).all(|&gap| gap == 99);
    }
    Some(all)
}

fn same_dots(stream: &mut Stream) -> bool {
    let (mut patches, mut row) = ([0i16; 300], [0i16; 64]);
    patches.iter_mut().for_each(|v| *v = stream.next() as i16 >> 1);
    row.iter_mut().take(49).for_each(|v| *v = i16::from(stream.next() as i8));
    let (mut sums, count, start) = ([7i32; 33], stream.size(0, 33), stream.size(0, 5));
    let patches = patches.get(start..).unwrap_or_default();
    if let Some(sums) = sums.get_mut(..count) {
        i16::dots(patches, 7, &row, sums);
    }
    sums.iter().enumerate().all(|(i, &sum)| {
        let taps = patches.iter().skip(7 * i).zip(&row).map(|(&a, &b)| i32::from(a) * i32::from(b));
        sum == if i < count { taps.fold(0i32, i32::wrapping_add) } else { 7 }
    })
}

#[inline(never)]
fn measure(shape: [usize; 6], memory: &mut Memory, clock: &InstructionClock) -> Option<()> {
    let [height, width, inputs, outputs, kernel, dilation] = shape;
    let (from, to) = (Shape::dense(height, width, inputs), Shape::dense(height, width, outputs));
    let taps = kernel * kernel * inputs;
    let Memory { input, output, weights, channels, scratch } = memory;
    let (weights, channels) = (weights.get_mut(..outputs * taps)?, channels.get_mut(..outputs)?);
    let scratch = scratch.get_mut(..scratch_len(kernel, inputs))?;
    channels.fill(ConvChannel { bias: 100, scale: Multiplier { m: 1 << 30, shift: 40 } });
    let (map, out) = (Map::new(input, from).ok()?, MapMut::new(output, to).ok()?);
    let window = Window { kernel, stride: 1, dilation };
    let started = clock.now();
    conv_int8(window, map, 3, weights, channels, Output::int8(-5, true), scratch, out).ok()?;
    let instructions = clock.now().saturating_sub(started);
    defmt::info!(
        "shape height={=usize} width={=usize} inputs={=usize} outputs={=usize} kernel={=usize} dilation={=usize} instructions={=u64}",
        height,
        width,
        inputs,
        outputs,
        kernel,
        dilation,
        instructions
    );
    Some(())
}
