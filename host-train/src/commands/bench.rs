//! `gsacp bench`: what is measured; and `gsacp bench train`: where the time of a training step goes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::bench_model::ModelBench;
use super::train::{ConfigArgs, CropArgs};
use crate::data::loader::Loader;
use crate::train::device::DeviceKind;
use crate::train::run::{median_times, peak_memory_mb};
use crate::train::setup::prepare;

/// Measures this program on this machine.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The parts of a training step: loader, forward, loss, backward, optimiser.
    Train(TrainBench),
    /// Parameters, multiply-accumulates and latency of the networks, float and int8, with random weights.
    Model(ModelBench),
}

#[derive(Args, Debug)]
struct TrainBench {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    data: CropArgs,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: DeviceKind,
    /// Steps that are measured, after three that are not.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Steps before measuring: the first ones meet cold caches and a cold allocator.
const WARMUP: usize = 3;

impl BenchArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Train(bench) => bench.run(),
            What::Model(bench) => bench.run(),
        }
    }
}

impl TrainBench {
    fn run(self) -> Result<()> {
        ensure!(self.steps > 0, "--steps 0: give at least 1");
        let config = self.config.load(None)?;
        let batch = config.schedule.batch;
        let plan = config.plan();
        let (mut trainer, set) = prepare(config, &self.data.source(), &self.device.open()?)?;
        let mut loader = Loader::start_at(set, plan, 0, 0, u64::from(u32::MAX), self.device.loader_threads())?;
        let mut times = Vec::with_capacity(self.steps);
        let mut started = Instant::now();
        for step in 0..WARMUP + self.steps {
            if step == WARMUP {
                started = Instant::now();
            }
            let waiting = Instant::now();
            let batch = loader.next().context("the loader ended")?;
            let waited = waiting.elapsed().as_secs_f64();
            let report = trainer.step(&batch)?;
            if step >= WARMUP {
                times.push(crate::train::trainer::StepTimes { loader: waited, ..report.times });
            }
        }
        let speed = (self.steps * batch) as f64 / started.elapsed().as_secs_f64();
        let median = median_times(&times);
        let total: f64 = median.parts().iter().map(|(_, seconds)| seconds).sum();
        if self.json {
            let parts: serde_json::Map<String, serde_json::Value> =
                median.parts().iter().map(|(name, seconds)| ((*name).to_string(), json!(seconds * 1e3))).collect();
            println!("{}", json!({"ms": parts, "images_per_second": speed, "peak_memory_mb": peak_memory_mb()}));
            return Ok(());
        }
        for (name, seconds) in median.parts() {
            println!("{name:<10} {:>8.1} ms  {:>4.0} %", seconds * 1e3, 100.0 * seconds / total);
        }
        println!("{:<10} {:>8.1} ms  median of {} steps of {batch} crops", "step", total * 1e3, self.steps);
        println!("{speed:.2} images/s{}", peak_memory_mb().map_or(String::new(), |mb| format!(", {mb} MB at most")));
        Ok(())
    }
}
