//! Batch norm statistics of averaged weights, measured on training crops.
//!
//! Each normalisation's mean and variance become the averages, over the batches, of the batches' own: what a training
//! with these weights standing still would settle at.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::data::train_set::TrainSet;
use crate::model::{Mode, ModelInfo, Msda, input_tensor};
use crate::train::config::RunConfig;

/// The first `count` batches that a run with `config` would train on, as inputs of the network; epochs follow each other.
pub fn batches(set: &TrainSet, config: &RunConfig, count: usize, info: &ModelInfo) -> Result<Vec<Tensor>> {
    let (plan, per_epoch) = (config.plan(), set.batches_per_epoch(config.schedule.batch));
    (0..count)
        .map(|at| {
            let batch = set.batch(&plan, (at / per_epoch) as u64, at % per_epoch);
            input_tensor(&batch.images.iter().collect::<Vec<_>>(), info, &candle_core::Device::Cpu)
        })
        .collect()
}

/// Measures the statistics of `model` on `batches`, of which there is at least one.
pub fn measure(model: &Msda, batches: &[Tensor]) -> Result<()> {
    ensure!(!batches.is_empty(), "no batch to measure statistics on");
    for (seen, batch) in batches.iter().enumerate() {
        model.forward(batch, Mode::Measure { seen })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use gsacp_core::graph::{QUARTER, msda};

    use super::*;
    use crate::nn::testing::random;

    #[test]
    fn statistics_are_the_mean_over_the_batches_whatever_they_were() {
        let model = Msda::new(&msda(QUARTER, 1), 1, &Device::Cpu).unwrap();
        let name = "stage.layer1.1";
        let stale = Tensor::full(9e3f32, 4, &Device::Cpu).unwrap();
        model.buffers()[&format!("{name}.running_mean")].set(&stale).unwrap();
        let inputs: Vec<Tensor> =
            (1..4).map(|seed| random(seed, &[2, 1, 32, 32]).to_dtype(DType::F32).unwrap()).collect();
        measure(&model, &inputs).unwrap();

        // Independently: the first conv by candle's own, mean and unbiased variance per channel, averaged over batches.
        let weight = model.vars()["stage.layer1.0.weight"].as_tensor();
        let (mut means, mut variances) = (vec![0f64; 4], vec![0f64; 4]);
        for input in &inputs {
            let y = input.conv2d(weight, 1, 1, 1, 1).unwrap().transpose(0, 1).unwrap().flatten_from(1).unwrap();
            for (channel, values) in y.to_vec2::<f32>().unwrap().iter().enumerate() {
                let count = values.len() as f64;
                let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
                means[channel] += mean / 3.0;
                let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
                variances[channel] += squares / (count - 1.0) / 3.0;
            }
        }
        for (key, expected) in [("running_mean", means), ("running_var", variances)] {
            let values = model.buffers()[&format!("{name}.{key}")].to_vec1::<f32>().unwrap();
            for (value, expected) in values.iter().zip(expected) {
                assert!((f64::from(*value) - expected).abs() < 1e-5, "{key}: {value} {expected}");
            }
        }
    }

    #[test]
    fn no_batch_is_an_error() {
        assert!(measure(&Msda::new(&msda(QUARTER, 1), 1, &Device::Cpu).unwrap(), &[]).is_err());
    }
}
