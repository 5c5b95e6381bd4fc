//! The model image: what is written is read, and no damage goes unseen.

mod common;

use common::{Aligned, POINTS, model_image};
use gsacp_core::Error;
use gsacp_core::graph::{HALF, QUARTER, msda};
use gsacp_core::image::{self, ModelImage};
use proptest::prelude::*;
use std::sync::LazyLock;

static IMAGE: LazyLock<Aligned> = LazyLock::new(|| model_image(&msda(QUARTER, 1), 11));

#[test]
fn what_was_written_is_read() {
    let graph = msda(QUARTER, 1);
    let image = ModelImage::parse(IMAGE.bytes()).unwrap().for_graph(&graph).unwrap();
    assert_eq!(image.network(), (QUARTER, 1));
    assert_eq!((image.normalisation().mean, image.normalisation().std), (0.4, 0.2));
    assert!(image.points().eq(POINTS));
    assert_eq!(image.len(), IMAGE.bytes().len());
    assert_eq!(image.activations().len(), graph.nodes().len());
    assert_eq!(image.activations()[0], image.input());

    // Writing what was read gives the same bytes.
    let params: Vec<_> = image.params(&graph).map(|(_, p)| p.unwrap()).collect();
    let points: Vec<_> = image.points().collect();
    let description = image::Description { normalisation: image.normalisation(), points: &points };
    let mut again = Aligned::zeroed(image::image_len(&graph));
    assert_eq!(image::write(&graph, &description, image.activations(), &params, again.bytes_mut()), Ok(image.len()));
    assert!(again.bytes() == IMAGE.bytes());
}

/// FORMAT.md, read with nothing but offsets; the checksum by the bitwise definition.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let bytes = IMAGE.bytes();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(&bytes[..8], b"GSACPIMG");
    assert_eq!(word(8), 1);
    let widths: Vec<u16> = bytes[16..28].chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    assert_eq!(widths, [4, 8, 16, 16, 16, 1]);
    assert_eq!((f32::from_bits(word(28)), f32::from_bits(word(32))), (0.4, 0.2));
    assert_eq!(bytes[36..44], bytes[192..200]);
    assert_eq!(word(44), 2);
    assert_eq!(f32::from_bits(word(64)), 1e-6);
    assert_eq!(i16::from_le_bytes([bytes[76], bytes[77]]), -3);
    assert_eq!(192 + word(184) as usize, bytes.len());
    let mut crc = !0u32;
    for &byte in bytes[..188].iter().chain(&bytes[192..]) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    assert_eq!(word(188), !crc);
}

#[test]
fn bytes_after_the_image_are_none_of_its_business() {
    let mut flash = Aligned::zeroed(IMAGE.bytes().len() + 1000);
    flash.bytes_mut().fill(0xFF);
    flash.bytes_mut()[..IMAGE.bytes().len()].copy_from_slice(IMAGE.bytes());
    assert_eq!(ModelImage::parse(flash.bytes()).unwrap().len(), IMAGE.bytes().len());
}

#[test]
fn each_kind_of_damage_has_its_own_error() {
    let parse = |change: &dyn Fn(&mut [u8])| {
        let mut copy = IMAGE.clone();
        change(copy.bytes_mut());
        ModelImage::parse(copy.bytes()).err()
    };
    assert_eq!(parse(&|_| ()), None);
    assert_eq!(parse(&|b| b[0] = b'X'), Some(Error::ImageMagic));
    assert_eq!(parse(&|b| b[8] = 2), Some(Error::ImageVersion { found: 2 }));
    assert_eq!(parse(&|b| b[5000] ^= 1), Some(Error::ImageChecksum));
    assert_eq!(parse(&|b| b[190] ^= 1), Some(Error::ImageChecksum));
    let len = IMAGE.bytes().len();
    let too_long = Error::WrongLength { expected: len + 16, found: len };
    assert_eq!(parse(&|b| b[184] += 16), Some(too_long));
    let other = ModelImage::parse(IMAGE.bytes()).unwrap().for_graph(&msda(HALF, 1)).err();
    assert_eq!(other, Some(Error::ImageGraph));

    let mut moved = Aligned::zeroed(len + 16);
    moved.bytes_mut()[4..len + 4].copy_from_slice(IMAGE.bytes());
    assert_eq!(ModelImage::parse(&moved.bytes()[4..]).err(), Some(Error::Misaligned));
}

/// A number out of range that the checksum vouches for is still an error.
#[test]
fn a_sound_checksum_does_not_excuse_a_number_out_of_range() {
    let graph = msda(QUARTER, 1);
    let judge = |at: usize, value: u32| {
        let mut copy = IMAGE.clone();
        let bytes = copy.bytes_mut();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let mut crc = !0u32;
        for &byte in bytes[..188].iter().chain(&bytes[192..]) {
            crc ^= u32::from(byte);
            (0..8).for_each(|_| crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 });
        }
        bytes[188..192].copy_from_slice(&(!crc).to_le_bytes());
        ModelImage::parse(copy.bytes()).and_then(|image| image.for_graph(&graph)).err()
    };
    let payload = image::payload_len(&graph);
    assert_eq!(judge(32, 0), Some(Error::Normalisation));
    assert_eq!(judge(44, 9), Some(Error::Quantisation));
    assert_eq!(judge(12, 1), Some(Error::ImageGraph));
    assert_eq!(judge(36, f32::NAN.to_bits()), Some(Error::Quantisation));
    assert_eq!(judge(196, 128), Some(Error::Quantisation));
    assert_eq!(judge(200, (-1f32).to_bits()), Some(Error::Quantisation));
    // The last tensor is the head's one record: bias, m, shift, padding.
    let last = 192 + payload - 16;
    assert_eq!(judge(last, 0x7FFF_FFFF), Some(Error::Quantisation));
    assert_eq!(judge(last + 4, 0x8000_0000), Some(Error::Quantisation));
    assert_eq!(judge(last + 8, 63), Some(Error::Quantisation));
}

proptest! {
    #[test]
    fn no_flipped_bit_goes_unseen(position in 0..IMAGE.bytes().len(), bit in 0..8u8) {
        let mut copy = IMAGE.clone();
        copy.bytes_mut()[position] ^= 1 << bit;
        prop_assert!(ModelImage::parse(copy.bytes()).is_err());
    }

    #[test]
    fn no_cut_goes_unseen(len in 0..IMAGE.bytes().len()) {
        prop_assert!(ModelImage::parse(&IMAGE.bytes()[..len]).is_err());
    }

    #[test]
    fn noise_is_no_image(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = Aligned::zeroed(noise.len());
        bytes.bytes_mut().copy_from_slice(&noise);
        prop_assert!(ModelImage::parse(bytes.bytes()).is_err());
    }
}
