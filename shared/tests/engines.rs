//! The engines run the graph: the same maps as without a plan, and int8 close to float.

mod common;

#[cfg(feature = "std")]
use common::int8_maps_of;
use common::{Aligned, activations, float_maps, float_weights, frame, int8_maps, model_image};
use gsacp_core::Error;
use gsacp_core::engine::params::{FloatParams, float_params};
use gsacp_core::engine::{FloatEngine, Int8Engine};
use gsacp_core::graph::{Graph, HALF, Op, QUARTER, msda};
use gsacp_core::image::ModelImage;
use gsacp_core::kernels::conv::{Window, conv_f32};
#[cfg(all(target_arch = "x86_64", not(feature = "scalar")))]
use gsacp_core::kernels::{Level, limit};
use gsacp_core::kernels::{Map, MapMut, Shape, add, haar, max_pool, spatial_gate, squeeze_excite, upsample2};
use gsacp_core::plan::{Element, Plan, plan, plan_apart};

/// Runs the graph with a vector of its own for every map: no plan, no arena, concatenations by copying.
fn without_a_plan(graph: &Graph, h: usize, w: usize, weights: &[f32], input: &[f32]) -> Vec<Vec<f32>> {
    let mut maps: Vec<Vec<f32>> = Vec::new();
    let shape = |id: usize| {
        let node = &graph.nodes()[id];
        Shape::dense(h >> node.level, w >> node.level, node.channels.into())
    };
    for (id, (node, params)) in float_params(graph, weights).unwrap().enumerate() {
        let own = shape(id);
        let mut data = vec![0.0; own.pixels() * own.channels];
        let x = |k: usize| {
            let id = node.inputs()[k] as usize;
            Map::new(&maps[id], shape(id)).unwrap()
        };
        let out = MapMut::new(&mut data, own).unwrap();
        let mut scratch = vec![0.0; 100_000];
        match (node.op, params) {
            (Op::Input, _) => data.copy_from_slice(input),
            (Op::Conv(c), FloatParams::Conv { weight, bias }) => {
                let window = Window { kernel: c.kernel.into(), stride: c.stride.into(), dilation: c.dilation.into() };
                conv_f32(window, c.relu, x(0), weight, bias, out).unwrap();
            }
            (Op::HaarInject, _) => haar::haar_inject_f32(x(0), out).unwrap(),
            (Op::SpatialGate(_), FloatParams::SpatialGate(p)) => {
                spatial_gate::spatial_gate_f32(x(0), p, &mut scratch, out).unwrap();
            }
            (Op::SqueezeExcite { .. }, FloatParams::SqueezeExcite { reduce, expand }) => {
                squeeze_excite::squeeze_excite_f32(x(0), reduce, expand, &mut scratch, out).unwrap();
            }
            (Op::MaxPool { size }, _) => max_pool::max_pool(size.into(), x(0), out).unwrap(),
            (Op::Upsample2, _) => upsample2::upsample2_f32(x(0), out).unwrap(),
            (Op::Add { relu }, _) => add::add_f32(x(0), x(1), relu, out).unwrap(),
            (Op::Concat, _) => {
                for pixel in 0..own.pixels() {
                    let members = node.inputs().iter().flat_map(|&m| {
                        let c = graph.nodes()[m as usize].channels as usize;
                        maps[m as usize][pixel * c..(pixel + 1) * c].to_vec()
                    });
                    let members: Vec<f32> = members.collect();
                    data[pixel * own.channels..(pixel + 1) * own.channels].copy_from_slice(&members);
                }
            }
            other => panic!("{other:?}"),
        }
        maps.push(data);
    }
    maps
}

#[test]
fn the_arena_changes_no_value_of_any_map() {
    for (widths, channels, h, w) in [(QUARTER, 1, 96, 48), (QUARTER, 1, 16, 16), ([8, 16, 16, 16, 16], 3, 48, 16)] {
        let graph = msda(widths, channels);
        let plan = plan(&graph, h, w, Element::F32).unwrap();
        let (weights, input) = (float_weights(&graph, 7), frame(h, w, channels.into(), 3));
        let expected = without_a_plan(&graph, h, w, &weights, &input);
        let found = float_maps(&graph, &plan, &weights, &input);
        for ((node, found), expected) in graph.nodes().iter().zip(&found).zip(&expected) {
            assert!(found == expected, "{}", node.label);
        }
        assert!(expected.last().unwrap().iter().any(|&v| v != expected.last().unwrap()[0]));
    }
}

fn most_bands(graph: &Graph, plan: &Plan) -> u16 {
    (0..graph.nodes().len()).map(|id| plan.strip(id).bands).max().unwrap()
}

/// Sharing memory and running strips band by band changes no byte of any map.
#[test]
fn int8_maps_are_those_of_an_arena_in_which_nothing_is_shared() {
    for (widths, channels, h, w, seed) in
        [(QUARTER, 1, 128, 160, 1), (QUARTER, 1, 80, 16, 2), (HALF, 1, 64, 48, 3), (QUARTER, 1, 16, 32, 4)]
    {
        let graph = msda(widths, channels);
        let [shared, apart] = [plan, plan_apart].map(|plan| plan(&graph, h, w, Element::Int8).unwrap());
        assert_eq!((most_bands(&graph, &shared) > 1, most_bands(&graph, &apart)), (h > 16, 1));
        let image = model_image(&graph, seed);
        let quantisation = ModelImage::parse(image.bytes()).unwrap().input();
        let input: Vec<i8> =
            frame(h, w, channels.into(), seed).iter().map(|&grey| quantisation.quantise(grey)).collect();
        let [found, expected] = [&shared, &apart].map(|plan| int8_maps(&graph, plan, &image, &input));
        for ((node, found), expected) in graph.nodes().iter().zip(&found).zip(&expected) {
            assert!(found == expected, "{h}×{w}: {}", node.label);
        }
    }
}

/// Whole networks, strips in several bands among them, and maps whose rows do not halve.
#[cfg(feature = "std")]
#[test]
fn two_threads_give_the_bits_of_one() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for (widths, channels, h, w, seed) in
        [(QUARTER, 1, 128, 160, 1), (QUARTER, 1, 240, 112, 2), (HALF, 1, 80, 208, 3), (HALF, 3, 144, 48, 4)]
    {
        let graph = msda(widths, channels);
        let plan = plan(&graph, h, w, Element::Int8).unwrap();
        let image = model_image(&graph, seed);
        let quantisation = ModelImage::parse(image.bytes()).unwrap().input();
        let input: Vec<i8> =
            frame(h, w, channels.into(), seed).iter().map(|&grey| quantisation.quantise(grey)).collect();
        let expected = int8_maps(&graph, &plan, &image, &input);
        let found = pool.install(|| int8_maps_of(&graph, &plan, &image, &input, |engine| engine.on_two_threads()));
        for ((node, found), expected) in graph.nodes().iter().zip(&found).zip(&expected) {
            assert!(found == expected, "{h}×{w}: {}", node.label);
        }
    }
}

/// Every int8 map within a few of its own steps of the float map, on the frame that it was calibrated on.
/// Whatever the processor has: every map of the forms for AVX-512 VNNI and AVX2 is the plain kernels'.
#[cfg(all(target_arch = "x86_64", not(feature = "scalar")))]
#[test]
fn int8_maps_are_the_same_at_every_level() {
    for (widths, h, w, seed) in [(QUARTER, 80, 160, 1), (gsacp_core::graph::FULL, 48, 64, 2)] {
        let graph = msda(widths, 1);
        let plan = plan(&graph, h, w, Element::Int8).unwrap();
        let image = model_image(&graph, seed);
        let quantisation = ModelImage::parse(image.bytes()).unwrap().input();
        let input: Vec<i8> = frame(h, w, 1, seed).iter().map(|&grey| quantisation.quantise(grey)).collect();
        let [plain, avx2, vnni] = [Level::Any, Level::Avx2, Level::Vnni].map(|level| {
            assert!(limit(level) <= level);
            int8_maps(&graph, &plan, &image, &input)
        });
        for (id, node) in graph.nodes().iter().enumerate() {
            assert!(avx2[id] == plain[id] && vnni[id] == plain[id], "{h}×{w}: {}", node.label);
        }
    }
}

#[test]
fn int8_follows_float_through_every_layer() {
    for (widths, seed) in [(QUARTER, 1), (HALF, 2), (QUARTER, 3)] {
        let graph = msda(widths, 1);
        let image = model_image(&graph, seed);
        let floats = plan(&graph, 32, 48, Element::F32).unwrap();
        let input = frame(32, 48, 1, seed);
        let expected = float_maps(&graph, &floats, &float_weights(&graph, seed), &input);
        let scales = activations(&graph, &expected);

        let plan = plan(&graph, 32, 48, Element::Int8).unwrap();
        let quantisation = ModelImage::parse(image.bytes()).unwrap().input();
        let quantised: Vec<i8> = input.iter().map(|&v| quantisation.quantise(v)).collect();
        let maps = int8_maps(&graph, &plan, &image, &quantised);
        for (id, (node, map)) in graph.nodes().iter().zip(maps).enumerate() {
            let real = |q: &i16| scales[id].scale * (f32::from(*q) - scales[id].zero as f32);
            let found: Vec<f32> = map.iter().map(real).collect();
            let power: f32 = expected[id].iter().map(|v| v * v).sum();
            let error: f32 = found.iter().zip(&expected[id]).map(|(a, b)| (a - b) * (a - b)).sum();
            let ratio = (error / power).sqrt();
            println!("{:>3} {} {ratio:.4}", id, node.label);
            assert!(ratio < 0.12, "{}: relative error {ratio}", node.label);
        }
    }
}

#[test]
fn a_run_does_not_depend_on_what_the_arena_held() {
    let graph = msda(QUARTER, 1);
    let (image, plan) = (model_image(&graph, 5), plan(&graph, 32, 32, Element::Int8).unwrap());
    let parsed = ModelImage::parse(image.bytes()).unwrap();
    let input: Vec<i8> = (0..32 * 32).map(|i| (i * 37 % 251) as i8).collect();
    let run = |fill: i8| -> Vec<i16> {
        let mut arena = Aligned::zeroed(plan.arena_len);
        arena.i8s_mut().fill(fill);
        let mut engine = Int8Engine::new(&graph, &plan, parsed, arena.i8s_mut()).unwrap();
        let first = engine.run(&input).unwrap().to_vec();
        engine.input_mut().unwrap().copy_from_slice(&input);
        assert_eq!(engine.run_in_place().unwrap(), first);
        first
    };
    assert_eq!(run(0), run(-77));
}

#[test]
fn what_does_not_fit_is_refused_at_the_door() {
    let graph = msda(QUARTER, 1);
    let [floats, bytes]: [Plan; 2] = [Element::F32, Element::Int8].map(|e| plan(&graph, 16, 32, e).unwrap());
    let weights = float_weights(&graph, 1);
    let mut arena = vec![0.0; floats.arena_len];
    let wrong = |expected, found| Some(Error::WrongLength { expected, found });
    let len = floats.arena_len;
    assert_eq!(FloatEngine::new(&graph, &floats, &weights, &mut arena[1..]).err(), wrong(len, len - 1));
    assert_eq!(
        FloatEngine::new(&graph, &floats, &weights[2..], &mut arena).err(),
        wrong(weights.len(), weights.len() - 2)
    );
    assert_eq!(FloatEngine::new(&graph, &bytes, &weights, &mut arena).err(), Some(Error::WrongPlan));
    let mut engine = FloatEngine::new(&graph, &floats, &weights, &mut arena).unwrap();
    assert_eq!(engine.run(&[0.0; 511]).err(), wrong(512, 511));
    assert_eq!(engine.run(&[0.0; 512]).map(<[f32]>::len), Ok(512));

    let image = model_image(&graph, 1);
    let parsed = ModelImage::parse(image.bytes()).unwrap();
    let mut arena = Aligned::zeroed(bytes.arena_len + 16);
    let len = bytes.arena_len;
    assert_eq!(Int8Engine::new(&graph, &bytes, parsed, &mut arena.i8s_mut()[..len - 1]).err(), wrong(len, len - 1));
    assert_eq!(Int8Engine::new(&graph, &bytes, parsed, &mut arena.i8s_mut()[1..]).err(), Some(Error::Misaligned));
    assert_eq!(Int8Engine::new(&graph, &floats, parsed, arena.i8s_mut()).err(), Some(Error::WrongPlan));
    assert_eq!(Int8Engine::new(&msda(HALF, 1), &bytes, parsed, arena.i8s_mut()).err(), Some(Error::ImageGraph));
    let mut engine = Int8Engine::new(&graph, &bytes, parsed, arena.i8s_mut()).unwrap();
    assert_eq!(engine.run(&[0; 513]).err(), wrong(512, 513));
    assert_eq!(engine.run(&[0; 512]).map(<[i16]>::len), Ok(512));
}

/// A plan of another frame or graph must not be able to make an engine panic.
#[test]
fn a_plan_of_another_graph_gives_errors_or_numbers() {
    let (graph, other) = (msda(QUARTER, 1), msda(HALF, 3));
    let plan = plan(&other, 32, 32, Element::F32).unwrap();
    let weights = float_weights(&graph, 1);
    let mut arena = vec![0.0; plan.arena_len];
    let _ = FloatEngine::new(&graph, &plan, &weights, &mut arena).unwrap().run(&[0.0; 1024]);
    let _ = FloatEngine::new(&graph, &plan, &weights, &mut arena).unwrap().run(&[0.0; 3 * 1024]);
}
