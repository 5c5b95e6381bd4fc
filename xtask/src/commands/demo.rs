//! `cargo xtask demo`: the whole path, from images and points to the board's detections.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use gsacp_edge::reel::Wanted;
use serde_json::Value;

use super::{parity, run::summarise, setup::Setup};
use crate::bench;
use crate::board::{BOARDS, SMALL};
use crate::frames::{Fit, Selection};
use crate::model;
use crate::repository::{gsacp, heading, output, root, run, scratch};

/// The whole path in one command: train from single points, evaluate, quantise, calibrate, pack, run on an emulated
/// Cortex-M55, and compare with the host byte for byte.
#[derive(Args)]
pub struct Demo {
    /// Images in the SIRST3 layout; without it, seeded synthetic scenes.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Minutes of training.
    #[arg(long, value_name = "M", default_value_t = 4.5)]
    minutes: f64,
    /// Begin from random weights even where the committed model could be fine-tuned.
    #[arg(long)]
    from_scratch: bool,
    /// False-alarm rate to calibrate for, a fraction of all pixels.
    #[arg(long, value_name = "FA", default_value_t = 4e-5)]
    fa: f64,
    /// Frames on the emulated board.
    #[arg(long, value_name = "N", default_value_t = 8)]
    frames: usize,
    /// Folder for everything that is made; an earlier run's is replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The trained model that the demo fine-tunes, from the repository's root.
const COMMITTED: &str = "models/quarter/model.safetensors";

impl Demo {
    /// Runs every step; the first failure ends it.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        let out = match &self.out {
            Some(path) => path.clone(),
            None => scratch("demo")?,
        };
        let place = |name: &str| out.join(name);
        for folder in ["run", "pictures"].map(place).iter().filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;

        heading("1 set-up: compiler targets, emulator, the gsacp command");
        Setup {}.run()?;
        let gsacp = gsacp()?;

        heading("2 images and point labels");
        let data = match &self.data {
            Some(path) => path.clone(),
            None => synthetic(&gsacp, &place("synth"))?,
        };
        let [train, held_out] = lists(&data)?;
        println!("images: {} (train on {train}, measure on {held_out})", data.display());
        println!("the trainer sees one point a target, the floor of its centroid; masks are only for measuring");

        heading("3 train the quarter network with GSACP-Base");
        let on = |command: &mut Command, list: &str| {
            command.arg("--data").arg(&data).args(["--list", list]);
        };
        let mut command = Command::new(&gsacp);
        command.args(["train", "--max-minutes", &self.minutes.to_string(), "--out"]).arg(place("run"));
        command.arg("--config").arg(root().join("configs/demo.toml"));
        on(&mut command, &train);
        let committed = root().join(COMMITTED);
        if committed.is_file() && !self.from_scratch {
            println!(
                "fine-tuning the committed {COMMITTED} for at most {} minutes (--from-scratch begins anew)",
                self.minutes
            );
            command.arg("--init").arg(&committed);
        } else {
            println!("from random weights, at most {} minutes", self.minutes);
            command.args(["--set", "schedule.steps=600", "--set", "schedule.lr=2e-3"]);
        }
        run(&mut command)?;
        let float = place("run").join("model.safetensors");

        heading("4 quantise to int8, calibrate the threshold, pack the model image");
        let int8 = place("model.int8.safetensors");
        let mut command = Command::new(&gsacp);
        command.arg("quantize").arg("--model").arg(&float).arg("--out").arg(&int8);
        on(&mut command, &train);
        run(&mut command)?;
        // On training images: the held-out ones are kept for measuring.
        let fa = self.fa.to_string();
        for model in [&float, &int8] {
            let mut command = Command::new(&gsacp);
            command.arg("calibrate").arg("--model").arg(model).args(["--fa", &fa, "--limit", "100"]);
            on(&mut command, &train);
            run(&mut command)?;
        }
        let image = place("model.img");
        model::pack(&int8, &image)?;

        heading("5 measure, float and int8");
        let rows = [("float32", &float, "float"), ("int8", &int8, "int8")].map(|(name, model, engine)| {
            let mut command = Command::new(&gsacp);
            command.arg("eval").arg("--model").arg(model).args(["--engine", engine, "--fa", &fa, "--json"]);
            on(&mut command, &held_out);
            Ok((name, serde_json::from_str::<Value>(&output(&mut command)?).context("gsacp eval --json")?))
        });
        let rows: Vec<(&str, Value)> = rows.into_iter().collect::<Result<_>>()?;

        heading("6 the firmware on an emulated Cortex-M55");
        let board = &BOARDS[0];
        let selection = Selection {
            data: Some(data.clone()),
            list: Some(held_out.clone().into()),
            limit: self.frames,
            fit: Fit::Crop,
            size: SMALL,
        };
        let frames = selection.load()?;
        let bytes = std::fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
        let report = bench::run(board, &bytes, &frames, Wanted::default(), true)?;
        summarise(board, &report)?;

        heading("7 parity: the board's bytes are the host's");
        parity::compare(&[board], &bytes, &frames)?;

        heading("8 pictures");
        let pictures = place("pictures");
        let mut command = Command::new(&gsacp);
        command.arg("detect").arg("--model").arg(&int8).args(["--fa", &fa, "--overlay"]).arg(&pictures);
        for frame in &frames {
            command.arg(data.join("images").join(format!("{}.png", frame.name)));
        }
        run(&mut command)?;
        println!("detections drawn into {}", pictures.display());

        heading("summary");
        println!("{:<8} {:>8} {:>8} {:>8} {:>10}   on {held_out}", "", "mIoU", "nIoU", "Pd", "Fa ×1e-6");
        for (name, record) in &rows {
            let rate = |key: &str| record["overall"][key].as_f64().unwrap_or(f64::NAN);
            let fa = rate("fa") * 1e6;
            println!("{name:<8} {:>8.4} {:>8.4} {:>8.4} {fa:>10.2}", rate("miou"), rate("niou"), rate("pd"));
        }
        let most = report.frames.values().map(|f| f.instructions).max().unwrap_or(0);
        println!(
            "{}: {} frames, {:.0} million instructions a frame, {} bytes of stack, every byte the host's",
            board.name,
            report.frames.len(),
            most as f64 / 1e6,
            report.stack.0
        );
        println!("model image {} ({} bytes); everything is in {}", image.display(), bytes.len(), out.display());
        println!("demo: {:.1} minutes", started.elapsed().as_secs_f64() / 60.0);
        Ok(())
    }
}

/// Seeded scenes, made once.
fn synthetic(gsacp: &Path, folder: &Path) -> Result<PathBuf> {
    if !folder.join("img_idx/val.txt").is_file() {
        run(Command::new(gsacp).args(["data", "synth", "--count", "400", "--out"]).arg(folder))?;
    }
    Ok(folder.to_path_buf())
}

/// The training and the held-out list of a data set.
fn lists(data: &Path) -> Result<[String; 2]> {
    let pairs = [["train_dev.txt", "val_dev.txt"], ["train.txt", "val.txt"]];
    let found = pairs.into_iter().find(|pair| pair.iter().all(|list| data.join("img_idx").join(list).is_file()));
    ensure!(
        found.is_some(),
        "{} needs img_idx/train_dev.txt and val_dev.txt, or train.txt and val.txt",
        data.display()
    );
    Ok(found.unwrap_or_default().map(str::to_owned))
}
