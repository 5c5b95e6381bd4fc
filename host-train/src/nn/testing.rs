//! Checks of gradients: an operation's own backward pass against central differences, in f64.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A tensor of values in −1..1, all different, so that no two tie for a maximum.
pub fn random(seed: u64, dims: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Σ r·y with fixed random r: a scalar whose gradient at y is r.
fn weighed(y: &Tensor) -> Result<Tensor> {
    y.to_dtype(DType::F64)?.mul(&random(99, y.dims()))?.sum_all()
}

/// The gradients of [`weighed`] `(f(inputs))` with respect to every input, by backpropagation.
pub fn gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let store = weighed(&f(&tensors).unwrap()).unwrap().backward().unwrap();
    tensors.iter().map(|t| store.get(t).unwrap().clone()).collect()
}

/// Compares every element of every gradient with (L(x+h) − L(x−h)) / 2h.
pub fn check_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f64 = 1e-5;
    let analytic = gradients(inputs, &f);
    for (which, gradient) in analytic.iter().enumerate() {
        let base: Vec<f64> = inputs[which].flatten_all().unwrap().to_vec1().unwrap();
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(base.len(), gradient.len());
        for i in 0..base.len() {
            let loss = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(moved, inputs[which].dims(), &Device::Cpu).unwrap();
                weighed(&f(&inputs).unwrap()).unwrap().to_scalar::<f64>().unwrap()
            };
            let numeric = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            assert!(
                (numeric - gradient[i]).abs() < 1e-6 * (1.0 + numeric.abs()),
                "input {which}, element {i}: {} by backpropagation, {numeric} by differences",
                gradient[i]
            );
        }
    }
}

/// Largest absolute difference of two tensors of one shape.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (a.to_dtype(DType::F64).unwrap(), b.to_dtype(DType::F64).unwrap());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Holds the fused operation to the composed one: outputs and all gradients, to 1e-9 in f64.
pub fn check_same(
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    assert!(difference(&fused(inputs).unwrap(), &composed(inputs).unwrap()) < 1e-9);
    for (a, b) in gradients(inputs, fused).iter().zip(gradients(inputs, composed)) {
        assert!(difference(a, &b) < 1e-9);
    }
}

/// Holds an operation in f32, output and gradients, to the same in f64 on the same numbers, within `tolerance` of the largest element.
pub fn check_single(inputs: &[Tensor], tolerance: f64, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let cast = |all: &[Tensor], to| all.iter().map(|t| t.to_dtype(to).unwrap()).collect::<Vec<_>>();
    let single = cast(inputs, DType::F32);
    let exact = cast(&single, DType::F64);
    let close = |a: &Tensor, b: &Tensor, what: &str| {
        let largest: f64 = b.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        let error = difference(a, b);
        assert!(error <= tolerance * (1.0 + largest), "{what} is off by {error}");
    };
    close(&f(&single).unwrap(), &f(&exact).unwrap(), "output");
    for (which, (a, b)) in gradients(&single, &f).iter().zip(gradients(&exact, &f)).enumerate() {
        close(a, &b, &format!("gradient {which}"));
    }
}
