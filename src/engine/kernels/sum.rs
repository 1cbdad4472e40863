//! Sums of two tensors of one shape: what the residual stream is made of.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{AT_ONCE, filled, fused, values};

/// Returns a + b.
pub fn add(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    if fused(&[a, b]) && a.dims() == b.dims() { a.apply_op2_no_bwd(b, &Sum) } else { a + b }
}

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (a, b) = (values(s1, l1)?, values(s2, l2)?);
        if a.len() != b.len() {
            candle_core::bail!("a sum of {} and {} numbers", a.len(), b.len())
        }
        // SAFETY: the three are as long, so that every value is written.
        let out = unsafe {
            filled(a.len(), |out| {
                let parts = out.par_chunks_mut(AT_ONCE).zip(a.par_chunks(AT_ONCE)).zip(b.par_chunks(AT_ONCE));
                parts.for_each(|((out, a), b)| {
                    out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| _ = o.write(a + b));
                });
            })
        };
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn a_sum_of_parts_is_the_plain_sum() {
        let a = Tensor::randn(0f32, 3f32, (3, AT_ONCE / 2), &Device::Cpu).unwrap();
        let b = Tensor::randn(0f32, 3f32, (3, AT_ONCE / 2), &Device::Cpu).unwrap();
        let all = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(all(&add(&a, &b).unwrap()), all(&(&a + &b).unwrap()));
        // What is differentiated keeps its graph.
        let tracked = Var::from_tensor(&a).unwrap();
        assert!(add(tracked.as_tensor(), &b).unwrap().track_op());
        assert!(add(&a, &b.narrow(0, 0, 2).unwrap()).is_err());
    }
}
