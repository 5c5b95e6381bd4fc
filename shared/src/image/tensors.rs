//! The payload: tensors in graph order, each at a multiple of 16 bytes.

use super::ALIGN;
use crate::Error;
use crate::engine::params::{Int8Params, Sizes, sizes};
use crate::graph::{Graph, Node, Op};
use crate::kernels::spatial_gate::BAND_WEIGHTS;
use crate::kernels::squeeze_excite::SqueezeExciteInt8;
use crate::quant::{Activation, ConvChannel, GateBand, Multiplier, MultiplierPair};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the payload of `graph`.
pub fn payload_len(graph: &Graph) -> usize {
    fn padded<T>(n: usize) -> usize {
        (n * size_of::<T>()).next_multiple_of(ALIGN)
    }
    let node_len = |node: &Node| {
        let Sizes { outputs, patch, hidden, .. } = sizes(graph, node);
        match node.op {
            Op::Conv(_) => padded::<i8>(outputs * patch) + padded::<ConvChannel>(outputs),
            Op::HaarInject | Op::Upsample2 => padded::<Multiplier>(1),
            Op::Add { .. } => padded::<MultiplierPair>(1),
            Op::SpatialGate(_) => padded::<i8>(4 * BAND_WEIGHTS) + padded::<GateBand>(4) + padded::<Multiplier>(1),
            Op::SqueezeExcite { .. } => {
                let rows = padded::<Multiplier>(hidden) + padded::<Multiplier>(outputs) + padded::<Multiplier>(1);
                2 * padded::<i8>(outputs * hidden) + rows
            }
            Op::Input | Op::MaxPool { .. } | Op::Concat => 0,
        }
    };
    padded::<Activation>(graph.nodes().len()) + graph.nodes().iter().map(node_len).sum::<usize>()
}

/// Reads tensors in place, one after the other.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        Reader { rest: payload }
    }

    /// The next tensor. Errors: the payload is shorter or not aligned.
    pub fn take<T: FromBytes + KnownLayout + Immutable>(&mut self, count: usize) -> Result<&'a [T], Error> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Error::ImageGraph)?;
        let (expected, found) = (bytes.next_multiple_of(ALIGN), self.rest.len());
        let (head, rest) = self.rest.split_at_checked(expected).ok_or(Error::WrongLength { expected, found })?;
        self.rest = rest;
        let head = head.get(..bytes).ok_or(Error::ImageGraph)?;
        <[T]>::ref_from_bytes(head).map_err(|_| Error::Misaligned)
    }

    fn one<T: FromBytes + KnownLayout + Immutable + Copy + 'a>(&mut self) -> Result<T, Error> {
        self.take(1)?.first().copied().ok_or(Error::ImageGraph)
    }

    /// The tensors of one node.
    pub fn params(&mut self, graph: &Graph, node: &Node) -> Result<Int8Params<'a>, Error> {
        let Sizes { outputs, patch, hidden, .. } = sizes(graph, node);
        Ok(match node.op {
            Op::Conv(_) => Int8Params::Conv { weight: self.take(outputs * patch)?, channels: self.take(outputs)? },
            Op::HaarInject | Op::Upsample2 => Int8Params::Rescale(self.one()?),
            Op::Add { .. } => Int8Params::Add(self.one()?),
            Op::SpatialGate(_) => Int8Params::SpatialGate {
                weight: self.take(4 * BAND_WEIGHTS)?,
                bands: self.take(4)?,
                output: self.one()?,
            },
            Op::SqueezeExcite { .. } => Int8Params::SqueezeExcite(SqueezeExciteInt8 {
                reduce: self.take(outputs * hidden)?,
                hidden: self.take(hidden)?,
                expand: self.take(outputs * hidden)?,
                gates: self.take(outputs)?,
                output: self.one()?,
            }),
            Op::Input | Op::MaxPool { .. } | Op::Concat => Int8Params::None,
        })
    }
}

/// Writes tensors one after the other, zero bytes between them.
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub fn new(payload: &'a mut [u8]) -> Self {
        Writer { rest: payload }
    }

    /// Writes the next tensor. Errors: the payload is full.
    pub fn put<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> Result<(), Error> {
        let bytes = values.as_bytes();
        let (needed, available) = (bytes.len().next_multiple_of(ALIGN), self.rest.len());
        let rest = core::mem::take(&mut self.rest);
        let (head, tail) = rest.split_at_mut_checked(needed).ok_or(Error::Capacity { needed, available })?;
        head.fill(0);
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.rest = tail;
        Ok(())
    }

    /// Writes the tensors of one node.
    pub fn put_params(&mut self, params: &Int8Params) -> Result<(), Error> {
        match params {
            Int8Params::None => Ok(()),
            Int8Params::Conv { weight, channels } => self.put(weight).and_then(|()| self.put(channels)),
            Int8Params::Rescale(scale) => self.put(&[*scale]),
            Int8Params::Add(scale) => self.put(&[*scale]),
            Int8Params::SpatialGate { weight, bands, output } => {
                self.put(weight)?;
                self.put(bands)?;
                self.put(&[*output])
            }
            Int8Params::SqueezeExcite(layer) => {
                self.put(layer.reduce)?;
                self.put(layer.hidden)?;
                self.put(layer.expand)?;
                self.put(layer.gates)?;
                self.put(&[layer.output])
            }
        }
    }
}
