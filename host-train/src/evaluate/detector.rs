//! A trained detector with one of the engines: image in, logit map out; and the operating points in its file.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use gsacp_core::engine::FloatEngine;
use gsacp_core::frame;
use gsacp_core::graph::Graph;
use gsacp_core::image::MAGIC;
use gsacp_core::plan::{Element, plan};
use safetensors::SafeTensors;

use super::{LogitMap, Values};
use crate::data::image::StoredImage;
use crate::export;
use crate::model::{Mode, ModelInfo, Msda, StateDict, input_tensor};
use crate::quantize::file::METADATA_KEY;
use crate::quantize::host::Int8Network;
use crate::quantize::{OperatingPoint, QuantizedModel};
use crate::train::device::DeviceKind;

/// What runs the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The trainer's network, float32.
    Candle,
    /// The trainer's network on the first NVIDIA GPU, in a build with `--features cuda`; near the others, not equal to them.
    Cuda,
    /// The no_std float32 engine, batch norms folded.
    Float,
    /// The sensor's int8 engine, bit for bit.
    Int8,
}

/// Metadata key of a float model's operating points: JSON, as in an int8 model's record.
const POINTS_KEY: &str = "gsacp.operating_points";

enum Network {
    Candle { model: Box<Msda>, device: Device, turn: Mutex<()> },
    Float { graph: Box<Graph>, weights: Vec<f32> },
    Int8(Box<Int8Network>),
}

/// A loaded detector. Images of any size run: they are padded to multiples of 16 and the map is cut back.
pub struct Detector {
    network: Network,
    info: ModelInfo,
    points: Vec<OperatingPoint>,
    flips: bool,
}

impl Engine {
    /// The engine that a file is for: int8 for a quantised model or a model image, candle otherwise.
    pub fn of_file(path: &Path) -> Result<Self> {
        Ok(if is_int8(path)? { Engine::Int8 } else { Engine::Candle })
    }
}

impl Detector {
    /// Loads a model file. Errors name the file and the key, and an engine that cannot run it.
    pub fn load(path: &Path, engine: Engine) -> Result<Self> {
        match (is_int8(path)?, engine) {
            (true, Engine::Int8) => {
                let network = Int8Network::open(path)?;
                let points = network.operating_points()?.into_iter().map(OperatingPoint::from).collect();
                Ok(Self {
                    info: network.info().clone(),
                    network: Network::Int8(Box::new(network)),
                    points,
                    flips: false,
                })
            }
            (false, Engine::Int8) => {
                bail!("{} is a float model: run `gsacp quantize` first, or take --engine float", path.display())
            }
            (true, _) => {
                bail!("{} is an int8 model: take --engine int8, or the float model it was made from", path.display())
            }
            (false, _) => Self::load_float(&StateDict::read(path)?, engine)
                .with_context(|| format!("cannot use the model {}", path.display())),
        }
    }

    fn load_float(state: &StateDict, engine: Engine) -> Result<Self> {
        let info = ModelInfo::read_from(&state.metadata)?;
        let graph = info.graph()?;
        let on = |device: Device| -> Result<Network> {
            let model = Box::new(Msda::from_state(&graph, state, &device)?);
            Ok(Network::Candle { model, device, turn: Mutex::new(()) })
        };
        let network = match engine {
            Engine::Candle => on(DeviceKind::Cpu.open()?)?,
            Engine::Cuda => on(DeviceKind::Cuda.open()?)?,
            _ => Network::Float { weights: export::flatten(&export::fold(state, &graph)?), graph: Box::new(graph) },
        };
        let points = match state.metadata.get(POINTS_KEY) {
            Some(text) => {
                serde_json::from_str(text).with_context(|| format!("metadata `{POINTS_KEY}` cannot be read"))?
            }
            None => Vec::new(),
        };
        Ok(Self { network, info, points, flips: false })
    }

    /// The operating points in the model's file; empty before `gsacp calibrate`.
    pub fn points(&self) -> &[OperatingPoint] {
        &self.points
    }

    /// The stored point for a requested false-alarm rate. The error lists those there are.
    pub fn point(&self, requested_fa: f32) -> Result<OperatingPoint> {
        let near = |p: &&OperatingPoint| (p.requested_fa - requested_fa).abs() <= 1e-3 * requested_fa;
        self.points.iter().find(near).copied().with_context(|| {
            let known: Vec<String> = self.points.iter().map(|p| format!("{:e}", p.requested_fa)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!(
                "the model is not calibrated for a false-alarm rate of {requested_fa:e} (but for: {known}): \
                 run `gsacp calibrate --fa {requested_fa:e}`"
            )
        })
    }

    /// The same detector, that takes the mean over an image and its three mirror images: four times the work, and on a host only.
    pub fn with_flips(self, flips: bool) -> Self {
        Self { flips, ..self }
    }

    /// The logit map of an image; with flips the mean of those of its four views, each mirrored back.
    pub fn logits(&self, image: &StoredImage) -> Result<LogitMap> {
        if !self.flips {
            return self.view(image);
        }
        let views = [(false, false), (true, false), (false, true), (true, true)];
        let maps = views.map(|(columns, rows)| Ok(self.view(&image.mirrored(columns, rows))?.mirrored(columns, rows)));
        Ok(LogitMap::mean(&maps.into_iter().collect::<Result<Vec<_>>>()?))
    }

    /// The network's own logit map of an image.
    fn view(&self, image: &StoredImage) -> Result<LogitMap> {
        let (width, height) = (image.width, image.height);
        match &self.network {
            Network::Candle { model, device, turn } => {
                // A GPU takes one image at a time, whoever asks; the processor works at many.
                let turn = (!device.is_cpu()).then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
                let input = input_tensor(&[&image.to_gray()], &self.info, device)?;
                let logits = model.forward(&input, Mode::Eval)?.logits;
                let values = Values::Float(logits.flatten_all()?.to_vec1()?);
                drop(turn);
                LogitMap::cut(values, frame::padded(width), width, height)
            }
            Network::Float { graph, weights } => {
                let (wide, high) = (frame::padded(width), frame::padded(height));
                // One image: candle's channel planes are equal, and HWC repeats each pixel as often.
                let channels = usize::from(self.info.input_channels);
                let mut input = vec![0.0; wide * high * channels];
                for (row, from) in
                    input.chunks_exact_mut(wide * channels).zip(image.to_gray().pixels.chunks_exact(width))
                {
                    for (pixel, grey) in row.chunks_exact_mut(channels).zip(from) {
                        pixel.fill((grey - self.info.mean) / self.info.std);
                    }
                }
                let plan = plan(graph, high, wide, Element::F32)?;
                let mut arena = vec![0.0; plan.arena_len];
                let logits = FloatEngine::new(graph, &plan, weights, &mut arena)?.run(&input)?.to_vec();
                LogitMap::cut(Values::Float(logits), wide, width, height)
            }
            Network::Int8(network) => LogitMap::cut(Values::Steps(network.logits(image)?), width, width, height),
        }
    }
}

/// Replaces the operating points in a model's file, atomically; everything else stays.
pub fn store_points(path: &Path, points: &[OperatingPoint]) -> Result<()> {
    if is_int8(path)? {
        let mut model = QuantizedModel::read(path)?;
        model.record.operating_points = points.to_vec();
        return model.write(path);
    }
    let mut state = StateDict::read(path)?;
    state.metadata.insert(POINTS_KEY.to_owned(), serde_json::to_string(points)?);
    state.write(path)
}

/// Whether calibration can store points in this file: a model image is made anew from its safetensors.
pub fn can_store_points(path: &Path) -> Result<()> {
    ensure!(
        !bytes_of(path)?.starts_with(&MAGIC),
        "{} is a model image: calibrate the int8 safetensors and pack it again",
        path.display()
    );
    Ok(())
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the model {}: check the name", path.display()))
}

/// Whether the file is an int8 model or a model image. Errors name it where it is no model at all.
pub fn is_int8(path: &Path) -> Result<bool> {
    let bytes = bytes_of(path)?;
    if bytes.starts_with(&MAGIC) {
        return Ok(true);
    }
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .with_context(|| format!("{} is no model: it is damaged, cut short or no safetensors file", path.display()))?;
    Ok(header.metadata().as_ref().is_some_and(|metadata| metadata.contains_key(METADATA_KEY)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::Samples;
    use crate::nn::testing::random;
    use candle_core::DType;
    use gsacp_core::graph::{QUARTER, msda};

    /// Random weights whose running statistics have settled, so that the logits have the size of a trained network's.
    fn saved(path: &Path) -> Msda {
        let model = Msda::new(&msda(QUARTER, 1), 5, &Device::Cpu).unwrap();
        for pass in 0..30 {
            let x = (random(pass, &[4, 1, 48, 48]) * 3.0).unwrap().to_dtype(DType::F32).unwrap();
            model.forward(&x, Mode::Train).unwrap();
        }
        let mut state = model.state().unwrap();
        ModelInfo { widths: QUARTER, input_channels: 1, mean: 0.4, std: 0.2 }.write_to(&mut state.metadata);
        state.write(path).unwrap();
        model
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_without_gpu_support_says_how_to_do_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        let error = format!("{:#}", Detector::load(&path, Engine::Cuda).err().unwrap());
        assert!(error.contains("m.safetensors") && error.contains("--engine candle"), "{error}");
    }

    #[test]
    fn an_image_of_any_size_gets_a_map_of_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let model = saved(&path);
        let detector = Detector::load(&path, Engine::Candle).unwrap();
        let bytes: Vec<u8> = (0..37 * 21).map(|i| (i * 7 % 256) as u8).collect();
        let image = StoredImage { width: 37, height: 21, samples: Samples::Eight(bytes.clone()) };
        let map = detector.logits(&image).unwrap();
        // By hand: normalised and padded with zeros to 48×32.
        let mut padded = vec![0f32; 48 * 32];
        for (i, &b) in bytes.iter().enumerate() {
            padded[i / 37 * 48 + i % 37] = (f32::from(b) / 255.0 - 0.4) / 0.2;
        }
        let input = candle_core::Tensor::from_vec(padded, (1, 1, 32, 48), &Device::Cpu).unwrap();
        let logits = model.forward(&input, Mode::Eval).unwrap().logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = (0..37 * 21).map(|i| logits[i / 37 * 48 + i % 37]).collect();
        assert_eq!(map.values, Values::Float(expected));
    }

    #[test]
    fn the_mean_of_mirror_images_does_not_tell_left_from_right_nor_up_from_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        let detector = Detector::load(&path, Engine::Candle).unwrap();
        let samples = Samples::Eight((0..37 * 21).map(|i| (i * i * 7 % 256) as u8).collect());
        let image = StoredImage { width: 37, height: 21, samples };
        let values = |map: LogitMap| match map.values {
            Values::Float(v) => v,
            Values::Steps(_) => panic!("candle gives floats"),
        };
        let furthest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let one = values(detector.logits(&image).unwrap());
        let detector = detector.with_flips(true);
        let mean = detector.logits(&image).unwrap();
        assert!(furthest(&one, &values(mean.clone())) > 0.1);
        for (columns, rows) in [(true, false), (false, true), (true, true)] {
            let seen = values(detector.logits(&image.mirrored(columns, rows)).unwrap());
            let difference = furthest(&seen, &values(mean.mirrored(columns, rows)));
            assert!(difference < 1e-4, "{difference}");
        }
    }

    #[test]
    fn the_float_engine_and_candle_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        let samples = Samples::Sixteen((0..37 * 21).map(|i| (i * 7919 % 65536) as u16).collect());
        let image = StoredImage { width: 37, height: 21, samples };
        let maps = [Engine::Candle, Engine::Float].map(|engine| {
            let map = Detector::load(&path, engine).unwrap().logits(&image).unwrap();
            let Values::Float(v) = map.values else { panic!("float engines give floats") };
            v
        });
        let difference = maps[0].iter().zip(&maps[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = maps[0].iter().fold(1.0, |most: f32, v| most.max(v.abs()));
        assert!(difference < 1e-4 * largest, "{difference} of logits up to {largest}");
    }

    #[test]
    fn stored_points_are_found_again_and_the_weights_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        let before = StateDict::read(&path).unwrap();
        let point = OperatingPoint { requested_fa: 5e-6, threshold: 1.5, pd: Some(0.97), fa: 4e-6 };
        let uncalibrated = Detector::load(&path, Engine::Candle).unwrap();
        let error = uncalibrated.point(5e-6).unwrap_err().to_string();
        assert!(error.contains("gsacp calibrate"), "{error}");
        store_points(&path, &[point]).unwrap();
        let detector = Detector::load(&path, Engine::Float).unwrap();
        assert_eq!(detector.point(5e-6).unwrap(), point);
        assert!(detector.point(1e-5).unwrap_err().to_string().contains("5e-6"));
        let after = StateDict::read(&path).unwrap();
        for (name, tensor) in &before.tensors {
            let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(tensor), values(&after.tensors[name]), "{name}");
        }
    }

    #[test]
    fn an_engine_that_cannot_run_a_file_says_which_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        assert_eq!(Engine::of_file(&path).unwrap(), Engine::Candle);
        let error = Detector::load(&path, Engine::Int8).err().unwrap().to_string();
        assert!(error.contains("gsacp quantize"), "{error}");
        let cut = &std::fs::read(&path).unwrap()[..100];
        std::fs::write(&path, cut).unwrap();
        let error = Detector::load(&path, Engine::Float).err().unwrap().to_string();
        assert!(error.contains("m.safetensors"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_model_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        saved(&path);
        let mut state = StateDict::read(&path).unwrap();
        state.metadata.clear();
        state.write(&path).unwrap();
        let error = Detector::load(&path, Engine::Candle).err().unwrap();
        assert!(format!("{error:#}").contains("m.safetensors"), "{error:#}");
    }
}
