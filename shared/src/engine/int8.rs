//! The int8 engine: the float engine's twin in the integer contract, for the sensor and, bit for bit, the host.

use super::arena::{self, Loan, Turn};
use super::params::Int8Params;
use super::rows::Rows;
use crate::Error;
use crate::graph::{Graph, Node, Op};
use crate::image::ModelImage;
use crate::kernels::{Map, MapMut, add, conv, haar, max_pool, spatial_gate, squeeze_excite, upsample2};
use crate::plan::{ALIGN, Element, Plan};
use crate::quant::{Activation, Output};
use core::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// A graph with its model image and the buffer it runs in.
pub struct Int8Engine<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    image: ModelImage<'a>,
    arena: &'a mut [i8],
    rows: Rows,
}

/// The map of a node, or some rows of it.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// Every node's but the last.
    Int8(Map<'a, i8>),
    /// Rows of the logit map, dense, in steps of 1/256.
    Logits(&'a [i16]),
}

impl<'a> Int8Engine<'a> {
    /// `arena` of at least `plan.arena_len` bytes that starts at a multiple of 16. Errors: a plan, an arena or an image
    /// that does not fit the graph.
    pub fn new(graph: &'a Graph, plan: &'a Plan, image: ModelImage<'a>, arena: &'a mut [i8]) -> Result<Self, Error> {
        if plan.element != Element::Int8 {
            return Err(Error::WrongPlan);
        }
        let image = image.for_graph(graph)?;
        if arena.len() < plan.arena_len {
            return Err(Error::WrongLength { expected: plan.arena_len, found: arena.len() });
        }
        if !arena.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(Error::Misaligned);
        }
        Ok(Int8Engine { graph, plan, image, arena, rows: Rows::default() })
    }

    /// The same engine, whose frames take two threads of the rayon pool in which it is run (`ThreadPool::install`), where
    /// a second one is idle: the same bits. The second thread's working memory is allocated here.
    #[cfg(feature = "std")]
    pub fn on_two_threads(mut self) -> Self {
        self.rows = Rows::on_two_threads(self.plan, self.graph.nodes().len());
        self
    }

    /// The image that the engine runs.
    pub fn image(&self) -> &ModelImage<'a> {
        &self.image
    }

    /// Where the quantised frame (HWC) goes before [`Self::run_in_place`]; it must be written anew for every run.
    pub fn input_mut(&mut self) -> Result<&mut [i8], Error> {
        let node = self.graph.nodes().first().ok_or(Error::WrongPlan)?;
        let len = arena::shape(self.plan, 0, node).extent().ok_or(Error::WrongPlan)?;
        let start = self.plan.buffer(0).offset;
        self.arena.get_mut(start..).and_then(|a| a.get_mut(..len)).ok_or(Error::WrongPlan)
    }

    /// The logits in steps of 1/256, row by row, of one quantised frame (HWC).
    pub fn run(&mut self, input: &[i8]) -> Result<&[i16], Error> {
        self.run_with(input, |_, _, _| {})
    }

    /// As [`Self::run`]; `tap` sees every node and its map as soon as it is there, the bands of a strip
    /// ([`crate::plan`]) one by one.
    pub fn run_with(&mut self, input: &[i8], tap: impl FnMut(usize, &Node, View)) -> Result<&[i16], Error> {
        let to = self.input_mut()?;
        if to.len() != input.len() {
            return Err(Error::WrongLength { expected: to.len(), found: input.len() });
        }
        to.iter_mut().zip(input).for_each(|(to, from)| *to = *from);
        self.run_in_place_with(tap)
    }

    /// The logits of the frame that was written into [`Self::input_mut`].
    pub fn run_in_place(&mut self) -> Result<&[i16], Error> {
        self.run_in_place_with(|_, _, _| {})
    }

    /// As [`Self::run_in_place`], with the tap of [`Self::run_with`].
    pub fn run_in_place_with(&mut self, mut tap: impl FnMut(usize, &Node, View)) -> Result<&[i16], Error> {
        let last = self.graph.nodes().len().saturating_sub(1);
        let (graph, plan, image) = (self.graph, self.plan, self.image);
        let mut nodes = image.params(graph).enumerate();
        let mut next = 0;
        while next < graph.nodes().len() {
            let strip = plan.strip(next);
            let count = (usize::from(strip.last) + 1).saturating_sub(next).max(1);
            let mut after = nodes.clone();
            for band in 0..usize::from(strip.bands) {
                arena::advance(self.arena, graph, plan, strip, band)?;
                after = nodes.clone();
                for (id, (node, params)) in after.by_ref().take(count) {
                    let turn = Turn { graph, plan, id, node, band };
                    if turn.rows().is_empty() {
                        continue;
                    }
                    self.node(turn, params?, id == last)?;
                    if id == last {
                        tap(id, node, View::Logits(self.logits(last, turn.rows())?));
                    } else {
                        tap(id, node, View::Int8(turn.view(self.arena)?));
                    }
                }
            }
            (nodes, next) = (after, next + count);
        }
        self.logits(last, 0..plan.height)
    }

    fn logits(&self, last: usize, rows: Range<usize>) -> Result<&[i16], Error> {
        let buffer = self.arena.get(self.plan.buffer(last).offset..).ok_or(Error::WrongPlan)?;
        let row = 2 * self.plan.width;
        let bytes = buffer.get(rows.start * row..rows.end * row).ok_or(Error::WrongPlan)?;
        <[i16]>::ref_from_bytes(bytes.as_bytes()).map_err(|_| Error::Misaligned)
    }

    fn node(&mut self, turn: Turn, params: Int8Params, logits: bool) -> Result<(), Error> {
        let Self { image, arena, rows, .. } = self;
        let loan = Loan::new(arena, turn)?;
        let input = |k: usize| -> Result<(Map<i8>, &Activation), Error> {
            let (id, map) = loan.input(k)?;
            Ok((map, image.activations().get(id).ok_or(Error::WrongPlan)?))
        };
        let zero_out = image.activations().get(turn.id).ok_or(Error::WrongPlan)?.zero;
        let place = Output::int8(zero_out, false);
        match (turn.node.op, params) {
            (Op::Conv(c), Int8Params::Conv { weight, channels }) => {
                let ((x, from), window) = (input(0)?, conv::Window::from(c));
                let zero_in = from.zero as i8;
                if logits {
                    let (out, scratch) = loan.into_buffer();
                    let out = <[i16]>::mut_from_bytes(out.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
                    let above = turn.rows().start * turn.shape().width;
                    let out = out.get_mut(above..).ok_or(Error::WrongPlan)?;
                    let out = MapMut::of_rows(out, turn.shape(), turn.rows())?;
                    return rows.compute((out, scratch), |out, scratch| {
                        conv::conv_plain(window, x, zero_in, weight, channels, Output::logit(), scratch, out)
                    });
                }
                let place = Output::int8(zero_out, c.relu);
                rows.compute(loan.output()?, |out, scratch| {
                    conv::conv_int8(window, x, zero_in, weight, channels, place, scratch, out)
                })
            }
            (Op::HaarInject, Int8Params::Rescale(scale)) => {
                let (x, _) = input(0)?;
                rows.compute(loan.output()?, |out, _| haar::haar_inject_int8(x, scale, place, out))
            }
            (Op::SpatialGate(_), Int8Params::SpatialGate { weight, bands, output }) => {
                let (x, from) = input(0)?;
                rows.compute(loan.output()?, |out, scratch| {
                    let scratch = <[i16]>::mut_from_bytes(scratch.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
                    spatial_gate::spatial_gate_int8(x, from.zero as i8, weight, bands, output, place, scratch, out)
                })
            }
            (Op::SqueezeExcite { .. }, Int8Params::SqueezeExcite(layer)) => {
                let (x, from) = input(0)?;
                let (out, scratch) = loan.output()?;
                let scratch = <[i32]>::mut_from_bytes(scratch.as_mut_bytes()).map_err(|_| Error::Misaligned)?;
                squeeze_excite::squeeze_excite_int8(x, from.zero, &layer, place, scratch, out)
            }
            (Op::MaxPool { size }, _) => {
                let (x, _) = input(0)?;
                rows.compute(loan.output()?, |out, _| max_pool::max_pool(usize::from(size), x, out))
            }
            (Op::Upsample2, Int8Params::Rescale(scale)) => {
                let (x, from) = input(0)?;
                rows.compute(loan.output()?, |out, _| upsample2::upsample2_int8(x, from.zero, scale, place, out))
            }
            (Op::Add { relu }, Int8Params::Add(scale)) => {
                let ((a, from_a), (b, from_b)) = (input(0)?, input(1)?);
                let place = Output::int8(zero_out, relu);
                let zeros = [from_a.zero, from_b.zero];
                // Inlined: behind a closure's reference these numbers are what an output of bytes may overwrite, for all the
                // compiler knows, and Helium's sums take 8 % longer.
                rows.compute(
                    loan.output()?,
                    #[inline(always)]
                    |out, _| add::add_int8(a, b, zeros, scale, place, out),
                )
            }
            // The frame and the members are already in place.
            (Op::Input | Op::Concat, _) => Ok(()),
            _ => Err(Error::WrongPlan),
        }
    }
}
