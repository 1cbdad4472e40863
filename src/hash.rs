//! Hashes that are written to files: the same in every version and on every machine.

use candle_core::{Storage, Tensor};

/// Mixes a number: neighbouring ones come out unrelated [Steele et al. 2014, SplitMix64].
pub fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    h ^ (h >> 31)
}

/// One of so many of `n` values makes a sample of some thousand.
pub fn step(n: usize) -> usize {
    const VALUES: usize = 4096;
    n.div_ceil(VALUES).max(1)
}

/// Takes numbers in one after the other.
pub struct Hash(pub u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    pub fn add(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    }

    /// Takes all in and says what that makes.
    pub fn all(&mut self, words: impl Iterator<Item = u64>) -> u64 {
        words.for_each(|w| self.add(w));
        self.0
    }

    /// Takes in some thousand of a tensor's values, evenly spread: other weights differ nearly everywhere.
    ///
    /// # Errors
    /// As copying from the device that holds it.
    pub fn sample(&mut self, t: &Tensor) -> candle_core::Result<()> {
        let (storage, layout) = t.storage_and_layout();
        let some = |values: &[f32]| -> Vec<f32> { values.iter().step_by(step(values.len())).copied().collect() };
        let values = match &*storage {
            Storage::Cpu(cpu) => some(&cpu.as_slice::<f32>()?[layout.start_offset()..]),
            _ => some(&t.flatten_all()?.to_vec1()?),
        };
        self.values(&values);
        Ok(())
    }

    /// Takes numbers of f32 in.
    pub fn values(&mut self, values: &[f32]) {
        self.all(values.iter().map(|v| u64::from(v.to_bits())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_stay_what_they_are() {
        assert_eq!(mix(1), 0x5692_161D_100B_05E5);
        let of = |words: &[u64]| Hash::default().all(words.iter().copied());
        assert!(of(&[1, 2]) != of(&[2, 1]) && of(&[]) != of(&[0]));
    }
}
