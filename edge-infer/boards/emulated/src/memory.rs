//! Static memory, handed out once, and the regions that the emulator's loader fills.
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static value that can be taken, for good, by one owner.
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reachable only through `take`, which succeeds once.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// A value that nobody has taken.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, the first time; `None` after that.
    #[expect(clippy::mut_from_ref, reason = "the flag makes it the only reference there will ever be")]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: `taken` was false, so this is the only reference that will ever be made.
        Some(unsafe { &mut *self.value.get() })
    }
}

/// A stretch of memory that the loader fills before reset and nothing writes afterwards.
#[derive(Clone, Copy)]
pub struct Region {
    /// Address of its first byte; a multiple of 16.
    start: usize,
    /// Bytes.
    len: usize,
}

impl Region {
    /// # Safety
    /// `start..start + len` must be readable memory of the board that no linker section covers and nothing writes to.
    pub const unsafe fn new(start: usize, len: usize) -> Self {
        Self { start, len }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'static [u8] {
        // SAFETY: the promise of `new`; every bit pattern is a byte.
        unsafe { core::slice::from_raw_parts(self.start as *const u8, self.len) }
    }
}
