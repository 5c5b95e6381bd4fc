//! The prior on scenes drawn by hand.

use super::*;

const MIDDLE: Point = Point { x: 20, y: 20 };

fn image(width: usize, height: usize, f: impl Fn(f32, f32) -> f32) -> GrayImage {
    let pixels = (0..width * height).map(|i| f((i % width) as f32, (i / width) as f32)).collect();
    GrayImage { width, height, pixels }
}

fn mask(patch: &Patch) -> Vec<(i32, i32)> {
    patch.mask().collect()
}

/// A 3×3 square of contrast 0.3 on 0.2 with middle (20, 20).
fn square(x: f32, y: f32) -> f32 {
    if (x - 20.0).abs() <= 1.0 && (y - 20.0).abs() <= 1.0 { 0.5 } else { 0.2 }
}

#[test]
fn a_square_target_is_drawn_exactly() {
    let patch = draw(&image(48, 48, square), MIDDLE, &PriorConfig::default());
    let expected: Vec<_> = (19..22).flat_map(|y| (19..22).map(move |x| (x, y))).collect();
    assert_eq!(mask(&patch), expected);
    assert_eq!(patch.value(20, 20), 1.0);
    assert!(patch.values.iter().all(|g| (0.0..=1.0).contains(g)));
}

#[test]
fn contrast_does_not_change_the_mask_of_the_contrast_form_but_that_of_the_absolute_one() {
    let draw_at = |scale: f32, config: &PriorConfig| {
        let hill = |x: f32, y: f32| 0.1 + scale * (-((x - 20.0).powi(2) + (y - 20.0).powi(2)) / 8.0).exp();
        mask(&draw(&image(48, 48, hill), MIDDLE, config)).len()
    };
    assert_eq!(draw_at(0.1, &PriorConfig::default()), draw_at(0.8, &PriorConfig::default()));
    assert_ne!(draw_at(0.1, &PriorConfig::paper()), draw_at(0.8, &PriorConfig::paper()));
}

#[test]
fn a_tilted_background_is_taken_off() {
    let tilted = |x: f32, y: f32| square(x, y) - 0.06 * x + 0.01 * y;
    let flat = mask(&draw(&image(48, 48, square), MIDDLE, &PriorConfig::default()));
    let on_slope = mask(&draw(&image(48, 48, tilted), MIDDLE, &PriorConfig::default()));
    assert_eq!(flat, on_slope);
    let untilted = PriorConfig { tilt: false, ..PriorConfig::default() };
    assert_ne!(flat, mask(&draw(&image(48, 48, tilted), MIDDLE, &untilted)));
}

#[test]
fn a_second_target_near_by_is_left_to_its_own_point() {
    let two = |x: f32, y: f32| square(x, y).max(square(x - 6.0, y));
    let patch = draw(&image(48, 48, two), MIDDLE, &PriorConfig::default());
    assert_eq!(mask(&patch).len(), 9);
    assert_eq!(patch.value(26, 20), 0.0);
    // The paper's form keeps every component.
    let paper = PriorConfig { sigma: 8.0, ..PriorConfig::paper() };
    assert!(draw(&image(48, 48, two), MIDDLE, &paper).value(26, 20) > 0.5);
}

#[test]
fn the_seed_moves_to_the_brightest_pixel_within_reach() {
    let hill = |x: f32, y: f32| 0.1 + 0.5 * (-((x - 20.0).powi(2) + (y - 20.0).powi(2)) / 8.0).exp();
    let hill = image(48, 48, hill);
    let config = PriorConfig::default();
    assert_eq!(draw(&hill, Point { x: 18, y: 22 }, &config), draw(&hill, MIDDLE, &config));
    let still = PriorConfig { seed_shift: 0, ..config };
    assert_eq!(draw(&hill, Point { x: 18, y: 22 }, &still).value(18, 22), 1.0);
}

#[test]
fn a_dark_target_is_found_when_either_polarity_is_asked() {
    let dark = image(48, 48, |x, y| 0.7 - square(x, y));
    let either = PriorConfig { polarity: Polarity::Either, ..PriorConfig::default() };
    assert_eq!(mask(&draw(&dark, MIDDLE, &either)).len(), 9);
    assert_eq!(mask(&draw(&image(48, 48, square), MIDDLE, &either)).len(), 9);
}

#[test]
fn an_order_bends_the_bell_but_not_its_half() {
    for order in 1..=4 {
        assert!((bell(HALF, order) - 0.5).abs() < 1e-6);
    }
    // exp(−½·2²) by hand.
    assert!((bell(4.0, 1) - 0.135_335_28).abs() < 1e-6);
    assert!(bell(0.5, 2) > bell(0.5, 1) && bell(3.0, 2) < bell(3.0, 1));
}

#[test]
fn flat_images_edges_and_small_images_give_a_finite_patch() {
    for (width, height, x, y) in [(8, 8, 0, 0), (8, 8, 7, 7), (40, 9, 39, 0), (1, 1, 0, 0)] {
        for config in [PriorConfig::default(), PriorConfig::plain_contrast(), PriorConfig::paper()] {
            let patch = draw(&image(width, height, |_, _| 0.25), Point { x, y }, &config);
            assert!(patch.values.iter().all(|g| (0.0..=1.0).contains(g)), "{config:?}");
            assert_eq!(patch.value(x as i32, y as i32), 1.0);
        }
    }
}

#[test]
fn a_large_target_grows_only_where_it_is_asked_to_and_a_small_one_does_not() {
    let growing = PriorConfig { sigma_per_radius: 1.5, ..PriorConfig::default() };
    // The area of a hill of this spread, drawn and, above the level 1 − κ, true.
    let areas = |spread: f32, config: &PriorConfig| {
        let apart = |x: f32, y: f32| (x - 60.0).powi(2) + (y - 60.0).powi(2);
        let hill = |x: f32, y: f32| 0.2 + 0.5 * (-apart(x, y) / (2.0 * spread * spread)).exp();
        let truth = std::f32::consts::PI * 2.0 * spread * spread * -(1.0 - config.kappa).ln();
        let patch = draw(&image(120, 120, hill), Point { x: 60, y: 60 }, config);
        mask(&patch).len() as f32 / truth
    };
    for spread in [1.5, 3.0] {
        assert_eq!(areas(spread, &PriorConfig::default()), areas(spread, &growing));
    }
    let (still, grown) = (areas(11.0, &PriorConfig::default()), areas(11.0, &growing));
    assert!(still < 0.6 && (0.85..1.15).contains(&grown), "{still}, {grown} of the hill");
}

#[test]
fn of_two_outlines_the_one_is_taken_that_lies_evenly_around_its_centroid() {
    // The square, 1 at its contrast, and three columns of 0.33 on its right. The mask's edge lies at 1 − κ √(2 ln 2): 0.27 with κ = 0.617,
    // so that both are in it, and above 0.33 from κ = 0.567 downwards, two steps of 1/40.
    let tailed =
        |x: f32, y: f32| if (22.0..=24.0).contains(&x) && (y - 20.0).abs() <= 1.0 { 0.299 } else { square(x, y) };
    let tailed = image(48, 48, tailed);
    let centred = PriorConfig { centred: true, ..PriorConfig::default() };
    let columns = |x, config: &PriorConfig| {
        let mask = mask(&draw(&tailed, Point { x, y: 20 }, config));
        assert_eq!(mask.len() % 3, 0);
        mask.len() / 3
    };
    // The centroid of all six columns, 21.5, is half a pixel off the square of pixel 20; half as many cost ½ ln 2 = 0.35.
    assert_eq!((columns(20, &PriorConfig::default()), columns(20, &centred)), (6, 3));
    assert_eq!((columns(21, &PriorConfig::default()), columns(21, &centred)), (6, 6));
    // What lies evenly stays as it is, to the last value.
    let even = image(48, 48, square);
    assert_eq!(draw(&even, MIDDLE, &PriorConfig::default()), draw(&even, MIDDLE, &centred));
}

#[test]
fn a_target_on_warm_ground_is_found_by_a_window_that_sees_no_more_than_the_ground() {
    // Three quarters of the square's contrast, 13 rows high, from 7 columns on its left to 17 on its right: no κ leaves it out.
    let warm = |x: f32, y: f32| (13.0..=37.0).contains(&x) && (y - 20.0).abs() <= 6.0;
    let warm = image(60, 48, |x, y| square(x, y).max(if warm(x, y) { 0.425 } else { 0.0 }));
    let area = |centred| {
        let config = PriorConfig { centred, tilt: false, ..PriorConfig::default() };
        mask(&draw(&warm, MIDDLE, &config)).len()
    };
    assert!(area(false) > 250, "{}", area(false));
    assert_eq!(area(true), 9);
}

#[test]
fn a_bad_number_is_an_error_that_names_its_key() {
    let bad = PriorConfig { kappa: 0.0, ..PriorConfig::default() };
    assert!(bad.validate().unwrap_err().to_string().contains("prior.kappa"));
    assert!(PriorConfig { sigma: f32::NAN, ..PriorConfig::default() }.validate().is_err());
    assert!(PriorConfig { percentile: 1.5, ..PriorConfig::default() }.validate().is_err());
    let bad = PriorConfig { centred: true, ..PriorConfig::paper() };
    assert!(bad.validate().unwrap_err().to_string().contains("prior.centred"));
    for good in [PriorConfig::default(), PriorConfig::plain_contrast(), PriorConfig::paper()] {
        good.validate().unwrap();
    }
    assert!(toml::from_str::<PriorConfig>("kapa = 1").is_err());
}

#[test]
fn kappa_follows_contrast_and_steepness() {
    let drawn = |contrast: f32, config: &PriorConfig| {
        let scaled = image(48, 48, |x, y| 0.2 + (square(x, y) - 0.2) / 0.3 * contrast);
        draw(&scaled, MIDDLE, config)
    };
    let near = |a: &Patch, b: &Patch| a.values.iter().zip(&b.values).all(|(a, b)| (a - b).abs() < 1e-4);
    // A soft edge, of which κ decides how high it lies: half the square's contrast around it.
    let kappa = |kappa| PriorConfig { kappa, ..PriorConfig::default() };
    let by_contrast = PriorConfig { kappa_contrast: 0.05, ..PriorConfig::default() };
    let dim = 80.0 / 255.0 / std::f32::consts::E;
    assert_eq!(drawn(dim, &by_contrast).area(), drawn(dim, &kappa(0.567)).area());
    let ring = image(48, 48, |x, y| {
        let edge = (x - 20.0).abs().max((y - 20.0).abs()) == 2.0;
        square(x, y).max(if edge { 0.25 } else { 0.0 })
    });
    // The contrast is 0.3: κ − 0.05 · ln(80/255/0.3) = κ − 0.0022, which the ring's values show.
    assert!(near(&draw(&ring, MIDDLE, &by_contrast), &draw(&ring, MIDDLE, &kappa(0.617 - 0.0022))));
    // At the square's corners both differences are (0.5 − 0.25)/2: 0.1768/0.3 = 0.589 of the contrast a pixel, 0.139 more than usual.
    let by_steepness = PriorConfig { kappa_steepness: 0.5, ..PriorConfig::default() };
    assert!(near(&draw(&ring, MIDDLE, &by_steepness), &draw(&ring, MIDDLE, &kappa(0.617 + 0.0696))));
    assert!(!near(&draw(&ring, MIDDLE, &by_steepness), &draw(&ring, MIDDLE, &kappa(0.617))));
    // No further than 0.15 up and 0.25 down.
    let steeper = PriorConfig { kappa_steepness: 50.0, ..PriorConfig::default() };
    assert!(near(&draw(&ring, MIDDLE, &steeper), &draw(&ring, MIDDLE, &kappa(0.767))));
    let dimmer = PriorConfig { kappa_contrast: 50.0, ..PriorConfig::default() };
    assert!(near(&draw(&ring, MIDDLE, &dimmer), &draw(&ring, MIDDLE, &kappa(0.367))));
}
