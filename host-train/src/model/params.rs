//! The table of a graph's tensors: names, shapes, and how each starts. One list serves the model, checkpoints and export.

use gsacp_core::graph::{BANDS, Graph, Op};

/// What a tensor is, which decides how it starts and whether weight decay applies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Weights of a conv or matrix: Kaiming normal with this fan-out.
    Weight {
        /// Outputs times taps.
        fan_out: usize,
    },
    /// A bias, or the shift of a batch norm: starts at this constant.
    Bias(f32),
    /// The scale of a batch norm: starts at 1.
    Scale,
    /// Running mean of a batch norm: not trained, starts at 0.
    RunningMean,
    /// Running variance of a batch norm (unbiased): not trained, starts at 1.
    RunningVariance,
}

impl Kind {
    /// Whether gradients reach it; running statistics are only observed.
    pub fn trainable(self) -> bool {
        !matches!(self, Kind::RunningMean | Kind::RunningVariance)
    }
}

/// One tensor of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// The reference's parameter name.
    pub name: String,
    /// Convs `[out, in, k, k]`, matrices `[out, in]`, the rest `[channels]`.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: Kind,
}

/// Targets are rare: the head starts at a probability of 2 %.
const HEAD_BIAS: f32 = -4.0;

/// Tensors of one node, in the order weight, bias, then the batch norm's.
pub fn of_node(graph: &Graph, id: usize) -> Vec<Param> {
    let node = &graph.nodes()[id];
    let (cin, cout) = (usize::from(graph.input_channels_of(node)), usize::from(node.channels));
    let head = id + 1 == graph.nodes().len();
    let param = |name: String, shape: &[usize], kind| Param { name, shape: shape.to_vec(), kind };
    match node.op {
        Op::Conv(c) => {
            let k = usize::from(c.kernel);
            let mut list =
                vec![param(format!("{}.weight", c.path), &[cout, cin, k, k], Kind::Weight { fan_out: cout * k * k })];
            if c.bias {
                let start = if head { HEAD_BIAS } else { 0.0 };
                list.push(param(format!("{}.bias", c.path), &[cout], Kind::Bias(start)));
            }
            if let Some(norm) = c.norm {
                for (member, kind) in [
                    ("weight", Kind::Scale),
                    ("bias", Kind::Bias(0.0)),
                    ("running_mean", Kind::RunningMean),
                    ("running_var", Kind::RunningVariance),
                ] {
                    list.push(param(format!("{norm}.{member}"), &[cout], kind));
                }
            }
            list
        }
        Op::SpatialGate(path) => BANDS
            .iter()
            .flat_map(|band| {
                let conv = format!("{path}.{band}_reduce.conv");
                [
                    param(format!("{conv}.weight"), &[1, 2, 7, 7], Kind::Weight { fan_out: 49 }),
                    param(format!("{conv}.bias"), &[1], Kind::Bias(0.0)),
                ]
            })
            .collect(),
        Op::SqueezeExcite { path, hidden } => {
            let h = usize::from(hidden);
            vec![
                param(format!("{path}.fc.0.weight"), &[h, cout], Kind::Weight { fan_out: h }),
                param(format!("{path}.fc.2.weight"), &[cout, h], Kind::Weight { fan_out: cout }),
            ]
        }
        _ => Vec::new(),
    }
}

/// Tensors of the whole graph, in running order.
pub fn of_graph(graph: &Graph) -> Vec<Param> {
    (0..graph.nodes().len()).flat_map(|id| of_node(graph, id)).collect()
}

/// Whether the reference's checkpoints carry this tensor although no output depends on it: an unused conv of each LCL,
/// batch counters, and the constants of the Haar filters.
pub fn is_unused_by_the_reference(name: &str) -> bool {
    (name.starts_with("mlcl") && name.contains(".conv_res."))
        || name.ends_with(".num_batches_tracked")
        || ["w_ll", "w_lh", "w_hl", "w_hh"].iter().any(|w| name.rsplit('.').next() == Some(w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gsacp_core::graph::{FULL, msda};

    #[test]
    fn the_table_holds_as_many_trainable_numbers_as_the_graph_says() {
        let graph = msda(FULL, 3);
        let listed = of_graph(&graph);
        let trainable: usize =
            listed.iter().filter(|p| p.kind.trainable()).map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(trainable, graph.parameters());
        let names: std::collections::BTreeSet<_> = listed.iter().map(|p| &p.name).collect();
        assert_eq!(names.len(), listed.len(), "a name stands twice");
    }
}
