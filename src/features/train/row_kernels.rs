//! Work on one position's cells. Each has a name of its own, since closures of this size would not be compiled for the
//! widest instructions; `pulp::Arch::dispatch` runs them.

/// Numbers that are summed side by side, as vector instructions do.
const LANES: usize = 16;

/// Three numbers of every feature, for what is made of its cells.
pub type Per<'a> = [&'a [f32]; 3];

/// max(value + bias, 0) in place.
pub struct Rectify<'a> {
    pub values: &'a mut [f32],
    pub bias: &'a [f32],
    /// The largest value of each feature so far.
    pub most: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Rectify<'_> {
    /// Cells above zero, and the sum of all.
    type Output = (u32, f32);

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut counts, mut sums) = ([0u32; LANES], [0f32; LANES]);
        let cells = self.values.chunks_mut(LANES).zip(self.bias.chunks(LANES)).zip(self.most.chunks_mut(LANES));
        for ((values, bias), most) in cells {
            for (i, ((v, b), m)) in values.iter_mut().zip(bias).zip(most).enumerate() {
                *v = (*v + b).max(0.0);
                *m = if *v > *m { *v } else { *m };
                counts[i] += u32::from(*v > 0.0);
                sums[i] += *v;
            }
        }
        (counts.iter().sum(), sums.iter().sum())
    }
}

/// A value of each cell, none below zero, and what is seen of them.
pub struct Activate<'a, F> {
    pub out: &'a mut [f32],
    pub z: &'a [f32],
    pub per: Per<'a>,
    pub make: &'a F,
    /// The largest value of each feature so far.
    pub most: &'a mut [f32],
}

impl<F: Fn(f32, [f32; 3]) -> f32> pulp::NullaryFnOnce for Activate<'_, F> {
    /// Cells above zero, and the sum of all.
    type Output = (u32, f32);

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut counts, mut sums) = ([0u32; LANES], [0f32; LANES]);
        let [p, q, r] = self.per.map(|p| p.chunks(LANES));
        let cells = self.out.chunks_mut(LANES).zip(self.z.chunks(LANES)).zip(self.most.chunks_mut(LANES));
        for (((((out, z), most), p), q), r) in cells.zip(p).zip(q).zip(r) {
            let cells = out.iter_mut().zip(z).zip(most).zip(p).zip(q).zip(r);
            for (i, (((((o, z), m), p), q), r)) in cells.enumerate() {
                let v = (self.make)(*z, [*p, *q, *r]);
                *o = v;
                *m = if v > *m { v } else { *m };
                counts[i] += u32::from(v > 0.0);
                sums[i] += v;
            }
        }
        (counts.iter().sum(), sums.iter().sum())
    }
}

/// A value of each cell.
pub struct Map<'a, F> {
    pub out: &'a mut [f32],
    pub z: &'a [f32],
    pub per: Per<'a>,
    pub make: &'a F,
}

impl<F: Fn(f32, [f32; 3]) -> f32> pulp::NullaryFnOnce for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let [p, q, r] = self.per;
        for ((((o, z), p), q), r) in self.out.iter_mut().zip(self.z).zip(p).zip(q).zip(r) {
            *o = (self.make)(*z, [*p, *q, *r]);
        }
    }
}

/// Another value of each cell in place, and both of what is made added to sums.
pub struct Slope<'a, F> {
    pub out: &'a mut [f32],
    pub z: &'a [f32],
    pub per: Per<'a>,
    pub make: &'a F,
    pub sums: (&'a mut [f32], &'a mut [f32]),
}

impl<F: Fn(f32, f32, [f32; 3]) -> (f32, f32)> pulp::NullaryFnOnce for Slope<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let [p, q, r] = self.per;
        let cells = self.out.iter_mut().zip(self.z).zip(p).zip(q).zip(r).zip(self.sums.0).zip(self.sums.1);
        for ((((((o, z), p), q), r), s), t) in cells {
            let (value, beside) = (self.make)(*z, *o, [*p, *q, *r]);
            *o = value;
            *s += value;
            *t += beside;
        }
    }
}

/// What is made of another value of each cell added to `out` and to a sum.
pub struct Merge<'a, F> {
    pub out: &'a mut [f32],
    pub other: &'a [f32],
    pub z: &'a [f32],
    pub per: Per<'a>,
    pub make: &'a F,
    pub sums: &'a mut [f32],
}

impl<F: Fn(f32, f32, [f32; 3]) -> f32> pulp::NullaryFnOnce for Merge<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let [p, q, r] = self.per;
        let cells = self.out.iter_mut().zip(self.other).zip(self.z).zip(p).zip(q).zip(r).zip(self.sums);
        for ((((((o, x), z), p), q), r), s) in cells {
            let value = (self.make)(*z, *x, [*p, *q, *r]);
            *o += value;
            *s += value;
        }
    }
}
