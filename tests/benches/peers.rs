//! `cargo xtask peers`: our engines, onnxruntime and tract on the same networks and frame, in turns on one thread.
//!
//! Every contestant gets the same file (`gsacp export`), and its logits are compared with ours before a clock runs. In a
//! round each runs once uncounted, then [`REPEATS`] times; the medians are over all rounds. Arguments: the Python that has
//! onnxruntime (without it there is none in the table), and the number of rounds.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gsacp_core::engine::{FloatEngine, Int8Engine};
use gsacp_core::graph::{FULL, Graph, msda};
use gsacp_core::plan::{Element, plan};
use gsacp_tests::settled;
use gsacp_train::data::dataset::Dataset;
use gsacp_train::data::image::StoredImage;
use gsacp_train::evaluate::thin;
use gsacp_train::model::{ModelInfo, StateDict};
use gsacp_train::quantize::{self, QuantizedModel, Ranges, Source, host::Int8Network};
use gsacp_train::{export, onnx};
use xtask::board::SMALL;
use xtask::repository::{real_images, root, scratch};

/// Side of the frame.
const SIDE: usize = 256;
/// Counted runs of a contestant in one round.
const REPEATS: usize = 3;

/// A network in both forms.
struct Network {
    name: &'static str,
    state: StateDict,
    int8: QuantizedModel,
    /// Largest difference of int8 logits that is allowed, as [`distance`] has it.
    most_int8: f32,
    rounds: usize,
}

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let python = arguments.first().filter(|path| !path.is_empty());
    let rounds = arguments.get(1).map_or(Ok(10), |n| n.parse()).context("the number of rounds")?;
    let data = real_images()?;
    let (data, list) = match &data {
        Some(data) => (data.clone(), "val_dev"),
        None => (xtask::frames::synthetic(SMALL)?, "val"),
    };
    let dataset = Dataset::open(&data, Path::new(list))?;
    for network in [quarter(rounds)?, full(&dataset, rounds)?] {
        compare(&network, &frame(&dataset)?, python.map(String::as_str))?;
    }
    Ok(())
}

/// The committed model.
fn quarter(rounds: usize) -> Result<Network> {
    let folder = root().join("models/quarter");
    let state = StateDict::read(&folder.join("model.safetensors"))?;
    Ok(Network {
        name: "quarter",
        state,
        int8: QuantizedModel::read(&folder.join("model.int8.safetensors"))?,
        most_int8: 0.15,
        rounds,
    })
}

/// Random weights of which no map explodes, quantised on a few images: speed does not depend on the weights. What one
/// rounding moves grows through random layers without bound, and our logits end at ±128, so int8 logits are shown and not
/// held to anything; the float ones are.
fn full(dataset: &Dataset, rounds: usize) -> Result<Network> {
    let graph = msda(FULL, 1);
    let mut state = settled(&graph, 1).state()?;
    let info = ModelInfo { widths: FULL, input_channels: 1, mean: 0.4, std: 0.2 };
    info.write_to(&mut state.metadata);
    let source = Source { state, info, crc: 0, ranges: None };
    let (state, int8) = quantize::quantize(source, dataset, 4, 1, Ranges::LeastSquares)?;
    Ok(Network { name: "full", state, int8, most_int8: f32::INFINITY, rounds: rounds.div_ceil(2) })
}

/// The middle of an image that is large enough.
fn frame(dataset: &Dataset) -> Result<StoredImage> {
    let images = thin(&dataset.samples, 0).into_iter().map(|sample| StoredImage::open(&sample.image));
    let mut large = images.filter(|image| image.as_ref().is_ok_and(|i| i.width == SIDE && i.height == SIDE));
    large.next().with_context(|| format!("{} has no image of {SIDE}x{SIDE}", dataset.list.display()))?
}

/// A line of the table.
struct Contestant<'a> {
    engine: String,
    /// Its logits on the frame.
    logits: Vec<f32>,
    /// Runs its turn and returns the seconds of each counted run.
    turn: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Contestant<'a> {
    fn new(engine: String, logits: Vec<f32>, turn: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Self { engine, logits, turn: Box::new(turn), seconds: Vec::new() }
    }

    fn is_int8(&self) -> bool {
        self.engine.ends_with("int8")
    }
}

fn compare(network: &Network, image: &StoredImage, python: Option<&str>) -> Result<()> {
    let folder = scratch("peers")?;
    let graph: Graph = network.int8.graph()?;
    let (float_plan, int8_plan) = (plan(&graph, SIDE, SIDE, Element::F32)?, plan(&graph, SIDE, SIDE, Element::Int8)?);

    let int8 = Int8Network::from_model(&network.int8)?;
    let steps = int8.quantise(image)?;
    let real: Vec<f32> = steps.iter().map(|&q| network.int8.activations[0].real(q) as f32).collect();
    let mut arena = vec![0u128; int8_plan.arena_len.div_ceil(16)];
    let mut int8_engine = Int8Engine::new(&graph, &int8_plan, int8.image()?, i8s(&mut arena))?;
    let int8_logits: Vec<f32> = int8_engine.run(&steps)?.iter().map(|&l| f32::from(l) / 256.0).collect();

    let weights = export::flatten(&export::fold(&network.state, &graph)?);
    let mut arena = vec![0.0; float_plan.arena_len];
    let mut float_engine = FloatEngine::new(&graph, &float_plan, &weights, &mut arena)?;
    let float_logits = float_engine.run(&real)?.to_vec();

    let write = |name: &str, bytes: Vec<u8>| -> Result<PathBuf> {
        let path = folder.join(format!("{}.{name}", network.name));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let float_file = write("onnx", onnx::of_float(&network.state, SIDE, SIDE)?.to_bytes())?;
    let int8_file = write("int8.onnx", onnx::of_int8(&network.int8, SIDE, SIDE)?.to_bytes())?;
    let input = write("f32", real.iter().flat_map(|v| v.to_le_bytes()).collect())?;

    let ort =
        python.map(|python| Peer::start(python, [&float_file, &int8_file], &input)).transpose()?.map(RefCell::new);
    let mut all = vec![
        Contestant::new("ours, float32".into(), float_logits, || timed(|| Ok(float_engine.run(&real).map(drop)?))),
        Contestant::new("ours, int8".into(), int8_logits, || timed(|| Ok(int8_engine.run(&steps).map(drop)?))),
    ];
    for (index, kind) in ["float32", "int8"].into_iter().enumerate() {
        let Some(ort) = &ort else { continue };
        let engine = format!("onnxruntime {}, {kind}", ort.borrow().version);
        let logits = ort.borrow_mut().logits(index, &folder)?;
        all.push(Contestant::new(engine, logits, move || ort.borrow_mut().time(index)));
    }
    #[cfg(feature = "tract")]
    {
        let run = tract(&float_file, &real)?;
        all.push(Contestant::new("tract, float32".into(), run()?, move || timed(|| run().map(drop))));
    }

    let differences: Vec<f32> =
        all.iter().map(|c| distance(&c.logits, &all[usize::from(c.is_int8())].logits)).collect();
    for (contestant, &difference) in all.iter().zip(&differences) {
        let most = if contestant.is_int8() { network.most_int8 } else { MOST_FLOAT };
        ensure!(difference <= most, "{}: the logits of {} are off by {difference}", network.name, contestant.engine);
    }
    for _ in 0..network.rounds {
        for contestant in &mut all {
            let seconds = (contestant.turn)()?;
            contestant.seconds.extend(seconds);
        }
    }
    println!("| {} {SIDE}×{SIDE} | ms | ours float32 / it | ours int8 / it | logits off by |", network.name);
    println!("|---|---|---|---|---|");
    let [float, int8] = [0, 1].map(|ours| median(&all[ours].seconds));
    for (contestant, difference) in all.iter().zip(differences) {
        let median = median(&contestant.seconds);
        let (ms, float, int8) = (1e3 * median, float / median, int8 / median);
        println!("| {} | {ms:.1} | {float:.2} | {int8:.2} | {difference:.1e} |", contestant.engine);
    }
    println!();
    Ok(())
}

/// What runs tract on the file once.
#[cfg(feature = "tract")]
fn tract(file: &Path, input: &[f32]) -> Result<impl Fn() -> Result<Vec<f32>> + use<>> {
    use tract_onnx::prelude::*;
    let network = onnx().model_for_path(file)?.into_optimized()?.into_runnable()?;
    let input = Tensor::from_shape(&[1, 1, SIDE, SIDE], input)?;
    Ok(move || {
        let logits = network.run(tvec!(input.clone().into()))?;
        Ok(logits[0].to_plain_array_view::<f32>()?.iter().copied().collect())
    })
}

/// Largest difference of float logits that is allowed: sums in another order.
const MOST_FLOAT: f32 = 1e-3;

/// The largest difference from `b`, relative to its largest logit where that is above 1.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let scale = b.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    if a.len() == b.len() { each.fold(0.0, f32::max) / scale } else { f32::INFINITY }
}

fn timed(mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    let once = |_| {
        let started = Instant::now();
        run()?;
        Ok(started.elapsed().as_secs_f64())
    };
    (0..REPEATS).map(once).collect()
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn i8s(words: &mut [u128]) -> &mut [i8] {
    use zerocopy::{FromBytes, IntoBytes};
    <[i8]>::mut_from_bytes(words.as_mut_bytes()).expect("bytes have no alignment")
}

/// onnxruntime in a Python of its own, which sleeps while others run.
struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    fn start(python: &str, models: [&PathBuf; 2], input: &Path) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg(root().join("tests/peers/onnxruntime_peer.py"));
        command.args(models.iter().flat_map(|model| [model.as_path(), input]));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start Python")?;
        let (to, from) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        let mut peer = Self { child, to, from: BufReader::new(from), version: String::new() };
        peer.version = peer.line()?;
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.from.read_line(&mut line)? > 0, "onnxruntime's Python ended: is it installed there?");
        Ok(line.trim().to_owned())
    }

    fn time(&mut self, index: usize) -> Result<Vec<f64>> {
        writeln!(self.to, "time {index} {REPEATS}")?;
        self.line()?.split(' ').map(|s| Ok(s.parse()?)).collect()
    }

    fn logits(&mut self, index: usize, folder: &Path) -> Result<Vec<f32>> {
        let path = folder.join("logits.f32");
        writeln!(self.to, "logits {index} {}", path.display())?;
        self.line()?;
        Ok(std::fs::read(&path)?.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
