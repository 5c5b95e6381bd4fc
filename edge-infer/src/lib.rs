//! The sensor application: frame → engine → detections → confirmation → report, on a microcontroller.
//!
//! - [`hardware`]: the small traits a board implements, and drivers over embedded-hal 1.0.
//! - [`network`]: the int8 engine as the loop's [`Network`].
//! - [`packet`]: how a frame travels and is checked; [`reel`]: recorded frames, for benches and emulators.
//! - [`sensor`]: the loop, over those traits and a [`Network`].
//! - [`store`]: the two slots for model images, of which a bad one is never used.
//! - [`fault`]: what can go wrong; every fault costs one frame or one image, never the program.
//!
//! Nothing here allocates, blocks for ever, or trusts a byte from outside.
#![no_std]
#![forbid(unsafe_code)]

pub mod fault;
pub mod hardware;
pub mod network;
pub mod packet;
pub mod reel;
pub mod sensor;
pub mod store;

pub use fault::Fault;
pub use hardware::{Alarm, Clock, FrameSource, Watchdog};
pub use sensor::{Network, Sensor, Telemetry};
pub use store::ModelStore;
