//! `gsacp bench model`: parameters and latency of the networks, as the paper tabulates them.

use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use clap::Args;
use gsacp_core::engine::{FloatEngine, Int8Engine};
use gsacp_core::graph::{Graph, msda};
use gsacp_core::plan::{Element, plan};
use serde::Serialize;
use zerocopy::{FromBytes, IntoBytes};

use super::words::print;
use crate::data::random::{normal, stream};
use crate::export;
use crate::model::{Mode, ModelInfo, Msda};
use crate::quantize::host::Int8Network;
use crate::quantize::observe::Observations;
use crate::quantize::{Calibration, QuantizedModel, Ranges, Record, build, file, groups};
use crate::train::config::Widths;

/// Height, width and frames of the paper's table, and of a sensor with 320 columns.
const BATCHES: [[usize; 3]; 4] = [[256, 256, 1], [256, 256, 8], [512, 512, 1], [256, 320, 1]];

/// Options of `bench model`.
#[derive(Args, Debug)]
pub struct ModelBench {
    /// Networks: quarter, half, full.
    #[arg(long, value_enum, num_args = 1.., default_values = ["quarter", "half", "full"])]
    widths: Vec<Widths>,
    /// Runs that are measured, after one that is not; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Serialize)]
struct Line {
    widths: Widths,
    height: usize,
    width: usize,
    frames: usize,
    parameters: usize,
    /// Multiply-accumulates of all frames.
    macs: u64,
    /// candle in float32, all frames in one batch, all threads.
    candle_ms: f64,
    /// The int8 engine, one frame after the other, on one thread and on two.
    int8_ms: [f64; 2],
}

impl ModelBench {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        ensure!(self.runs > 0, "--runs 0: give at least 1");
        let mut lines = Vec::new();
        for &widths in &self.widths {
            let graph = msda(widths.channels(), 1);
            let model = settled(&graph)?;
            let int8 = Int8Network::from_model(&quantised(&graph, &model)?)?;
            for [height, width, frames] in BATCHES {
                lines.push(Line {
                    widths,
                    height,
                    width,
                    frames,
                    parameters: graph.parameters(),
                    macs: graph.macs(height, width) * frames as u64,
                    candle_ms: candle(&model, [height, width, frames], self.runs)?,
                    int8_ms: [
                        engine(&int8, [height, width, frames], self.runs, 1)?,
                        engine(&int8, [height, width, frames], self.runs, 2)?,
                    ],
                });
            }
        }
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&lines)?));
        }
        let threads = rayon::current_num_threads();
        let mut text = format!(
            "| network | frames | parameters | GMAC | candle float32, {threads} threads, ms | int8 engine, 1 thread, ms | 2 threads, ms |\n\
             |---|---|---|---|---|---|---|\n"
        );
        for Line { widths, height, width, frames, parameters, macs, candle_ms, int8_ms: [one, two] } in &lines {
            let (name, gmac) = (format!("{widths:?}").to_lowercase(), *macs as f64 / 1e9);
            text += &format!(
                "| {name} | {width}×{height} ×{frames} | {parameters} | {gmac:.2} | {candle_ms:.0} | {one:.0} | {two:.0} |\n"
            );
        }
        print(&text)
    }
}

fn noise(shape: [usize; 4], seed: u64) -> Result<Tensor> {
    let mut rng = stream(seed, "bench frames", 0, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut rng)).collect();
    Ok(Tensor::from_vec(values, &shape, &Device::Cpu)?)
}

/// Random weights with batch norms that have seen data, so that no map overflows.
fn settled(graph: &Graph) -> Result<Msda> {
    let model = Msda::new(graph, 1, &Device::Cpu)?;
    for pass in 0..30 {
        model.forward(&noise([2, 1, 32, 32], pass)?, Mode::Train)?;
    }
    Ok(model)
}

/// Quantised for a frame of noise: what the weights are does not change the speed.
fn quantised(graph: &Graph, model: &Msda) -> Result<QuantizedModel> {
    let info = ModelInfo { widths: graph.widths, input_channels: graph.input_channels, mean: 0.5, std: 0.2 };
    let folded = export::fold(&model.state()?, graph)?;
    let weights = export::flatten(&folded);
    let plan = plan(graph, 64, 64, Element::F32)?;
    let frame: Vec<f32> = noise([1, 1, 64, 64], 99)?.flatten_all()?.to_vec1()?;
    let (mut arena, mut seen) = (vec![0.0; plan.arena_len], Observations::new(graph));
    FloatEngine::new(graph, &plan, &weights, &mut arena)?.run_with(&frame, |id, _, map| {
        seen.add(id, &map.pixels().flatten().copied().collect::<Vec<f32>>());
    })?;
    let activations = groups::assign(graph, &seen, groups::input_pair(info.mean, info.std), Ranges::LeastSquares);
    let record = Record {
        format_version: file::FORMAT_VERSION,
        model: info,
        operating_points: Vec::new(),
        calibration: Calibration { list: "noise".into(), images: 1, seed: 0, ranges: Some(Ranges::LeastSquares) },
        source_crc: 0,
    };
    build(graph, &folded, activations, &seen, record)
}

fn candle(model: &Msda, [height, width, frames]: [usize; 3], runs: usize) -> Result<f64> {
    let input = noise([frames, 1, height, width], 7)?;
    median_ms(runs, || model.forward(&input, Mode::Eval).map(drop))
}

fn engine(network: &Int8Network, [height, width, frames]: [usize; 3], runs: usize, threads: usize) -> Result<f64> {
    let plan = plan(network.graph(), height, width, Element::Int8)?;
    let mut arena = vec![0u128; plan.arena_len.div_ceil(size_of::<u128>())];
    let arena = <[i8]>::mut_from_bytes(arena.as_mut_bytes()).expect("bytes have no alignment");
    let mut engine = Int8Engine::new(network.graph(), &plan, network.image()?, arena)?.on_two_threads();
    let frame: Vec<i8> = (0..height * width).map(|i| (i * 37 % 251) as i8).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| median_ms(runs, || (0..frames).try_for_each(|_| Ok(engine.run(&frame).map(drop)?))))
}

fn median_ms(runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        work()?;
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[runs / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_network_is_measured_in_both_forms() {
        let graph = msda(Widths::Quarter.channels(), 1);
        let model = settled(&graph).unwrap();
        let int8 = Int8Network::from_model(&quantised(&graph, &model).unwrap()).unwrap();
        assert!(candle(&model, [16, 32, 2], 1).unwrap() > 0.0);
        assert!([1, 2].into_iter().all(|threads| engine(&int8, [16, 32, 2], 1, threads).unwrap() > 0.0));
    }
}
