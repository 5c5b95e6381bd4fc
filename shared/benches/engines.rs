//! One frame of 256×256 pixels through both engines on one thread: whole, and the share of every operation; and larger
//! frames through the int8 engine on one thread and on two.
//!
//! `cargo bench -p gsacp-core --features std --bench engines`, with a filter such as `quarter/int8` or `threads` behind
//! `--`; without the feature, which is for the second thread, all but `threads`. Weights are random: the time does not
//! depend on them. On x86-64 `avx2` and `plain` are the int8 engine as a processor without AVX-512 VNNI, and without AVX2,
//! runs it: `'(int8|avx2|plain)/frame'` is all three in one run.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Aligned, float_weights, frame, model_image};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use gsacp_core::engine::{FloatEngine, Int8Engine};
use gsacp_core::graph::{Conv, FULL, Graph, HALF, Op, QUARTER, msda};
use gsacp_core::image::ModelImage;
#[cfg(all(target_arch = "x86_64", not(feature = "scalar")))]
use gsacp_core::kernels::{Level, limit};
use gsacp_core::plan::{Element, plan};

const SIDE: usize = 256;
const NETWORKS: [(&str, [u16; 5]); 3] = [("quarter", QUARTER), ("half", HALF), ("full", FULL)];

type Kind = fn(Op) -> bool;
const OPERATIONS: [(&str, Kind); 9] = [
    ("conv 1x1", |op| matches!(op, Op::Conv(Conv { kernel: 1, .. }))),
    ("conv 3x3", |op| matches!(op, Op::Conv(Conv { kernel: 3, .. }))),
    ("conv 5x5", |op| matches!(op, Op::Conv(Conv { kernel: 5, .. }))),
    ("spatial gate", |op| matches!(op, Op::SpatialGate(_))),
    ("squeeze excite", |op| matches!(op, Op::SqueezeExcite { .. })),
    ("add", |op| matches!(op, Op::Add { .. })),
    ("max pool", |op| matches!(op, Op::MaxPool { .. })),
    ("upsample", |op| matches!(op, Op::Upsample2)),
    ("haar", |op| matches!(op, Op::HaarInject)),
];

/// Times `run`, which runs a frame and tells its argument of each node as soon as it is done: the frame and its
/// `operations`.
fn measure(
    group: &mut BenchmarkGroup<WallTime>,
    graph: &Graph,
    operations: &[(&str, Kind)],
    mut run: impl FnMut(&mut dyn FnMut(usize)),
) {
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.bench_function("frame", |b| b.iter(|| run(&mut |_| {})));
    for &(name, kind) in operations {
        group.bench_function(name, |b| {
            b.iter_custom(|frames| {
                let mut time = Duration::ZERO;
                for _ in 0..frames {
                    let mut last = Instant::now();
                    run(&mut |id| {
                        time += if kind(graph.nodes()[id].op) { last.elapsed() } else { Duration::ZERO };
                        last = Instant::now();
                    });
                }
                time
            });
        });
    }
}

fn float(criterion: &mut Criterion) {
    for (name, widths) in NETWORKS {
        let graph = msda(widths, 1);
        let plan = plan(&graph, SIDE, SIDE, Element::F32).expect("a multiple of 16");
        let (weights, input, mut arena) =
            (float_weights(&graph, 1), frame(SIDE, SIDE, 1, 1), vec![0.0; plan.arena_len]);
        let mut engine = FloatEngine::new(&graph, &plan, &weights, &mut arena).expect("weights of this graph");
        let mut group = criterion.benchmark_group(format!("{name}/f32"));
        measure(&mut group, &graph, &OPERATIONS, |done| {
            black_box(engine.run_with(&input, |id, _, _| done(id)).expect("a frame of this size"));
        });
        group.finish();
    }
}

fn int8(criterion: &mut Criterion) {
    engine(criterion, "int8", &OPERATIONS);
    #[cfg(all(target_arch = "x86_64", not(feature = "scalar")))]
    for (form, level, operations) in [("avx2", Level::Avx2, OPERATIONS.as_slice()), ("plain", Level::Any, &[])] {
        if limit(level) == level {
            engine(criterion, form, operations);
        }
        limit(Level::Vnni);
    }
}

fn engine(criterion: &mut Criterion, form: &str, operations: &[(&str, Kind)]) {
    for (name, widths) in NETWORKS {
        let graph = msda(widths, 1);
        let plan = plan(&graph, SIDE, SIDE, Element::Int8).expect("a multiple of 16");
        let bytes = model_image(&graph, 1);
        let image = ModelImage::parse(bytes.bytes()).expect("an image that was just written");
        let input: Vec<i8> = frame(SIDE, SIDE, 1, 1).iter().map(|&v| image.input().quantise(v)).collect();
        let mut arena = Aligned::zeroed(plan.arena_len);
        let mut engine = Int8Engine::new(&graph, &plan, image, arena.i8s_mut()).expect("an image of this graph");
        let mut group = criterion.benchmark_group(format!("{name}/{form}"));
        measure(&mut group, &graph, operations, |done| {
            black_box(engine.run_with(&input, |id, _, _| done(id)).expect("a frame of this size"));
        });
        group.finish();
    }
}

#[cfg(not(feature = "std"))]
fn threads(_: &mut Criterion) {}

#[cfg(feature = "std")]
fn threads(criterion: &mut Criterion) {
    for (name, widths, height, width) in [("half", HALF, 256, 320), ("full", FULL, 256, 256)] {
        let graph = msda(widths, 1);
        let plan = plan(&graph, height, width, Element::Int8).expect("multiples of 16");
        let bytes = model_image(&graph, 1);
        let image = ModelImage::parse(bytes.bytes()).expect("an image that was just written");
        let input: Vec<i8> = frame(height, width, 1, 1).iter().map(|&v| image.input().quantise(v)).collect();
        let mut arena = Aligned::zeroed(plan.arena_len);
        let engine = Int8Engine::new(&graph, &plan, image, arena.i8s_mut()).expect("an image of this graph");
        let mut engine = engine.on_two_threads();
        let mut group = criterion.benchmark_group(format!("threads/{name}/{width}x{height}"));
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("two threads");
            let mut run = || {
                black_box(engine.run(&input).expect("a frame of this size"));
            };
            group.bench_function(threads.to_string(), |b| pool.install(|| b.iter(&mut run)));
        }
        group.finish();
    }
}

criterion_group!(benches, int8, float, threads);
criterion_main!(benches);
