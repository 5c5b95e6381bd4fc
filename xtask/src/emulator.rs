//! Runs a firmware in QEMU and decodes what it says.
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use defmt_decoder::{DecodeError, Table};

use crate::board::Board;
use crate::firmware::Firmware;

/// The emulator's program.
pub const QEMU: &str = "qemu-system-arm";

/// Bytes for the loader to put into the board's memory.
pub struct Load<'a> {
    /// A file.
    pub file: &'a Path,
    /// Address of its first byte.
    pub address: u32,
}

/// Runs `elf` with `folder` as the emulator's working folder (the firmware's files appear there) and hands every decoded
/// log line to `line` as it comes. An error when the firmware reports failure, or nothing for longer than `patience`.
pub fn run(
    board: &Board,
    elf: &Path,
    loads: &[Load<'_>],
    folder: &Path,
    patience: Duration,
    mut line: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let firmware = Firmware::read(elf)?;
    let table = Table::parse(firmware.bytes())?
        .ok_or_else(|| anyhow!("{} has no defmt section: link with -Tdefmt.x", elf.display()))?;
    let mut decoder = table.new_stream_decoder();

    let mut command = Command::new(QEMU);
    command
        .args(["-nographic", "-monitor", "none", "-serial", "none", "-machine", board.name])
        // A virtual clock that advances with each instruction: timings are the same in every run.
        .args(["-icount", "shift=5", "-semihosting-config", "enable=on,target=native", "-kernel"])
        .arg(elf);
    for load in loads {
        let file = load.file.display();
        command.arg("-device").arg(format!("loader,file={file},addr={:#x},force-raw=on", load.address));
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {QEMU}: run `cargo xtask setup`"))?;
    let mut stdout = child.stdout.take().context("the emulator has no output")?;

    let (send, receive) = channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stdout.read(&mut buffer) {
            if send.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let outcome = loop {
        match receive.recv_timeout(patience) {
            Ok(bytes) => {
                decoder.received(&bytes);
                if let Err(error) = drain(&mut *decoder, &mut line) {
                    break Err(error);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                break Err(anyhow!("{} said nothing for {} s", board.name, patience.as_secs()));
            }
        }
    };
    if outcome.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for the emulator")?;
    let _ = reader.join();
    outcome?;
    if !status.success() {
        bail!("the firmware of {} ended with {status} after {:.1} s", board.name, started.elapsed().as_secs_f32());
    }
    Ok(())
}

fn drain(
    decoder: &mut (dyn defmt_decoder::StreamDecoder + Send + Sync),
    line: &mut impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    loop {
        match decoder.decode() {
            Ok(frame) => line(&frame.display_message().to_string())?,
            Err(DecodeError::UnexpectedEof) => return Ok(()),
            Err(DecodeError::Malformed) => bail!("a malformed defmt frame: the firmware and its ELF file differ"),
        }
    }
}
