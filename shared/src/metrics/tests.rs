//! The cases that must hold, hand-worked sums, and a naive scorer.
extern crate std;
use super::*;
use crate::detect::{Run, Slot};
use proptest::prelude::*;
use std::{vec, vec::Vec};

fn scored(truth: &[u8], map: &[f32], width: usize, threshold: f32) -> Score {
    let height = truth.len() / width;
    let mut buffers = [0, 1].map(|_| {
        (
            vec![Run::EMPTY; Workspace::runs_for(width)],
            vec![Slot::EMPTY; Workspace::slots_for(width)],
            vec![Blob::EMPTY; Blob::most_for(width, height)],
        )
    });
    let [(runs, slots, targets), (found_runs, found_slots, found)] = &mut buffers;
    let mut scratch = Scratch {
        truth: Workspace { runs, slots },
        prediction: Workspace { runs: found_runs, slots: found_slots },
        targets,
        found,
    };
    let truth = View::new(truth, width, height).unwrap();
    score(&truth, &View::new(map, width, height).unwrap(), threshold, &mut scratch).unwrap()
}

/// Scores two pictures of the same size: `#` is set.
fn drawn(truth: &[&str], prediction: &[&str]) -> Score {
    let set =
        |rows: &[&str]| rows.iter().flat_map(|r| r.bytes().map(|b| b == b'#').collect::<Vec<_>>()).collect::<Vec<_>>();
    let truth_pixels: Vec<u8> = set(truth).into_iter().map(u8::from).collect();
    let map: Vec<f32> = set(prediction).into_iter().map(|p| if p { 1.0 } else { -1.0 }).collect();
    scored(&truth_pixels, &map, truth[0].len(), 0.0)
}

#[test]
fn empty_truth_and_empty_prediction_are_left_out_of_niou_and_counted() {
    let mut totals = Totals::default();
    assert_eq!((totals.miou(), totals.niou(true), totals.fa()), (None, None, None));
    totals.add(&drawn(&["...."], &["...."]));
    assert_eq!((totals.miou(), totals.niou(false), totals.pd(), totals.fa()), (None, None, None, Some(0.0)));
    assert_eq!((totals.empty, totals.niou(true)), (1, Some(0.0)));
    totals.add(&drawn(&["##.."], &["#..."]));
    assert_eq!((totals.niou(false), totals.niou(true), totals.miou()), (Some(0.5), Some(0.25), Some(0.5)));
}

#[test]
fn four_predicted_pixels_on_empty_truth_are_four_false_pixels() {
    let score = drawn(&[".....", "....."], &["##..#", "....#"]);
    assert_eq!((score.false_pixels(), score.false_alarms(), score.targets, score.union), (4, 2, 0, 4));
    let mut totals = Totals::default();
    totals.add(&score);
    assert_eq!((totals.fa(), totals.false_alarms_per_frame(), totals.miou()), (Some(0.4), Some(2.0), Some(0.0)));
}

#[test]
fn three_predictions_near_one_truth_are_one_detection_and_two_false_pixels() {
    let score = drawn(&["...#..."], &[".#.#.#."]);
    assert_eq!((score.matched, score.targets, score.false_pixels(), score.false_alarms()), (1, 1, 2, 2));
    // The first in raster order is taken, not the nearest: the area that is forgiven is its.
    let score = drawn(&["...#..."], &[".##.###"]);
    assert_eq!((score.matched, score.matched_area, score.false_pixels()), (1, 2, 3));
}

#[test]
fn one_prediction_between_two_truths_finds_one() {
    let score = drawn(&["#...#"], &["..#.."]);
    assert_eq!((score.matched, score.targets, score.false_pixels()), (1, 2, 0));
}

#[test]
fn a_distance_of_exactly_three_is_no_match() {
    assert_eq!(drawn(&["#..."], &["...#"]).matched, 0);
    assert_eq!(drawn(&["#..."], &["..#."]).matched, 1);
    // A centroid at 10/3 against one at 1/3, both of three pixels: 3 exactly, which thirds in floats would miss.
    let truth = ["##......", "#......."];
    assert_eq!(drawn(&truth, &["...##...", "...#...."]).matched, 0);
    assert_eq!(drawn(&truth, &["...##...", "........"]).matched, 0);
    assert_eq!(drawn(&truth, &["..##....", "..#....."]).matched, 1);
}

#[test]
fn truth_components_take_turns_in_raster_order() {
    // The upper truth takes the left prediction, though the lower one has no other.
    let score = drawn(&["..#..", ".....", "#...."], &[".....", "#...#", "....."]);
    assert_eq!((score.matched, score.false_alarms()), (1, 1));
    let score = drawn(&["..#..", ".....", "#...."], &["....#", ".....", "#...."]);
    assert_eq!(score.matched, 2);
}

#[test]
fn size_bins_are_worked_by_hand() {
    // A 3×4 target (bin 11–30) of which 8 px are found and 2 px beyond it; a lone target of 1 px, missed.
    let truth = ["####....#", "####.....", "####....."];
    let found = ["##.......", "####.....", "####....."];
    let mut totals = Totals::default();
    totals.add(&drawn(&truth, &found));
    let bins = totals.sum.bins;
    assert_eq!((bins[0].targets, bins[0].iou(), bins[0].pd(), bins[0].area_ratio()), (1, Some(0.0), Some(0.0), None));
    assert_eq!((bins[1].iou(), bins[1].pd(), bins[1].area_ratio()), (Some(10.0 / 12.0), Some(1.0), Some(10.0 / 12.0)));
    let larger = drawn(&["####....#", "####.....", "####....."], &["#####....", "#####....", "####....."]);
    assert_eq!((larger.bins[1].intersection, larger.bins[1].union, larger.bins[1].matched_area), (12, 14, 14));
    // Over all sizes: 10/12, then (10 + 14)/(12 + 12); the lone target has no match and does not count.
    assert_eq!(totals.area_ratio(), Some(10.0 / 12.0));
    totals.add(&larger);
    assert_eq!((totals.area_ratio(), Totals::default().area_ratio()), (Some(1.0), None));
    assert_eq!(bins[2].iou(), None);
    assert_eq!([0, 10, 11, 30, 31, 80, 81, 9999].map(bin_of), [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_prediction_over_two_targets_counts_the_other_target_against_neither() {
    let score = drawn(&["##.##"], &["#####"]);
    assert_eq!((score.matched, score.bins[0].targets), (1, 2));
    assert_eq!((score.bins[0].intersection, score.bins[0].union), (4, 5));
}

#[test]
fn sizes_that_differ_and_full_lists_are_errors() {
    let (mut runs, mut slots) = ([Run::EMPTY; 8], [Slot::EMPTY; 8]);
    let (mut more_runs, mut more_slots) = ([Run::EMPTY; 8], [Slot::EMPTY; 8]);
    let mut scratch = Scratch {
        truth: Workspace { runs: &mut runs, slots: &mut slots },
        prediction: Workspace { runs: &mut more_runs, slots: &mut more_slots },
        targets: &mut [Blob::EMPTY; 1],
        found: &mut [Blob::EMPTY; 1],
    };
    let (truth, map) = ([0u8; 6], [1i16, 0, 1, 0, 0, 0]);
    let view = View::new(&truth, 6, 1).unwrap();
    let refused = score(&view, &View::new(&map, 3, 2).unwrap(), 0, &mut scratch);
    assert_eq!(refused, Err(Error::WrongLength { expected: 6, found: 3 }));
    let refused = score(&view, &View::new(&map, 6, 1).unwrap(), 0, &mut scratch);
    assert_eq!(refused, Err(Error::Capacity { needed: 2, available: 1 }));
}

#[test]
fn the_margin_is_worked_by_hand() {
    // Target pixels at logit 0 (½); beside it a rim pixel at +9 that is no background, 3 px away one at ln 3 (¾).
    let truth = [0u8, 0, 1, 1, 0, 0, 0, 0];
    let map = [-5.0f32, 9.0, 0.0, 0.0, 9.0, 9.0, 1.098_612_3, -9.0];
    let found = margin(&View::new(&truth, 8, 1).unwrap(), &View::new(&map, 8, 1).unwrap()).unwrap();
    let mut margins = Margins::default();
    assert_eq!(margins.margin(), None);
    margins.add(&found);
    assert!((margins.margin().unwrap() + 0.25).abs() < 1e-6);
    let full = margin(&View::new(&[1u8], 1, 1).unwrap(), &View::new(&[0i16], 1, 1).unwrap()).unwrap();
    assert_eq!((full.hardest, full.target_sum), (None, 0.5));
}

/// METHOD's definitions on label maps, with doubles.
fn naive(truth: &[u8], map: &[f32], width: usize) -> (u64, u64, u64, u64, u64) {
    let label = |set: &dyn Fn(usize) -> bool| {
        let mut blobs: Vec<Vec<usize>> = Vec::new();
        let mut seen = vec![false; truth.len()];
        for start in 0..truth.len() {
            if seen[start] || !set(start) {
                continue;
            }
            let (mut pixels, mut next) = (vec![start], 0);
            seen[start] = true;
            while next < pixels.len() {
                let (y, x) = (pixels[next] / width, pixels[next] % width);
                next += 1;
                for (other, seen) in seen.iter_mut().enumerate() {
                    let touching = (other / width).abs_diff(y) <= 1 && (other % width).abs_diff(x) <= 1;
                    if touching && !*seen && set(other) {
                        *seen = true;
                        pixels.push(other);
                    }
                }
            }
            blobs.push(pixels);
        }
        blobs
    };
    let centre = |blob: &Vec<usize>| {
        let n = blob.len() as f64;
        let sum = |f: fn(usize, usize) -> usize| blob.iter().map(|&i| f(i, width)).sum::<usize>() as f64 / n;
        (sum(|i, w| i % w), sum(|i, w| i / w))
    };
    let targets = label(&|i| truth[i] > 0);
    let mut found = label(&|i| map[i] > 0.0);
    let predicted: usize = found.iter().map(Vec::len).sum();
    let (mut matched, mut matched_area) = (0, 0);
    for target in &targets {
        let (x, y) = centre(target);
        let near = |blob: &Vec<usize>| (centre(blob).0 - x).hypot(centre(blob).1 - y) < 3.0 - 1e-9;
        if let Some(index) = found.iter().position(near) {
            matched += 1;
            matched_area += found.remove(index).len();
        }
    }
    let both = (0..truth.len()).filter(|&i| truth[i] > 0 && map[i] > 0.0).count() as u64;
    let either = (0..truth.len()).filter(|&i| truth[i] > 0 || map[i] > 0.0).count() as u64;
    (both, either, targets.len() as u64, matched, (predicted - matched_area) as u64)
}

proptest! {
    #[test]
    fn scores_are_those_of_the_naive_definition(
        width in 1usize..14, pixels in prop::collection::vec((0u8..5, 0u8..4), 1..150),
    ) {
        let pixels = &pixels[..pixels.len() / width * width];
        prop_assume!(!pixels.is_empty());
        let truth: Vec<u8> = pixels.iter().map(|p| u8::from(p.0 == 0)).collect();
        let map: Vec<f32> = pixels.iter().map(|p| if p.1 == 0 { 1.0 } else { -1.0 }).collect();
        let s = scored(&truth, &map, width, 0.0);
        prop_assert_eq!((s.intersection, s.union, s.targets, s.matched, s.false_pixels()), naive(&truth, &map, width));
        let bins = s.bins;
        prop_assert_eq!(bins.iter().map(|b| b.matched).sum::<u64>(), s.matched);
        prop_assert_eq!(bins.iter().map(|b| b.intersection).sum::<u64>(), s.intersection);
        prop_assert!(bins.iter().all(|b| b.intersection <= b.union));
    }

    #[test]
    fn nothing_is_lost_between_images_and_totals(scores in prop::collection::vec((0u64..9, 9u64..20), 1..20)) {
        let mut totals = Totals::default();
        for &(intersection, union) in &scores {
            totals.add(&Score { intersection, union, ..Score::default() });
        }
        let sums = scores.iter().fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
        prop_assert_eq!(totals.miou(), Some(sums.0 as f64 / sums.1 as f64));
    }
}
