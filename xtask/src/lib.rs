//! The developer's commands, and what they share: the boards, the emulator, the firmware's files.
//!
//! What a user would want lives in `gsacp`; here is what needs the repository, a cross compiler or an emulator.

pub mod aarch64;
pub mod aligned;
pub mod bench;
pub mod board;
pub mod call_graph;
pub mod commands;
pub mod counts;
pub mod emulator;
pub mod firmware;
pub mod frames;
pub mod host;
pub mod kernels;
pub mod model;
pub mod parity;
pub mod plan_map;
pub mod repository;
pub mod sample;

use clap::{Parser, Subcommand};

/// Set-up, packing, emulation, parity, budgets, tests and the demo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::Demo),
    Setup(commands::setup::Setup),
    Pack(commands::pack::Pack),
    Run(commands::run::Run),
    Parity(commands::parity::Parity),
    Size(commands::size::Size),
    Count(commands::count::Count),
    Peers(commands::peers::Peers),
    Test(commands::test::Test),
}

impl Cli {
    /// Runs the chosen command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Demo(command) => command.run(),
            Command::Setup(command) => command.run(),
            Command::Pack(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Parity(command) => command.run(),
            Command::Count(command) => command.run(),
            Command::Peers(command) => command.run(),
            Command::Size(command) => command.run(),
            Command::Test(command) => command.run(),
        }
    }
}
