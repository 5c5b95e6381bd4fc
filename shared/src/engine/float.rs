//! The float32 engine: the reference that candle and the int8 engine are held against, and the host's fast check.

use super::arena::{self, Loan};
use super::params::{FloatParams, float_params};
use crate::Error;
use crate::graph::{Graph, Node, Op};
use crate::kernels::{Map, add, conv, haar, max_pool, spatial_gate, squeeze_excite, upsample2};
use crate::plan::{Element, Plan};

/// A graph with its weights and the buffer it runs in.
pub struct FloatEngine<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    weights: &'a [f32],
    arena: &'a mut [f32],
}

impl<'a> FloatEngine<'a> {
    /// `weights` as [`super::params`] lays them out; `arena` of at least `plan.arena_len` values.
    pub fn new(graph: &'a Graph, plan: &'a Plan, weights: &'a [f32], arena: &'a mut [f32]) -> Result<Self, Error> {
        if plan.element != Element::F32 {
            return Err(Error::WrongPlan);
        }
        float_params(graph, weights).map(drop)?;
        if arena.len() < plan.arena_len {
            return Err(Error::WrongLength { expected: plan.arena_len, found: arena.len() });
        }
        Ok(FloatEngine { graph, plan, weights, arena })
    }

    /// The logits, row by row, of one normalised frame (HWC).
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        self.run_with(input, |_, _, _| {})
    }

    /// As [`Self::run`]; `tap` sees every node and its map as soon as it is there.
    pub fn run_with(&mut self, input: &[f32], mut tap: impl FnMut(usize, &Node, Map<f32>)) -> Result<&[f32], Error> {
        for (id, (node, params)) in float_params(self.graph, self.weights)?.enumerate() {
            self.node(id, node, params, input)?;
            tap(id, node, arena::view(self.arena, self.plan, id, node)?);
        }
        let logits = self.plan.buffer(self.graph.nodes().len().saturating_sub(1));
        let pixels = self.plan.height * self.plan.width;
        self.arena.get(logits.offset..).and_then(|l| l.get(..pixels)).ok_or(Error::WrongPlan)
    }

    fn node(&mut self, id: usize, node: &Node, params: FloatParams, frame: &[f32]) -> Result<(), Error> {
        let (graph, plan) = (self.graph, self.plan);
        let loan = Loan::new(self.arena, plan, id)?;
        let input = |k: usize| {
            let id = usize::from(*node.inputs().get(k).ok_or(Error::WrongPlan)?);
            loan.input(plan, id, graph.nodes().get(id).ok_or(Error::WrongPlan)?)
        };
        match (node.op, params) {
            (Op::Input, _) => {
                let (to, found) = (arena::shape(plan, id, node).extent().unwrap_or(0), frame.len());
                let wrong = Error::WrongLength { expected: to, found };
                let to = loan.into_buffer().get_mut(..to).ok_or(Error::WrongPlan)?;
                if to.len() != found {
                    return Err(wrong);
                }
                to.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
                Ok(())
            }
            (Op::Conv(c), FloatParams::Conv { weight, bias }) => {
                let window = conv::Window::from(c);
                let x = input(0)?;
                conv::conv_f32(window, c.relu, x, weight, bias, loan.output(plan, id, node)?.0)
            }
            (Op::HaarInject, _) => {
                let x = input(0)?;
                haar::haar_inject_f32(x, loan.output(plan, id, node)?.0)
            }
            (Op::SpatialGate(_), FloatParams::SpatialGate(parameters)) => {
                let x = input(0)?;
                let (out, scratch) = loan.output(plan, id, node)?;
                spatial_gate::spatial_gate_f32(x, parameters, scratch, out)
            }
            (Op::SqueezeExcite { .. }, FloatParams::SqueezeExcite { reduce, expand }) => {
                let x = input(0)?;
                let (out, scratch) = loan.output(plan, id, node)?;
                squeeze_excite::squeeze_excite_f32(x, reduce, expand, scratch, out)
            }
            (Op::MaxPool { size }, _) => {
                let x = input(0)?;
                max_pool::max_pool(usize::from(size), x, loan.output(plan, id, node)?.0)
            }
            (Op::Upsample2, _) => {
                let x = input(0)?;
                upsample2::upsample2_f32(x, loan.output(plan, id, node)?.0)
            }
            (Op::Add { relu }, _) => {
                let (a, b) = (input(0)?, input(1)?);
                add::add_f32(a, b, relu, loan.output(plan, id, node)?.0)
            }
            // The members are already in place.
            (Op::Concat, _) => Ok(()),
            _ => Err(Error::WrongPlan),
        }
    }
}
