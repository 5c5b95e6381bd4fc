//! The sensor application on QEMU's `mps3-an547` (Cortex-M55, built for Helium).
#![no_std]
#![no_main]

use core::num::NonZeroU32;

use board_emulated::{Board, Region, run};
use cortex_m_rt::entry;

// SAFETY: memory of this machine beside the sections of memory.x, filled by the emulator's loader before reset.
static BOARD: Board = unsafe {
    Board {
        slot_a: Region::new(0x0100_0000, 1 << 20),
        slot_b: Region::new(0x0110_0000, 1 << 20),
        reel: Region::new(0x6000_0000, 16 << 20),
        core_mhz: NonZeroU32::new(32).unwrap(),
        deadline: 75_000,
    }
};

#[entry]
fn main() -> ! {
    run(&BOARD)
}
