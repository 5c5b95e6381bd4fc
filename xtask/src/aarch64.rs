//! The kernels of AArch64, which no machine here has: their tests in QEMU's user mode.
use std::process::Command;

use anyhow::Result;

use crate::repository::{cargo, has_target, version};

/// Its standard library brings the C library, and the toolchain's own linker links it: no cross compiler is needed.
pub const TARGET: &str = "aarch64-unknown-linux-musl";
/// The emulator's program.
pub const QEMU: &str = "qemu-aarch64";
/// A processor with the dot product, and one without.
pub const PROCESSORS: [&str; 2] = ["cortex-a76", "cortex-a72"];

/// What lacks for the tests, if anything does.
pub fn missing() -> Result<Option<&'static str>> {
    Ok(match (has_target(TARGET)?, version(QEMU)) {
        (false, _) => Some(TARGET),
        (_, None) => Some(QEMU),
        _ => None,
    })
}

/// The lints of the files that no other target compiles.
pub fn lints() -> Command {
    cargo(&["clippy", "--release", "--locked", "-p", "gsacp-core", "--target", TARGET, "--", "-D", "warnings"])
}

/// The tests of the kernels on an emulated processor.
pub fn kernel_tests(processor: &str) -> Command {
    let mut command =
        cargo(&["test", "--release", "--locked", "-p", "gsacp-core", "--lib", "--target", TARGET, "kernels::"]);
    command
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", format!("{QEMU} -cpu {processor}"));
    command
}
