//! Multiplies rows with a weight. Weights are constants, so that only the rows' gradient is computed: candle's own
//! product would compute the weight's as well, an outer product of the weight's full size.

mod few;
mod packed;
mod rows;

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Shape, Tensor};

use super::{filled, values};
use crate::model::matrix::{Form, Matrix, Rows};

/// Returns x [rows, input] · weight [input, output].
pub fn apply(x: &Tensor, weight: &Matrix) -> candle_core::Result<Tensor> {
    match weight.form() {
        Form::Rows(w) => x.contiguous()?.apply_op1(Stored { weight: w.clone(), across: w.by_output() }),
        Form::Tensor(w) if x.track_op() && !w.track_op() => x.apply_op1(Constant(w.clone())),
        Form::Tensor(w) => x.matmul(w),
    }
}

/// Returns g [rows, output] · weightᵀ: what a gradient at the outputs is at the inputs.
pub fn back(g: &Tensor, weight: &Matrix) -> candle_core::Result<Tensor> {
    match weight.form() {
        Form::Rows(w) => g.contiguous()?.apply_op1(Stored { weight: w.clone(), across: !w.by_output() }),
        Form::Tensor(w) => g.matmul(&w.t()?),
    }
}

/// Puts g [rows, output] · weightᵀ into `out`, row by row, whatever was in it. Outside automatic differentiation.
pub fn back_into(g: &[f32], weight: &Matrix, out: &mut Vec<f32>) -> candle_core::Result<()> {
    let (input, output) = weight.dims();
    let rows = g.len() / output.max(1);
    match weight.form() {
        Form::Rows(w) => {
            let product = Stored { weight: w.clone(), across: !w.by_output() };
            product.check(g.len(), rows)?;
            // A product writes its whole result; what was in it before does not matter.
            out.resize(rows * input, 0.0);
            // SAFETY: the result has that shape.
            unsafe { product.run(g, rows, out.as_mut_ptr(), false) };
        }
        Form::Tensor(w) => {
            let g = Tensor::from_slice(g, (rows, output), w.device())?;
            *out = super::to_vec(&g.matmul(&w.t()?)?)?;
        }
    }
    Ok(())
}

/// Returns Σ g [rows, output] · weightᵀ: what gradients at several outputs are together at the input that they share.
/// Outside automatic differentiation.
pub fn back_sum<const N: usize>(parts: [(&Tensor, &Matrix); N]) -> candle_core::Result<Tensor> {
    let mut parts = parts.into_iter();
    let Some((g, weight)) = parts.next() else { candle_core::bail!("a sum of products has no part") };
    let mut sum = back(g, weight)?;
    for (g, weight) in parts {
        match weight.form() {
            Form::Rows(w) => {
                sum.inplace_op2(&g.contiguous()?, &Stored { weight: w.clone(), across: !w.by_output() })?;
            }
            Form::Tensor(w) => sum = (sum + g.matmul(&w.t()?)?)?,
        }
    }
    Ok(sum)
}

/// Returns weight · columns for columns [input, n] of a space that outputs stand for, [output, n].
pub fn read(weight: &Matrix, columns: &Tensor) -> candle_core::Result<Tensor> {
    back(&columns.t()?.contiguous()?, weight)?.t()?.contiguous()
}

/// A product with a weight in stored rows.
struct Stored {
    weight: Rows,
    /// True where a value comes out for every row, false where one goes in.
    across: bool,
}

impl Stored {
    /// The rows of x, and the values of a row of the result.
    fn sizes(&self, x: &Layout) -> candle_core::Result<(usize, usize)> {
        let (m, given) = x.shape().dims2()?;
        Ok((m, self.check(m * given, m)?))
    }

    /// Returns the values of a row of the result, where so many values are `m` rows of x.
    fn check(&self, values: usize, m: usize) -> candle_core::Result<usize> {
        let (rows, along) = (self.weight.rows(), self.weight.groups() * self.weight.cols());
        let (wanted, width) = if self.across { (along, rows) } else { (rows, along) };
        if self.weight.is_hollow() {
            candle_core::bail!("only the sizes of this model were read")
        }
        if values != m * wanted {
            candle_core::bail!("{m} rows of {values} values in all do not fit a weight that reads {wanted}")
        }
        Ok(width)
    }

    /// out [m, width] (+)= x · weight.
    ///
    /// # Safety
    /// `out` has room for them, and holds values where they are added to.
    unsafe fn run(&self, x: &[f32], m: usize, out: *mut f32, add: bool) {
        // SAFETY: as the caller promises.
        unsafe {
            if self.across {
                rows::across(x, m, &self.weight, out, add, rows::OWN);
            } else {
                rows::along(x, m, &self.weight, out, add, rows::is_few(m));
            }
        }
    }
}

impl CustomOp1 for Stored {
    fn name(&self) -> &'static str {
        "product with a stored weight"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (m, width) = self.sizes(layout)?;
        let x = values(storage, layout)?;
        // SAFETY: a product writes its whole result.
        let out = unsafe { filled(m * width, |out| self.run(x, m, out.as_mut_ptr().cast(), false)) };
        Ok((CpuStorage::F32(out), (m, width).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let other = Self { weight: self.weight.clone(), across: !self.across };
        gradient.contiguous()?.apply_op1(other).map(Some)
    }
}

/// Adds the product to what is there.
impl InplaceOp2 for Stored {
    fn name(&self) -> &'static str {
        "added product with a stored weight"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        at: &Layout,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (m, width) = self.sizes(layout)?;
        let CpuStorage::F32(sum) = sum else { candle_core::bail!("products are added to f32") };
        let Some(sum) =
            at.contiguous_offsets().and_then(|(from, to)| sum.get_mut(from..to)).filter(|s| s.len() == m * width)
        else {
            candle_core::bail!("a product of {m} rows of {width} does not fit what it is added to")
        };
        // SAFETY: the sum holds m · width values.
        unsafe { self.run(values(storage, layout)?, m, sum.as_mut_ptr(), true) };
        Ok(())
    }
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
    use crate::model::dequantize::Stored as Type;
    use candle_core::{Device, Var};

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_the_plain_product() {
        let x = Var::from_tensor(&Tensor::randn(0f32, 1f32, (3, 4), &Device::Cpu).unwrap()).unwrap();
        let w = Tensor::randn(0f32, 1f32, (4, 5), &Device::Cpu).unwrap();
        let rows = w.t().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let stored = Rows::new(rows, Type::F32, [5, 4], true);
        let gradient = |y: Tensor| {
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            grads.get(x.as_tensor()).unwrap().clone()
        };
        let plain = gradient(x.as_tensor().matmul(&w).unwrap());
        for matrix in [Matrix::from(w), stored.into()] {
            assert!(worst(&gradient(apply(x.as_tensor(), &matrix).unwrap()), &plain) < 1e-5);
        }
    }

    #[test]
    fn gradients_at_several_outputs_are_summed() {
        let g = [3, 5].map(|n| Tensor::randn(0f32, 1f32, (4, n), &Device::Cpu).unwrap());
        let w = [3, 5].map(|n| Tensor::randn(0f32, 1f32, (7, n), &Device::Cpu).unwrap());
        let want = (g[0].matmul(&w[0].t().unwrap()).unwrap() + g[1].matmul(&w[1].t().unwrap()).unwrap()).unwrap();
        let plain = w.clone().map(Matrix::from);
        let stored = w.map(|w| {
            let rows = w.t().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            Matrix::from(Rows::new(rows, Type::F32, [w.dims()[1], 7], true))
        });
        for w in [plain, stored] {
            let mut out = vec![7.0; 3];
            back_into(&super::super::to_vec(&g[0]).unwrap(), &w[0], &mut out).unwrap();
            let alone = back(&g[0], &w[0]).unwrap();
            assert!(worst(&Tensor::from_vec(out.clone(), (4, 7), &Device::Cpu).unwrap(), &alone) < 1e-6);
            assert!(back_into(&out[..5], &w[0], &mut Vec::new()).is_err());
            assert!(worst(&back_sum([(&g[0], &w[0]), (&g[1], &w[1])]).unwrap(), &want) < 1e-5);
        }
    }

    /// Every type, both ways, few rows and many, whole and in parts, in groups.
    #[test]
    fn stored_products_are_those_of_decoded_weights() {
        let mut state = 7u64;
        let mut byte = || {
            state = crate::hash::mix(state.wrapping_add(1));
            state as u8
        };
        for (stored, _) in Type::ALL {
            let (height, width) = (77, 512);
            let mut bytes: Vec<u8> = (0..height * stored.bytes(width).unwrap()).map(|_| byte()).collect();
            tame(stored, &mut bytes);
            let mut words = crate::model::matrix::words_of(bytes.len());
            bytemuck::cast_slice_mut::<f32, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
            let rows = Rows::new(words, stored, [height, width], true);
            let parts = [
                Matrix::from(rows.clone()),
                Matrix::from(rows.clone()).narrow(1, 13, 50).unwrap(),
                Matrix::from(rows.clone()).narrow(0, 100, 300).unwrap(),
                Matrix::from(rows.grouped(7)),
            ];
            for matrix in parts {
                let (input, output) = matrix.dims();
                let plain = matrix.tensor().unwrap();
                assert_eq!(plain.dims(), [input, output]);
                for m in [1, 2, 4, 9, 13, 14, 40, 61, 131] {
                    let x = Tensor::randn(0f32, 1f32, (m, input), &Device::Cpu).unwrap();
                    let g = Tensor::randn(0f32, 1f32, (m, output), &Device::Cpu).unwrap();
                    let (want, want_back) = (x.matmul(&plain).unwrap(), g.matmul(&plain.t().unwrap()).unwrap());
                    let scale = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1e-20);
                    let (y, b) = (apply(&x, &matrix).unwrap(), back(&g, &matrix).unwrap());
                    assert!(worst(&y, &want) < 1e-5 * scale(&want), "{stored:?} {m} rows");
                    assert!(worst(&b, &want_back) < 1e-5 * scale(&want_back), "{stored:?} {m} rows back");
                    // Both kinds of product, whichever of them this build takes.
                    let Form::Rows(w) = matrix.form() else { unreachable!() };
                    for own in [true, false] {
                        let (mut y, mut b) = (vec![9f32; m * output], vec![9f32; m * input]);
                        let (rows, gs) = (super::super::to_vec(&x).unwrap(), super::super::to_vec(&g).unwrap());
                        let run = |add: bool, y: &mut [f32], b: &mut [f32]| {
                            // SAFETY: y and b have the shapes of the results.
                            unsafe {
                                rows::across(&rows, m, w, y.as_mut_ptr(), add, own);
                                rows::along(&gs, m, w, b.as_mut_ptr(), add, own);
                            }
                        };
                        run(false, &mut y, &mut b);
                        let (once, once_back) = (y.clone(), b.clone());
                        run(true, &mut y, &mut b);
                        let halve = |v: &mut [f32]| v.iter_mut().for_each(|v| *v /= 2.0);
                        halve(&mut y);
                        halve(&mut b);
                        let close = |a: &[f32], b: &[f32], scale: f32| {
                            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * scale), "{stored:?} {m} added");
                        };
                        close(&once, &y, scale(&want));
                        close(&once_back, &b, scale(&want_back));
                        let (y, b) = (
                            Tensor::from_vec(y, (m, output), &Device::Cpu),
                            Tensor::from_vec(b, (m, input), &Device::Cpu),
                        );
                        assert!(worst(&y.unwrap(), &want) < 1e-5 * scale(&want), "{stored:?} {m} rows, {own}");
                        assert!(
                            worst(&b.unwrap(), &want_back) < 1e-5 * scale(&want_back),
                            "{stored:?} {m} back, {own}"
                        );
                    }
                }
            }
        }
    }

    /// Gives every number of an exponent within reason: random bytes are huge and not finite otherwise.
    fn tame(stored: Type, bytes: &mut [u8]) {
        let (_, size) = stored.block();
        for block in bytes.chunks_exact_mut(size) {
            let halves: &[usize] = match stored {
                Type::F16 => &[0],
                Type::Q4_0 | Type::Q5_0 | Type::Q8_0 | Type::Iq4Nl | Type::Iq4Xs => &[0],
                Type::Q4_1 | Type::Q5_1 | Type::Q4K | Type::Q5K => &[0, 2],
                Type::Q2K => &[80, 82],
                Type::Q3K => &[108],
                Type::Q6K => &[208],
                Type::Tq1_0 => &[52],
                Type::Tq2_0 => &[64],
                Type::Mxfp4 => {
                    block[0] = 127;
                    &[]
                }
                Type::BF16 | Type::F32 | Type::F64 => {
                    block[size - 1] = 0x3f;
                    &[]
                }
                _ => &[],
            };
            for at in halves {
                block[at + 1] = 0x2c | block[at + 1] & 0x83;
            }
        }
    }
}
