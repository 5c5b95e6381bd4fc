//! Progress of a long step: a bar on a terminal, a few plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Counts finished items; may be shared by threads. On a terminal a bar with the time left, which is removed at the
/// end; in a log one line per fifth of the work, so that a log stays readable.
pub struct Progress {
    what: String,
    length: u64,
    done: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `what` is what happens to the items ("reading images"), `length` how many there are.
    pub fn new(what: &str, length: usize) -> Self {
        let length = length as u64;
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} · {eta} left");
            let bar = ProgressBar::new(length).with_message(what.to_owned());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { what: what.to_owned(), length, done: AtomicU64::new(0), bar }
    }

    /// One more item is done.
    pub fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if done * 5 / self.length.max(1) != (done - 1) * 5 / self.length.max(1) => {
                eprintln!("{}: {done} of {}", self.what, self.length);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
