//! `cargo xtask setup`: the compiler's targets and the emulator.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::board::BOARDS;
use crate::emulator::QEMU;
use crate::repository::{output, root, run};

/// Install what firmware and emulation need: the boards' compiler targets and QEMU. Does nothing when all is there.
#[derive(Args)]
pub struct Setup {}

impl Setup {
    /// Installs what is missing.
    pub fn run(self) -> Result<()> {
        targets()?;
        qemu()
    }
}

fn targets() -> Result<()> {
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?.trim());
    let missing: Vec<&str> = BOARDS
        .iter()
        .map(|b| b.target)
        .filter(|target| {
            let present = has_core(&sysroot, target);
            println!("target {target}: {}", if present { "present" } else { "missing" });
            !present
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("rustup target add {}", missing.join(" "));
    let added = Command::new("rustup").args(["target", "add"]).args(&missing).current_dir(root()).status();
    if added.is_ok_and(|s| s.success()) {
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
    match missing.iter().find(|target| !has_core(&sysroot, target)) {
        Some(target) => bail!("{target} is still missing from {}", sysroot.display()),
        None => Ok(()),
    }
}

fn has_core(sysroot: &std::path::Path, target: &str) -> bool {
    let folder = sysroot.join("lib/rustlib").join(target).join("lib");
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|e| {
            let name = e.file_name();
            name.to_string_lossy().starts_with("libcore-")
        })
    })
}

fn qemu() -> Result<()> {
    let version = Command::new(QEMU).arg("--version").stderr(Stdio::null()).output();
    if let Ok(out) = version.as_ref()
        && out.status.success()
    {
        println!("{QEMU}: {}", String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("present"));
        return Ok(());
    }
    println!("{QEMU}: missing, installing with apt");
    run(Command::new("bash").arg(root().join("xtask/scripts/install-qemu-arm.sh")))
}
