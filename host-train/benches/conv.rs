//! Convolution, forward and backward, in floating-point operations per second: ours beside candle's own, then every kind of layer of the
//! `quarter` network at batch 8 × 128². A multiply-accumulate counts as two operations, and a step as three passes (output, input's
//! gradient, weights' gradient), so that both implementations are measured by the same count.
//!
//! `cargo bench -p gsacp-train --bench conv`

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Result, Tensor, Var};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use gsacp_train::nn;

#[derive(Clone, Copy)]
struct Layer {
    name: &'static str,
    n: usize,
    ci: usize,
    co: usize,
    size: usize,
    k: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

const fn layer(name: &'static str, ci: usize, co: usize, size: usize, k: usize, dilation: usize) -> Layer {
    Layer { name, n: 8, ci, co, size, k, stride: 1, dilation, groups: 1 }
}

/// The layer by which candle and this project are compared.
const REFERENCE: Layer = Layer { n: 4, ..layer("4x32-32x3x3-128", 32, 32, 128, 3, 1) };

const QUARTER: [Layer; 16] = [
    layer("l1 4-4 1x1", 4, 4, 128, 1, 1),
    layer("l1 4-4 3x3", 4, 4, 128, 3, 1),
    layer("l1 4-4 3x3 d5", 4, 4, 128, 3, 5),
    layer("l1 4-4 5x5", 4, 4, 128, 5, 1),
    layer("l1 16-4 3x3", 16, 4, 128, 3, 1),
    layer("l1 8-8 3x3", 8, 8, 128, 3, 1),
    Layer { groups: 4, ..layer("l1 gate 8-4 7x7", 8, 4, 128, 7, 1) },
    layer("l2 8-8 1x1", 8, 8, 64, 1, 1),
    layer("l2 8-8 3x3", 8, 8, 64, 3, 1),
    layer("l2 32-8 3x3", 32, 8, 64, 3, 1),
    Layer { stride: 2, ..layer("l2 8-16 3x3 s2", 8, 16, 64, 3, 1) },
    layer("l3 16-16 3x3", 16, 16, 32, 3, 1),
    layer("l3 64-16 3x3", 64, 16, 32, 3, 1),
    Layer { groups: 4, ..layer("l3 gate 8-4 7x7", 8, 4, 32, 7, 1) },
    layer("l4 16-16 3x3", 16, 16, 16, 3, 1),
    layer("l5 64-16 3x3", 64, 16, 8, 3, 1),
];

impl Layer {
    fn operations(&self) -> u64 {
        let pixels = (self.size / self.stride).pow(2);
        let macs = self.n * pixels * self.co * self.ci / self.groups * self.k * self.k;
        6 * macs as u64
    }

    fn inputs(&self) -> Result<(Var, Var)> {
        let x = Tensor::rand(-1f32, 1.0, (self.n, self.ci, self.size, self.size), &Device::Cpu)?;
        let w = Tensor::rand(-1f32, 1.0, (self.co, self.ci / self.groups, self.k, self.k), &Device::Cpu)?;
        Ok((Var::from_tensor(&x)?, Var::from_tensor(&w)?))
    }
}

fn measure(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    layer: Layer,
    conv: impl Fn(&Tensor, &Tensor, &Layer) -> Result<Tensor>,
) {
    let (x, w) = layer.inputs().expect("random inputs");
    let step = || -> Result<_> { conv(x.as_tensor(), w.as_tensor(), &layer)?.backward() };
    group.throughput(Throughput::Elements(layer.operations()));
    group.bench_function(name, |b| b.iter(|| black_box(step().expect("one step"))));
}

fn ours(x: &Tensor, w: &Tensor, l: &Layer) -> Result<Tensor> {
    nn::conv2d(x, w, None, l.stride, l.dilation, l.groups, false)
}

fn candle(x: &Tensor, w: &Tensor, l: &Layer) -> Result<Tensor> {
    x.conv2d(w, l.dilation * (l.k - 1) / 2, l.stride, l.dilation, l.groups)
}

fn short<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    group
}

fn reference(c: &mut Criterion) {
    let mut group = short(c, REFERENCE.name);
    measure(&mut group, "ours", REFERENCE, ours);
    measure(&mut group, "candle", REFERENCE, candle);
    group.finish();
}

fn quarter(c: &mut Criterion) {
    let mut group = short(c, "quarter");
    for layer in QUARTER {
        measure(&mut group, layer.name, layer, ours);
    }
    group.finish();
}

criterion_group!(benches, reference, quarter);
criterion_main!(benches);
