//! Promise: one graph, whoever walks it. Candle, the float engine and the reference agree.

use gsacp_core::engine::FloatEngine;
use gsacp_core::graph::{FULL, HALF, QUARTER, msda};
use gsacp_core::plan::{Element, plan};
use gsacp_tests::{noise, settled};
use gsacp_train::model::{Mode, StateDict};
use gsacp_train::{export, reference};

#[test]
fn candle_and_the_float_engine_are_the_reference_map_by_map() {
    let Some(folder) = gsacp_tests::or_say_skipped(xtask::repository::fixtures().unwrap(), "the reference's fixtures")
    else {
        return;
    };
    let state = StateDict::read(&folder.join("msda_state.safetensors")).unwrap();
    let io = StateDict::read(&folder.join("msda_io_64.safetensors")).unwrap();
    let rows = reference::compare(&state, &io).unwrap();
    assert_eq!(rows.len(), io.tensors.len(), "every tensor of the file is compared");
    for row in rows {
        assert!(row.candle <= 1e-3 && row.engine <= 1e-3, "{row:?}");
    }
}

/// The comparison itself must be able to fail: one weight is moved.
#[test]
fn a_wrong_weight_is_seen_by_the_comparison() {
    let graph = msda(QUARTER, 1);
    let model = settled(&graph, 5);
    let input = noise(1, 1, 32, 48, 6);
    let mut io = StateDict::default();
    io.tensors.insert("input".into(), input.clone());
    io.tensors.insert("logits".into(), model.forward(&input, Mode::Eval).unwrap().logits);
    let mut state = model.state().unwrap();
    let worst =
        |state: &StateDict| reference::compare(state, &io).unwrap().iter().map(|r| r.engine).fold(0.0, f32::max);
    assert!(worst(&state) <= 1e-3, "{}", worst(&state));
    let name = "mlcl2.branch1.1.conv.weight";
    let moved = (&state.tensors[name] * 1.5).unwrap();
    state.tensors.insert(name.into(), moved);
    assert!(worst(&state) > 1e-3);
}

#[test]
fn a_map_of_another_name_or_shape_is_an_error_that_names_it() {
    let graph = msda(QUARTER, 1);
    let state = settled(&graph, 5).state().unwrap();
    for (name, tensor) in [("stage.nothing", noise(1, 1, 32, 48, 0)), ("logits", noise(1, 1, 16, 16, 0))] {
        let mut io = StateDict::default();
        io.tensors.insert("input".into(), noise(1, 1, 32, 48, 6));
        io.tensors.insert(name.into(), tensor);
        assert!(format!("{:#}", reference::compare(&state, &io).unwrap_err()).contains(name));
    }
}

#[test]
fn the_float_engine_gives_candles_logits_for_every_width_channel_count_and_size() {
    for (widths, channels, height, width) in
        [(QUARTER, 1, 128, 160), (HALF, 1, 48, 80), (HALF, 3, 32, 16), (FULL, 1, 64, 48)]
    {
        let graph = msda(widths, channels);
        let model = settled(&graph, 1);
        let x = noise(1, usize::from(channels), height, width, 2);
        let candle = model.forward(&x, Mode::Eval).unwrap().logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();

        let weights = export::flatten(&export::fold(&model.state().unwrap(), &graph).unwrap());
        let plan = plan(&graph, height, width, Element::F32).unwrap();
        let mut arena = vec![f32::NAN; plan.arena_len];
        let frame = x.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut engine = FloatEngine::new(&graph, &plan, &weights, &mut arena).unwrap();
        let first = engine.run(&frame).unwrap().to_vec();
        let scale = candle.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in first.iter().zip(&candle).enumerate() {
            // Winograd's transforms round more than a direct sum: 3e-4 of the largest logit was seen, 4e-6 without them.
            assert!((a - b).abs() <= 5e-4 * scale, "{widths:?}×{channels}, {width}×{height}, logit {i}: {a} and {b}");
        }
        assert_eq!(engine.run(&frame).unwrap(), first, "an arena that has been used gives the same logits");
    }
}
