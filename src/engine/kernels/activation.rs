//! The MLP's non-linearity, with or without a gate.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{AT_ONCE, filled, fused, math, values};
use crate::model::config::Activation;

/// Returns act(pre). With `frozen`, act(pre)/pre is a constant under differentiation.
pub fn apply(pre: &Tensor, activation: Activation, frozen: bool) -> candle_core::Result<Tensor> {
    if frozen && pre.track_op() {
        let constant = pre.detach();
        // act(x)/x tends to 1/2 at zero for the smooth functions; a tiny shift keeps 0/0 out.
        let shifted = (constant.abs()?.lt(1e-6)?.to_dtype(constant.dtype())? * 1e-6)?.add(&constant)?;
        let gate = (apply(&shifted, activation, false)? / shifted)?;
        return pre * gate;
    }
    if fused(&[pre]) && activation != Activation::Gelu {
        return pre.apply_op1_no_bwd(&Fused(activation));
    }
    match activation {
        Activation::Silu => pre.silu(),
        Activation::GeluTanh => pre.gelu(),
        Activation::Gelu => pre.gelu_erf(),
        Activation::Relu => pre.relu(),
        Activation::Relu2 => pre.relu()?.sqr(),
    }
}

/// Returns act(pre) · linear. With `frozen`, act(pre) is a constant under differentiation.
pub fn gated(pre: &Tensor, linear: &Tensor, activation: Activation, frozen: bool) -> candle_core::Result<Tensor> {
    if frozen && pre.track_op() {
        return apply(&pre.detach(), activation, false)? * linear;
    }
    if fused(&[pre, linear]) && activation != Activation::Gelu {
        return pre.apply_op2_no_bwd(linear, &Fused(activation));
    }
    apply(pre, activation, false)? * linear
}

struct Fused(Activation);

impl Fused {
    /// Computes out[i] = act(x[i]) · by[i]. Each function has a loop of its own, so that the compiler turns it into SIMD.
    #[inline(always)]
    fn map(&self, x: &[f32], by: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
        match self.0 {
            Activation::Silu => each(x, by, out, math::silu),
            Activation::GeluTanh => each(x, by, out, math::gelu_tanh),
            Activation::Relu2 => each(x, by, out, |v| if v < 0.0 { 0.0 } else { v * v }),
            Activation::Relu | Activation::Gelu => each(x, by, out, |v| if v < 0.0 { 0.0 } else { v }),
        }
    }
}

#[inline(always)]
fn each(x: &[f32], by: Option<&[f32]>, out: &mut [MaybeUninit<f32>], f: impl Fn(f32) -> f32) {
    match by {
        None => out.iter_mut().zip(x).for_each(|(o, v)| _ = o.write(f(*v))),
        Some(by) => out.iter_mut().zip(x).zip(by).for_each(|((o, v), by)| _ = o.write(f(*v) * by)),
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        // SAFETY: chunks of both are as long, so that every value is written.
        let out = unsafe {
            filled(x.len(), |out| {
                out.par_chunks_mut(AT_ONCE)
                    .zip(x.par_chunks(AT_ONCE))
                    .for_each(|(out, x)| math::simd(|| self.map(x, None, out)));
            })
        };
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (pre, linear) = (values(s1, l1)?, values(s2, l2)?);
        if pre.len() != linear.len() {
            candle_core::bail!("a gate of {} numbers for {}", pre.len(), linear.len())
        }
        // SAFETY: chunks of all three are as long, so that every value is written.
        let out = unsafe {
            filled(pre.len(), |out| {
                out.par_chunks_mut(AT_ONCE)
                    .zip(pre.par_chunks(AT_ONCE).zip(linear.par_chunks(AT_ONCE)))
                    .for_each(|(out, (pre, linear))| math::simd(|| self.map(pre, Some(linear), out)));
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
    fn fused_equals_composed() {
        let a = Tensor::randn(0f32, 3f32, (5, 41), &Device::Cpu).unwrap();
        let b = Tensor::randn(0f32, 3f32, (5, 41), &Device::Cpu).unwrap();
        // A variable is tracked, so it takes the composed form.
        let tracked = Var::from_tensor(&a).unwrap();
        for activation in
            [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Relu2]
        {
            let fused = gated(&a, &b, activation, false).unwrap();
            let composed = gated(tracked.as_tensor(), &b, activation, false).unwrap();
            let worst = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 2e-5, "{activation:?} {worst}");
        }
    }
}
