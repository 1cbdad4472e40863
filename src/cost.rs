//! What work costs, in bytes and seconds, and when that is so much that a person is asked first. In words:
//! [`crate::memory::needs`].

/// What a piece of work needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes of the model's weights.
    pub weights: u64,
    /// Bytes beyond them, at most.
    pub work: u64,
    pub seconds: f64,
}

/// Seconds from which on a person is asked first.
pub const ASK_FROM: f64 = 10.0;

impl Cost {
    /// This and then that: one after the other, each in its own memory.
    pub fn then(self, next: Self) -> Self {
        Self {
            weights: self.weights.max(next.weights),
            work: self.work.max(next.work),
            seconds: self.seconds + next.seconds,
        }
    }

    /// The same, so many times.
    pub fn times(self, n: usize) -> Self {
        Self { seconds: self.seconds * n as f64, ..self }
    }

    pub fn bytes(&self) -> u64 {
        self.weights + self.work
    }

    /// Whether it takes so many seconds, or half of the bytes that are free, beside weights that are there already.
    pub fn is_large(&self, seconds: f64, free: Option<u64>) -> bool {
        self.seconds >= seconds || free.is_some_and(|free| self.work >= free / 2)
    }

    /// Whether it is hardly dearer than another: what is told beforehand is a guess.
    pub fn is_within(&self, other: &Self) -> bool {
        self.seconds <= 1.25 * other.seconds && self.work as f64 <= 1.25 * other.work as f64
    }
}

/// Seconds in words: 0.4 s, 40 s, 12 min, 3.5 h.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
