//! The one error type of the crate: small, `Copy`, without payloads that allocate.

/// What can go wrong at the door of this crate. Every byte from outside is checked once, here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Error {
    /// A buffer or frame has another length than the plan, graph or format asks for.
    WrongLength {
        /// Elements expected.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A frame whose width or height is zero, not a multiple of 16, or above the planner's limit.
    FrameSize {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// A fixed buffer is too small for what is asked of it.
    Capacity {
        /// Elements needed.
        needed: usize,
        /// Elements there are.
        available: usize,
    },
    /// A pixel exceeds the sensor's bit depth.
    PixelOutOfRange {
        /// The pixel's place in raster order.
        index: usize,
    },
    /// A dead pixel lies outside the frame, or the list is not in raster order without repetition.
    DeadPixel {
        /// The entry in the list.
        index: usize,
    },
    /// A normalisation or input scale is not finite, not positive or too fine.
    Normalisation,
    /// A confirmation rule that no sequence of frames can meet, or a gate that is not a positive number.
    ConfirmationRule,
    /// A requested false-alarm rate that is negative or not a number.
    FalseAlarmRate,
    /// Maps of one operation whose heights, widths or channels do not fit each other.
    Shape,
    /// An operation outside what the engines are built for (kernel size, stride, width of a layer).
    Unsupported,
    /// A scale, zero point, multiplier or bias outside the integer contract.
    Quantisation,
    /// A model image that does not begin with the magic bytes.
    ImageMagic,
    /// A model image of another format version.
    ImageVersion {
        /// The version found.
        found: u32,
    },
    /// A model image made for another network (fingerprint, widths or input channels).
    ImageGraph,
    /// A model image whose checksum does not match its bytes.
    ImageChecksum,
    /// A buffer that does not start at a multiple of 16 bytes.
    Misaligned,
    /// A plan made for another graph or element than the engine's.
    WrongPlan,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::WrongLength { expected, found } => {
                write!(f, "expected {expected} elements, found {found}")
            }
            Error::FrameSize { width, height } => {
                write!(f, "a frame of {width}×{height} pixels: both must be multiples of 16 from 16 to 4096")
            }
            Error::Capacity { needed, available } => {
                write!(f, "a buffer of {available} elements where {needed} are needed")
            }
            Error::PixelOutOfRange { index } => write!(f, "pixel {index} exceeds the sensor's bit depth"),
            Error::DeadPixel { index } => {
                write!(f, "dead pixel {index} of the list is outside the frame, repeated or out of raster order")
            }
            Error::Normalisation => write!(f, "mean, std or input scale is not finite, not positive or too fine"),
            Error::ConfirmationRule => write!(f, "a confirmation needs 1 <= hits <= window <= 32 and a positive gate"),
            Error::FalseAlarmRate => write!(f, "a requested false-alarm rate must be a number >= 0"),
            Error::Shape => write!(f, "maps of one operation do not fit each other"),
            Error::Unsupported => write!(f, "an operation that the engines are not built for"),
            Error::Quantisation => write!(f, "a scale, zero point, multiplier or bias outside the integer contract"),
            Error::ImageMagic => write!(f, "not a model image"),
            Error::ImageVersion { found } => {
                write!(f, "a model image of format version {found}, which this code does not read")
            }
            Error::ImageGraph => write!(f, "a model image of another network"),
            Error::ImageChecksum => write!(f, "a damaged model image: its checksum does not match"),
            Error::Misaligned => write!(f, "a buffer that does not start at a multiple of 16 bytes"),
            Error::WrongPlan => write!(f, "a memory plan made for another graph or engine"),
        }
    }
}

impl core::error::Error for Error {}
