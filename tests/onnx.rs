//! Runs an exported ONNX file by the definitions of its operators (github.com/onnx/onnx, `docs/Operators.md`), so that
//! what another runtime computes is known without one. Integers are held as f32.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use gsacp_train::onnx::proto::{ModelProto, NodeProto, TensorProto, data_type};

/// The logits, row by row, for `input` `[1, C, H, W]`. Panics at what this project does not write.
pub fn logits(model: &ModelProto, input: &Tensor) -> Vec<f32> {
    logits_with(model, input, |_, value| value)
}

/// As [`logits`]; `pass` sees each value by its name as soon as it is there, and what it returns goes on in its place.
pub fn logits_with(model: &ModelProto, input: &Tensor, mut pass: impl FnMut(&str, Tensor) -> Tensor) -> Vec<f32> {
    let graph = model.graph.as_ref().expect("a graph");
    let mut values: HashMap<&str, Value> = graph.initializer.iter().map(|t| (t.name.as_str(), Value::of(t))).collect();
    values.insert("input", Value { tensor: input.clone(), kind: data_type::FLOAT });
    for node in &graph.node {
        let inputs: Vec<Option<&Value>> = node.input.iter().map(|name| values.get(name.as_str())).collect();
        let tensor = apply(node, &inputs).unwrap_or_else(|error| panic!("{}: {error}", node.name));
        let kind = inputs.get(2).and_then(|zero| *zero).filter(|_| node.op_type == "QuantizeLinear");
        let kind = kind.map_or(data_type::FLOAT, |zero| zero.kind);
        let name = &node.output[0];
        assert!(values.insert(name, Value { tensor: pass(name, tensor), kind }).is_none(), "{name} is made twice");
    }
    let logits = &values.get("logits").expect("an output called logits").tensor;
    logits.flatten_all().and_then(|logits| logits.to_vec1()).expect("f32")
}

struct Value {
    tensor: Tensor,
    kind: i32,
}

impl Value {
    fn of(stored: &TensorProto) -> Self {
        let raw = &stored.raw_data;
        let numbers: Vec<f32> = match stored.data_type {
            data_type::FLOAT => raw.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            data_type::UINT8 => raw.iter().map(|&b| f32::from(b)).collect(),
            data_type::INT8 => raw.iter().map(|&b| f32::from(b as i8)).collect(),
            data_type::INT32 => raw.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as f32).collect(),
            data_type::INT64 => raw.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f32).collect(),
            other => panic!("{} is of type {other}", stored.name),
        };
        let dims: Vec<usize> = stored.dims.iter().map(|&d| d as usize).collect();
        let tensor = Tensor::from_vec(numbers, dims, &Device::Cpu).expect("as many numbers as the shape has");
        Self { tensor, kind: stored.data_type }
    }
}

fn apply(node: &NodeProto, inputs: &[Option<&Value>]) -> Result<Tensor> {
    let at = |k: usize| &inputs[k].expect("an input that was made before").tensor;
    let numbers = |k: usize| at(k).flatten_all()?.to_vec1::<f32>();
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let ints = |name: &str, default: &[i64]| -> Vec<usize> {
        let ints = attribute(name).map_or(default, |a| &a.ints);
        ints.iter().map(|&i| i as usize).collect()
    };
    let int = |name: &str, default: i64| attribute(name).map_or(default, |a| a.i) as usize;
    let x = at(0);
    match node.op_type.as_str() {
        "Conv" => {
            let [top, left, bottom, right] = ints("pads", &[0; 4])[..] else { panic!("pads of {}", node.name) };
            let padded = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
            let (stride, dilation) = (ints("strides", &[1, 1])[0], ints("dilations", &[1, 1])[0]);
            let sum = padded.conv2d(at(1), 0, stride, dilation, int("group", 1))?;
            match inputs.get(2) {
                Some(_) => sum.broadcast_add(&at(2).reshape((1, (), 1, 1))?),
                None => Ok(sum),
            }
        }
        "Relu" => x.relu(),
        "Sigmoid" => (x.neg()?.exp()? + 1.0)?.recip(),
        "Add" => x.broadcast_add(at(1)),
        "Mul" => x.broadcast_mul(at(1)),
        "Concat" => Tensor::cat(&(0..inputs.len()).map(at).collect::<Vec<_>>(), int("axis", 0)),
        "Reshape" => x.reshape(numbers(1)?.iter().map(|&d| d as usize).collect::<Vec<_>>()),
        "MaxPool" => {
            assert_eq!(ints("kernel_shape", &[]), ints("strides", &[1, 1]));
            x.max_pool2d(ints("kernel_shape", &[])[0])
        }
        "GlobalAveragePool" => x.mean_keepdim((2, 3)),
        "ReduceMean" => x.mean_keepdim(ints("axes", &[])[0]),
        "ReduceMax" if int("keepdims", 1) == 0 => x.max(ints("axes", &[])[0]),
        "ReduceSum" => x.sum_keepdim(numbers(1)?[0] as usize),
        "Resize" => {
            let text = |name| attribute(name).map(|a| a.s.as_slice());
            assert_eq!(text("mode"), Some(&b"linear"[..]));
            assert_eq!(text("coordinate_transformation_mode"), Some(&b"align_corners"[..]));
            assert_eq!(numbers(2)?, [1.0, 1.0, 2.0, 2.0]);
            let (_, _, height, width) = x.dims4()?;
            let rows = aligned(height)?;
            rows.broadcast_matmul(x)?.broadcast_matmul(&aligned(width)?.t()?)
        }
        "QuantizeLinear" => {
            let (scale, zero) = (numbers(1)?[0], numbers(2)?[0]);
            let (low, high) = match inputs[2].expect("a zero point").kind {
                data_type::UINT8 => (0.0, 255.0),
                other => panic!("maps of type {other}"),
            };
            let step = |v: f32| ((v / scale).round_ties_even() + zero).clamp(low, high);
            Tensor::from_vec(numbers(0)?.into_iter().map(step).collect(), x.dims(), &Device::Cpu)
        }
        "DequantizeLinear" => {
            // A scale for the whole, or for each index of the first axis.
            let mut rows = vec![1; x.rank()];
            if at(1).rank() == 1 {
                assert_eq!(int("axis", 1), 0);
                rows[0] = x.dim(0)?;
            }
            let (scale, zero) = (at(1).reshape(rows.clone())?, at(2).reshape(rows)?);
            x.broadcast_sub(&zero)?.broadcast_mul(&scale)
        }
        other => panic!("{}: operator {other}", node.name),
    }
}

/// `[2n, n]`: row p reads position p·(n−1)/(2n−1).
fn aligned(n: usize) -> Result<Tensor> {
    let mut matrix = vec![0.0; 2 * n * n];
    for (p, row) in matrix.chunks_exact_mut(n).enumerate() {
        let at = (p * (n - 1)) as f64 / (2 * n - 1) as f64;
        let (left, share) = (at.floor() as usize, at.fract());
        row[left] += 1.0 - share;
        row[(left + 1).min(n - 1)] += share;
    }
    Tensor::from_vec(matrix, (2 * n, n), &Device::Cpu)?.to_dtype(DType::F32)
}
