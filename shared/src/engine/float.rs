//! The float32 engine: the reference that candle and the int8 engine are held against, and the host's fast check.

use super::arena::{Loan, Turn};
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

    /// As [`Self::run`]; `tap` sees every node and its map as soon as it is there. A float plan has no strips
    /// ([`crate::plan`]): every node has its whole map in one turn.
    pub fn run_with(&mut self, input: &[f32], mut tap: impl FnMut(usize, &Node, Map<f32>)) -> Result<&[f32], Error> {
        let (graph, plan) = (self.graph, self.plan);
        for (id, (node, params)) in float_params(graph, self.weights)?.enumerate() {
            let turn = Turn { graph, plan, id, node, band: 0 };
            self.node(turn, params, input)?;
            tap(id, node, turn.view(self.arena)?);
        }
        let logits = self.plan.buffer(self.graph.nodes().len().saturating_sub(1));
        let pixels = self.plan.height * self.plan.width;
        self.arena.get(logits.offset..).and_then(|l| l.get(..pixels)).ok_or(Error::WrongPlan)
    }

    fn node(&mut self, turn: Turn, params: FloatParams, frame: &[f32]) -> Result<(), Error> {
        let loan = Loan::new(self.arena, turn)?;
        let input = |k: usize| loan.input(k).map(|(_, map)| map);
        match (turn.node.op, params) {
            (Op::Input, _) => {
                let (to, found) = (turn.shape().extent().unwrap_or(0), frame.len());
                let wrong = Error::WrongLength { expected: to, found };
                let to = loan.into_buffer().0.get_mut(..to).ok_or(Error::WrongPlan)?;
                if to.len() != found {
                    return Err(wrong);
                }
                to.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
                Ok(())
            }
            (Op::Conv(c), FloatParams::Conv { weight, bias }) => {
                let window = conv::Window::from(c);
                let x = input(0)?;
                conv::conv_f32(window, c.relu, x, weight, bias, loan.output()?.0)
            }
            (Op::HaarInject, _) => {
                let x = input(0)?;
                haar::haar_inject_f32(x, loan.output()?.0)
            }
            (Op::SpatialGate(_), FloatParams::SpatialGate(parameters)) => {
                let x = input(0)?;
                let (out, scratch) = loan.output()?;
                spatial_gate::spatial_gate_f32(x, parameters, scratch, out)
            }
            (Op::SqueezeExcite { .. }, FloatParams::SqueezeExcite { reduce, expand }) => {
                let x = input(0)?;
                let (out, scratch) = loan.output()?;
                squeeze_excite::squeeze_excite_f32(x, reduce, expand, scratch, out)
            }
            (Op::MaxPool { size }, _) => {
                let x = input(0)?;
                max_pool::max_pool(usize::from(size), x, loan.output()?.0)
            }
            (Op::Upsample2, _) => {
                let x = input(0)?;
                upsample2::upsample2_f32(x, loan.output()?.0)
            }
            (Op::Add { relu }, _) => {
                let (a, b) = (input(0)?, input(1)?);
                add::add_f32(a, b, relu, loan.output()?.0)
            }
            // The members are already in place.
            (Op::Concat, _) => Ok(()),
            _ => Err(Error::WrongPlan),
        }
    }
}
