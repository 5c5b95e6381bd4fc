//! The command line: one file per command.
use clap::{Parser, Subcommand};

mod ablate;
mod bench;
mod bench_model;
mod calibrate;
pub mod data;
mod detect;
mod eval;
mod export;
mod import_reference;
mod mine;
pub mod pack;
pub mod quantize;
mod reference_check;
mod report;
mod soup;
mod threshold;
mod train;
mod widen;
mod words;

/// Infrared small-target detection, trained from single points, for the sensor.
#[derive(Parser)]
#[command(name = "gsacp", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make, check and look at data sets.
    #[command(subcommand)]
    Data(data::Data),
    /// Turn a reference checkpoint into a model of this project.
    ImportReference(import_reference::ImportReference),
    /// Compare candle and the float engine with the reference, map by map.
    ReferenceCheck(reference_check::ReferenceCheck),
    /// Find the targets in images.
    Detect(detect::Detect),
    /// Score a model on the images of a list.
    Eval(eval::Eval),
    /// Quantise a trained model to int8.
    Quantize(quantize::QuantizeArgs),
    /// Measure the thresholds for requested false-alarm rates and store them in the model.
    Calibrate(calibrate::Calibrate),
    /// Pack an int8 model into a model image.
    Pack(pack::PackArgs),
    /// Write a model for another runtime: float32 or int8 ONNX.
    ///
    /// A float model becomes float32, an int8 model int8 (quantise-dequantise pairs with its own scales, zero points and
    /// weights). The file's input `input` is [1, channels, height, width]: (grey - mean)/std with grey in [0, 1]; its output
    /// `logits` is [1, 1, height, width]. Mean, std and the thresholds of `gsacp calibrate` are in the file's metadata. A
    /// frame whose sides are no multiples of 16 is padded at the bottom and right with 0 after the normalisation.
    Export(export::ExportArgs),
    /// Train the detector from single points.
    Train(train::TrainArgs),
    /// Train variants that each change one key, and print what each is worth.
    Ablate(ablate::AblateArgs),
    /// Find the clutter that a model takes for targets and the targets that it misses, to train on.
    Mine(mine::Mine),
    /// Make a wider model that starts where a trained one has come to.
    Widen(widen::Widen),
    /// Average late checkpoints into one model, chosen on a validation list.
    Soup(soup::SoupArgs),
    /// Draw the curves of runs on an HTML page.
    Report(report::ReportArgs),
    /// Measure this program on this machine.
    Bench(bench::BenchArgs),
}

impl Cli {
    /// Runs the chosen command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Data(command) => command.run(),
            Command::ImportReference(command) => command.run(),
            Command::ReferenceCheck(command) => command.run(),
            Command::Detect(command) => command.run(),
            Command::Eval(command) => command.run(),
            Command::Quantize(command) => command.run(),
            Command::Calibrate(command) => command.run(),
            Command::Pack(command) => command.run(),
            Command::Export(command) => command.run(),
            Command::Train(command) => command.run(),
            Command::Ablate(command) => command.run(),
            Command::Mine(command) => command.run(),
            Command::Widen(command) => command.run(),
            Command::Soup(command) => command.run(),
            Command::Report(command) => command.run(),
            Command::Bench(command) => command.run(),
        }
    }
}
