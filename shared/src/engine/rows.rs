//! Who computes the rows of an output: one thread, or two threads a half each.
//!
//! Every kernel of these operations computes the rows that its output holds, and no row depends on another one of the
//! same output: halves give the bits of the whole. The second thread is one of the rayon pool in which the engine is run,
//! where one is idle; outside a pool there is none. Working memory is each thread's own. Squeeze-and-excite, every row of
//! which waits for the mean of all, is always one thread's.

use crate::Error;
use crate::kernels::MapMut;
#[cfg(feature = "std")]
use {crate::plan::Plan, std::vec, std::vec::Vec, zerocopy::FromBytes, zerocopy::IntoBytes};

/// An output of fewer elements is one thread's: waking another one takes about as long as computing it.
#[cfg(feature = "std")]
const LEAST: usize = 1 << 14;

/// The working memory of a second thread, where there is one.
#[derive(Default)]
pub(super) struct Rows {
    #[cfg(feature = "std")]
    second: Option<Vec<u128>>,
}

impl Rows {
    /// Two threads, for the nodes of `plan`.
    #[cfg(feature = "std")]
    pub fn on_two_threads(plan: &Plan, nodes: usize) -> Self {
        let most = (0..nodes).map(|id| plan.scratch(id).len).max().unwrap_or(0);
        Rows { second: Some(vec![0; most.div_ceil(size_of::<u128>())]) }
    }

    /// Lets `kernel` compute the rows that `output` holds, with working memory as long as `scratch`.
    #[cfg(feature = "std")]
    pub fn compute<T: Copy + Send>(
        &mut self,
        (output, scratch): (MapMut<T>, &mut [i8]),
        kernel: impl Fn(MapMut<T>, &mut [i8]) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let (rows, shape) = (output.rows(), output.shape());
        let large = rows.len() > 1 && rows.len() * shape.width * shape.channels >= LEAST;
        let pool = rayon::current_thread_index().is_some() && rayon::current_num_threads() > 1;
        let Some(second) = self.second.as_mut().filter(|_| large && pool) else { return kernel(output, scratch) };
        let second = <[i8]>::mut_from_bytes(second.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
        let second = second.get_mut(..scratch.len()).ok_or(Error::WrongPlan)?;
        let (upper, lower) = output.split(rows.start + rows.len() / 2)?;
        let (upper, lower) = rayon::join(|| kernel(upper, scratch), || kernel(lower, second));
        upper.and(lower)
    }

    /// Lets `kernel` compute the rows that `output` holds.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub fn compute<T>(
        &mut self,
        (output, scratch): (MapMut<T>, &mut [i8]),
        kernel: impl FnOnce(MapMut<T>, &mut [i8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        kernel(output, scratch)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::graph::{QUARTER, msda};
    use crate::kernels::Shape;
    use crate::plan::{Element, plan};
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// How often the kernel is called for a map of `height` rows of 256 elements; every row must come once.
    fn calls(rows: &mut Rows, height: usize) -> usize {
        let (calls, mut map) = (AtomicUsize::new(0), vec![0u8; height * 256]);
        let output = MapMut::new(&mut map, Shape::dense(height, 64, 4)).unwrap();
        rows.compute((output, &mut [0; 100]), |mut output, scratch| {
            calls.fetch_add(1, Ordering::Relaxed);
            assert_eq!(scratch.len(), 100);
            output.pixels_mut().flatten().for_each(|v| *v += 1);
            Ok(())
        })
        .unwrap();
        assert!(map.iter().all(|&v| v == 1));
        calls.into_inner()
    }

    #[test]
    fn large_maps_are_halved_in_a_pool_and_only_there() {
        let plan = plan(&msda(QUARTER, 1), 32, 32, Element::Int8).unwrap();
        let (mut one, mut two) = (Rows::default(), Rows::on_two_threads(&plan, msda(QUARTER, 1).nodes().len()));
        assert_eq!([calls(&mut one, 99), calls(&mut two, 99)], [1, 1]);
        let [alone, pool] = [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
        let in_pool = |rows: &mut Rows, height| pool.install(|| calls(rows, height));
        assert_eq!([in_pool(&mut one, 99), in_pool(&mut two, 99), in_pool(&mut two, 63)], [1, 2, 1]);
        assert_eq!(alone.install(|| calls(&mut two, 99)), 1);
    }

    #[test]
    fn the_error_of_either_half_is_the_layers() {
        let plan = plan(&msda(QUARTER, 1), 32, 32, Element::Int8).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for bad in [0, 98] {
            let mut rows = Rows::on_two_threads(&plan, msda(QUARTER, 1).nodes().len());
            let mut map = vec![0u8; 99 * 256];
            let output = MapMut::new(&mut map, Shape::dense(99, 64, 4)).unwrap();
            let kernel = |output: MapMut<u8>, _: &mut [i8]| {
                if output.rows().contains(&bad) { Err(Error::Unsupported) } else { Ok(()) }
            };
            assert_eq!(pool.install(|| rows.compute((output, &mut []), kernel)), Err(Error::Unsupported));
        }
    }
}
