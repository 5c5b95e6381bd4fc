//! What the float network's maps look like over the calibration images.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use gsacp_core::graph::{Graph, Op};
use rayon::prelude::*;

use super::histogram::Histogram;
use crate::data::dataset::{Dataset, Sample};
use crate::data::image::GrayImage;
use crate::data::progress::Progress;
use crate::data::random::{permutation, stream};
use crate::model::{Mode, ModelInfo, Msda, StateDict, input_tensor};

/// Images whose statistics are in memory together, each some 10 MB.
const AT_A_TIME: usize = 8;

/// Statistics of one node's map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// All values; empty after [`Observations::in_units`].
    pub histogram: Histogram,
    /// Sum over pixels, channel by channel.
    sums: Vec<f64>,
    /// Sum of squares over pixels, channel by channel.
    squares: Vec<f64>,
    /// Smallest value or 0, channel by channel.
    lows: Vec<f32>,
    /// Largest value or 0, channel by channel.
    highs: Vec<f32>,
    /// Pixels seen.
    pixels: u64,
    /// Channel means of each image, in no particular order.
    image_means: Vec<Vec<f64>>,
}

impl Statistics {
    /// Mean of every channel; zeros before the first map.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / self.pixels.max(1) as f64).collect()
    }

    /// Mean square of every channel.
    pub fn mean_squares(&self) -> Vec<f64> {
        self.squares.iter().map(|s| s / self.pixels.max(1) as f64).collect()
    }

    /// Largest magnitude of every channel.
    pub fn peaks(&self) -> impl Iterator<Item = f32> + '_ {
        self.lows.iter().zip(&self.highs).map(|(low, high)| high.max(-low))
    }

    /// Smallest and largest value of all channels, and 0.
    pub fn extremes(&self) -> (f32, f32) {
        (self.lows.iter().copied().fold(0.0, f32::min), self.highs.iter().copied().fold(0.0, f32::max))
    }

    /// Channel means of each image, in no particular order.
    pub fn image_means(&self) -> &[Vec<f64>] {
        &self.image_means
    }

    fn add(&mut self, map: &[f32]) {
        self.histogram.add(map.iter().copied());
        let channels = self.sums.len();
        let mut sums = vec![0.0; channels];
        for pixel in map.chunks_exact(channels) {
            let all = sums.iter_mut().zip(&mut self.squares).zip(&mut self.lows).zip(&mut self.highs).zip(pixel);
            for ((((sum, square), low), high), &v) in all {
                *sum += f64::from(v);
                *square += f64::from(v).powi(2);
                *low = low.min(v);
                *high = high.max(v);
            }
        }
        let pixels = map.len() / channels;
        self.sums.iter_mut().zip(&sums).for_each(|(all, sum)| *all += sum);
        self.pixels += pixels as u64;
        sums.iter_mut().for_each(|sum| *sum /= pixels.max(1) as f64);
        self.image_means.push(sums);
    }

    fn merge(&mut self, other: &Statistics) {
        self.histogram.merge(&other.histogram);
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.squares.iter_mut().zip(&other.squares).for_each(|(a, b)| *a += b);
        self.lows.iter_mut().zip(&other.lows).for_each(|(a, b)| *a = a.min(*b));
        self.highs.iter_mut().zip(&other.highs).for_each(|(a, b)| *a = a.max(*b));
        self.pixels += other.pixels;
        self.image_means.extend_from_slice(&other.image_means);
    }

    /// What is seen of channels that are doubled so often.
    fn in_units(&mut self, doublings: &[i32]) {
        self.histogram = Histogram::default();
        let by = |n: i32| 2f64.powi(n);
        self.sums.iter_mut().zip(doublings).for_each(|(v, &n)| *v *= by(n));
        self.squares.iter_mut().zip(doublings).for_each(|(v, &n)| *v *= by(2 * n));
        self.lows.iter_mut().zip(doublings).for_each(|(v, &n)| *v *= by(n) as f32);
        self.highs.iter_mut().zip(doublings).for_each(|(v, &n)| *v *= by(n) as f32);
        for means in &mut self.image_means {
            means.iter_mut().zip(doublings).for_each(|(v, &n)| *v *= by(n));
        }
    }
}

/// Statistics of every node of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Observations {
    /// By node; a concatenation's are those of its members side by side (its histogram is empty).
    pub nodes: Vec<Statistics>,
}

impl Observations {
    /// Nothing seen yet.
    pub fn new(graph: &Graph) -> Self {
        let empty = |channels: u16| Statistics {
            sums: vec![0.0; channels as usize],
            squares: vec![0.0; channels as usize],
            lows: vec![0.0; channels as usize],
            highs: vec![0.0; channels as usize],
            ..Statistics::default()
        };
        Self { nodes: graph.nodes().iter().map(|n| empty(n.channels)).collect() }
    }

    /// Counts one image's map of node `id`: dense HWC, finite.
    pub fn add(&mut self, id: usize, map: &[f32]) {
        self.nodes[id].add(map);
    }

    /// Runs the float network on the whole of every image and counts all its maps. Errors name the file or the layer.
    pub fn of_images(graph: &Graph, state: &StateDict, info: &ModelInfo, samples: &[Sample]) -> Result<Self> {
        ensure!(!samples.is_empty(), "no images to calibrate with: --images must be at least 1");
        let model = Msda::from_state(graph, state, &Device::Cpu)?;
        let progress = Progress::new("observing the float network", samples.len());
        let observe = |sample: &Sample| -> Result<Self> {
            let mut seen = Self::new(graph);
            seen.add_image(&model, info, &sample.load_image()?)
                .with_context(|| format!("cannot observe {}", sample.image.display()))?;
            progress.step();
            Ok(seen)
        };
        let mut total = Self::new(graph);
        // Merged in the list's order, so that sums do not depend on threads; a few at a time, to bound the memory.
        for few in samples.chunks(AT_A_TIME) {
            for seen in few.par_iter().map(observe).collect::<Vec<_>>() {
                total = total.merge(&seen?);
            }
        }
        Ok(total)
    }

    /// Counts all maps of one image.
    pub fn add_image(&mut self, model: &Msda, info: &ModelInfo, image: &GrayImage) -> Result<()> {
        float_maps(model, info, image, |id, map| {
            self.add(id, &map);
            Ok(())
        })
    }

    /// What would be seen of [`super::equalise::scaled`]'s network, to the bit, without running it; but for the histograms,
    /// whose bins mix the channels: they are left empty.
    pub fn in_units(mut self, doublings: &[Vec<i32>]) -> Self {
        self.nodes.iter_mut().zip(doublings).for_each(|(node, doublings)| node.in_units(doublings));
        self
    }

    /// Adds what another run has seen.
    pub fn merge(mut self, other: &Self) -> Self {
        self.nodes.iter_mut().zip(&other.nodes).for_each(|(a, b)| a.merge(b));
        self
    }
}

/// Runs the float network on one image, padded to multiples of 16, and shows every map but the concatenations' to
/// `tap`: dense HWC. A map with a value that is not finite is an error that names the layer.
pub fn float_maps(
    model: &Msda,
    info: &ModelInfo,
    image: &GrayImage,
    mut tap: impl FnMut(usize, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let nodes = model.graph().nodes();
    let input = input_tensor(&[image], info, &Device::Cpu)?;
    model.walk(&input, Mode::Eval, |id, map: &Tensor| {
        if nodes[id].op == Op::Concat {
            return Ok(());
        }
        let map = map.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
        ensure!(
            map.iter().all(|v| v.is_finite()),
            "layer {} gives a value that is not finite: is the model trained and its normalisation right?",
            nodes[id].label
        );
        tap(id, map)
    })?;
    Ok(())
}

/// `count` samples of the data set (all, where it has fewer), drawn by `seed`; in the order of the list.
pub fn draw(dataset: &Dataset, count: usize, seed: u64) -> Vec<Sample> {
    let mut order = permutation(&mut stream(seed, "calibration images", 0, 0), dataset.samples.len());
    order.truncate(count);
    order.sort_unstable();
    order.into_iter().map(|i| dataset.samples[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::quantize::testing;
    use gsacp_core::graph::{QUARTER, msda};

    #[test]
    fn of_several_images_that_cannot_be_read_the_first_is_named() {
        let graph = msda(QUARTER, 1);
        let (state, info) = (testing::state(&graph, 1), testing::record(&graph).model);
        let missing = |i| Sample {
            name: format!("{i}"),
            image: Path::new("no such folder").join(format!("{i}.png")),
            mask: None,
        };
        let samples: Vec<Sample> = (0..AT_A_TIME).map(missing).collect();
        for _ in 0..50 {
            let error = Observations::of_images(&graph, &state, &info, &samples).unwrap_err();
            assert!(format!("{error:#}").contains("0.png"), "{error:#}");
        }
    }
}
