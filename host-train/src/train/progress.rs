//! What a user sees of a run: a progress bar on a terminal, a plain line every 30 s elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// Steps over which the speed is averaged.
const WINDOW: usize = 50;

/// The display of a run of `total` steps.
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    total: u64,
    batch: usize,
    shown: Instant,
    finished: VecDeque<Instant>,
}

impl Display {
    /// A display for a run that has taken `done` of `total` steps of `batch` images.
    pub fn new(done: u64, total: u64, batch: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
            let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(done);
            bar
        });
        let now = Instant::now();
        Self { bar, total, batch, shown: now, finished: VecDeque::from([now]) }
    }

    /// Shows a finished step.
    pub fn step(&mut self, step: u64, epoch: u64, epochs: u64, terms: &[(&str, f64)]) {
        let now = Instant::now();
        self.finished.push_back(now);
        if self.finished.len() > WINDOW {
            self.finished.pop_front();
        }
        if self.bar.is_none() && now - self.shown < PLAIN_INTERVAL {
            return;
        }
        self.shown = now;
        let terms: String = terms.iter().map(|(name, value)| format!(" {name} {value:.3}")).collect();
        let speed = self.images_per_second();
        let left = (self.total - step.min(self.total)) as f64 * self.batch as f64 / speed.max(1e-6);
        let text = format!("epoch {}/{epochs} ·{terms} · {speed:.1} images/s · {} left", epoch + 1, clock(left));
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(text);
            }
            None => eprintln!("step {step}/{} · {text}", self.total),
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Speed over the last steps.
    pub fn images_per_second(&self) -> f64 {
        match (self.finished.front(), self.finished.back()) {
            (Some(first), Some(last)) if last > first => {
                (self.finished.len() - 1) as f64 * self.batch as f64 / (*last - *first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Starts the speed afresh after a pause (validation), which is no training time.
    pub fn restart_clock(&mut self) {
        self.finished = VecDeque::from([Instant::now()]);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as `1 h 05 min`, `12 min` or `40 s`.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e9) as u64;
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_a_person_says_them() {
        assert_eq!([clock(40.9), clock(600.0), clock(7500.0)], ["40 s", "10 min", "2 h 05 min"]);
        assert_eq!(clock(f64::NAN), "0 s");
    }
}
