//! A reel: recorded frames in one block of memory, with what the bench wants to see of them. The host writes it, the
//! emulator's loader puts it into the board's RAM, and the board plays it as its sensor.
//!
//! Little-endian: mark `GSRL`, number of packets (u32), [`Wanted`] bits (u32), layer to dump (u32, `u32::MAX` for none),
//! then frame packets ([`crate::packet`]) back to back.
use crate::packet::{HEADER_BYTES, Header};
use crate::{Fault, FrameSource};

/// Bytes before the first packet.
pub const REEL_HEADER_BYTES: usize = 16;
const MARK: [u8; 4] = *b"GSRL";
const LOGITS: u32 = 1;
const LAYERS: u32 = 2;

/// What a bench run reports beyond the detections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Every logit map, byte for byte.
    pub logits: bool,
    /// A CRC-32 of every layer's output.
    pub layers: bool,
    /// One layer's output in full: the number of its node.
    pub layer: Option<u16>,
}

/// A reel read in place.
#[derive(Debug, Clone, Copy)]
pub struct Reel<'a> {
    packets: &'a [u8],
    left: u32,
    wanted: Wanted,
}

impl<'a> Reel<'a> {
    /// Reads the reel at the start of `bytes` (which may be longer); [`Fault::BadSync`] without its mark.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (header, packets) = bytes.split_first_chunk::<REEL_HEADER_BYTES>().ok_or(Fault::CutShort)?;
        let [m0, m1, m2, m3, n0, n1, n2, n3, w0, w1, w2, w3, l0, l1, l2, l3] = *header;
        if [m0, m1, m2, m3] != MARK {
            return Err(Fault::BadSync);
        }
        let bits = u32::from_le_bytes([w0, w1, w2, w3]);
        let layer = u16::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok();
        Ok(Self {
            packets,
            left: u32::from_le_bytes([n0, n1, n2, n3]),
            wanted: Wanted { logits: bits & LOGITS != 0, layers: bits & LAYERS != 0, layer },
        })
    }

    /// What the bench wants reported.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// The first bytes of a reel of `count` packets.
    pub fn header(count: u32, wanted: Wanted) -> [u8; REEL_HEADER_BYTES] {
        let bits = if wanted.logits { LOGITS } else { 0 } | if wanted.layers { LAYERS } else { 0 };
        let layer = wanted.layer.map_or(u32::MAX, u32::from);
        let mut bytes = [0; REEL_HEADER_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip([u32::from_le_bytes(MARK), count, bits, layer]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

impl FrameSource for Reel<'_> {
    fn next_frame(&mut self, size: (u16, u16), pixels: &mut [u8]) -> Result<u16, Fault> {
        self.left = self.left.checked_sub(1).ok_or(Fault::Finished)?;
        // A packet whose end cannot be found ends the reel: nothing after it can be trusted to be a packet.
        let (header, rest) =
            self.packets.split_first_chunk::<HEADER_BYTES>().ok_or(Fault::CutShort).inspect_err(|_| {
                self.left = 0;
            })?;
        let header = Header::decode(header).inspect_err(|_| self.left = 0)?;
        let (frame, rest) =
            rest.split_at_checked(header.len()).ok_or(Fault::CutShort).inspect_err(|_| self.left = 0)?;
        self.packets = rest;
        header.check(size, frame)?;
        if pixels.len() != frame.len() {
            return Err(Fault::WrongSize { width: header.width, height: header.height });
        }
        pixels.copy_from_slice(frame);
        Ok(header.sequence)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn reel(frames: &[(u16, u16, u16)]) -> Vec<u8> {
        let mut bytes = Reel::header(frames.len() as u32, Wanted::default()).to_vec();
        for &(sequence, width, height) in frames {
            let pixels: Vec<u8> =
                (0..usize::from(width) * usize::from(height)).map(|i| (i as u8) ^ sequence as u8).collect();
            bytes.extend(Header::describe(sequence, width, height, &pixels).encode());
            bytes.extend(pixels);
        }
        bytes
    }

    #[test]
    fn frames_come_in_order_and_then_the_reel_is_finished() {
        let bytes = reel(&[(5, 4, 2), (6, 4, 2)]);
        let mut reel = Reel::open(&bytes).unwrap();
        let mut pixels = [0; 8];
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Ok(5));
        assert_eq!(pixels, [5, 4, 7, 6, 1, 0, 3, 2]);
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Ok(6));
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Err(Fault::Finished));
    }

    #[test]
    fn a_frame_of_another_size_is_refused_and_the_next_one_works() {
        let bytes = reel(&[(1, 2, 2), (2, 4, 2)]);
        let mut reel = Reel::open(&bytes).unwrap();
        let mut pixels = [0; 8];
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Err(Fault::WrongSize { width: 2, height: 2 }));
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Ok(2));
    }

    #[test]
    fn a_flipped_pixel_is_refused_and_the_next_one_works() {
        let mut bytes = reel(&[(1, 4, 2), (2, 4, 2)]);
        bytes[REEL_HEADER_BYTES + HEADER_BYTES] ^= 0x10;
        let mut reel = Reel::open(&bytes).unwrap();
        let mut pixels = [0; 8];
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Err(Fault::BadChecksum));
        assert_eq!(reel.next_frame((4, 2), &mut pixels), Ok(2));
    }

    #[test]
    fn a_reel_cut_at_any_byte_never_yields_a_wrong_frame() {
        let bytes = reel(&[(1, 4, 2)]);
        for cut in 0..bytes.len() {
            let mut pixels = [0; 8];
            let outcome = Reel::open(&bytes[..cut]).and_then(|mut r| r.next_frame((4, 2), &mut pixels));
            assert_eq!(outcome, Err(Fault::CutShort), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_wanted_survives_the_header() {
        for wanted in [
            Wanted::default(),
            Wanted { logits: true, layers: false, layer: Some(0) },
            Wanted { logits: false, layers: true, layer: Some(317) },
        ] {
            assert_eq!(Reel::open(&Reel::header(0, wanted)).unwrap().wanted(), wanted);
        }
    }
}
