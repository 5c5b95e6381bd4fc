//! Puts an ONNX graph together: constants and operations, each under the name of the value that it makes.

use super::proto::{
    AttributeProto, Dimension, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorType, TypeProto,
    ValueInfoProto, attribute, data_type,
};
use crate::quantize::range::Affine;

/// The values of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// As they are.
    Real(Vec<f32>),
    /// scale\[first index\]·step.
    Int8(Vec<i8>, Vec<f32>),
    /// scale\[first index\]·step: the biases of a quantised convolution.
    Int32(Vec<i32>, Vec<f32>),
}

/// A setting of an operation.
pub enum Setting<'a> {
    Int(i64),
    Text(&'a str),
    Ints(&'a [i64]),
}

#[derive(Default)]
pub struct Builder {
    pub graph: GraphProto,
}

impl Builder {
    /// An operation; returns the name of its value, which is the operation's own.
    pub fn op(&mut self, operator: &str, inputs: &[&str], settings: &[(&str, Setting)], name: String) -> String {
        let attribute = settings.iter().map(|(name, setting)| setting.attribute(name)).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.to_owned(),
            attribute,
        });
        name
    }

    /// A constant of real numbers; quantised ones pass through a DequantizeLinear.
    pub fn constant(&mut self, name: &str, dims: &[usize], values: &Values) -> String {
        let (kind, raw, scale) = match values {
            Values::Real(real) => (data_type::FLOAT, real.iter().flat_map(|v| v.to_le_bytes()).collect(), None),
            Values::Int8(steps, scale) => (data_type::INT8, bytes(steps), Some((scale, 1))),
            Values::Int32(steps, scale) => {
                (data_type::INT32, steps.iter().flat_map(|v| v.to_le_bytes()).collect(), Some((scale, 4)))
            }
        };
        let stored = self.tensor(name.to_owned(), dims, kind, raw);
        let Some((scale, width)) = scale else { return stored };
        let rows = [scale.len()];
        let scale = self.constant(&format!("{name}_scale"), &rows, &Values::Real(scale.clone()));
        let zero = self.tensor(format!("{name}_zero_point"), &rows, kind, vec![0; rows[0] * width]);
        let axis = [("axis", Setting::Int(0))];
        self.op("DequantizeLinear", &[&stored, &scale, &zero], &axis, format!("{name}/real"))
    }

    /// A list of integers, such as a shape.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name.to_owned(), &[values.len()], data_type::INT64, raw)
    }

    /// Rounds a map to eight bits and back: what an int8 engine stores and reads again. The steps are unsigned, 128 above
    /// the engine's: signed maps keep onnxruntime from running most convolutions on integers on x86.
    pub fn rounded(&mut self, name: &str, to: Affine) -> String {
        let scale = self.tensor(format!("{name}/scale"), &[], data_type::FLOAT, (to.scale as f32).to_le_bytes().into());
        let zero = self.tensor(format!("{name}/zero_point"), &[], data_type::UINT8, bytes(&[to.zero_point ^ -128]));
        let steps = self.op("QuantizeLinear", &[name, &scale, &zero], &[], format!("{name}/steps"));
        self.op("DequantizeLinear", &[&steps, &scale, &zero], &[], format!("{name}/rounded"))
    }

    fn tensor(&mut self, name: String, dims: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let dims = dims.iter().map(|&d| d as i64).collect();
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        name
    }
}

fn bytes(steps: &[i8]) -> Vec<u8> {
    steps.iter().map(|&v| v as u8).collect()
}

impl Setting<'_> {
    fn attribute(&self, name: &str) -> AttributeProto {
        let empty = AttributeProto { name: name.to_owned(), ..Default::default() };
        match self {
            Setting::Int(i) => AttributeProto { i: *i, r#type: attribute::INT, ..empty },
            Setting::Text(s) => AttributeProto { s: s.as_bytes().into(), r#type: attribute::STRING, ..empty },
            Setting::Ints(ints) => AttributeProto { ints: ints.to_vec(), r#type: attribute::INTS, ..empty },
        }
    }
}

/// An input or output of f32.
pub fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| Dimension { dim_value: Some(d as i64) }).collect();
    let tensor_type = TensorType { elem_type: data_type::FLOAT, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
