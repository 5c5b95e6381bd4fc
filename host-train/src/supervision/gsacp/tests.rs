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
    answered(logits, features, config, None)
}

/// As [`run`], with the averaged network's probability.
fn answered(logits: &Tensor, features: &Features, config: &GsacpConfig, teacher: Option<&[f32]>) -> Value {
    let (seeds, cut_off) = labels();
    let moment = Moment { seeds: &seeds, cut_off: &cut_off, teacher, fraction: 0.5 };
    evaluate(logits, features, moment, config).unwrap()
}

/// Logits and features of labels without anything cut off, at the start of the run.
fn first(logits: &Tensor, seeds: &[Vec<Seed>]) -> Result<Value> {
    let moment = Moment { seeds, cut_off: &[], teacher: None, fraction: 0.0 };
    evaluate(logits, &plain(random(2, &[3, 3, 16])), moment, &config())
}

/// Σ|∂L/∂features| of the loss with respect to features `[3, 3, 16]`.
fn pull(config: &GsacpConfig) -> f64 {
    let inputs = candle_core::Var::from_tensor(&random(2, &[3, 3, 16])).unwrap();
    let value = run(&random(1, &[3, 1, 4, 4]), &plain(inputs.as_tensor().clone()), config);
    let store = value.loss.backward().unwrap();
    store.get(&inputs).map_or(0.0, |g| g.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap())
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
    let only = GsacpConfig { lambda_mass: 0.0, lambda_prop: 0.0, lambda_hbc: 0.0, ..config() };
    assert_eq!(pull(&only), 0.0);
    assert_eq!(pull(&GsacpConfig { asg_gate: Gate::Reliable, ..only }), 0.0, "nor does the gate");
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
    let value = first(&logits, &vec![vec![]; 3]).unwrap();
    let names: Vec<_> = value.terms().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "background"]);
    assert!(term(&value, "loss") > 0.0);
    value.loss.backward().unwrap();
}

#[test]
fn seeds_whose_priors_are_outside_the_crop_are_points_only() {
    let logits = random(1, &[3, 1, 4, 4]);
    let bare = vec![vec![Seed { x: 0, y: 0, patch: Patch::default() }], vec![], vec![]];
    let value = first(&logits, &bare).unwrap();
    let names: Vec<_> = value.terms().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "background", "point", "background_affinity", "contrast"]);
    assert!(value.terms().unwrap().iter().all(|(_, term)| term.is_finite()));
}

#[test]
fn seeds_outside_their_crop_are_an_error() {
    let stray = vec![vec![Seed { x: 4, y: 0, patch: Patch::default() }], vec![], vec![]];
    let error = first(&random(1, &[3, 1, 4, 4]), &stray).unwrap_err().to_string();
    assert!(error.contains("1 seeds are outside"), "{error}");
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
    let falling = GsacpConfig { asg_radii: [4.0, 2.0, 8.0], ..GsacpConfig::default() };
    assert!(falling.validate().unwrap_err().to_string().contains("gsacp.asg_radii"));
    let more = GsacpConfig { ltd_beta: 1.5, ..GsacpConfig::default() };
    assert!(more.validate().unwrap_err().to_string().contains("gsacp.ltd_beta"));
}

#[test]
fn a_switch_that_is_off_changes_no_bit() {
    let (logits, features) = (random(1, &[3, 1, 4, 4]), plain(random(2, &[3, 3, 16])));
    let terms = |config: &GsacpConfig| run(&logits, &features, config).terms().unwrap();
    // Numbers of mechanisms that are off, all moved.
    let idle = GsacpConfig {
        ltd_radius: 1.0,
        ltd_from: 0.0,
        ltd_region: Region::Everywhere,
        asg_radii: [1.0, 2.0, 3.0],
        asg_kappa: 0.1,
        asg_tau: 1.0,
        ..config()
    };
    assert_eq!(terms(&idle), terms(&config()));
}

#[test]
fn gradients_hold_with_every_mechanism_on() {
    let on = GsacpConfig {
        asg_gate: Gate::Reliable,
        lambda_proto: 0.4,
        ltd_beta: 0.5,
        ltd_region: Region::Everywhere,
        ..config()
    };
    let teacher: Vec<f32> = (0..48).map(|i| (i * 7 % 48) as f32 / 48.0).collect();
    let features = plain(random(2, &[3, 3, 16]));
    check_gradients(&[random(1, &[3, 1, 4, 4])], |x| Ok(answered(&x[0], &features, &on, Some(&teacher)).loss));
    // T and the gate are constants of the step, so the differences may not see them move.
    let silent = GsacpConfig { lambda_con: 0.0, lambda_iou: 0.0, asg_gate: Gate::Off, ..on };
    check_gradients(&[random(1, &[3, 1, 4, 4]), random(2, &[3, 3, 16])], |x| {
        Ok(answered(&x[0], &plain(x[1].clone()), &silent, Some(&teacher)).loss)
    });
}

#[test]
fn the_teacher_moves_the_target_near_the_seeds_and_the_background_only_when_it_is_global() {
    let (logits, features) = (random(1, &[3, 1, 4, 4]), plain(random(2, &[3, 3, 16])));
    let at = |region, teacher: f32| {
        let config = GsacpConfig { ltd_beta: 0.5, ltd_radius: 1.0, ltd_region: region, ..config() };
        let value = answered(&logits, &features, &config, Some(&[teacher; 48]));
        (term(&value, "consistency"), term(&value, "background"))
    };
    let (disks, everywhere) = (Region::Disks, Region::Everywhere);
    assert_ne!(at(disks, 0.0).0, at(disks, 1.0).0);
    assert_eq!(at(disks, 0.0).1, at(disks, 1.0).1);
    assert_ne!(at(everywhere, 0.0).1, at(everywhere, 1.0).1);
    assert_ne!(at(everywhere, 1.0).0, at(disks, 1.0).0);
    let config = GsacpConfig { ltd_beta: 0.5, ltd_from: 0.5, ..config() };
    assert_eq!([0.0, 0.49, 0.5, 1.0].map(|fraction| config.asks_teacher(fraction)), [false, false, true, true]);
    assert!(!GsacpConfig::default().asks_teacher(1.0));
}

#[test]
fn a_teacher_of_another_size_is_an_error() {
    let moment = Moment { seeds: &labels().0, cut_off: &[], teacher: Some(&[0.5; 47]), fraction: 1.0 };
    let error = evaluate(&random(1, &[3, 1, 4, 4]), &plain(random(2, &[3, 3, 16])), moment, &config());
    assert!(error.unwrap_err().to_string().contains("47 pixels"));
}

#[test]
fn detached_features_send_the_network_no_gradient_and_the_projection_still_learns() {
    assert!(pull(&config()) > 0.0);
    assert_eq!(pull(&GsacpConfig { detach_features: true, ..config() }), 0.0);
    let weight = candle_core::Var::from_tensor(&random(3, &[3, 3])).unwrap();
    let features = Features { inputs: random(2, &[3, 3, 16]), weight: weight.as_tensor().clone() };
    let value = run(&random(1, &[3, 1, 4, 4]), &features, &GsacpConfig { detach_features: true, ..config() });
    let store = value.loss.backward().unwrap();
    assert!(store.get(&weight).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() > 0.0);
}

#[test]
fn the_gate_narrows_the_target_and_reports_its_radius() {
    let (logits, features) =
        (random(1, &[3, 1, 4, 4]), plain(Tensor::ones((3, 3, 16), DType::F64, &Device::Cpu).unwrap()));
    let gated = |gate, radii| {
        let config = GsacpConfig { asg_gate: gate, asg_radii: radii, ..config() };
        run(&logits, &features, &config)
    };
    // An affinity of 1 everywhere: T = g̃, and a prior that a tiny radius has emptied leaves all of a outside.
    let (off, tiny) = (gated(Gate::Off, [4.0, 8.0, 16.0]), gated(Gate::Reliable, [0.5, 0.5, 0.5]));
    assert!(term(&tiny, "background_affinity") > term(&off, "background_affinity") + 0.05);
    assert!((term(&tiny, "support_radius") - 0.5).abs() < 1e-6);
    assert!(off.terms().unwrap().iter().all(|(name, _)| *name != "support_radius"));
}
