//! What the loop asks of the hardware: a frame, an alarm line, the time, a watchdog. Small traits, so that a board is a
//! few lines and a test is a few more. The drivers here are generic over embedded-hal 1.0.
use embedded_hal::digital::{InputPin, OutputPin};
use embedded_hal::spi::{Operation, SpiDevice};

use crate::Fault;
use crate::packet::{HEADER_BYTES, Header};

/// Where frames come from.
pub trait FrameSource {
    /// Writes the next frame (grey bytes, row by row) over the whole of `pixels` and returns its sequence number.
    ///
    /// Must return within a bounded time. After a fault the next call must try the next frame; the contents of `pixels`
    /// are then unspecified.
    fn next_frame(&mut self, size: (u16, u16), pixels: &mut [u8]) -> Result<u16, Fault>;
}

/// The line that says that a confirmed target is in view.
pub trait Alarm {
    /// Raises or drops the alarm.
    fn set(&mut self, on: bool) -> Result<(), Fault>;
}

/// A clock that never goes back, in ticks of the board's choosing.
pub trait Clock {
    /// Ticks since some fixed moment.
    fn now(&self) -> u64;
}

/// The hardware watchdog: unfed for its time-out, it resets the board.
pub trait Watchdog {
    /// Starts its time again.
    fn feed(&mut self);
}

/// An alarm on a GPIO pin, active high.
pub struct PinAlarm<P>(pub P);

impl<P: OutputPin> Alarm for PinAlarm<P> {
    fn set(&mut self, on: bool) -> Result<(), Fault> {
        self.0.set_state(on.into()).map_err(|_| Fault::Bus)
    }
}

/// A sensor on SPI that answers `READ_HEADER` and `READ_PIXELS` with the two parts of a frame packet and holds its
/// data-ready pin high from a frame's end until it is read.
pub struct SpiSensor<S, R> {
    spi: S,
    ready: R,
    polls: u32,
}

/// Command byte after which the sensor sends the packet's header.
pub const READ_HEADER: u8 = 0x0B;
/// Command byte after which the sensor sends the packet's pixels.
pub const READ_PIXELS: u8 = 0x0C;

impl<S: SpiDevice, R: InputPin> SpiSensor<S, R> {
    /// A sensor whose data-ready pin is looked at no more than `polls` times for a frame.
    pub fn new(spi: S, ready: R, polls: u32) -> Self {
        Self { spi, ready, polls }
    }

    fn wait(&mut self) -> Result<(), Fault> {
        for _ in 0..self.polls {
            if self.ready.is_high().map_err(|_| Fault::Bus)? {
                return Ok(());
            }
        }
        Err(Fault::NotReady)
    }
}

impl<S: SpiDevice, R: InputPin> FrameSource for SpiSensor<S, R> {
    fn next_frame(&mut self, size: (u16, u16), pixels: &mut [u8]) -> Result<u16, Fault> {
        self.wait()?;
        let mut bytes = [0; HEADER_BYTES];
        self.spi
            .transaction(&mut [Operation::Write(&[READ_HEADER]), Operation::Read(&mut bytes)])
            .map_err(|_| Fault::Bus)?;
        // The pixels are read even when the header is bad: the sensor moves on to its next frame only then.
        self.spi
            .transaction(&mut [Operation::Write(&[READ_PIXELS]), Operation::Read(pixels)])
            .map_err(|_| Fault::Bus)?;
        let header = Header::decode(&bytes)?;
        header.check(size, pixels)?;
        Ok(header.sequence)
    }
}
