//! `cargo xtask test`: every promise, on the host and in the emulator.
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{parity, setup::Setup, size::Size};
use crate::aarch64;
use crate::board::{BOARDS, Board, SMALL};
use crate::frames::Selection;
use crate::model;
use crate::repository::{cargo, fixtures, heading, real_images, run};

/// Run everything: formatting, lints, documentation, host tests, firmware proofs and budgets, emulator tests.
#[derive(Args)]
pub struct Test {
    /// Leave out formatting, lints and documentation.
    #[arg(long)]
    only_tests: bool,
}

impl Test {
    /// Runs every step; the first failure ends it.
    pub fn run(self) -> Result<()> {
        step("set-up", || Setup {}.run())?;
        for (what, place) in [("real images", real_images()?), ("reference fixtures", fixtures()?)] {
            match place {
                Some(path) => println!("{what}: {}", path.display()),
                None => println!("{what}: none here, so the tests that need them are left out (CI requires them)"),
            }
        }
        if !self.only_tests {
            step("formatting", || {
                run(&mut cargo(&["fmt", "--all", "--check"]))?;
                run(cargo(&["fmt", "--all", "--check"]).current_dir(BOARDS[0].folder().join("..")))
            })?;
            step("lints", || {
                run(&mut cargo(&[
                    "clippy",
                    "--release",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ]))?;
                for board in &BOARDS {
                    run(&mut board.cargo(&["clippy", "--release", "--locked", "--", "-D", "warnings"]))?;
                }
                if aarch64::missing()?.is_none() {
                    run(&mut aarch64::lints())?;
                }
                Ok(())
            })?;
            step("documentation", || {
                run(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
            })?;
        }
        step("firmware: no panic (it links), no allocator, budgets", || {
            Size { board: None, map: false, size: SMALL }.run()
        })?;
        step("parity of the committed model on both boards", || {
            let boards: Vec<&Board> = BOARDS.iter().collect();
            parity::compare(&boards, &model::image(None)?, &Selection::default_images(8).load()?)
        })?;
        let mut sums = [0; 3];
        step("kernels on emulated AArch64 processors, with the dot product and without", || {
            if let Some(what) = aarch64::missing()? {
                println!("left out: {what} is not here");
                return Ok(());
            }
            aarch64::PROCESSORS.iter().try_for_each(|cpu| tests(&mut aarch64::kernel_tests(cpu), &mut sums))
        })?;
        // Last, so that a run closes with the count of its tests.
        step("tests, host and emulator", || {
            tests(&mut cargo(&["test", "--release", "--workspace", "--locked"]), &mut sums)?;
            let [passed, failed, ignored] = sums;
            println!("{passed} passed, {failed} failed, {ignored} skipped");
            Ok(())
        })
    }
}

/// Runs `cargo test`, shows its output, and adds the counts of its `test result:` lines to `sums`: passed, failed, ignored.
fn tests(command: &mut Command, sums: &mut [u64; 3]) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let before = sums[0];
    for line in BufReader::new(child.stdout.take().context("cargo test has no output")?).lines() {
        let line = line.context("the output of cargo test")?;
        println!("{line}");
        for (sum, count) in sums.iter_mut().zip(counts(&line)) {
            *sum += count;
        }
    }
    ensure!(child.wait()?.success(), "a test failed");
    ensure!(sums[0] > before, "no test ran");
    Ok(())
}

/// The three counts of a `test result:` line; zeros for any other.
fn counts(line: &str) -> [u64; 3] {
    let Some((_, fields)) = line.strip_prefix("test result:").and_then(|rest| rest.split_once(". ")) else {
        return [0; 3];
    };
    let count = |what: &str| {
        let field = fields.split("; ").find_map(|field| field.strip_suffix(what));
        field.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    [count(" passed"), count(" failed"), count(" ignored")]
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    heading(name);
    let started = Instant::now();
    work()?;
    println!("{name}: done in {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_counts_of_a_result_line_are_read() {
        let line = "test result: ok. 101 passed; 2 failed; 13 ignored; 0 measured; 7 filtered out; finished in 1.75s";
        assert_eq!(counts(line), [101, 2, 13]);
        assert_eq!(counts("test metrics::tests::a ... ok"), [0; 3]);
    }
}
