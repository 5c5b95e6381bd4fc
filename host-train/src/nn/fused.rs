//! A candle operation made of two functions over slices: the forward pass and the gradient.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};

use super::real::Real;

/// A contiguous input of an operation.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    /// Elements, row-major.
    pub data: &'a [T],
    /// Shape.
    pub dims: &'a [usize],
}

impl<T> View<'_, T> {
    /// N, C, H, W of a tensor of rank 4, which the callers have checked.
    pub fn nchw(&self) -> [usize; 4] {
        [self.dims[0], self.dims[1], self.dims[2], self.dims[3]]
    }
}

/// A CPU operation of one to three contiguous inputs of one float type, with its gradient.
///
/// An object serves one application, so `forward` may keep what `backward` needs in a `OnceLock`.
pub(crate) trait Fused: Send + Sync + 'static {
    /// Name in candle's messages.
    fn name(&self) -> &'static str;
    /// The output and its shape. Shapes were checked by the caller of [`apply`].
    fn forward<T: Real>(&self, inputs: &[View<T>]) -> (Vec<T>, Vec<usize>);
    /// The gradients of the inputs, from the output `y` and its gradient `g`; `wanted[i]` is false where input `i` takes no part in
    /// the differentiation, and then `None` is as good.
    fn backward<T: Real>(&self, inputs: &[View<T>], y: &[T], g: &[T], wanted: &[bool]) -> Vec<Option<Vec<T>>>;
}

/// Applies `op` to CPU tensors (made contiguous first) and records its gradient.
pub(crate) fn apply<F: Fused>(op: F, inputs: &[&Tensor]) -> Result<Tensor> {
    let contiguous = inputs.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let op = Node(op);
    match &contiguous[..] {
        [a] => a.apply_op1_arc(Arc::new(Box::new(op))),
        [a, b] => a.apply_op2_arc(b, Arc::new(Box::new(op))),
        [a, b, c] => a.apply_op3_arc(b, c, Arc::new(Box::new(op))),
        _ => bail!("{}: one to three inputs", op.0.name()),
    }
}

struct Node<F>(F);

impl<F: Fused> Node<F> {
    fn forward(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        match inputs[0].0 {
            CpuStorage::F32(_) => self.typed_forward::<f32>(inputs),
            CpuStorage::F64(_) => self.typed_forward::<f64>(inputs),
            _ => bail!("{}: tensors must be f32 or f64", self.0.name()),
        }
    }

    fn typed_forward<T: Real>(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let views = inputs.iter().map(|(s, l)| view(s, l)).collect::<Result<Vec<View<T>>>>()?;
        let (y, dims) = self.0.forward(&views);
        Ok((T::to_cpu_storage_owned(y), Shape::from(dims)))
    }

    fn backward(&self, inputs: &[&Tensor], y: &Tensor, g: &Tensor) -> Result<Vec<Option<Tensor>>> {
        match y.dtype() {
            DType::F32 => self.typed_backward::<f32>(inputs, y, g),
            _ => self.typed_backward::<f64>(inputs, y, g),
        }
    }

    fn typed_backward<T: Real>(&self, inputs: &[&Tensor], y: &Tensor, g: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let g = g.contiguous()?;
        let guards: Vec<_> = inputs.iter().copied().chain([y, &g]).map(|t| t.storage_and_layout()).collect();
        let mut views = Vec::with_capacity(guards.len());
        for (storage, layout) in &guards {
            match &**storage {
                Storage::Cpu(s) => views.push(view::<T>(s, layout)?),
                _ => bail!("{}: tensors must be on the CPU", self.0.name()),
            }
        }
        let (inputs_seen, outputs) = views.split_at(inputs.len());
        let wanted: Vec<bool> = inputs.iter().map(|t| t.track_op()).collect();
        let gradients = self.0.backward(inputs_seen, outputs[0].data, outputs[1].data, &wanted);
        gradients
            .into_iter()
            .zip(inputs)
            .map(|(v, t)| v.map(|v| Tensor::from_vec(v, t.shape(), t.device())).transpose())
            .collect()
    }
}

fn view<'a, T: Real>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<View<'a, T>> {
    let data = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(View { data: &data[from..to], dims: layout.dims() }),
        None => bail!("a fused operation needs contiguous tensors"),
    }
}

impl<F: Fused> CustomOp1 for Node<F> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s, l)])
    }
    fn bwd(&self, a: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.backward(&[a], y, g)?.swap_remove(0))
    }
}

impl<F: Fused> CustomOp2 for Node<F> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2)])
    }
    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut d = self.backward(&[a, b], y, g)?.into_iter();
        Ok((d.next().flatten(), d.next().flatten()))
    }
}

impl<F: Fused> CustomOp3 for Node<F> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2), (s3, l3)])
    }
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut d = self.backward(&[a, b, c], y, g)?.into_iter();
        Ok((d.next().flatten(), d.next().flatten(), d.next().flatten()))
    }
}
