//! A set of named tensors seen as one flat vector of f32 on the host.
//!
//! The network has about a thousand small tensors, and one candle operation on each costs more than the arithmetic.
//! The optimiser, the weight average and the checkpoint therefore work on one flat vector, in alphabetical order of the
//! names, whatever the device: the weights of the largest network are 20 MB, a few milliseconds each way from a GPU.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

/// One tensor of a [`ParameterSet`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, the reference's parameter name for the network's own.
    pub name: String,
    /// The variable itself; a clone shares its storage with the network's.
    pub var: Var,
    /// Where it lies in the flat vector.
    pub range: Range<usize>,
    /// Whether weight decay applies: to matrices and kernels, not to biases and the scales of a normalisation.
    pub decays: bool,
    /// Whether it is trained.
    pub learns: bool,
}

/// Named tensors in a fixed order.
#[derive(Clone, Debug)]
pub struct ParameterSet {
    entries: Vec<Entry>,
    device: Device,
}

impl ParameterSet {
    /// Collects `vars`, which must all be f32 and lie on one device.
    pub fn new<'a>(vars: impl IntoIterator<Item = (&'a String, &'a Var)>) -> Result<Self> {
        let sorted: BTreeMap<&String, &Var> = vars.into_iter().collect();
        let mut entries = Vec::with_capacity(sorted.len());
        let mut start = 0;
        for (name, var) in sorted {
            ensure!(var.dtype() == DType::F32, "{name} is {:?}, and training needs F32", var.dtype());
            let range = start..start + var.elem_count();
            start = range.end;
            entries.push(Entry { name: name.clone(), var: var.clone(), range, decays: var.rank() >= 2, learns: true });
        }
        let device = entries.first().map_or(Device::Cpu, |entry| entry.var.device().clone());
        Ok(Self { entries, device })
    }

    /// The same set, in which the tensors of these names learn and no others.
    pub fn learning(mut self, learns: impl Fn(&str) -> bool) -> Self {
        self.entries.iter_mut().for_each(|entry| entry.learns = learns(&entry.name));
        self
    }

    /// The tensors in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of values in the flat vector.
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.range.end)
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The present values, flat.
    pub fn values(&self) -> Result<Vec<f32>> {
        let flat = self.entries.iter().map(|entry| entry.var.flatten_all()).collect::<Result<Vec<_>, _>>()?;
        to_host(&flat)
    }

    /// The gradients, flat; a tensor that no loss term reached, or that does not learn, has gradient 0.
    pub fn gradients(&self, store: &GradStore) -> Result<Vec<f32>> {
        let flat = self
            .entries
            .iter()
            .map(|entry| match store.get(&entry.var).filter(|_| entry.learns) {
                Some(gradient) => gradient.flatten_all(),
                None => Tensor::zeros(entry.range.len(), DType::F32, &self.device),
            })
            .collect::<Result<Vec<_>, _>>()?;
        to_host(&flat)
    }

    /// Writes a flat vector into the tensors.
    pub fn store(&self, flat: &[f32]) -> Result<()> {
        ensure!(flat.len() == self.len(), "{} values for tensors of {} values", flat.len(), self.len());
        let all = Tensor::from_slice(flat, flat.len(), &self.device)?;
        for entry in &self.entries {
            let part = all.narrow(0, entry.range.start, entry.range.len())?.reshape(entry.var.shape())?;
            entry.var.set(&part)?;
        }
        Ok(())
    }

    /// A flat vector as named tensors with their shapes, each name behind `prefix`.
    pub fn named(&self, prefix: &str, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        ensure!(flat.len() == self.len(), "{} values for tensors of {} values", flat.len(), self.len());
        self.entries
            .iter()
            .map(|entry| {
                let tensor = Tensor::from_slice(&flat[entry.range.clone()], entry.var.shape(), &Device::Cpu)?;
                Ok((format!("{prefix}{}", entry.name), tensor))
            })
            .collect()
    }

    /// The inverse of [`named`](Self::named): every tensor must be there with its shape, and finite.
    pub fn collect(&self, prefix: &str, tensors: &std::collections::HashMap<String, Tensor>) -> Result<Vec<f32>> {
        let mut flat = Vec::with_capacity(self.len());
        for entry in &self.entries {
            let key = format!("{prefix}{}", entry.name);
            let tensor = tensors.get(&key).with_context(|| format!("tensor {key} is missing"))?;
            ensure!(
                tensor.shape() == entry.var.shape(),
                "tensor {key} has shape {:?}, expected {:?}",
                tensor.dims(),
                entry.var.dims()
            );
            let values = tensor.flatten_all()?.to_vec1::<f32>().with_context(|| format!("tensor {key}"))?;
            ensure!(values.iter().all(|value| value.is_finite()), "tensor {key} holds a value that is not finite");
            flat.extend(values);
        }
        Ok(flat)
    }

    /// The name of the tensor that holds flat position `index`.
    pub fn name_at(&self, index: usize) -> &str {
        self.entries.iter().find(|entry| entry.range.contains(&index)).map_or("?", |entry| &entry.name)
    }
}

fn to_host(flat: &[Tensor]) -> Result<Vec<f32>> {
    match flat {
        [] => Ok(Vec::new()),
        _ => Ok(Tensor::cat(flat, 0)?.to_vec1()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (BTreeMap<String, Var>, ParameterSet) {
        let vars = BTreeMap::from([
            ("b.bias".to_string(), Var::new(&[5f32, 6.], &Device::Cpu).unwrap()),
            ("a.weight".to_string(), Var::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu).unwrap()),
        ]);
        let set = ParameterSet::new(&vars).unwrap();
        (vars, set)
    }

    #[test]
    fn the_flat_vector_is_in_alphabetical_order_and_comes_back() {
        let (vars, set) = two();
        assert_eq!(set.values().unwrap(), [1., 2., 3., 4., 5., 6.]);
        set.store(&[6., 5., 4., 3., 2., 1.]).unwrap();
        assert_eq!(vars["a.weight"].to_vec2::<f32>().unwrap(), [[6., 5.], [4., 3.]]);
        assert_eq!(vars["b.bias"].to_vec1::<f32>().unwrap(), [2., 1.]);
        assert_eq!(set.name_at(4), "b.bias");
    }

    #[test]
    fn gradients_follow_the_same_order_and_an_unreached_tensor_has_none() {
        let (vars, set) = two();
        let loss = vars["a.weight"].sqr().unwrap().sum_all().unwrap();
        assert_eq!(set.gradients(&loss.backward().unwrap()).unwrap(), [2., 4., 6., 8., 0., 0.]);
    }

    #[test]
    fn a_missing_misshapen_or_unfinite_tensor_is_named() {
        let (_, set) = two();
        let named =
            |flat: &[f32]| set.named("w.", flat).unwrap().into_iter().collect::<std::collections::HashMap<_, _>>();
        let good = named(&[1., 2., 3., 4., 5., 6.]);
        assert_eq!(set.collect("w.", &good).unwrap(), [1., 2., 3., 4., 5., 6.]);
        let mut missing = good.clone();
        missing.remove("w.b.bias");
        assert!(set.collect("w.", &missing).unwrap_err().to_string().contains("w.b.bias is missing"));
        let mut misshapen = good.clone();
        misshapen.insert("w.a.weight".into(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap());
        assert!(set.collect("w.", &misshapen).unwrap_err().to_string().contains("w.a.weight has shape [4]"));
        let bad = named(&[1., 2., f32::NAN, 4., 5., 6.]);
        assert!(set.collect("w.", &bad).unwrap_err().to_string().contains("w.a.weight holds"));
    }

    #[test]
    fn only_tensors_of_two_or_more_axes_decay() {
        let (_, set) = two();
        let decays: Vec<_> = set.entries().iter().map(|entry| entry.decays).collect();
        assert_eq!(decays, [true, false]);
    }
}
