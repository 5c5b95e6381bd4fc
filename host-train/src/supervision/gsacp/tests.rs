//! The objective as a whole.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::nn::testing::{check_gradients, random};

/// Three 4×4 crops: two seeds, none, one.
fn labels() -> (Vec<Vec<Seed>>, Vec<Vec<Patch>>) {
    let seed = |x: u32, y: u32, values: [f32; 9]| Seed {
        x,
        y,
        patch: Patch { x0: x as i32 - 1, y0: y as i32 - 1, width: 3, height: 3, values: values.to_vec() },
    };
    let round = [0.02, 0.6, 0.1, 0.6, 1.0, 0.7, 0.0, 0.3, 0.0];
    let seeds = vec![vec![seed(1, 1, round), seed(3, 2, round)], vec![], vec![seed(0, 3, round)]];
    let outside = Patch { x0: 3, y0: -2, width: 3, height: 3, values: vec![0.9; 9] };
    (seeds, vec![vec![], vec![outside], vec![]])
}

fn config() -> GsacpConfig {
    // A margin that random features of three channels cross in both directions.
    GsacpConfig { margin: 0.1, hard_share: 0.2, hbc_negatives: 6, ..GsacpConfig::default() }
}

/// Features `[3, 3, 16]` that are not projected.
fn plain(inputs: Tensor) -> Features {
    Features { weight: Tensor::eye(3, inputs.dtype(), &Device::Cpu).unwrap(), inputs }
}

fn run(logits: &Tensor, features: &Features, config: &GsacpConfig) -> Value {
    let (seeds, cut_off) = labels();
    evaluate(logits, features, &seeds, &cut_off, config, 0.5).unwrap()
}

fn term(value: &Value, name: &str) -> f64 {
    value.terms().unwrap().into_iter().find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn the_loss_is_the_weighted_sum_of_its_terms() {
    let config = GsacpConfig { lambda_point: 0.3, lambda_bg: 0.9, lambda_con: 0.7, lambda_iou: 0.6, ..config() };
    let value = run(&random(1, &[3, 1, 4, 4]), &plain(random(2, &[3, 3, 16])), &config);
    let weights = [
        ("background", 0.9),
        ("point", 0.3),
        ("consistency", 0.7),
        ("overlap", 0.6),
        ("background_affinity", 0.3),
        ("prior_missed", 0.5),
        ("contrast", 0.5),
    ];
    let sum: f64 = weights.iter().map(|(name, weight)| weight * term(&value, name)).sum();
    assert!((term(&value, "loss") - sum).abs() < 1e-9);
    assert_eq!(value.terms().unwrap().len(), 1 + weights.len());
    assert_eq!(value.terms().unwrap()[0].0, "loss");
}

#[test]
fn gradients_are_those_of_finite_differences() {
    // T is a constant of the step, so the differences may not see it move: L_con is left out for the features.
    let silent = GsacpConfig { lambda_con: 0.0, lambda_iou: 0.0, ..config() };
    check_gradients(&[random(1, &[3, 1, 4, 4]), random(2, &[3, 3, 16]), random(3, &[3, 3])], |x| {
        let features = Features { inputs: x[1].clone(), weight: x[2].clone() };
        Ok(run(&x[0], &features, &silent).loss)
    });
    let features = plain(random(2, &[3, 3, 16]));
    check_gradients(&[random(1, &[3, 1, 4, 4])], |x| Ok(run(&x[0], &features, &config()).loss));
}

#[test]
fn the_target_sends_no_gradient_to_the_features() {
    let inputs = candle_core::Var::from_tensor(&random(2, &[3, 3, 16])).unwrap();
    let features = plain(inputs.as_tensor().clone());
    let only = GsacpConfig { lambda_mass: 0.0, lambda_prop: 0.0, lambda_hbc: 0.0, ..config() };
    let value = run(&random(1, &[3, 1, 4, 4]), &features, &only);
    let store = value.loss.backward().unwrap();
    let moved = store.get(&inputs).map_or(0.0, |g| g.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap());
    assert_eq!(moved, 0.0);
}

#[test]
fn a_saturated_affinity_shows_in_the_drift_signals() {
    let logits = random(1, &[3, 1, 4, 4]);
    let same = plain(Tensor::ones((3, 3, 16), DType::F64, &Device::Cpu).unwrap());
    let saturated = run(&logits, &same, &config());
    assert!(term(&saturated, "background_affinity") > 0.75);
    assert!(term(&saturated, "prior_missed").abs() < 1e-6);
    // Features of the target's own: e₀ where a prior is above ½, e₁ elsewhere.
    let (seeds, _) = labels();
    let mut own = vec![0f64; 3 * 3 * 16];
    for image in 0..3 {
        for pixel in 0..16 {
            let (x, y) = (pixel % 4, pixel / 4);
            let inside = seeds[image].iter().any(|seed| seed.patch.value(x, y) > 0.5);
            own[image * 48 + if inside { 0 } else { 16 } + pixel as usize] = 1.0;
        }
    }
    let alive = run(&logits, &plain(Tensor::from_vec(own, (3, 3, 16), &Device::Cpu).unwrap()), &config());
    assert!(term(&alive, "background_affinity") < 0.25);
    assert!((0.05..0.5).contains(&term(&alive, "prior_missed")));
    // They are reported when they weigh nothing.
    let unweighted = GsacpConfig { lambda_mass: 0.0, lambda_prop: 0.0, ..config() };
    assert!(term(&run(&logits, &same, &unweighted), "background_affinity") > 0.75);
}

#[test]
fn a_nan_is_found_in_the_term_it_came_from() {
    let logits = random(1, &[3, 1, 4, 4]);
    let mut features = random(2, &[3, 3, 16]).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    features[5] = f64::NAN;
    let features = plain(Tensor::from_vec(features, (3, 3, 16), &Device::Cpu).unwrap());
    let value = run(&logits, &features, &config());
    assert!(term(&value, "background_affinity").is_nan() && term(&value, "loss").is_nan());
    assert!(term(&value, "background").is_finite() && term(&value, "point").is_finite());
}

#[test]
fn crops_without_seeds_have_the_background_alone() {
    let logits = random(1, &[3, 1, 4, 4]);
    let none = vec![vec![]; 3];
    let value = evaluate(&logits, &plain(random(2, &[3, 3, 16])), &none, &none_cut(), &config(), 0.0).unwrap();
    let names: Vec<_> = value.terms().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "background"]);
    assert!(term(&value, "loss") > 0.0);
    value.loss.backward().unwrap();
}

fn none_cut() -> Vec<Vec<Patch>> {
    vec![vec![]; 3]
}

#[test]
fn seeds_whose_priors_are_outside_the_crop_are_points_only() {
    let logits = random(1, &[3, 1, 4, 4]);
    let bare = vec![vec![Seed { x: 0, y: 0, patch: Patch::default() }], vec![], vec![]];
    let value = evaluate(&logits, &plain(random(2, &[3, 3, 16])), &bare, &none_cut(), &config(), 0.0).unwrap();
    let names: Vec<_> = value.terms().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "background", "point", "background_affinity", "contrast"]);
    assert!(value.terms().unwrap().iter().all(|(_, term)| term.is_finite()));
}

#[test]
fn seeds_outside_their_crop_are_an_error() {
    let stray = vec![vec![Seed { x: 4, y: 0, patch: Patch::default() }], vec![], vec![]];
    let error =
        evaluate(&random(1, &[3, 1, 4, 4]), &plain(random(2, &[3, 3, 16])), &stray, &none_cut(), &config(), 0.0);
    assert!(error.unwrap_err().to_string().contains("1 seeds are outside"));
}

#[test]
fn propagation_decays_by_a_cosine_in_the_late_stage_only() {
    let config = GsacpConfig { prop_decay_from: 0.6, ..GsacpConfig::default() };
    for (fraction, expected) in [(0.0, 0.5), (0.6, 0.5), (0.8, 0.25), (1.0, 0.0)] {
        assert!((config.lambda_prop_at(fraction) - expected).abs() < 1e-12);
    }
    assert_eq!(GsacpConfig::default().lambda_prop_at(1.0), 0.5);
}

#[test]
fn a_bad_number_is_an_error_that_names_its_key() {
    GsacpConfig::default().validate().unwrap();
    let bad = GsacpConfig { margin: 1.0, ..GsacpConfig::default() };
    assert!(bad.validate().unwrap_err().to_string().contains("gsacp.margin"));
    assert!(GsacpConfig { lambda_bg: f64::NAN, ..GsacpConfig::default() }.validate().is_err());
    assert!(GsacpConfig { hbc_tau: 0.0, ..GsacpConfig::default() }.validate().is_err());
}
