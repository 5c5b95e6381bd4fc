//! Detection against a flood fill, and by hand.
extern crate std;
use super::*;
use crate::frame::Depth;
use proptest::prelude::*;
use std::{collections::BTreeSet, vec, vec::Vec};

struct Buffers {
    runs: Vec<Run>,
    slots: Vec<Slot>,
}

impl Buffers {
    /// Exactly what the width is said to need, filled with what an earlier frame could have left.
    fn new(width: usize) -> Self {
        Self {
            runs: vec![Run::EMPTY; Workspace::runs_for(width)],
            slots: vec![Slot::EMPTY; Workspace::slots_for(width)],
        }
    }

    fn workspace(&mut self) -> Workspace<'_> {
        Workspace { runs: &mut self.runs, slots: &mut self.slots }
    }
}

fn labelled(map: &[i16], width: usize, threshold: i16) -> Vec<Component> {
    let mut buffers = Buffers::new(width);
    let mut list = Vec::new();
    let view = View::new(map, width, map.len() / width).unwrap();
    components(&view, threshold, &mut buffers.workspace(), |c| list.push(*c)).unwrap();
    list.sort_by_key(Component::raster_key);
    list
}

/// The same by a flood fill over a set of pixels, in raster order of the first pixel.
fn flooded(map: &[i16], width: usize, threshold: i16) -> Vec<Component> {
    let height = map.len() / width;
    let mut left: BTreeSet<(usize, usize)> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (y, x)))
        .filter(|&(y, x)| map[y * width + x] > threshold)
        .collect();
    let mut list = Vec::new();
    while let Some(first) = left.pop_first() {
        let mut pixels = vec![first];
        let mut next = 0;
        while next < pixels.len() {
            let (y, x) = pixels[next];
            next += 1;
            for (v, u) in (y.max(1) - 1..=y + 1).flat_map(|v| (x.max(1) - 1..=x + 1).map(move |u| (v, u))) {
                if left.remove(&(v, u)) {
                    pixels.push((v, u));
                }
            }
        }
        let (ys, xs): (Vec<_>, Vec<_>) = pixels.iter().map(|&(y, x)| (y as u32, x as u32)).unzip();
        list.push(Component {
            area: pixels.len() as u32,
            overlap: 0,
            sum_x: xs.iter().map(|&x| u64::from(x)).sum(),
            sum_y: ys.iter().map(|&y| u64::from(y)).sum(),
            first_x: first.1 as u32,
            left: *xs.iter().min().unwrap(),
            top: *ys.iter().min().unwrap(),
            right: *xs.iter().max().unwrap(),
            bottom: *ys.iter().max().unwrap(),
            peak: pixels.iter().map(|&(y, x)| f32::from(map[y * width + x]) / 256.0).fold(f32::MIN, f32::max),
        });
    }
    list
}

fn found<const N: usize>(map: &[i16], width: usize, threshold: i16, grey: &[u8]) -> Detections<N> {
    let height = map.len() / width;
    let frame = Frame::new(grey, width, height, Depth::Eight).unwrap();
    let view = View::new(map, width, height).unwrap();
    find(&view, threshold, &frame, &mut Buffers::new(width).workspace()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn components_are_those_of_a_flood_fill(width in 1usize..20, height in 1usize..16, seed: u64, density in 1u64..16) {
        let mut state = seed | 1;
        let map: Vec<i16> = (0..width * height).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 40) as i16 & 0x7f;
            if (state >> 58) % 16 < density { value + 1 } else { -value }
        }).collect();
        prop_assert_eq!(labelled(&map, width, 0), flooded(&map, width, 0));
    }

    #[test]
    fn float_and_int_logits_give_the_same_bits(map in prop::collection::vec(-600i16..600, 12 * 9)) {
        let floats: Vec<f32> = map.iter().map(|&v| v.to_f32()).collect();
        let grey: Vec<u8> = (0..108).map(|i| i as u8).collect();
        let frame = Frame::new(&grey, 12, 9, Depth::Eight).unwrap();
        let mut buffers = Buffers::new(12);
        let from_float: Detections<64> =
            find(&View::new(&floats, 12, 9).unwrap(), f32::from_steps(77), &frame, &mut buffers.workspace()).unwrap();
        prop_assert_eq!(from_float, found::<64>(&map, 12, 77, &grey));
    }

    #[test]
    fn a_full_list_keeps_the_highest_peaks_in_raster_order(map in prop::collection::vec(-9i16..10, 15 * 9)) {
        let all = found::<64>(&map, 15, 0, &[0; 135]);
        let few = found::<3>(&map, 15, 0, &[0; 135]);
        let mut best: Vec<_> = all.list.iter().copied().collect();
        best.sort_by(|a, b| b.peak.total_cmp(&a.peak).then((a.top, a.first_x).cmp(&(b.top, b.first_x))));
        best.truncate(3);
        best.sort_by_key(|d| (d.top, d.first_x));
        prop_assert_eq!(&few.list[..], &best[..]);
        prop_assert_eq!(few.dropped as usize, all.list.len() - best.len());
        prop_assert_eq!(all.dropped, 0);
    }
}

#[test]
fn a_spiral_and_a_comb_are_one_component_each() {
    let picture = [
        "#########",
        "#.......#",
        "#.#####.#",
        "#.#...#.#",
        "#.#.#.#.#",
        "#.#.###.#",
        "#.#.....#",
        "#.#######", //
    ];
    let map: Vec<i16> = picture.iter().flat_map(|row| row.bytes().map(|b| i16::from(b == b'#'))).collect();
    assert_eq!(labelled(&map, 9, 0).len(), 1);
    let comb: Vec<i16> =
        ["#.#.#.#", "#.#.#.#", "#######"].iter().flat_map(|r| r.bytes().map(|b| i16::from(b == b'#'))).collect();
    assert_eq!(labelled(&comb, 7, 0)[0].area, 15);
}

#[test]
fn corners_connect_and_a_gap_of_one_pixel_does_not() {
    assert_eq!(labelled(&[1, 0, 0, 1], 2, 0).len(), 1);
    assert_eq!(labelled(&[0, 1, 1, 0], 2, 0).len(), 1);
    assert_eq!(labelled(&[1, 0, 1], 3, 0).len(), 2);
    assert_eq!(labelled(&[1, 0, 1], 1, 0).len(), 2);
}

#[test]
fn the_threshold_itself_is_background_and_so_is_nan() {
    assert_eq!(labelled(&[5, 6], 2, 5).len(), 1);
    let mut buffers = Buffers::new(2);
    let mut count = 0;
    let map = [f32::NAN, f32::NAN];
    components(&View::new(&map, 2, 1).unwrap(), -9.0, &mut buffers.workspace(), |_| count += 1).unwrap();
    assert_eq!(count, 0);
}

#[test]
fn a_detection_is_measured_by_hand() {
    // An L of three pixels at (2,1), (2,2), (3,2) in 8×6; peak 512/256.
    let mut map = [-256i16; 48];
    (map[8 + 2], map[16 + 2], map[16 + 3]) = (100, 512, 1);
    let mut grey = [10u8; 48];
    grey[16 + 2] = 210;
    let d = found::<4>(&map, 8, 0, &grey).list[0];
    assert_eq!((d.x, d.y, d.area), (7.0 / 3.0, 5.0 / 3.0, 3));
    assert_eq!((d.left, d.top, d.right, d.bottom, d.first_x), (2, 1, 3, 2, 2));
    assert_eq!((d.peak, d.contrast), (2.0, 200.0 / 255.0));
}

#[test]
fn a_target_darker_than_its_surroundings_has_negative_contrast_and_a_full_frame_none() {
    let mut map = [0i16; 25];
    map[12] = 1;
    let mut grey = [100u8; 25];
    grey[12] = 49;
    assert_eq!(found::<4>(&map, 5, 0, &grey).list[0].contrast, -0.2);
    assert_eq!(found::<4>(&[1; 25], 5, 0, &grey).list[0].contrast, 0.0);
}

#[test]
fn detections_are_listed_in_raster_order_of_their_first_pixel() {
    // The first component ends last: a long column at x = 4, begun in row 0; two short ones beside it.
    let mut map = [0i16; 30];
    for y in 0..6 {
        map[y * 5 + 4] = 1;
    }
    (map[5], map[15]) = (1, 1);
    let firsts: Vec<_> = found::<4>(&map, 5, 0, &[0; 30]).list.iter().map(|d| (d.top, d.first_x)).collect();
    assert_eq!(firsts, [(0, 4), (1, 0), (3, 0)]);
}

#[test]
fn a_padded_map_is_read_without_its_padding() {
    let map = [1i16, 9, 9, 9, /**/ 0, 9, 9, 9, /**/ 9, 9, 9, 9];
    let view = View::cropped(&map, 4, 1, 2).unwrap();
    let frame = Frame::new(&[0, 0], 1, 2, Depth::Eight).unwrap();
    let d: Detections<4> = find(&view, 0, &frame, &mut Buffers::new(1).workspace()).unwrap();
    assert_eq!((d.list.len(), d.list[0].area), (1, 1));
}

#[test]
fn wrong_sizes_and_small_buffers_are_errors() {
    assert_eq!(View::new(&[0u8; 5], 2, 3).err(), Some(Error::WrongLength { expected: 6, found: 5 }));
    assert_eq!(View::new(&[0u8; 8], 2, 3).err(), Some(Error::WrongLength { expected: 6, found: 8 }));
    assert!(View::cropped(&[0u8; 12], 2, 3, 1).is_err());
    let map = [0i16; 12];
    let view = View::new(&map, 4, 3).unwrap();
    let frame = Frame::new(&[0; 12], 3, 4, Depth::Eight).unwrap();
    let refused = find::<_, 4>(&view, 0, &frame, &mut Buffers::new(4).workspace());
    assert_eq!(refused, Err(Error::WrongLength { expected: 4, found: 3 }));
    for (runs, slots) in [(3, 4), (4, 3)] {
        let (mut runs, mut slots) = (vec![Run::EMPTY; runs], vec![Slot::EMPTY; slots]);
        let mut small = Workspace { runs: &mut runs, slots: &mut slots };
        assert_eq!(components(&view, 0, &mut small, |_| ()), Err(Error::Capacity { needed: 4, available: 3 }));
    }
}

#[test]
fn runs_beyond_the_width_are_reported_not_lost() {
    let mut buffers = Buffers::new(2);
    let mut workspace = buffers.workspace();
    let mut labeller = Labeller::new(2, &mut workspace).unwrap();
    labeller.run(0, 1, 0.0, 0);
    labeller.run(2, 3, 0.0, 0);
    assert!(labeller.finish(|_| ()).is_err());
}
