//! Where things are, and how other programs are run.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A place under the root's `target/`, created.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let path = root().join("target").join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))
}

/// Whether this is a run whose outside data are required, never skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// The real images in the SIRST3 layout: `GSACP_DATA`, or `../shared/data/SIRST3`. `None` where a user has none.
pub fn real_images() -> Result<Option<PathBuf>> {
    outside("GSACP_DATA", "../shared/data/SIRST3", "img_idx")
}

/// The reference's fixtures: `GSACP_FIXTURES`, or `../shared/fixtures`. `None` where a user has none.
pub fn fixtures() -> Result<Option<PathBuf>> {
    outside("GSACP_FIXTURES", "../shared/fixtures", "msda_state.safetensors")
}

fn outside(variable: &str, default: &str, must_hold: &str) -> Result<Option<PathBuf>> {
    let path = std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from);
    if path.join(must_hold).exists() {
        return Ok(Some(path.canonicalize()?));
    }
    if is_ci() || std::env::var_os(variable).is_some() {
        bail!("{} holds no {must_hold}: set {variable} to the folder that does", path.display());
    }
    Ok(None)
}

/// Whether the toolchain has the target's libraries.
pub fn has_target(target: &str) -> Result<bool> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib");
    let core = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("libcore-");
    Ok(std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|entry| core(&entry.file_name()))))
}

/// The first line of what a program says of its version; `None` where it does not run.
pub fn version(program: &str) -> Option<String> {
    let out = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let line = String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned();
    out.status.success().then_some(line)
}

/// `cargo` at the repository's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// The `gsacp` binary of this repository, built when it is not.
pub fn gsacp() -> Result<PathBuf> {
    run(&mut cargo(&["build", "--release", "--quiet", "--package", "gsacp-train", "--bin", "gsacp"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir));
    Ok(target.join("release/gsacp"))
}

/// Runs to the end with this terminal; a failure is an error that shows the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns the standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !out.status.success() {
        bail!("{} ended with {}", shown(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program.to_string_lossy().into_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// A heading in the output of a long command.
pub fn heading(text: &str) {
    println!("\n── {text} {}", "─".repeat(76usize.saturating_sub(text.chars().count())));
}
