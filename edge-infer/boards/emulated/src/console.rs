//! defmt over semihosting: one write to the host's standard output per log frame.
//!
//! Written here, and not taken from `defmt-semihosting`, because that logger can panic (on re-entry), and this firmware
//! proves that it cannot.
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::semihosting;

/// A log frame of ours is a few dozen bytes; a longer one is written in several pieces.
const BUFFER: usize = 256;

struct Console {
    taken: AtomicBool,
    inner: UnsafeCell<Inner>,
}

struct Inner {
    restore: critical_section::RestoreState,
    encoder: defmt::Encoder,
    stdout: Option<semihosting::File>,
    buffer: [u8; BUFFER],
    used: usize,
}

// SAFETY: `inner` is touched only between `acquire` and `release`, inside a critical section, on a single core.
unsafe impl Sync for Console {}

static CONSOLE: Console = Console {
    taken: AtomicBool::new(false),
    inner: UnsafeCell::new(Inner {
        restore: critical_section::RestoreState::invalid(),
        encoder: defmt::Encoder::new(),
        stdout: None,
        buffer: [0; BUFFER],
        used: 0,
    }),
};

impl Inner {
    fn push(buffer: &mut [u8; BUFFER], used: &mut usize, stdout: &Option<semihosting::File>, bytes: &[u8]) {
        for &byte in bytes {
            if *used >= BUFFER {
                Self::flush(buffer, used, stdout);
            }
            if let Some(place) = buffer.get_mut(*used) {
                *place = byte;
                *used += 1;
            }
        }
    }

    fn flush(buffer: &[u8; BUFFER], used: &mut usize, stdout: &Option<semihosting::File>) {
        if let (Some(file), Some(bytes)) = (stdout, buffer.get(..*used)) {
            // A console that cannot be written to is no reason to stop looking for targets.
            file.write(bytes);
        }
        *used = 0;
    }
}

#[defmt::global_logger]
struct Logger;

// SAFETY: `acquire` opens a critical section that `release` closes; a re-entry ends the program, so that no two frames
// are ever interleaved.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: closed by `release`, which defmt calls once for every `acquire`.
        let restore = unsafe { critical_section::acquire() };
        if CONSOLE.taken.swap(true, Ordering::Relaxed) {
            semihosting::exit(semihosting::Outcome::Failure);
        }
        // SAFETY: `taken` was false, so nobody else holds the inner part, and interrupts are off.
        let inner = unsafe { &mut *CONSOLE.inner.get() };
        inner.restore = restore;
        if inner.stdout.is_none() {
            inner.stdout = semihosting::File::stdout();
        }
        let Inner { encoder, stdout, buffer, used, .. } = inner;
        encoder.start_frame(|bytes| Inner::push(buffer, used, stdout, bytes));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: called after `acquire`, whose critical section is still open.
        let inner = unsafe { &mut *CONSOLE.inner.get() };
        let Inner { encoder, stdout, buffer, used, restore } = inner;
        encoder.end_frame(|bytes| Inner::push(buffer, used, stdout, bytes));
        Inner::flush(buffer, used, stdout);
        let restore = *restore;
        CONSOLE.taken.store(false, Ordering::Relaxed);
        // SAFETY: pairs with the `acquire` of the same frame.
        unsafe { critical_section::release(restore) };
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: called between `acquire` and `release`.
        let inner = unsafe { &mut *CONSOLE.inner.get() };
        let Inner { encoder, stdout, buffer, used, .. } = inner;
        encoder.write(bytes, |bytes| Inner::push(buffer, used, stdout, bytes));
    }
}
