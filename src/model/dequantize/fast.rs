//! The decoders that products run: of the types in which most models are stored, written so that the compiler turns
//! their loops into SIMD, under whatever instruction set `pulp` finds. They give candle's values bit for bit.

use half::f16;

use super::Stored;

/// Decodes whole blocks into their values.
type Decode = fn(&[u8], &mut [f32]);

/// Returns the decoder of a type, where there is one here.
pub(super) fn decoder(stored: Stored) -> Option<Decode> {
    Some(match stored {
        Stored::F16 => f16_values,
        Stored::BF16 => bf16_values,
        Stored::Q4_0 => q4_0,
        Stored::Q4_1 => q4_1,
        Stored::Q8_0 => q8_0,
        Stored::Q4K => q4_k,
        Stored::Q5K => q5_k,
        Stored::Q6K => q6_k,
        _ => return None,
    })
}

/// Decodes blocks of `BYTES` bytes into `N` values each.
fn each<const BYTES: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (b, v) in bytes.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<N>().0) {
                decode(b, v);
            }
        },
    );
}

#[inline(always)]
fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// The low and high halves of 16 bytes, as 32 numbers.
#[inline(always)]
fn halves(bytes: &[u8], value: impl Fn(u8, usize) -> f32, values: &mut [f32; 32]) {
    let mut at = [0u8; 16];
    at.copy_from_slice(&bytes[..16]);
    for j in 0..16 {
        values[j] = value(at[j] & 15, j);
    }
    for j in 0..16 {
        values[16 + j] = value(at[j] >> 4, 16 + j);
    }
}

#[inline(always)]
fn number(q: u8) -> f32 {
    i32::from(q) as f32
}

fn q4_0(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 18], v: &mut [f32; 32]| {
        let d = half(b, 0);
        halves(&b[2..], |q, _| (i32::from(q) - 8) as f32 * d, v);
    });
}

fn q4_1(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 20], v: &mut [f32; 32]| {
        let (d, m) = (half(b, 0), half(b, 2));
        halves(&b[4..], |q, _| number(q) * d + m, v);
    });
}

fn q8_0(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 34], v: &mut [f32; 32]| {
        let d = half(b, 0);
        for (v, q) in v.as_chunks_mut::<8>().0.iter_mut().zip(b[2..].as_chunks::<8>().0) {
            *v = q.map(|q| i32::from(q.cast_signed()) as f32 * d);
        }
    });
}

/// The scale and the minimum of a group of 32 values of Q4_K and Q5_K, 6 bits each.
#[inline(always)]
fn scale_and_minimum(group: usize, s: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (s[group] & 63, s[group + 4] & 63)
    } else {
        (s[group + 4] & 15 | s[group - 4] >> 6 << 4, s[group + 4] >> 4 | s[group] >> 6 << 4)
    };
    (number(scale), number(minimum))
}

/// 32 numbers of 4 bits out of the low or the high halves of 32 bytes.
#[inline(always)]
fn four_bits(q: &[u8; 32], high: bool) -> [u8; 32] {
    let shift = if high { 4 } else { 0 };
    q.map(|q| q >> shift & 15)
}

fn q4_k(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 144], v: &mut [f32; 256]| {
        let (d, least) = (half(b, 0), half(b, 2));
        let (scales, quants) = (&b[4..16], b[16..].as_chunks::<32>().0);
        for (group, v) in v.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, minimum) = scale_and_minimum(group, scales);
            let (d, m) = (d * scale, least * minimum);
            for (v, q) in v.iter_mut().zip(four_bits(&quants[group / 2], group % 2 == 1)) {
                *v = d * number(q) - m;
            }
        }
    });
}

fn q5_k(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 176], v: &mut [f32; 256]| {
        let (d, least) = (half(b, 0), half(b, 2));
        let (scales, high, quants) = (&b[4..16], b[16..].as_chunks::<32>().0, b[48..].as_chunks::<32>().0);
        for (group, v) in v.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, minimum) = scale_and_minimum(group, scales);
            let (d, m) = (d * scale, least * minimum);
            let low = four_bits(&quants[group / 2], group % 2 == 1);
            for ((v, q), h) in v.iter_mut().zip(low).zip(&high[0]) {
                *v = d * number(q | (h >> group & 1) << 4) - m;
            }
        }
    });
}

fn q6_k(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 210], v: &mut [f32; 256]| {
        let d = half(b, 208);
        let (low, high, scales) = (b[..128].as_chunks::<32>().0, b[128..192].as_chunks::<32>().0, &b[192..208]);
        for (group, v) in v.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            // Half a block of 128 values lies in 64 bytes of low bits and 32 of high ones.
            let (part, within) = (group / 4, group % 4);
            let four = four_bits(&low[2 * part + within % 2], within >= 2);
            let two = high[part].map(|h| h >> (2 * within) & 3);
            for (i, v) in v.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = d * i32::from(scales[2 * group + i].cast_signed()) as f32;
                for (j, v) in v.iter_mut().enumerate() {
                    *v = scale * (i32::from(four[16 * i + j] | two[16 * i + j] << 4) - 32) as f32;
                }
            }
        }
    });
}

fn bf16_values(bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |b: &[u8; 2], v: &mut [f32; 1]| {
        v[0] = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    });
}

/// Halves as f32, with the processor's own instruction where it has one.
fn f16_values(bytes: &[u8], values: &mut [f32]) {
    use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
    match bytemuck::try_cast_slice::<u8, u16>(bytes) {
        Ok(bits) if cfg!(target_endian = "little") => {
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(values);
        }
        _ => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *v = f16::from_le_bytes(*b).to_f32();
            }
        }
    }
}
