//! Everything between files and batches: images and masks, the data-set layout, point labels,
//! synthetic scenes, augmentation and the loader.
//!
//! Coordinates: `x` is the column, `y` the row, both 0-based; images are row-major.
//! Grey values are `f32` in [0, 1]; masks are 0 or 1.

pub mod augment;
pub mod dataset;
pub mod files;
pub mod image;
pub mod loader;
pub mod paste;
pub mod patch;
pub mod points;
pub mod progress;
pub mod random;
pub mod report;
pub mod sheet;
pub mod spectrum;
pub mod synth;
pub mod targets;
pub mod train_set;
