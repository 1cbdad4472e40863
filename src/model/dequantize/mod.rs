//! Storage types of tensors, and how their values are turned into f32. The layouts of blocks are GGML's
//! (`ggml-common.h`, `ggml-quants.c`); candle's `k_quants` does the arithmetic of those that it knows. F8 and I8 are
//! those of safetensors files, where scales lie beside them (see [`super::scales`]).

mod fast;

use candle_core::quantized::k_quants as k;
use half::{bf16, f16};

/// The storage types that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F64,
    F32,
    F16,
    BF16,
    /// 1 sign, 4 exponent and 3 mantissa bits, without infinities.
    F8E4M3,
    /// 1 sign, 5 exponent and 2 mantissa bits: the upper half of an f16.
    F8E5M2,
    I8,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
}

/// The names of GGML's types that cannot be opened.
const UNREAD: [(u32, &str); 21] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Stored {
    /// The storage types of GGUF files, with GGML's type numbers.
    pub const ALL: [(Self, u32); 19] = [
        (Self::F32, 0),
        (Self::F16, 1),
        (Self::Q4_0, 2),
        (Self::Q4_1, 3),
        (Self::Q5_0, 6),
        (Self::Q5_1, 7),
        (Self::Q8_0, 8),
        (Self::Q2K, 10),
        (Self::Q3K, 11),
        (Self::Q4K, 12),
        (Self::Q5K, 13),
        (Self::Q6K, 14),
        (Self::Iq4Nl, 20),
        (Self::Iq4Xs, 23),
        (Self::F64, 28),
        (Self::BF16, 30),
        (Self::Tq1_0, 34),
        (Self::Tq2_0, 35),
        (Self::Mxfp4, 39),
    ];

    /// The storage types of safetensors files, with their names there.
    pub const DTYPES: [(Self, &str); 7] = [
        (Self::F64, "F64"),
        (Self::F32, "F32"),
        (Self::F16, "F16"),
        (Self::BF16, "BF16"),
        (Self::F8E4M3, "F8_E4M3"),
        (Self::F8E5M2, "F8_E5M2"),
        (Self::I8, "I8"),
    ];

    /// Returns the name by which files and their makers call the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// Returns what a GGML type that cannot be opened is called.
    pub fn unread_ggml(number: u32) -> String {
        let name = UNREAD.iter().find(|(n, _)| *n == number).map(|(_, name)| (*name).to_owned());
        name.unwrap_or_else(|| format!("type {number}, which is unknown"))
    }

    pub fn from_dtype(name: &str) -> Option<Self> {
        Self::DTYPES.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }

    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == number).map(|(s, _)| *s)
    }

    /// Returns the numbers of values and bytes in one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 => (1, 8),
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 => (1, 1),
            Self::Q4_0 => (32, size_of::<k::BlockQ4_0>()),
            Self::Q4_1 => (32, size_of::<k::BlockQ4_1>()),
            Self::Q5_0 => (32, size_of::<k::BlockQ5_0>()),
            Self::Q5_1 => (32, size_of::<k::BlockQ5_1>()),
            Self::Q8_0 => (32, size_of::<k::BlockQ8_0>()),
            Self::Q2K => (256, size_of::<k::BlockQ2K>()),
            Self::Q3K => (256, size_of::<k::BlockQ3K>()),
            Self::Q4K => (256, size_of::<k::BlockQ4K>()),
            Self::Q5K => (256, size_of::<k::BlockQ5K>()),
            Self::Q6K => (256, size_of::<k::BlockQ6K>()),
            Self::Iq4Nl => (32, 18),
            Self::Iq4Xs => (256, 136),
            Self::Tq1_0 => (256, 54),
            Self::Tq2_0 => (256, 66),
            Self::Mxfp4 => (32, 17),
        }
    }

    /// Returns the bytes that `values` values take; `None` where they do not fill whole blocks, or overflow.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let (per_block, size) = self.block();
        values.is_multiple_of(per_block).then(|| (values / per_block).checked_mul(size)).flatten()
    }
}

/// Decodes `bytes` into `values`. `bytes.len()` must be `stored.bytes(values.len())`.
pub fn decode(stored: Stored, bytes: &[u8], values: &mut [f32]) {
    debug_assert_eq!(stored.bytes(values.len()), Some(bytes.len()));
    match fast::decoder(stored) {
        Some(fast) if !cfg!(unoptimised) => fast(bytes, values),
        _ => plainly(stored, bytes, values),
    }
}

/// As [`decode`], with candle's decoders.
fn plainly(stored: Stored, bytes: &[u8], values: &mut [f32]) {
    match stored {
        Stored::F64 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *v = f64::from_le_bytes(*b) as f32;
            }
        }
        Stored::F8E4M3 => each_byte(bytes, values, f8_e4m3),
        Stored::F8E5M2 => each_byte(bytes, values, |b| f16::from_bits(u16::from(b) << 8).to_f32()),
        Stored::I8 => each_byte(bytes, values, |b| f32::from(b.cast_signed())),
        Stored::Iq4Nl => each_block(bytes, values, iq4_nl),
        Stored::Iq4Xs => each_block(bytes, values, iq4_xs),
        Stored::Tq1_0 => each_block(bytes, values, tq1_0),
        Stored::Tq2_0 => each_block(bytes, values, tq2_0),
        Stored::Mxfp4 => each_block(bytes, values, mxfp4),
        Stored::F32 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *v = f32::from_le_bytes(*b);
            }
        }
        Stored::F16 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *v = f16::from_le_bytes(*b).to_f32();
            }
        }
        Stored::BF16 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *v = bf16::from_le_bytes(*b).to_f32();
            }
        }
        Stored::Q4_0 => blocks::<k::BlockQ4_0>(bytes, values),
        Stored::Q4_1 => blocks::<k::BlockQ4_1>(bytes, values),
        Stored::Q5_0 => blocks::<k::BlockQ5_0>(bytes, values),
        Stored::Q5_1 => blocks::<k::BlockQ5_1>(bytes, values),
        Stored::Q8_0 => blocks::<k::BlockQ8_0>(bytes, values),
        Stored::Q2K => blocks::<k::BlockQ2K>(bytes, values),
        Stored::Q3K => blocks::<k::BlockQ3K>(bytes, values),
        Stored::Q4K => blocks::<k::BlockQ4K>(bytes, values),
        Stored::Q5K => blocks::<k::BlockQ5K>(bytes, values),
        Stored::Q6K => blocks::<k::BlockQ6K>(bytes, values),
    }
}

fn each_byte(bytes: &[u8], values: &mut [f32], decode: impl Fn(u8) -> f32) {
    for (v, b) in values.iter_mut().zip(bytes) {
        *v = decode(*b);
    }
}

/// The value of an F8 number without infinities (OCP 8-bit formats): 2^(e − 7) · 1.mmm, or 2^(−6) · 0.mmm.
fn f8_e4m3(b: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(b >> 3 & 15), f32::from(b & 7));
    let size = match (exponent, b & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if b & 0x80 == 0 { size } else { -size }
}

/// Decodes blocks of `BYTES` bytes into `N` values each.
fn each_block<const BYTES: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    for (b, v) in bytes.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<N>().0) {
        decode(b, v);
    }
}

/// The 16 levels of IQ4.
const IQ4: [f32; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// Twice the 16 values of a 4-bit float.
const FP4: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// 16 bytes hold 32 values: the low halves first.
fn nibbles(bytes: &[u8], values: &mut [f32], levels: &[f32; 16], scale: f32) {
    for (j, b) in bytes.iter().enumerate() {
        values[j] = scale * levels[usize::from(b & 15)];
        values[j + bytes.len()] = scale * levels[usize::from(b >> 4)];
    }
}

fn iq4_nl(b: &[u8; 18], v: &mut [f32; 32]) {
    nibbles(&b[2..], v, &IQ4, half_at(b, 0));
}

/// A half-float scale, the upper 2 bits of 8 scales, their lower 4 bits, then 8 groups of 32 values.
fn iq4_xs(b: &[u8; 136], v: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for (group, values) in v.chunks_exact_mut(32).enumerate() {
        let low = b[4 + group / 2] >> (4 * (group % 2)) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * group) & 3) << 4;
        let at = 8 + 16 * group;
        nibbles(&b[at..at + 16], values, &IQ4, d * (scale - 32) as f32);
    }
}

/// Five values of −1, 0, 1 in a byte, as a fraction in base 3: 32 bytes, 16 bytes, then 4 bytes with four values each; a
/// half-float scale last. Value n of all bytes comes before value n + 1.
fn tq1_0(b: &[u8; 54], v: &mut [f32; 256]) {
    let d = half_at(b, 52);
    let mut at = 0;
    for (from, count, digits) in [(0, 32, 5), (32, 16, 5), (48, 4, 4)] {
        for n in 0..digits {
            for m in 0..count {
                let rest = b[from + m].wrapping_mul([1u8, 3, 9, 27, 81][n]);
                v[at] = d * f32::from(((u16::from(rest) * 3) >> 8) as i16 - 1);
                at += 1;
            }
        }
    }
}

/// Four values of −1, 0, 1 in a byte: two times 32 bytes, a half-float scale last.
fn tq2_0(b: &[u8; 66], v: &mut [f32; 256]) {
    let d = half_at(b, 64);
    for (i, v) in v.iter_mut().enumerate() {
        let (half, n, m) = (i / 128, i % 128 / 32, i % 32);
        *v = d * (f32::from(b[32 * half + m] >> (2 * n) & 3) - 1.0);
    }
}

/// An exponent e for 2^(e − 127), then 32 floats of 4 bits.
fn mxfp4(b: &[u8; 17], v: &mut [f32; 32]) {
    // Half of it, since the table holds twice the values; 2^(e − 128) is subnormal for the smallest two.
    let bits = if b[0] < 2 { 0x0020_0000 << b[0] } else { u32::from(b[0] - 1) << 23 };
    nibbles(&b[1..], v, &FP4, f32::from_bits(bits));
}

/// Copies the bytes into properly aligned blocks, a few at a time, and lets candle decode them.
fn blocks<B: k::GgmlType>(bytes: &[u8], values: &mut [f32]) {
    const AT_ONCE: usize = 64;
    let mut buffer = vec![B::zeros(); AT_ONCE];
    let size = size_of::<B>();
    for (b, v) in bytes.chunks(AT_ONCE * size).zip(values.chunks_mut(AT_ONCE * B::BLCK_SIZE)) {
        let n = b.len() / size;
        // SAFETY: the blocks are plain `repr(C)` integers and half floats, for which every bit pattern
        // is a value; n * size bytes lie inside both the source and the buffer of AT_ONCE blocks.
        unsafe {
            std::ptr::copy_nonoverlapping(b.as_ptr(), buffer.as_mut_ptr().cast::<u8>(), n * size);
        }
        B::to_float(&buffer[..n], &mut v[..n * B::BLCK_SIZE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_1_by_hand() {
        // d = 2, m = -1; low nibbles are the first 16 values, high nibbles the last 16.
        let mut bytes = Vec::new();
        bytes.extend(f16::from_f32(2.0).to_le_bytes());
        bytes.extend(f16::from_f32(-1.0).to_le_bytes());
        bytes.extend([0x30u8; 16]);
        let mut values = [9f32; 32];
        decode(Stored::Q4_1, &bytes, &mut values);
        assert!(values[..16].iter().all(|v| *v == -1.0));
        assert!(values[16..].iter().all(|v| *v == 5.0));
    }

    #[test]
    fn the_fast_decoders_give_candles_values_bit_for_bit() {
        let mut state = 3u64;
        let mut byte = || {
            state = crate::hash::mix(state.wrapping_add(1));
            state as u8
        };
        for (stored, _) in Stored::ALL {
            let Some(fast) = fast::decoder(stored) else { continue };
            let (per_block, size) = stored.block();
            let bytes: Vec<u8> = (0..300 * size).map(|_| byte()).collect();
            let (mut ours, mut theirs) = (vec![0f32; 300 * per_block], vec![0f32; 300 * per_block]);
            fast(&bytes, &mut ours);
            plainly(stored, &bytes, &mut theirs);
            let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(ours.iter().zip(&theirs).all(|(a, b)| same(a, b)), "{stored:?}");
        }
        // Every half and every number of 16 bits, also where the bytes do not lie as such numbers must.
        let all: Vec<u8> = std::iter::once(0).chain((0..=u16::MAX).flat_map(u16::to_le_bytes)).collect();
        let mut values = vec![0f32; 1 << 16];
        for (from, stored) in [(1, Stored::F16), (1, Stored::BF16)] {
            fast::decoder(stored).unwrap()(&all[from..], &mut values);
            for (bits, v) in (0..=u16::MAX).zip(&values) {
                let want =
                    if stored == Stored::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
                assert!(want.to_bits() == v.to_bits() || want.is_nan() && v.is_nan(), "{stored:?} {bits}");
            }
        }
    }

    #[test]
    fn f8_by_hand() {
        let mut values = [0f32; 7];
        // 0 0111 000 = 1, 1 1000 001 = −2.25, 0 0000 001 = 2^−9, 0 1111 110 = 448 (the largest).
        decode(Stored::F8E4M3, &[0x38, 0xC1, 0x01, 0x7E, 0x80, 0x08, 0x7F], &mut values);
        assert_eq!(values[..6], [1.0, -2.25, 1.0 / 512.0, 448.0, 0.0, 1.0 / 64.0]);
        assert!(values[6].is_nan());
        // 0 01111 00 = 1, 1 10000 01 = −2.5, 0 11110 11 = 57344 (the largest).
        let mut values = [0f32; 3];
        decode(Stored::F8E5M2, &[0x3C, 0xC1, 0x7B], &mut values);
        assert_eq!(values, [1.0, -2.5, 57344.0]);
    }

    #[test]
    fn every_type_decodes_zero_blocks_to_finite_values() {
        for (stored, number) in Stored::ALL {
            assert_eq!(Stored::from_ggml(number), Some(stored));
            let (n, size) = stored.block();
            let mut values = vec![1f32; 3 * n];
            decode(stored, &vec![0u8; 3 * size], &mut values);
            assert!(values.iter().all(|v| *v == 0.0), "{stored:?}");
        }
    }
}
