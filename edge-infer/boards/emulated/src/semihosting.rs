//! The few semihosting calls the boards use: files on the host, and the end of the run with a status.
use cortex_m_semihosting::{nr, syscall};

const WRITE_BINARY: usize = 5;

/// How a run ended; the emulator's exit status tells the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every frame was read and every good one answered.
    Success,
    /// The program could not do its work.
    Failure,
}

/// A file on the host, open for writing.
pub struct File(usize);

impl File {
    /// The host's standard output, or `None` without a host.
    pub fn stdout() -> Option<Self> {
        Self::create(c":tt")
    }

    /// Creates `name` in the emulator's working folder.
    pub fn create(name: &core::ffi::CStr) -> Option<Self> {
        let arguments = [name.as_ptr() as usize, WRITE_BINARY, name.count_bytes()];
        // SAFETY: SYS_OPEN reads a block of three words and the string, all alive during the call.
        let handle = unsafe { syscall(nr::OPEN, &arguments) };
        (handle as isize >= 0).then_some(File(handle))
    }

    /// Writes `bytes`; whether the host took them all.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let arguments = [self.0, bytes.as_ptr() as usize, bytes.len()];
        // SAFETY: SYS_WRITE reads a block of three words and `bytes`, alive during the call.
        let left = unsafe { syscall(nr::WRITE, &arguments) };
        left == 0
    }

    /// Writes 16-bit values as they lie in memory: little-endian.
    pub fn write_words(&self, words: &[i16]) -> bool {
        // SAFETY: the same memory, seen as bytes.
        self.write(unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) })
    }
}

/// Ends the run: the emulator exits 0 for success, 1 for failure. Without a host it stops here for the watchdog.
pub fn exit(outcome: Outcome) -> ! {
    use cortex_m_semihosting::debug;
    debug::exit(if outcome == Outcome::Success { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::nop();
    }
}
