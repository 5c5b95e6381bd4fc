//! The buffers that detection and scoring in `gsacp_core` ask their caller for, as growing vectors.

use gsacp_core::detect::{Run, Slot, Workspace};
use gsacp_core::metrics::{Blob, Scratch};

/// Buffers large enough for any map of the sizes asked for: nothing can overflow. Reused from image to image.
#[derive(Default)]
pub struct Buffers {
    runs: [Vec<Run>; 2],
    slots: [Vec<Slot>; 2],
    blobs: [Vec<Blob>; 2],
}

impl Buffers {
    /// For finding components in a map of this width.
    pub fn workspace(&mut self, width: usize) -> Workspace<'_> {
        self.grow(width, 0);
        Workspace { runs: &mut self.runs[0], slots: &mut self.slots[0] }
    }

    /// For scoring a map of this size.
    pub fn scratch(&mut self, width: usize, height: usize) -> Scratch<'_> {
        self.grow(width, height);
        let [truth_runs, runs] = &mut self.runs;
        let [truth_slots, slots] = &mut self.slots;
        let [targets, found] = &mut self.blobs;
        Scratch {
            truth: Workspace { runs: truth_runs, slots: truth_slots },
            prediction: Workspace { runs, slots },
            targets,
            found,
        }
    }

    fn grow(&mut self, width: usize, height: usize) {
        fn to<T: Clone>(buffers: &mut [Vec<T>; 2], length: usize, empty: T) {
            for buffer in buffers.iter_mut().filter(|b| b.len() < length) {
                buffer.resize(length, empty.clone());
            }
        }
        to(&mut self.runs, Workspace::runs_for(width), Run::EMPTY);
        to(&mut self.slots, Workspace::slots_for(width), Slot::EMPTY);
        to(&mut self.blobs, Blob::most_for(width, height), Blob::EMPTY);
    }
}
