//! The frame packet: how a frame travels, over SPI from the sensor or in a recorded reel.
//!
//! Little-endian, 12 bytes, then width × height bytes of grey, row by row:
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | mark `IR` |
//! | 2..4 | sequence number, wraps |
//! | 4..6 | width, pixels |
//! | 6..8 | height, pixels |
//! | 8..12 | CRC-32 (ISO-HDLC) of bytes 0..8 and of the pixels |
use crc::{CRC_32_ISO_HDLC, Crc};

use crate::Fault;

/// Bytes before the pixels.
pub const HEADER_BYTES: usize = 12;
const MARK: [u8; 2] = *b"IR";
static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// CRC-32 (ISO-HDLC, that of zip and PNG) of `bytes`: also the hash by which logit maps are compared.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC32.checksum(bytes)
}

/// CRC-32 (ISO-HDLC) of bytes that come in pieces.
pub struct Digest(crc::Digest<'static, u32>);

impl Digest {
    /// The digest of nothing.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(CRC32.digest())
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC-32 of all of them.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// A packet's first 12 bytes, decoded; its mark is right, its checksum not yet compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sequence number of the frame.
    pub sequence: u16,
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    checksum: u32,
}

impl Header {
    /// The header that describes `pixels` of `width` × `height`.
    pub fn describe(sequence: u16, width: u16, height: u16, pixels: &[u8]) -> Self {
        let mut header = Self { sequence, width, height, checksum: 0 };
        header.checksum = header.digest(pixels);
        header
    }

    /// Decodes the 12 bytes; [`Fault::BadSync`] without the mark.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let [m0, m1, s0, s1, w0, w1, h0, h1, c0, c1, c2, c3] = *bytes;
        if [m0, m1] != MARK {
            return Err(Fault::BadSync);
        }
        Ok(Self {
            sequence: u16::from_le_bytes([s0, s1]),
            width: u16::from_le_bytes([w0, w1]),
            height: u16::from_le_bytes([h0, h1]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// The 12 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let [m0, m1, s0, s1, w0, w1, h0, h1] = self.described();
        let [c0, c1, c2, c3] = self.checksum.to_le_bytes();
        [m0, m1, s0, s1, w0, w1, h0, h1, c0, c1, c2, c3]
    }

    /// Number of pixels, one byte each.
    pub fn len(&self) -> usize {
        usize::from(self.width) * usize::from(self.height)
    }

    /// Whether the packet has no pixels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Accepts `pixels` as those of this header, in a sensor of `width` × `height`.
    pub fn check(&self, (width, height): (u16, u16), pixels: &[u8]) -> Result<(), Fault> {
        if (self.width, self.height) != (width, height) {
            return Err(Fault::WrongSize { width: self.width, height: self.height });
        }
        if pixels.len() != self.len() {
            return Err(Fault::CutShort);
        }
        if self.digest(pixels) != self.checksum {
            return Err(Fault::BadChecksum);
        }
        Ok(())
    }

    fn described(&self) -> [u8; 8] {
        let [s0, s1] = self.sequence.to_le_bytes();
        let [w0, w1] = self.width.to_le_bytes();
        let [h0, h1] = self.height.to_le_bytes();
        [MARK[0], MARK[1], s0, s1, w0, w1, h0, h1]
    }

    fn digest(&self, pixels: &[u8]) -> u32 {
        let mut digest = CRC32.digest();
        digest.update(&self.described());
        digest.update(pixels);
        digest.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_own_encoding() {
        let header = Header::describe(65_535, 160, 128, &[7; 160 * 128]);
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(header.check((160, 128), &[7; 160 * 128]), Ok(()));
    }

    #[test]
    fn the_checksum_is_the_one_of_zip_and_png() {
        // The standard's check value.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let pixels = [1u8, 2, 3, 4, 5, 6];
        let good = Header::describe(9, 3, 2, &pixels).encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = Header::decode(&bytes).and_then(|h| h.check((3, 2), &pixels));
            assert!(outcome.is_err(), "bit {bit} of the header");
        }
        for bit in 0..pixels.len() * 8 {
            let mut bytes = pixels;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Header::decode(&good).unwrap().check((3, 2), &bytes),
                Err(Fault::BadChecksum),
                "pixel bit {bit}"
            );
        }
    }
}
