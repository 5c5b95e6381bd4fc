use candle_core::{DType, Device, Result, Tensor};

use super::{Shape, conv2d};
use crate::nn::compose;
use crate::nn::testing::{check_gradients, check_same, difference, gradients, random};

/// (n, ci, co, h, w, k, stride, dilation, groups)
type Case = (usize, usize, usize, usize, usize, usize, usize, usize, usize);

const SMALL: [Case; 12] = [
    (2, 3, 2, 5, 4, 1, 1, 1, 1),
    (1, 2, 5, 4, 4, 2 + 1, 1, 1, 1),
    (2, 2, 3, 5, 7, 3, 1, 1, 1),
    (1, 2, 2, 9, 8, 3, 1, 3, 1),
    (1, 1, 2, 11, 12, 3, 1, 5, 1),
    (1, 2, 2, 3, 3, 3, 1, 5, 1),
    (1, 2, 2, 6, 7, 5, 1, 1, 1),
    (1, 2, 1, 8, 5, 7, 1, 1, 1),
    (2, 2, 3, 6, 8, 3, 2, 1, 1),
    (1, 3, 2, 7, 5, 3, 2, 1, 1),
    (1, 8, 4, 6, 5, 7, 1, 1, 4),
    (2, 4, 6, 5, 5, 3, 1, 1, 2),
];

fn inputs(case: Case, bias: bool) -> Vec<Tensor> {
    let (n, ci, co, h, w, k, _, _, groups) = case;
    let mut tensors = vec![random(1, &[n, ci, h, w]), random(2, &[co, ci / groups, k, k])];
    if bias {
        tensors.push(random(3, &[co]));
    }
    tensors
}

fn ours(case: Case) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    with_relu(case, false)
}

fn with_relu(case: Case, relu: bool) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    move |t: &[Tensor]| conv2d(&t[0], &t[1], t.get(2), case.6, case.7, case.8, relu)
}

/// Seven nested loops: the definition.
fn by_definition(case: Case, x: &Tensor, w: &Tensor) -> Tensor {
    let (n, ci, co, h, width, k, stride, dilation, groups) = case;
    let (x, w): (Vec<f64>, Vec<f64>) =
        (x.flatten_all().unwrap().to_vec1().unwrap(), w.flatten_all().unwrap().to_vec1().unwrap());
    let (oh, ow, p) = (h.div_ceil(stride), width.div_ceil(stride), (dilation * (k - 1) / 2) as isize);
    let mut y = Vec::new();
    for (image, o) in (0..n).flat_map(|n| (0..co).map(move |o| (n, o))) {
        for (i, j) in (0..oh).flat_map(|i| (0..ow).map(move |j| (i, j))) {
            let mut sum = 0.0;
            for c in 0..ci / groups {
                let channel = o / (co / groups) * (ci / groups) + c;
                for (u, v) in (0..k).flat_map(|u| (0..k).map(move |v| (u, v))) {
                    let row = (i * stride + u * dilation) as isize - p;
                    let column = (j * stride + v * dilation) as isize - p;
                    if (0..h as isize).contains(&row) && (0..width as isize).contains(&column) {
                        sum += w[((o * (ci / groups) + c) * k + u) * k + v]
                            * x[((image * ci + channel) * h + row as usize) * width + column as usize];
                    }
                }
            }
            y.push(sum);
        }
    }
    Tensor::from_vec(y, (n, co, oh, ow), &Device::Cpu).unwrap()
}

#[test]
fn the_output_is_the_definition() {
    for case in SMALL {
        let t = inputs(case, false);
        assert!(difference(&ours(case)(&t).unwrap(), &by_definition(case, &t[0], &t[1])) < 1e-12, "{case:?}");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for (i, case) in SMALL.into_iter().enumerate() {
        check_gradients(&inputs(case, i % 2 == 0), with_relu(case, i % 3 == 0));
    }
}

#[test]
fn the_composed_convolution_is_the_fused_one() {
    for (i, case) in SMALL.into_iter().enumerate() {
        let relu = i % 3 == 0;
        check_same(&inputs(case, i % 2 == 1), with_relu(case, relu), |t| {
            compose::conv2d(&t[0], &t[1], t.get(2), case.6, case.7, case.8, relu)
        });
    }
}

#[test]
fn a_transposed_input_counts_as_what_it_shows() {
    let case = (2, 3, 4, 6, 5, 3, 1, 1, 1);
    let t = inputs(case, false);
    let turned = t[0].transpose(2, 3).unwrap().contiguous().unwrap().transpose(2, 3).unwrap();
    assert!(!turned.is_contiguous());
    assert_eq!(difference(&ours(case)(&[turned, t[1].clone()]).unwrap(), &ours(case)(&t).unwrap()), 0.0);
}

#[test]
fn single_precision_agrees_with_double() {
    const LARGE: [Case; 16] = [
        (3, 4, 4, 33, 128, 3, 1, 1, 1),
        (2, 4, 32, 40, 50, 3, 1, 1, 1),
        (2, 16, 4, 21, 35, 3, 1, 1, 1),
        (2, 12, 23, 16, 16, 3, 1, 3, 1),
        (2, 16, 16, 24, 17, 3, 1, 5, 1),
        (2, 16, 16, 8, 8, 3, 1, 5, 1),
        (1, 1, 1, 1, 1, 7, 1, 1, 1),
        (2, 8, 4, 19, 48, 7, 1, 1, 4),
        (2, 8, 4, 8, 8, 7, 1, 1, 4),
        (2, 4, 8, 30, 33, 5, 1, 1, 1),
        (3, 7, 13, 31, 30, 3, 2, 1, 1),
        (2, 8, 16, 32, 32, 3, 2, 1, 1),
        (2, 16, 5, 32, 64, 1, 1, 1, 1),
        (1, 64, 64, 16, 16, 3, 1, 1, 1),
        (1, 3, 1, 130, 260, 3, 1, 1, 1),
        (2, 5, 6, 10, 12, 1, 2, 1, 1),
    ];
    for (i, case) in LARGE.into_iter().enumerate() {
        let double = inputs(case, i % 2 == 0);
        let single: Vec<Tensor> = double.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
        let exact: Vec<Tensor> = single.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
        let bound = |of: &Tensor| 3e-6 * (1.0 + of.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap());
        let y = ours(case)(&exact).unwrap();
        let error = difference(&ours(case)(&single).unwrap(), &y);
        assert!(error < bound(&y), "{case:?}: output off by {error}");
        let relu = with_relu(case, true);
        assert_eq!(difference(&relu(&single).unwrap(), &ours(case)(&single).unwrap().relu().unwrap()), 0.0, "{case:?}");
        for (which, (a, b)) in gradients(&single, ours(case)).iter().zip(gradients(&exact, ours(case))).enumerate() {
            let error = difference(a, &b);
            assert!(error < bound(&b), "{case:?}: gradient {which} off by {error}");
        }
    }
}

#[test]
fn the_result_repeats_whatever_the_number_of_threads() {
    let case = (5, 16, 16, 32, 32, 3, 1, 1, 1);
    let t: Vec<Tensor> = inputs(case, true).iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| gradients(&t, ours(case)))
    };
    let first = run(1);
    for threads in [2, 3] {
        for (a, b) in first.iter().zip(run(threads)) {
            assert_eq!(difference(a, &b), 0.0);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = random(1, &[1, 4, 8, 8]);
    for (w, groups) in [([4, 3, 3, 3], 1), ([4, 4, 2, 2], 1), ([4, 4, 3, 1], 1), ([3, 2, 3, 3], 2), ([4, 4, 3, 3], 0)] {
        assert!(conv2d(&x, &random(2, &w), None, 1, 1, groups, false).is_err(), "{w:?}");
    }
    let w = random(2, &[4, 4, 3, 3]);
    assert!(conv2d(&x, &w, Some(&random(3, &[5])), 1, 1, 1, false).is_err());
    assert!(conv2d(&x, &w.to_dtype(DType::F32).unwrap(), None, 1, 1, 1, false).is_err());
    assert!(conv2d(&random(1, &[1, 4, 8]), &w, None, 1, 1, 1, false).is_err());
}

#[test]
fn work_is_counted_in_multiply_accumulates() {
    let shape = Shape { n: 4, ci: 32, co: 32, h: 128, w: 128, k: 3, stride: 1, dilation: 1, groups: 1 };
    assert_eq!(shape.macs(), 4 * 128 * 128 * 32 * 32 * 9);
}
