//! `cargo xtask`: the developer's commands.
use clap::Parser;

fn main() -> anyhow::Result<()> {
    xtask::Cli::parse().run()
}
