//! Correlations between a scan's subject and others over the first positions of the text: between its features, with the
//! features of a dictionary, with the neurons of its layer. Memory is bounded: when it is used up, no pair is taken in any
//! more. Those that are there stay exact, for a pair's sum is zero up to where both are first active together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rayon::prelude::*;

use crate::engine::kernels::math::simd;

/// Positions over which correlations are summed.
const POSITIONS: f64 = 16_384.0;
/// Others kept of each feature.
const KEPT: usize = 10;
/// Sums of products that all subjects of a scan may keep: 512 MB in rows.
pub(super) const ROOM: usize = 128 << 20;
/// A table takes about as much memory for an entry as rows for so many.
const TABLE_ENTRY: usize = 5;

/// Σ a·b of each pair that was ever active together.
enum Products {
    /// For each of ours that was ever active, all others.
    Rows { rows: Vec<Option<Box<[f32]>>>, room: usize },
    /// By (ours, other), where both sides are many and few of them are active together; at most so many.
    Table(HashMap<(u32, u32), f32>, usize),
}

/// What is active of ours at a position, and the values of all others there.
pub(super) type Position<'a> = (Vec<(u32, f32)>, &'a [f32]);

/// The sums of one of ours with all others: a new row where it has none yet and there is room.
fn row_of<'a>(row: &'a mut Option<Box<[f32]>>, room: &mut usize, others: usize) -> Option<&'a mut [f32]> {
    if row.is_none() && *room >= others {
        *room -= others;
        *row = Some(vec![0.0; others].into_boxed_slice());
    }
    row.as_deref_mut()
}

/// Sums for correlations between ours and others.
pub(super) struct Pairs {
    n: f64,
    others: usize,
    sum: Vec<f64>,
    squares: Vec<f64>,
    other_sum: Vec<f64>,
    other_squares: Vec<f64>,
    products: Products,
}

impl Pairs {
    /// Nothing where there is nobody else. `room` bounds the sums that are kept; `dense` others are all active at most
    /// positions.
    pub(super) fn new(ours: usize, others: usize, dense: bool, room: usize) -> Option<Self> {
        let in_rows = dense || ours.saturating_mul(others) <= room;
        (ours > 0 && others > 0).then(|| Self {
            n: 0.0,
            others,
            sum: vec![0.0; ours],
            squares: vec![0.0; ours],
            other_sum: vec![0.0; others],
            other_squares: vec![0.0; others],
            products: if in_rows {
                Products::Rows { rows: (0..ours).map(|_| None).collect(), room }
            } else {
                Products::Table(HashMap::new(), room / TABLE_ENTRY)
            },
        })
    }

    /// A position: what is active of ours, and of the others.
    pub(super) fn add(&mut self, acts: &[(u32, f32)], others: &[(u32, f32)]) {
        for (o, v) in others {
            self.other_sum[*o as usize] += f64::from(*v);
            self.other_squares[*o as usize] += f64::from(*v) * f64::from(*v);
        }
        self.enter(acts, |f, a, products, others_n| match products {
            Products::Rows { rows, room } => {
                if let Some(row) = row_of(&mut rows[f as usize], room, others_n) {
                    others.iter().for_each(|(o, v)| row[*o as usize] += a * v);
                }
            }
            Products::Table(table, most) => {
                for (o, v) in others {
                    let is_full = table.len() >= *most;
                    match table.entry((f, *o)) {
                        Entry::Occupied(mut sum) => *sum.get_mut() += a * v,
                        Entry::Vacant(place) if !is_full => drop(place.insert(a * v)),
                        Entry::Vacant(_) => {}
                    }
                }
            }
        });
    }

    /// Positions: what is active of ours in each, and the values of all others. Feature by feature, so that the sums of one
    /// stay in the cache while they are added to, on all cores.
    pub(super) fn add_dense(&mut self, positions: &[Position<'_>]) {
        for (_, others) in positions {
            let sums = self.other_sum.iter_mut().zip(&mut self.other_squares);
            for ((sum, square), v) in sums.zip(*others) {
                let v = f64::from(*v);
                *sum += v;
                *square += v * v;
            }
        }
        let mut places: Vec<(u32, usize, f32)> = Vec::new();
        for (p, (acts, _)) in positions.iter().enumerate() {
            self.enter(acts, |f, a, products, others_n| {
                if let Products::Rows { rows, room } = products
                    && row_of(&mut rows[f as usize], room, others_n).is_some()
                {
                    places.push((f, p, a));
                }
            });
        }
        places.sort_unstable_by_key(|(f, p, _)| (*f, *p));
        let Products::Rows { rows, .. } = &mut self.products else { return };
        let mut of_feature: Vec<&[(u32, usize, f32)]> = vec![&[]; rows.len()];
        places.chunk_by(|a, b| a.0 == b.0).for_each(|some| of_feature[some[0].0 as usize] = some);
        rows.par_iter_mut().zip(of_feature).for_each(|(row, places)| {
            let Some(row) = row else { return };
            for (_, p, a) in places {
                simd(|| row.iter_mut().zip(positions[*p].1).for_each(|(sum, v)| *sum += a * v));
            }
        });
    }

    fn enter(&mut self, acts: &[(u32, f32)], mut each: impl FnMut(u32, f32, &mut Products, usize)) {
        self.n += 1.0;
        for (f, a) in acts {
            let at = *f as usize;
            self.sum[at] += f64::from(*a);
            self.squares[at] += f64::from(*a) * f64::from(*a);
            each(*f, *a, &mut self.products, self.others);
        }
    }

    /// Whether enough positions are summed.
    pub(super) fn is_enough(&self) -> bool {
        self.n >= POSITIONS
    }

    /// Correlations of one of ours with one of the others, from the sum of their products.
    fn correlation(&self) -> impl Fn(usize, usize, f32) -> f32 + Sync + '_ {
        let n = self.n;
        let deviations = |sums: &[f64], squares: &[f64]| -> Vec<f64> {
            let one = |(sum, square): (&f64, &f64)| (square / n - (sum / n).powi(2)).max(0.0).sqrt();
            sums.iter().zip(squares).map(one).collect()
        };
        let (own, others) = (deviations(&self.sum, &self.squares), deviations(&self.other_sum, &self.other_squares));
        move |f, o, product| {
            let covariance = f64::from(product) / n - self.sum[f] * self.other_sum[o] / (n * n);
            // Not a number where one of them never changes.
            (covariance / (own[f] * others[o])) as f32
        }
    }

    /// The most correlated others of each; `same` where the others are ours themselves.
    pub(super) fn best(self, same: bool) -> Vec<Vec<(u32, f32)>> {
        let correlation = self.correlation();
        let leading = |f: usize, products: &mut dyn Iterator<Item = (usize, f32)>| {
            let products = products.filter(|(o, _)| !(same && *o == f));
            leading(products.map(|(o, p)| (o as u32, correlation(f, o, p))).collect())
        };
        match &self.products {
            Products::Rows { rows, .. } => rows
                .par_iter()
                .enumerate()
                .map(|(f, row)| match row {
                    Some(row) => leading(f, &mut row.iter().copied().enumerate()),
                    None => Vec::new(),
                })
                .collect(),
            Products::Table(table, _) => {
                let mut rows: Vec<Vec<(usize, f32)>> = vec![Vec::new(); self.sum.len()];
                table.iter().for_each(|((f, o), p)| rows[*f as usize].push((*o as usize, *p)));
                rows.par_iter().enumerate().map(|(f, row)| leading(f, &mut row.iter().copied())).collect()
            }
        }
    }

    /// Of each of the others the most correlated ones of ours.
    pub(super) fn best_of_others(self) -> Vec<Vec<(u32, f32)>> {
        let correlation = self.correlation();
        let Products::Rows { rows, .. } = &self.products else { return Vec::new() };
        let there: Vec<(usize, &[f32])> =
            rows.iter().enumerate().filter_map(|(f, row)| Some((f, row.as_deref()?))).collect();
        let of = |o: usize| leading(there.iter().map(|(f, row)| (*f as u32, correlation(*f, o, row[o]))).collect());
        (0..self.others).into_par_iter().map(of).collect()
    }
}

/// The largest, in order; of equal ones the first.
fn leading(mut found: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    found.retain(|(_, c)| c.is_finite());
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if found.len() > KEPT {
        found.select_nth_unstable_by(KEPT, order);
        found.truncate(KEPT);
    }
    found.sort_by(order);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_by_hand() {
        let mut p = Pairs::new(2, 2, false, 99).unwrap();
        // Feature 0 and other 0 rise together, other 1 is the other way round.
        p.add(&[(0, 1.0)], &[(0, 2.0)]);
        p.add(&[], &[(1, 3.0)]);
        let best = p.best(false);
        assert_eq!(best[0].len(), 2);
        assert!((best[0][0].1 - 1.0).abs() < 1e-6 && (best[0][1].1 + 1.0).abs() < 1e-6);
        assert!(best[1].is_empty(), "a feature that is never active correlates with nothing");
        assert!(Pairs::new(3, 0, false, 99).is_none());
    }

    /// A table holds only pairs that were active together, of which the most correlated are.
    #[test]
    fn a_table_finds_what_rows_find_and_room_ends() {
        let n = 20_000;
        let (mut rows, mut table) =
            (Pairs::new(64, 64, false, 1 << 20).unwrap(), Pairs::new(n, n, false, 1 << 20).unwrap());
        for t in 0..300u32 {
            let acts: Vec<(u32, f32)> = (0..4).map(|i| ((t * (i + 3) + i * i) % 64, 1.0 + i as f32)).collect();
            let mut acts: Vec<(u32, f32)> = acts;
            acts.sort_by_key(|a| a.0);
            acts.dedup_by_key(|a| a.0);
            rows.add(&acts, &acts);
            table.add(&acts, &acts);
        }
        assert!(matches!((&rows.products, &table.products), (Products::Rows { .. }, Products::Table(..))));
        let (rows, table) = (rows.best(true), table.best(true));
        for (f, (a, b)) in rows.iter().zip(&table).enumerate() {
            assert_eq!(a.first(), b.first(), "{f}");
        }
        // The other way round, from dense values.
        let (mut forth, mut back) = (Pairs::new(5, 7, false, 99).unwrap(), Pairs::new(7, 5, true, 99).unwrap());
        for t in 0..50u32 {
            let ours = [(t % 5, 1.0 + (t % 3) as f32)];
            let others: Vec<(u32, f32)> = (0..7).filter(|o| (t * (o + 2)) % 3 == 0).map(|o| (o, 2.0)).collect();
            forth.add(&ours, &others);
            let mut dense = [0.0; 5];
            dense[ours[0].0 as usize] = ours[0].1;
            back.add_dense(&[(others, &dense[..])]);
        }
        assert_eq!(forth.best(false), back.best_of_others());
        // Room for two of four rows: those go on being summed to the end.
        let mut small = Pairs::new(4, 4, true, 8).unwrap();
        for t in 0..40u32 {
            small.add(&[(t % 4, 1.0)], &[(t % 4, 1.0), ((t + 1) % 4, 0.1)]);
        }
        assert_eq!(small.n, 40.0);
        let best = small.best(true);
        assert!(best[0].len() == 3 && best[1].len() == 3 && best[2].is_empty() && best[3].is_empty(), "{best:?}");
    }
}
