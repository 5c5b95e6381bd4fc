//! Progress of a long step: a bar on a terminal, a few plain lines elsewhere; and the long step over many items itself.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

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

/// What `one` makes of each of `items`, in their order, computed in parallel, with the progress of `what` ("reading images").
/// `scratch` makes what a thread keeps between items. Of several errors the first in order is returned, whatever the
/// threads did; items after one that failed are not begun.
pub fn in_order<S: Sync, T: Send, B: Send>(
    what: &str,
    items: &[S],
    scratch: impl Fn() -> B + Sync + Send,
    one: impl Fn(&mut B, &S) -> Result<T> + Sync + Send,
) -> Result<Vec<T>> {
    let progress = Progress::new(what, items.len());
    let failed = AtomicUsize::new(usize::MAX);
    let begun = |scratch: &mut B, (index, item): (usize, &S)| {
        // An item before the first that fails is never passed over, so that the first is found.
        (index < failed.load(Ordering::Relaxed)).then(|| {
            let made = one(scratch, item);
            match &made {
                Ok(_) => progress.step(),
                Err(_) => _ = failed.fetch_min(index, Ordering::Relaxed),
            }
            made
        })
    };
    let made: Vec<Option<Result<T>>> = items.par_iter().enumerate().map_init(scratch, begun).collect();
    made.into_iter().flatten().collect()
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::*;

    #[test]
    fn results_come_in_order_and_of_several_errors_the_first() {
        let items: Vec<usize> = (0..200).collect();
        let doubled = in_order("doubling", &items, || 2, |factor, &item| Ok(*factor * item)).unwrap();
        assert!(doubled.iter().enumerate().all(|(i, &value)| value == 2 * i) && doubled.len() == 200);
        for _ in 0..20 {
            // The first to fail is the last to say so.
            let one = |(): &mut (), &item: &usize| match item {
                40 => {
                    std::thread::sleep(Duration::from_millis(2));
                    bail!("item {item}")
                }
                41.. if item % 50 == 7 => bail!("item {item}"),
                _ => Ok(item),
            };
            assert_eq!(in_order("failing", &items, || (), one).unwrap_err().to_string(), "item 40");
        }
        assert!(in_order("idling", &[], || (), |(), item: &u8| Ok(*item)).unwrap().is_empty());
    }
}
