//! Multiplies rows with a weight. Weights are constants, so that only the rows' gradient is computed: candle's own
//! product would compute the weight's as well, an outer product of the weight's full size.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

/// Returns x [rows, input] · weight [input, output].
pub fn apply(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    if x.track_op() && !weight.track_op() && x.device().is_cpu() {
        return x.apply_op1(Constant(weight.clone()));
    }
    x.matmul(weight)
}

struct Constant(Tensor);

impl CustomOp1 for Constant {
    fn name(&self) -> &'static str {
        "product with a constant weight"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a product needs contiguous rows")
        };
        let values = storage.as_slice::<f32>()?[start..end].to_vec();
        let x = Tensor::from_vec(values, layout.shape().clone(), self.0.device())?;
        let y = x.matmul(&self.0)?;
        let shape = y.shape().clone();
        let (result, _) = y.storage_and_layout();
        match &*result {
            candle_core::Storage::Cpu(cpu) => Ok((cpu.clone(), shape)),
            _ => candle_core::bail!("a product of CPU tensors left the CPU"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient.contiguous()?.matmul(&self.0.t()?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_gradient_is_that_of_the_plain_product() {
        let x = Var::from_tensor(&Tensor::randn(0f32, 1f32, (3, 4), &Device::Cpu).unwrap()).unwrap();
        let w = Tensor::randn(0f32, 1f32, (4, 5), &Device::Cpu).unwrap();
        let gradient = |y: Tensor| {
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            grads.get(x.as_tensor()).unwrap().clone()
        };
        let ours = gradient(apply(x.as_tensor(), &w).unwrap());
        let plain = gradient(x.as_tensor().matmul(&w).unwrap());
        let worst = (ours - plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-5);
    }
}
