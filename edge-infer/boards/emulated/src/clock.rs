//! Time in executed instructions: SysTick under the emulator's `-icount shift=5` (32 ns of virtual time each), the same
//! in every run. A measure of work, not of a real core's cycles.
use core::num::{NonZeroU32, NonZeroU64};
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::{SYST, syst::SystClkSource};
use cortex_m_rt::exception;

const RELOAD: u32 = 0x00FF_FFFF;
const NS_PER_INSTRUCTION: NonZeroU64 = NonZeroU64::new(32).unwrap();

static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    WRAPS.fetch_add(1, Ordering::Relaxed);
}

/// A running SysTick.
#[derive(Clone, Copy)]
pub struct InstructionClock {
    core_mhz: NonZeroU32,
}

impl InstructionClock {
    /// Starts the timer of a core that the emulator clocks at `core_mhz`.
    pub fn start(mut syst: SYST, core_mhz: NonZeroU32) -> Self {
        syst.set_clock_source(SystClkSource::Core);
        syst.set_reload(RELOAD);
        syst.clear_current();
        syst.enable_interrupt();
        syst.enable_counter();
        Self { core_mhz }
    }
}

impl gsacp_edge::Clock for InstructionClock {
    fn now(&self) -> u64 {
        let ticks = loop {
            let wraps = WRAPS.load(Ordering::Relaxed);
            let current = SYST::get_current();
            if wraps == WRAPS.load(Ordering::Relaxed) {
                break (u64::from(wraps) << 24) + u64::from(RELOAD.saturating_sub(current));
            }
        };
        ticks * 1000 / NonZeroU64::from(self.core_mhz).saturating_mul(NS_PER_INSTRUCTION)
    }
}
