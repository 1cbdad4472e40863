//! What a graph on features will cost: how many features are traced where not all fit, and what that takes.

use super::{Feature, Settings};
use crate::analysis::plan::{self, Planned};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::features::{Activation, Dictionary};
use crate::model::Model;

/// Links of a graph at most.
const MOST_LINKS: usize = 80_000_000;
/// Bytes of a link in a row, and with the graph while that is made.
pub(super) const ROW: u64 = 8;
const LINK: u64 = 28;
/// Bytes of rows that are held in full at a time where only a part of them is kept.
pub(super) const PART: u64 = 512 << 20;
/// Features that are traced at least where not all are and nobody says how many.
const LEAST_FEATURES: usize = 256;
/// And at most.
const MOST_FEATURES: usize = 4096;
/// Features that are active at a layer and position, about, where nobody says how many: published sets have 15 to 70.
const ACTIVE: usize = 32;

/// What tracing the prediction after position `pos` of a prompt of `len` tokens will take, with transcoders like `first` at
/// every layer. How many features will be active is known where a fixed number is; of others [`ACTIVE`] are assumed. Where
/// memory is short, fewer are traced.
///
/// # Errors
/// A graph that cannot be made.
pub fn cost(model: &Model, first: &Dictionary, (len, pos): (usize, usize), settings: &Settings) -> Result<Cost> {
    settings.check(pos)?;
    let (c, n) = (&model.config, pos + 1);
    let at_once = match first.activation {
        Activation::TopK { k } | Activation::Largest { k } => k,
        _ => ACTIVE,
    };
    let at_once = at_once.min(first.d_sae);
    let mut rows = Vec::new();
    for layer in 0..c.n_layers {
        for pos in settings.silent..n {
            let row = layer * (pos + 1 - settings.silent) * at_once + (layer + 1) * (pos + 1);
            rows.resize(rows.len() + at_once, (Feature { layer, pos, feature: 0, activation: 1.0 }, row));
        }
    }
    let (most, _) = fitting(rows.iter().map(|(_, row)| *row).collect(), (n, c.n_layers), settings, None)?;
    let traced = cost_of_rows(model, &rows, most, n, settings);
    let encoded = (n * c.n_layers) as f64 * (first.d_sae * (first.d_in + first.d_out)) as f64;
    let layer = 8 * first.d_sae * (first.d_in + first.d_out);
    let run = plan::cost(model, len, Planned::Trace);
    let traced = Cost::of(model, encoded, layer).then(Cost { work: layer as u64 + traced.work, ..traced });
    // The run is kept meanwhile.
    Ok(Cost { work: run.work + traced.work, ..run.then(traced) })
}

/// What the rows of `most` of some features (all if `None`) take, each feature with the number of its sources.
pub(super) fn cost_of_rows(
    model: &Model,
    rows: &[(Feature, usize)],
    most: Option<usize>,
    n: usize,
    settings: &Settings,
) -> Cost {
    let (c, count) = (&model.config, rows.len());
    let heads = (c.n_heads + c.n_kv_heads) * c.d_head;
    // Down through the heads of every layer below, at every position before, and once against each source.
    let down = |(f, row): &(Feature, usize)| c.d_model as f64 * (f.layer * (f.pos + 1) * heads + row) as f64;
    let share = most.map_or(1.0, |most| most.min(count) as f64 / count.max(1) as f64);
    let mut lengths: Vec<usize> = rows.iter().map(|(_, row)| *row).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let held = match most {
        Some(most) => bytes(&lengths, most, settings.round.max(1), (c.n_layers + 1) * n),
        None => LINK * lengths.iter().sum::<usize>() as u64,
    };
    Cost::of(model, share * rows.iter().map(down).sum::<f64>(), 8 * count * c.d_model + held as usize)
}

/// By feature, how many sources can reach it: all that is active below it, at its position or before, errors, tokens.
pub(super) fn reached(features: &[Feature], n: usize) -> Vec<usize> {
    let mut below = vec![0usize; n];
    let mut all = Vec::with_capacity(features.len());
    while let Some(Feature { layer, .. }) = features.get(all.len()) {
        let end = features.partition_point(|f| f.layer <= *layer);
        let own = &features[all.len()..end];
        all.extend(own.iter().map(|f| below[..=f.pos].iter().sum::<usize>() + (layer + 1) * (f.pos + 1)));
        own.iter().for_each(|f| below[f.pos] += 1);
    }
    all
}

/// Bytes that tracing `most` features takes; `rows` are the lengths of all rows, the longest first, and `others` the nodes
/// that are no features. Rows that say who is chosen next are held in full, of those chosen last what the graph keeps.
fn bytes(rows: &[usize], most: usize, round: usize, others: usize) -> u64 {
    let last = if most.is_multiple_of(round) { round.min(most) } else { most % round };
    let sum = |rows: &mut dyn Iterator<Item = usize>| rows.sum::<usize>() as u64;
    let full = ROW * sum(&mut rows.iter().take(most - last).copied());
    let part = (ROW * sum(&mut rows.iter().skip(most - last).take(last).copied())).min(PART);
    full + part + LINK * sum(&mut rows.iter().take(most).map(|row| (*row).min(most + others)))
}

/// How many features are traced, and why not all, by how many sources reach each. `free` bytes may be taken.
///
/// # Errors
/// What does not fit, in a sentence.
pub(super) fn fitting(
    mut rows: Vec<usize>,
    (n, n_layers): (usize, usize),
    settings: &Settings,
    free: Option<u64>,
) -> Result<(Option<usize>, Option<String>)> {
    let (count, others, round) = (rows.len(), (n_layers + 1) * n, settings.round.max(1));
    let links: usize = rows.iter().sum();
    rows.sort_unstable_by(|a, b| b.cmp(a));
    let all = links as u64 * LINK;
    let takes = |most: usize| if most >= count { all } else { bytes(&rows, most, round, others) };
    let fits = |most: usize| free.is_none_or(|free| crate::memory::fits(takes(most), free));
    // The most that fit, by halving.
    let largest = |limit: usize| {
        let (mut yes, mut no) = (0, limit + 1);
        while no - yes > 1 {
            let middle = yes + (no - yes) / 2;
            (yes, no) = if fits(middle) { (middle, no) } else { (yes, middle) };
        }
        yes
    };
    let refused = |asked: usize, fewer: &str| {
        Error::failed(format!(
            "tracing {asked} of {count} active features at {n} positions would need {} of memory and {} are free; trace an \
             earlier position{fewer}",
            crate::memory::bytes(takes(asked)),
            crate::memory::bytes(free.unwrap_or(0))
        ))
    };
    if let Some(most) = settings.most {
        let asked = most.min(count);
        if !fits(asked) {
            let fewer = largest(asked);
            return Err(refused(asked, &format!(", or ask for {fewer} features or fewer (--max-features)")));
        }
        let limited = (most < count)
            .then(|| format!("Of {count} active features the {most} most influential are traced, as was asked."));
        return Ok((limited.is_some().then_some(most), limited));
    }
    if links <= MOST_LINKS && fits(count) {
        return Ok((None, None));
    }
    let held = (count as f64 * MOST_LINKS as f64 / links as f64 / 2.0) as usize;
    let held = held.clamp(LEAST_FEATURES.min(count), count).min(MOST_FEATURES);
    let most = largest(held);
    if most < LEAST_FEATURES.min(count) {
        return Err(refused(LEAST_FEATURES.min(count), ""));
    }
    let why = if most < held || links <= MOST_LINKS { "than memory has room for" } else { "than are held at once" };
    let why = format!(
        "Of {count} active features the {most} most influential are traced: all have {} million links, more {why}.",
        links / 1_000_000
    );
    Ok((Some(most), Some(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `layers` layers with one feature at each of `n` positions.
    fn active(layers: usize, n: usize) -> Vec<Feature> {
        let at = |layer| (0..n).map(move |pos| Feature { layer, pos, feature: 0, activation: 1.0 });
        (0..layers).flat_map(at).collect()
    }

    #[test]
    fn sources_are_counted_by_hand() {
        // Layer 0: an error and a token a position up to its own. Layer 1: features of layer 0 as well, and layer 1's errors
        // do not reach it.
        assert_eq!(reached(&active(2, 3), 3), [1, 2, 3, 3, 6, 9]);
        // Rows of 9, 6, 3, …, two chosen one after the other: one is held in full, and the graph keeps two features' links
        // and four others' at most.
        let rows = [9, 6, 3, 3, 2, 1];
        assert_eq!(bytes(&rows, 2, 1, 4), ROW * (9 + 6) + LINK * (6 + 6));
        assert_eq!(bytes(&rows, 2, 2, 4), ROW * (9 + 6) + LINK * (6 + 6));
        // Of the last ones no more than a part is held in full.
        let long = [1 << 30; 4];
        assert_eq!(bytes(&long, 4, 2, 0), ROW * (2 << 30) + PART + LINK * 16);
    }

    #[test]
    fn a_graph_is_made_no_larger_than_memory() {
        let features = active(8, 64);
        let count = features.len();
        let fit = |most: Option<usize>, free: u64| {
            fitting(reached(&features, 64), (64, 8), &Settings { most, round: 64, ..Settings::default() }, Some(free))
        };
        assert_eq!(fit(None, 1 << 40).unwrap(), (None, None));
        assert_eq!(fit(Some(count), 1 << 40).unwrap(), (None, None));
        assert_eq!(fit(Some(100), 1 << 40).unwrap().0, Some(100));
        // Small work is never refused, so that rows a hundred times as many are needed to see it.
        let features = active(24, 256);
        let count = features.len();
        let fit = |most: Option<usize>, free: u64| {
            fitting(
                reached(&features, 256),
                (256, 24),
                &Settings { most, round: 64, ..Settings::default() },
                Some(free),
            )
        };
        let all = reached(&features, 256).iter().sum::<usize>() as u64 * LINK;
        assert_eq!(fit(None, all + crate::memory::RESERVE).unwrap(), (None, None));
        let (most, why) = fit(None, all / 2).unwrap();
        assert!(most.is_some_and(|m| (256..count).contains(&m)), "{most:?}");
        assert!(why.unwrap().contains("more than memory has room for"));
        let error = fit(Some(count), all / 2).unwrap_err().to_string();
        assert!(error.contains("are free") && error.contains("(--max-features)"), "{error}");
        // What is offered instead fits.
        let fewer: usize = error.split("ask for ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(fit(Some(fewer), all / 2).is_ok() && fewer > 256);
        assert!(fit(None, 1).unwrap_err().to_string().contains("trace an earlier position"));
    }
}
