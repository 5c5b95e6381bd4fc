//! One file per command.
pub mod count;
pub mod demo;
pub mod pack;
pub mod parity;
pub mod peers;
pub mod run;
pub mod setup;
pub mod size;
pub mod test;
