//! Batches computed ahead by background threads, in order, the same bits for any number of threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

use super::train_set::{Batch, Plan, TrainSet};

/// Batches that wait in each thread's channel.
const AHEAD: usize = 2;

/// An iterator over the batches of some epochs. Dropping it stops its threads.
#[derive(Debug)]
pub struct Loader {
    /// Thread k computes every `workers.len()`-th batch, so taking turns keeps the order.
    workers: Vec<Worker>,
    start: u64,
    next: u64,
    end: u64,
}

/// A thread and the channel that it fills; each is taken when it ends.
#[derive(Debug)]
struct Worker {
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Batches from batch `batch` of epoch `epoch` to the end of epoch `epochs` − 1, by `threads` (at least 1)
    /// threads. A resumed run continues with the numbers of the first batch it has not trained on.
    pub fn start_at(
        set: Arc<TrainSet>,
        plan: Plan,
        epoch: u64,
        batch: usize,
        epochs: u64,
        threads: usize,
    ) -> Result<Self> {
        plan.augment.validate()?;
        ensure!(plan.batch > 0, "batch = 0: give at least 1");
        let per_epoch = set.batches_per_epoch(plan.batch) as u64;
        ensure!(
            (batch as u64) <= per_epoch,
            "batch {batch} of an epoch of {per_epoch}: the data or the batch size is not that of the run"
        );
        let start = epoch * per_epoch + batch as u64;
        let end = epochs * per_epoch;
        let threads = threads.max(1);
        let workers = (0..threads as u64)
            .map(|worker| {
                let (set, plan) = (set.clone(), plan.clone());
                let (sender, receiver) = sync_channel(AHEAD);
                let work = move || {
                    for number in (start + worker..end).step_by(threads) {
                        let batch = set.batch(&plan, number / per_epoch, (number % per_epoch) as usize);
                        if sender.send(batch).is_err() {
                            return;
                        }
                    }
                };
                let thread = std::thread::Builder::new().name(format!("loader {worker}")).spawn(work);
                Ok(Worker { batches: Some(receiver), thread: Some(thread.context("cannot start a loader thread")?) })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { workers, start, next: start, end })
    }
}

impl Iterator for Loader {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.next >= self.end {
            return None;
        }
        let turn = (self.next - self.start) as usize % self.workers.len();
        let worker = &mut self.workers[turn];
        let batch = worker.batches.as_ref()?.recv();
        if batch.is_err()
            && let Some(Err(panic)) = worker.thread.take().map(JoinHandle::join)
        {
            // The thread sends all its batches unless it panics: pass that on rather than end early.
            std::panic::resume_unwind(panic);
        }
        self.next += 1;
        batch.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.saturating_sub(self.next) as usize;
        (left, Some(left))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Without a receiver the next send fails, and the thread ends.
            worker.batches.take();
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::augment::Augment;
    use super::super::image::{Samples, StoredImage};
    use super::super::train_set::Item;
    use super::*;

    fn set() -> Arc<TrainSet> {
        let items = (0..7u8).map(|i| Item {
            name: format!("n{i}"),
            image: StoredImage {
                width: 20,
                height: 24,
                samples: Samples::Eight((0..480).map(|p| (p % 251) as u8 ^ i).collect()),
            },
            mask: None,
            points: Vec::new(),
            patches: Vec::new(),
        });
        Arc::new(TrainSet::new(items.collect()).unwrap())
    }

    fn plan() -> Plan {
        Plan { seed: 3, batch: 2, augment: Augment { crop: 16, noise: 0.05, ..Augment::default() } }
    }

    fn batches(epoch: u64, batch: usize, threads: usize) -> Vec<Batch> {
        Loader::start_at(set(), plan(), epoch, batch, 3, threads).unwrap().collect()
    }

    #[test]
    fn batches_are_the_same_for_any_number_of_threads() {
        let one = batches(0, 0, 1);
        assert_eq!(one.len(), 9);
        let numbers: Vec<_> = one.iter().map(|b| (b.epoch, b.index)).collect();
        assert_eq!(numbers[2..5], [(0, 2), (1, 0), (1, 1)]);
        for threads in [2, 3, 4] {
            assert_eq!(one, batches(0, 0, threads));
        }
    }

    #[test]
    fn a_resumed_loader_continues_with_the_same_bits() {
        let whole = batches(0, 0, 2);
        for (epoch, batch, skipped) in [(0, 1, 1), (1, 0, 3), (1, 2, 5), (1, 3, 6), (2, 3, 9), (3, 0, 9)] {
            for threads in [1, 2, 3] {
                assert_eq!(whole[skipped..], batches(epoch, batch, threads), "{epoch} {batch} {threads}");
            }
        }
    }

    #[test]
    fn a_loader_that_is_dropped_early_ends() {
        let mut loader = Loader::start_at(set(), plan(), 0, 0, 1_000_000, 2).unwrap();
        assert!(loader.next().is_some());
        drop(loader);
    }

    #[test]
    fn a_place_that_the_run_cannot_have_is_an_error() {
        assert!(Loader::start_at(set(), plan(), 0, 4, 3, 1).is_err());
        assert!(Loader::start_at(set(), Plan { batch: 0, ..plan() }, 0, 0, 3, 1).is_err());
    }
}
