//! Ctrl-C: the first one asks the run to stop after its step, the second one ends the process.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static PRESSED: AtomicU32 = AtomicU32::new(0);
static INSTALL: Once = Once::new();

/// Exit status of a process that the second Ctrl-C ended (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// Installs the handler; without one (a platform that has no signals) Ctrl-C ends the process as usual.
pub fn install() {
    INSTALL.call_once(|| {
        let _ = ctrlc::set_handler(|| {
            if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(INTERRUPTED);
            }
            eprintln!("\nCtrl-C: saving after this step; again to stop at once");
        });
    });
}

/// Whether Ctrl-C was pressed.
pub fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}
