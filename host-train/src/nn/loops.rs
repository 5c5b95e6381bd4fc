//! The inner loops of the element-wise operations, each compiled for AVX-512, for AVX2 and for the baseline, and chosen at run time.
//!
//! The bodies are plain Rust; only the instructions differ. Nothing is reordered or contracted by that, so all three give the same bits.
//! `unsafe` is for entering a function compiled for the instructions that the processor was seen to have.
#![allow(unsafe_code)]

use super::conv::Isa;
use super::real::Real;

macro_rules! vectorised {
    ($($(#[$doc:meta])* fn $name:ident<$t:ident>($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub(super) fn $name<$t: Real>($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain<$t: Real>($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512<$t: Real>($($arg: $type),*) $(-> $out)? {
                plain($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$t: Real>($($arg: $type),*) $(-> $out)? {
                plain($($arg),*)
            }
            match Isa::detect() {
                // SAFETY: `detect` saw the instructions.
                #[cfg(target_arch = "x86_64")]
                Some(Isa::Avx512) => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Some(Isa::Avx2) => unsafe { avx2($($arg),*) },
                _ => plain($($arg),*),
            }
        }
    )*};
}

/// Running sums of a reduction: enough that no addition waits for the one before.
const LANES: usize = 16;

#[inline(always)]
fn clipped<T: Real>(v: T, relu: bool) -> T {
    if relu && v <= T::zero() { T::zero() } else { v }
}

/// Adds every [`LANES`]-th of `x` to the same sum.
#[inline(always)]
fn add_to<T: Real>(sums: &mut [f64; LANES], x: &[T]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i].to_f64();
        }
    }
    for (sum, v) in sums.iter_mut().zip(rest) {
        *sum += v.to_f64();
    }
}

/// g where the ReLU over x·scale + shift let it through, else zero.
#[inline(always)]
fn passed<T: Real>(x: T, g: T, scale: T, shift: T, relu: bool) -> T {
    if relu && x * scale + shift <= T::zero() { T::zero() } else { g }
}

/// LH, HL, HH, LL of a window [[a, b], [c, d]].
#[inline(always)]
pub(super) fn bands<T: Real>(a: T, b: T, c: T, d: T) -> [T; 4] {
    let half = T::from_f64(0.5);
    let (sum_top, sum_bottom, diff_top, diff_bottom) = (a + b, c + d, a - b, c - d);
    [
        (sum_top - sum_bottom) * half,
        (diff_top + diff_bottom) * half,
        (diff_top - diff_bottom) * half,
        (sum_top + sum_bottom) * half,
    ]
}

/// The transpose of [`bands`]: gradients of a, b, c, d from those of LH, HL, HH, LL.
#[inline(always)]
pub(super) fn spread<T: Real>(lh: T, hl: T, hh: T, ll: T) -> [T; 4] {
    let half = T::from_f64(0.5);
    let (rows, columns, low, high) = (ll - lh, hl - hh, ll + lh, hl + hh);
    [(low + high) * half, (low - high) * half, (rows + columns) * half, (rows - columns) * half]
}

/// Four equal slices.
#[inline(always)]
fn quarters<T>(v: &[T]) -> [&[T]; 4] {
    let n = v.len() / 4;
    [&v[..n], &v[n..2 * n], &v[2 * n..3 * n], &v[3 * n..4 * n]]
}

#[inline(always)]
fn quarters_mut<T>(v: &mut [T]) -> [&mut [T]; 4] {
    let n = v.len() / 4;
    let (a, rest) = v.split_at_mut(n);
    let (b, rest) = rest.split_at_mut(n);
    let (c, rest) = rest.split_at_mut(n);
    [a, b, c, &mut rest[..n]]
}

vectorised! {
    /// Σx and Σx² in f64.
    fn sum_and_squares<T>(x: &[T]) -> (f64, f64) {
        let (mut sums, mut squares) = ([0f64; LANES], [0f64; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let v = chunk[i].to_f64();
                sums[i] += v;
                squares[i] += v * v;
            }
        }
        for (i, v) in rest.iter().enumerate() {
            let v = v.to_f64();
            sums[i] += v;
            squares[i] += v * v;
        }
        (sums.iter().sum(), squares.iter().sum())
    }

    /// Σg and Σg·(x − mean) in f64 over what the ReLU let through.
    fn masked_sums<T>(x: &[T], g: &[T], scale: T, shift: T, mean: T, relu: bool) -> (f64, f64) {
        let (mut sums, mut products) = ([0f64; LANES], [0f64; LANES]);
        let (xs, x_rest) = x.as_chunks::<LANES>();
        let (gs, g_rest) = g.as_chunks::<LANES>();
        for (x, g) in xs.iter().zip(gs) {
            for i in 0..LANES {
                let g = passed(x[i], g[i], scale, shift, relu);
                sums[i] += g.to_f64();
                products[i] += g.to_f64() * (x[i] - mean).to_f64();
            }
        }
        for (i, (x, g)) in x_rest.iter().zip(g_rest).enumerate() {
            let g = passed(*x, *g, scale, shift, relu);
            sums[i] += g.to_f64();
            products[i] += g.to_f64() * (*x - mean).to_f64();
        }
        (sums.iter().sum(), products.iter().sum())
    }

    /// dx = g·a + (x·b + k) over what the ReLU let through of g.
    fn masked_line<T>(dx: &mut [T], x: &[T], g: &[T], scale: T, shift: T, line: (T, T, T), relu: bool) {
        let (a, b, k) = line;
        for ((dx, x), g) in dx.iter_mut().zip(x).zip(g) {
            *dx = passed(*x, *g, scale, shift, relu) * a + (*x * b + k);
        }
    }

    /// y = x·scale + shift, clipped at zero if `relu`.
    fn affine<T>(y: &mut [T], x: &[T], scale: T, shift: T, relu: bool) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = clipped(*x * scale + shift, relu);
        }
    }

    /// y = a + b, clipped at zero if `relu`.
    fn add<T>(y: &mut [T], a: &[T], b: &[T], relu: bool) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = clipped(*a + *b, relu);
        }
    }

    /// d = g where y > 0, else zero; Σd in f64.
    fn where_positive<T>(d: &mut [T], y: &[T], g: &[T]) -> f64 {
        // Two loops over what fits the first cache: as one, the selection is compiled a number at a time.
        const BLOCK: usize = 64 * LANES;
        let mut sums = [0f64; LANES];
        for ((d, y), g) in d.chunks_mut(BLOCK).zip(y.chunks(BLOCK)).zip(g.chunks(BLOCK)) {
            for ((d, y), g) in d.iter_mut().zip(y).zip(g) {
                *d = if *y > T::zero() { *g } else { T::zero() };
            }
            add_to(&mut sums, d);
        }
        sums.iter().sum()
    }

    /// Σx in f64.
    fn sum<T>(x: &[T]) -> f64 {
        let mut sums = [0f64; LANES];
        add_to(&mut sums, x);
        sums.iter().sum()
    }

    /// sum += x.
    fn accumulate<T>(sum: &mut [T], x: &[T]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += *x;
        }
    }

    /// y = x·s.
    fn multiply<T>(y: &mut [T], x: &[T], s: &[T]) {
        for ((y, x), s) in y.iter_mut().zip(x).zip(s) {
            *y = *x * *s;
        }
    }

    /// y = x·s for one s.
    fn scale<T>(y: &mut [T], x: &[T], s: T) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x * s;
        }
    }

    /// sum += a·b, element by element.
    fn accumulate_product<T>(sum: &mut [T], a: &[T], b: &[T]) {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            *sum += *a * *b;
        }
    }

    /// Σ a·b in f64.
    fn dot<T>(a: &[T], b: &[T]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (xs, a_rest) = a.as_chunks::<LANES>();
        let (ys, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in xs.iter().zip(ys) {
            for i in 0..LANES {
                lanes[i] += a[i].to_f64() * b[i].to_f64();
            }
        }
        for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[i] += a.to_f64() * b.to_f64();
        }
        lanes.iter().sum()
    }

    /// v = 1 / (1 + e^−v).
    fn sigmoid<T>(values: &mut [T]) {
        for v in values {
            *v = T::one() / (T::one() + (T::zero() - *v).exponential());
        }
    }

    /// y = x to the nearest multiple of `step` between `low` and `high` steps.
    fn round_to_steps<T>(y: &mut [T], x: &[T], step: T, low: T, high: T) {
        for (y, x) in y.iter_mut().zip(x) {
            let n = (*x / step).nearest();
            let n = if n < low { low } else { n };
            *y = step * if n > high { high } else { n };
        }
    }

    /// d = g where x lies from `low` to `high`, else zero.
    fn where_within<T>(d: &mut [T], x: &[T], g: &[T], low: T, high: T) {
        for ((d, x), g) in d.iter_mut().zip(x).zip(g) {
            *d = if *x < low || *x > high { T::zero() } else { *g };
        }
    }

    /// dz = s·(1 − s)·product: the gradient through a logistic function with output s.
    fn sigmoid_gradient<T>(dz: &mut [T], s: &[T], product: &[T]) {
        for ((dz, s), product) in dz.iter_mut().zip(s).zip(product) {
            *dz = *s * (T::one() - *s) * *product;
        }
    }

    /// out = a + (b − a)·share.
    fn blend<T>(out: &mut [T], a: &[T], b: &[T], share: T) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = *a + (*b - *a) * share;
        }
    }

    /// sum += v·share.
    fn accumulate_scaled<T>(sum: &mut [T], v: &[T], share: T) {
        for (sum, v) in sum.iter_mut().zip(v) {
            *sum += *v * share;
        }
    }

    /// The four bands of a row of windows whose corners are `above[j..j+2]` and `row[j..j+2]`, times `share`; `out` holds four rows.
    fn band_row<T>(out: &mut [T], above: &[T], row: &[T], share: T) {
        let w = out.len() / 4;
        let (a, b, c, d) = (&above[..w], &above[1..][..w], &row[..w], &row[1..][..w]);
        let [o0, o1, o2, o3] = quarters_mut(out);
        for j in 0..w {
            let [v0, v1, v2, v3] = bands(a[j], b[j], c[j], d[j]);
            (o0[j], o1[j], o2[j], o3[j]) = (v0 * share, v1 * share, v2 * share, v3 * share);
        }
    }

    /// Raises four rows of maxima to the bands of `channel` where those are greater, and notes the channel there.
    fn band_row_max<T>(best: &mut [T], winner: &mut [u32], above: &[T], row: &[T], channel: u32) {
        let w = best.len() / 4;
        let (a, b, c, d) = (&above[..w], &above[1..][..w], &row[..w], &row[1..][..w]);
        let [best0, best1, best2, best3] = quarters_mut(best);
        let [win0, win1, win2, win3] = quarters_mut(winner);
        for j in 0..w {
            let [v0, v1, v2, v3] = bands(a[j], b[j], c[j], d[j]);
            let raise = |v: T, best: &mut T, winner: &mut u32| {
                let greater = v > *best;
                *best = if greater { v } else { *best };
                *winner = if greater { channel } else { *winner };
            };
            raise(v0, &mut best0[j], &mut win0[j]);
            raise(v1, &mut best1[j], &mut win1[j]);
            raise(v2, &mut best2[j], &mut win2[j]);
            raise(v3, &mut best3[j], &mut win3[j]);
        }
    }

    /// Gradients of a row of windows of `channel` with respect to their corners a, b, c, d, four rows each in `out`, `winner`, `max` and
    /// `mean`: `max` counts where `channel` won, `mean` always.
    fn band_row_gradient<T>(out: &mut [T], winner: &[u32], max: &[T], mean: &[T], channel: u32) {
        let w = out.len() / 4;
        let [a, b, c, d] = quarters_mut(out);
        let [win0, win1, win2, win3] = quarters(winner);
        let [max0, max1, max2, max3] = quarters(max);
        let [mean0, mean1, mean2, mean3] = quarters(mean);
        for j in 0..w {
            let band = |winner: u32, max: T, mean: T| mean + if winner == channel { max } else { T::zero() };
            let (lh, hl) = (band(win0[j], max0[j], mean0[j]), band(win1[j], max1[j], mean1[j]));
            let (hh, ll) = (band(win2[j], max2[j], mean2[j]), band(win3[j], max3[j], mean3[j]));
            [a[j], b[j], c[j], d[j]] = spread(lh, hl, hh, ll);
        }
    }

    /// to[j] += left[j] + right[j + 1], the last without `right`: a row's gradient from the windows to whose right and left edge it belongs.
    fn gather_row<T>(to: &mut [T], left: &[T], right: &[T]) {
        let w = to.len();
        for ((to, l), r) in to[..w - 1].iter_mut().zip(left).zip(&right[1..]) {
            *to += *l + *r;
        }
        to[w - 1] += left[w - 1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::random;

    #[test]
    fn what_a_relu_lets_through_is_selected_and_summed_whatever_the_length() {
        let both = random(1, &[2, 5000]).to_vec2::<f64>().unwrap();
        let [y, g] = [0, 1].map(|k| both[k].iter().map(|&v| v as f32).collect::<Vec<_>>());
        for n in [0, 1, 15, 16, 17, 1023, 1024, 1025, 5000] {
            let mut d = vec![f32::NAN; n];
            let sum = where_positive(&mut d, &y[..n], &g[..n]);
            let kept = |i: usize| if y[i] > 0.0 { g[i] } else { 0.0 };
            assert!((0..n).all(|i| d[i] == kept(i)), "{n}");
            let expected: f64 = (0..n).map(|i| f64::from(kept(i))).sum();
            assert!((sum - expected).abs() < 1e-9, "{n}: {sum}, {expected}");
        }
    }
}
