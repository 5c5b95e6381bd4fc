//! What can go wrong on the sensor. A fault costs one frame or one model image, never the program.
use gsacp_core::Error;

/// A fault: small, `Copy`, reported through [`Telemetry`](crate::Telemetry), survived by the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fault {
    /// A recorded source has no more frames.
    Finished,
    /// The sensor had no frame within the polls that its driver allows.
    NotReady,
    /// The frame does not begin with the packet's mark: the link is out of step.
    BadSync,
    /// The frame has another size than this sensor's.
    WrongSize {
        /// Width found, pixels.
        width: u16,
        /// Height found, pixels.
        height: u16,
    },
    /// The packet's CRC-32 does not match its bytes.
    BadChecksum,
    /// The packet ends before its pixels do.
    CutShort,
    /// The bus or pin reported an error.
    Bus,
    /// No model image has been accepted yet.
    NoModel,
    /// The engine, the model image or the detection refused its input.
    Core(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Core(error)
    }
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::Finished => write!(f, "the source has no more frames"),
            Fault::NotReady => write!(f, "the sensor had no frame in time"),
            Fault::BadSync => write!(f, "the frame does not begin with the packet's mark"),
            Fault::WrongSize { width, height } => write!(f, "a frame of {width}x{height} is not this sensor's size"),
            Fault::BadChecksum => write!(f, "the frame's CRC-32 does not match its bytes"),
            Fault::CutShort => write!(f, "the frame ends before its pixels do"),
            Fault::Bus => write!(f, "the bus or pin reported an error"),
            Fault::NoModel => write!(f, "no valid model image"),
            Fault::Core(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Fault {}
