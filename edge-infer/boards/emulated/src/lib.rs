//! What the emulated boards share: console, clock, files on the host, stack measure, and the program itself.
//! A board adds its memory map and a dozen lines of set-up.
#![no_std]
// The arena is planned while compiling, which takes a second of const evaluation.
#![allow(long_running_const_eval)]

mod clock;
mod console;
mod kernels;
mod memory;
mod panic;
mod program;
mod report;
mod semihosting;
mod stack;

pub use kernels::run_kernels;
pub use memory::Region;
pub use program::{Board, run};

use cortex_m_rt::{ExceptionFrame, exception};

/// A fault of the core (an overflowing stack, an access outside the memory map) ends the run with a failure.
#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    semihosting::exit(semihosting::Outcome::Failure)
}
