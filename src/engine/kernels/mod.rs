//! The numerical kernels of the block: norms, products, rotation, attention, activation functions.
//!
//! Each has two forms. The fused form runs on the CPU and is used when no gradient is wanted. The composed form is made
//! of candle's own operations, runs on every device and can be differentiated. Tests compare the two.

pub mod activation;
pub mod attention;
pub mod attention_back;
pub mod math;
pub mod norm;
pub mod product;
pub mod rotary;
pub mod segments;
pub mod sum;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Layout, Tensor};

/// Numbers that a thread works on at a time, where little is done to each: fewer are done before another is awake.
const AT_ONCE: usize = 32_768;

/// Lets the threads that candle adds rows with sleep as soon as they are done. They would wait actively for half a
/// millisecond, on a core that the next product needs. Called once, before any other thread is there.
pub fn let_workers_sleep() {
    const VARIABLE: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the program's only thread does this, at its start.
        unsafe { std::env::set_var(VARIABLE, "0") };
    }
}

/// True where the fused form applies: f32 on the CPU, contiguous, outside automatic differentiation.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous() && !t.track_op())
}

/// Returns the values of a contiguous f32 tensor inside a custom operation.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&all[from..to]),
        None => candle_core::bail!("a fused kernel needs contiguous input"),
    }
}

/// Shows a contiguous f32 CPU tensor's values, without copying them.
///
/// # Errors
/// The tensor is of another kind.
pub(crate) fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => Ok(read(values(cpu, layout)?)),
        _ => candle_core::bail!("values can be read only of tensors on the CPU"),
    }
}

/// A vector of `n` values that `fill` writes: a result that is written whole is not zeroed first.
///
/// # Safety
/// `fill` writes every value, and reads none that it has not written.
pub(crate) unsafe fn filled(n: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    fill(&mut values.spare_capacity_mut()[..n]);
    // SAFETY: as the caller promises.
    unsafe { values.set_len(n) };
    values
}

/// Copies a contiguous f32 CPU tensor's values out, for the small tables the kernels keep.
pub(crate) fn to_vec(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1::<f32>()
}
