//! `cargo xtask setup`: the compiler's targets and the emulators.
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::board::BOARDS;
use crate::repository::{has_target, output, root, run, version};
use crate::{aarch64, emulator};

/// Install what firmware and emulation need: compiler targets and QEMU. Does nothing when all is there.
#[derive(Args)]
pub struct Setup {}

impl Setup {
    /// Installs what is missing.
    pub fn run(self) -> Result<()> {
        targets()?;
        qemu(emulator::QEMU, "qemu-system-arm")?;
        for_aarch64()
    }
}

fn targets() -> Result<()> {
    let missing = missing(BOARDS.iter().map(|b| b.target))?;
    if missing.is_empty() || rustup_add(&missing) {
        return Ok(());
    }
    let version = output(Command::new("rustc").arg("--version").current_dir(root()))?;
    let version = version.split(' ').nth(1).context("rustc --version has no version")?;
    let packed = root().join(format!("../shared/tools/rust-library-{version}-min.tar.xz"));
    let source = if packed.exists() { packed.into_os_string() } else { "-".into() };
    println!("rustup cannot download: building libcore for {} from its source (about 25 s each)", missing.join(", "));
    run(Command::new("bash")
        .arg(root().join("xtask/scripts/install-thumb-std.sh"))
        .arg(source)
        .args(&missing)
        .current_dir(root()))?;
    for target in missing {
        if !has_target(target)? {
            bail!("{target} is still missing from the toolchain");
        }
    }
    Ok(())
}

/// What the tests of AArch64's kernels need. They are left out where it cannot be had: their target has a standard
/// library, which rustup alone brings.
fn for_aarch64() -> Result<()> {
    let missing = missing([aarch64::TARGET])?;
    if !missing.is_empty() {
        rustup_add(&missing);
    }
    if let Err(error) = qemu(aarch64::QEMU, "qemu-user") {
        println!("{error:#}");
    }
    if let Some(what) = aarch64::missing()? {
        println!("{what} cannot be had here: the kernels of AArch64 will not be tested");
    }
    Ok(())
}

/// Those of `targets` that the toolchain lacks.
fn missing(targets: impl IntoIterator<Item = &'static str>) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for target in targets {
        let present = has_target(target)?;
        println!("target {target}: {}", if present { "present" } else { "missing" });
        if !present {
            missing.push(target);
        }
    }
    Ok(missing)
}

/// Whether rustup brought all of them.
fn rustup_add(targets: &[&str]) -> bool {
    println!("rustup target add {}", targets.join(" "));
    Command::new("rustup").args(["target", "add"]).args(targets).current_dir(root()).status().is_ok_and(|s| s.success())
}

/// Installs an emulator's program from its package.
fn qemu(program: &str, package: &str) -> Result<()> {
    if let Some(version) = version(program) {
        println!("{program}: {version}");
        return Ok(());
    }
    println!("{program}: missing, installing with apt");
    run(Command::new("bash").arg(root().join("xtask/scripts/install-qemu.sh")).args([program, package]))
}
