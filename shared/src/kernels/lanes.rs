//! Loops over the channels of pixels, in the shape that the target likes.
//!
//! LLVM vectorises a loop whose length it knows. On x86-64 channels are therefore taken sixteen, eight and four at a
//! time; elsewhere, where the fast kernels are written by hand, the loops are the plain ones.

#[cfg(kernels = "vnni")]
pub use super::simd::x86::widest;

/// Runs `work`, compiled for the widest vectors that the processor has where it is asked at run time.
#[cfg(not(kernels = "vnni"))]
#[inline(always)]
pub fn widest<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// out = f(a, out), over the shorter length.
#[inline(always)]
pub fn fold<T: Copy>(a: &[T], out: &mut [T], f: impl Fn(T, T) -> T) {
    let done = blocks([a], out, |[a], out| f(a, out));
    for (&a, out) in from(a, done).iter().zip(from_mut(out, done)) {
        *out = f(a, *out);
    }
}

/// out = f(a, b), over the shortest length.
#[inline(always)]
pub fn map2<T: Copy>(a: &[T], b: &[T], out: &mut [T], f: impl Fn(T, T) -> T) {
    let done = blocks([a, b], out, |[a, b], _| f(a, b));
    for ((&a, &b), out) in from(a, done).iter().zip(from(b, done)).zip(from_mut(out, done)) {
        *out = f(a, b);
    }
}

/// out = f([a, b, c, d]), over the shortest length.
#[inline(always)]
pub fn map4<T: Copy>([a, b, c, d]: [&[T]; 4], out: &mut [T], f: impl Fn([T; 4]) -> T) {
    let done = blocks([a, b, c, d], out, |taps, _| f(taps));
    let [a, b, c, d] = [a, b, c, d].map(|slice| from(slice, done));
    for (((&a, &b), (&c, &d)), out) in a.iter().zip(b).zip(c.iter().zip(d)).zip(from_mut(out, done)) {
        *out = f([a, b, c, d]);
    }
}

#[inline(always)]
fn from<T>(slice: &[T], done: usize) -> &[T] {
    slice.get(done..).unwrap_or_default()
}

#[inline(always)]
fn from_mut<T>(slice: &mut [T], done: usize) -> &mut [T] {
    slice.get_mut(done..).unwrap_or_default()
}

/// Applies `f` to whole blocks and says how many elements that were.
#[inline(always)]
fn blocks<T: Copy, const N: usize>(slices: [&[T]; N], out: &mut [T], f: impl Fn([T; N], T) -> T) -> usize {
    if !cfg!(kernels = "vnni") {
        return 0;
    }
    let done = blocks_of::<16, T, N>(0, slices, out, &f);
    let done = blocks_of::<8, T, N>(done, slices, out, &f);
    blocks_of::<4, T, N>(done, slices, out, &f)
}

#[inline(always)]
fn blocks_of<const L: usize, T: Copy, const N: usize>(
    mut done: usize,
    slices: [&[T]; N],
    out: &mut [T],
    f: &impl Fn([T; N], T) -> T,
) -> usize {
    while let Some(out) = out.get_mut(done..).and_then(|out| out.first_chunk_mut::<L>()) {
        let old = *out;
        let mut blocks = [old; N];
        for (block, slice) in blocks.iter_mut().zip(slices) {
            let Some(found) = from(slice, done).first_chunk::<L>() else { return done };
            *block = *found;
        }
        for i in 0..L {
            out[i] = f(blocks.map(|block| block[i]), old[i]);
        }
        done += L;
    }
    done
}
