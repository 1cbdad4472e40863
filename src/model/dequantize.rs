//! Storage types of tensors, and how their values are turned into f32. The layouts of blocks are GGML's; candle's
//! `k_quants` does the arithmetic.

use candle_core::quantized::k_quants as k;
use half::{bf16, f16};

/// The storage types that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F32,
    F16,
    BF16,
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
}

impl Stored {
    /// All storage types, with GGML's type numbers.
    pub const ALL: [(Self, u32); 13] = [
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
        (Self::BF16, 30),
    ];

    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == number).map(|(s, _)| *s)
    }

    /// Returns the numbers of values and bytes in one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
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
    match stored {
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
