//! The boards: where their memory is, what they may use, and how their firmware is built.
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

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
    /// Where a reel of frames begins.
    pub reel: u32,
    /// Flash that program and constants may take, bytes (the model image has its own region).
    pub flash_budget: u64,
    /// Static RAM beside arena and stack, bytes.
    pub ram_budget: u64,
    /// Arena of the quarter network, bytes.
    pub arena_budget: u64,
    /// Stack that a run may take, bytes: as measured, and as a bound on any chain of calls.
    pub stack_budget: u64,
}

/// Width and height of the boards' sensor, pixels.
pub const FRAME: (u16, u16) = (160, 128);

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

    /// Builds the firmware and returns its ELF file. That it links is the proof that no panic is reachable.
    pub fn build(&self) -> Result<PathBuf> {
        run(&mut self.cargo(&["build", "--release", "--quiet", "--locked"]))?;
        Ok(self.elf("target"))
    }

    /// Builds the firmwares and returns the ELF file of the one that compares and counts the kernels.
    pub fn build_kernels(&self) -> Result<PathBuf> {
        Ok(self.build()?.with_file_name("kernels"))
    }

    /// Builds it once more with the compiler's stack sizes and the linker's relocations in it.
    pub fn build_with_stack_sizes(&self) -> Result<PathBuf> {
        let arguments = [
            "rustc",
            "--release",
            "--quiet",
            "--locked",
            "--bin",
            self.name,
            "--target-dir",
            "../target/stack-sizes",
            "--",
            "-Zemit-stack-sizes",
            "-Clink-arg=--emit-relocs",
        ];
        run(self.cargo(&arguments).env("RUSTC_BOOTSTRAP", "1"))?;
        Ok(self.elf("target/stack-sizes"))
    }

    fn elf(&self, target_dir: &str) -> PathBuf {
        root().join("edge-infer/boards").join(target_dir).join(self.target).join("release").join(self.name)
    }
}
