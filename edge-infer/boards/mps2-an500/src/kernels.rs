//! The kernels compared and counted on QEMU's `mps2-an500`.
#![no_std]
#![no_main]

use core::num::NonZeroU32;

use board_emulated::run_kernels;
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    run_kernels(NonZeroU32::new(25).unwrap())
}
