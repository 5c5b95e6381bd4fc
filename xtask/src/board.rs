//! The boards: where their memory is, what they may use, and how their firmware is built.
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use gsacp_core::graph::Graph;
use gsacp_core::plan::{Element, Plan, plan};

use crate::repository::{cargo, root, run};

/// A firmware of `edge-infer/boards/`, and the emulated machine that runs it.
#[derive(Debug, PartialEq, Eq)]
pub struct Board {
    /// Folder, package and emulator's machine.
    pub name: &'static str,
    /// What the user reads.
    pub core: &'static str,
    /// Compiler's target.
    pub target: &'static str,
    /// Where the two slots for model images begin.
    pub slots: [u32; 2],
    /// Where a reel of frames begins, of at most [`FrameSize::reel_bytes`].
    pub reel: u32,
    /// Flash that program and constants may take, bytes (the model image has its own region).
    pub flash_budget: u64,
    /// Static RAM beside arena and stack, bytes; like the arena's budget for frames of [`SMALL`], for larger ones by as
    /// much more as these have more pixels.
    pub ram_budget: u64,
    /// Arena of the quarter network, bytes.
    pub arena_budget: u64,
    /// Stack that a run may take, bytes: as measured, and as a bound on any chain of calls.
    pub stack_budget: u64,
}

/// Frames that a firmware is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize {
    /// Pixels of a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The boards' sensor.
pub const SMALL: FrameSize = FrameSize { width: 160, height: 128 };
/// Frames of the firmware's feature `large`, whose variables lie in the board's large RAM.
pub const LARGE: FrameSize = FrameSize { width: 640, height: 512 };

impl FrameSize {
    /// Pixels of a frame, and bytes.
    pub const fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// How many times the pixels of [`SMALL`] it has: memory, time and their limits grow with it.
    pub const fn times_small(self) -> u64 {
        (self.pixels() / SMALL.pixels()) as u64
    }

    /// Bytes of a board's memory in which its reel must fit.
    pub fn reel_bytes(self) -> usize {
        if self == LARGE { 8 << 20 } else { 16 << 20 }
    }

    /// The planner's arena for frames of this size.
    pub fn plan(self, graph: &Graph) -> Result<Plan> {
        plan(graph, self.height.into(), self.width.into(), Element::Int8).context("the frame's size")
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The size of that name, for the command line.
pub fn parse_size(text: &str) -> Result<FrameSize, String> {
    [SMALL, LARGE]
        .into_iter()
        .find(|size| size.to_string() == text)
        .ok_or_else(|| format!("no firmware for frames of {text}; there are {SMALL} and {LARGE}"))
}

/// Every board that runs in the emulator.
pub const BOARDS: [Board; 2] = [
    Board {
        name: "mps3-an547",
        core: "Cortex-M55, Helium",
        target: "thumbv8m.main-none-eabihf",
        slots: [0x0100_0000, 0x0110_0000],
        reel: 0x6000_0000,
        flash_budget: 192 << 10,
        ram_budget: 48 << 10,
        arena_budget: 400_000,
        stack_budget: 8 << 10,
    },
    Board {
        name: "mps2-an500",
        core: "Cortex-M7",
        target: "thumbv7em-none-eabihf",
        slots: [0x0020_0000, 0x0030_0000],
        reel: 0x6000_0000,
        flash_budget: 192 << 10,
        ram_budget: 48 << 10,
        arena_budget: 400_000,
        stack_budget: 8 << 10,
    },
];

/// The board of that name, for the command line.
pub fn parse(name: &str) -> Result<&'static Board, String> {
    BOARDS.iter().find(|b| b.name == name).ok_or_else(|| {
        format!("no board {name}; there are {}", BOARDS.iter().map(|b| b.name).collect::<Vec<_>>().join(", "))
    })
}

impl Board {
    /// The board's folder; its `.cargo/config.toml` names target and core.
    pub fn folder(&self) -> PathBuf {
        root().join("edge-infer/boards").join(self.name)
    }

    /// `cargo` in the board's folder, free of what a caller's environment would change in the build.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo(arguments);
        command.current_dir(self.folder());
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
            command.env_remove(variable);
        }
        command
    }

    /// Builds the firmware for frames of `size` and returns its ELF file. That it links is the proof that no panic is
    /// reachable.
    pub fn build(&self, size: FrameSize) -> Result<PathBuf> {
        self.build_into("target", "build", size, &[], &[])
    }

    /// Builds the firmwares and returns the ELF file of the one that compares and counts the kernels.
    pub fn build_kernels(&self) -> Result<PathBuf> {
        Ok(self.build(SMALL)?.with_file_name("kernels"))
    }

    /// Builds it once more with the compiler's stack sizes and the linker's relocations in it.
    pub fn build_with_stack_sizes(&self, size: FrameSize) -> Result<PathBuf> {
        let flags = ["--", "-Zemit-stack-sizes", "-Clink-arg=--emit-relocs"];
        self.build_into("target/stack-sizes", "rustc", size, &["--bin", self.name], &flags)
    }

    /// Firmwares of different sizes have folders of their own, so that none is built anew after another one.
    fn build_into(
        &self,
        folder: &str,
        command: &str,
        size: FrameSize,
        what: &[&str],
        flags: &[&str],
    ) -> Result<PathBuf> {
        let boards = root().join("edge-infer/boards");
        let (folder, features) = if size == LARGE { (format!("{folder}/large"), "large") } else { (folder.into(), "") };
        let mut cargo = self.cargo(&[command, "--release", "--quiet", "--locked", "--features", features]);
        cargo.arg("--target-dir").arg(boards.join(&folder)).args(what).args(flags);
        if !flags.is_empty() {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        run(&mut cargo)?;
        Ok(boards.join(folder).join(self.target).join("release").join(self.name))
    }
}
