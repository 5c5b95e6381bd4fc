//! The sensor application on QEMU's `mps2-an500` (Cortex-M7).
#![no_std]
#![no_main]

use core::num::NonZeroU32;

use board_emulated::{Board, Region, run};
use cortex_m_rt::entry;

// SAFETY: memory of this machine beside the sections of memory.x, filled by the emulator's loader before reset.
static BOARD: Board = unsafe {
    Board {
        slot_a: Region::new(0x0020_0000, 1 << 20),
        slot_b: Region::new(0x0030_0000, 1 << 20),
        // With large frames the variables have the upper half: large/memory.x.
        reel: Region::new(0x6000_0000, if cfg!(feature = "large") { 8 << 20 } else { 16 << 20 }),
        core_mhz: NonZeroU32::new(25).unwrap(),
        deadline: 200_000,
    }
};

#[entry]
fn main() -> ! {
    run(&BOARD)
}
