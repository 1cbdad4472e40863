//! Pruning an attribution graph to what carries most of the influence, as circuit-tracer does it.
//!
//! A whole graph has millions of links and cannot be read. First the most influential nodes are kept that together hold a
//! share of the influence (0.8 by default; tokens and logits always). Between them influence is computed again, each
//! link's score is what flows through it, and the strongest links are kept that together hold a share of the scores (0.98).
//! At last nodes without a way in or out go, until none is left.

use rayon::prelude::*;

use super::influence::LEAST;
use super::{Graph, Influence, Link, NodeKind};
use crate::error::{Error, Result};

/// What is kept unless somebody says otherwise.
pub const NODE_THRESHOLD: f64 = 0.8;
pub const EDGE_THRESHOLD: f64 = 0.98;

/// Which nodes and links of a graph are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruned {
    /// By node.
    pub nodes: Vec<bool>,
    /// Places of the kept links in [`Graph::links`], rising.
    pub links: Vec<usize>,
}

/// Room for rounding where a share meets a threshold exactly.
const SLACK: f64 = 1e-9;

/// Sums of scores by exponent and four bits of the mantissa, so that finding the one at a share sorts a single bucket.
/// No score is negative.
#[derive(Clone)]
struct Histogram(Vec<f64>);

impl Histogram {
    fn new() -> Self {
        Self(vec![0.0; 1 << 15])
    }

    fn bucket(score: f64) -> usize {
        (score.to_bits() >> 48) as usize
    }

    fn add(&mut self, score: f64) {
        self.0[Self::bucket(score)] += score;
    }

    /// The bucket in which, in falling order, the cumulative share reaches `share`, what is above it, and what is
    /// wanted; `None` of nothing.
    fn at_share(&self, share: f64) -> Option<(usize, f64, f64)> {
        let wanted = self.0.iter().sum::<f64>() * share * (1.0 - SLACK);
        let lowest = self.0.iter().position(|v| *v > 0.0)?;
        let mut before = 0.0;
        for at in (lowest..self.0.len()).rev() {
            if self.0[at] > 0.0 && (before + self.0[at] >= wanted || at == lowest) {
                return Some((at, before, wanted));
            }
            before += self.0[at];
        }
        None
    }
}

/// The score with which a sum that stands at `before` reaches `wanted`, taking the largest first; the smallest if none
/// does.
fn reaching(mut scores: Vec<f64>, mut before: f64, wanted: f64) -> f64 {
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    for score in &scores {
        before += score;
        if before >= wanted {
            return *score;
        }
    }
    scores.last().copied().unwrap_or(0.0)
}

/// The score at the first index, in falling order, whose cumulative share reaches `share`. `rest` is what scores that
/// are not among these have, all of them smaller.
fn score_at_share(scores: &[f64], rest: f64, share: f64) -> f64 {
    let mut histogram = Histogram::new();
    scores.iter().filter(|s| **s > 0.0).for_each(|s| histogram.add(*s));
    let total = histogram.0.iter().sum::<f64>();
    let share = if total > 0.0 { (share * (total + rest) / total).min(1.0) } else { share };
    let Some((bucket, before, wanted)) = histogram.at_share(share) else { return 0.0 };
    let inside = scores.iter().copied().filter(|s| *s > 0.0 && Histogram::bucket(*s) == bucket).collect();
    reaching(inside, before, wanted)
}

fn check(threshold: f64, what: &str) -> Result<()> {
    if (0.0..=1.0).contains(&threshold) {
        return Ok(());
    }
    Err(Error::request(format!("the {what} threshold is {threshold}; give a share of the influence from 0 to 1")))
}

/// Keeps the nodes that together hold `node_threshold` of the influence (tokens and logits always), of the
/// links between them those that hold `edge_threshold`, then drops nodes without a way in or out until none is
/// left. `influence` is that of the whole graph.
///
/// # Errors
/// A threshold outside 0..=1.
pub fn prune(graph: &Graph, influence: &Influence, node_threshold: f64, edge_threshold: f64) -> Result<Pruned> {
    check(node_threshold, "node")?;
    check(edge_threshold, "edge")?;
    let always = |i: usize| matches!(graph.nodes[i].kind, NodeKind::Token | NodeKind::Logit);
    let least = score_at_share(&influence.values, influence.rest, node_threshold) * (1.0 - SLACK);
    let mut nodes: Vec<bool> =
        influence.values.iter().enumerate().map(|(i, v)| always(i) || (*v > 0.0 && *v >= least)).collect();
    let (factors, histogram) = score(graph, &nodes);
    let mut links = strongest(graph, &nodes, &factors, &histogram, edge_threshold);
    drop_dead_ends(graph, &mut nodes, &mut links);
    Ok(Pruned { nodes, links: links.into_iter().map(|l| l.at).collect() })
}

/// A link that is kept so far.
#[derive(Clone, Copy)]
struct Kept {
    target: u32,
    source: u32,
    /// Its place in the graph.
    at: usize,
    score: f64,
}

/// Links that are worth a thread of their own.
const PARALLEL: usize = 50_000;

/// For each kept node what turns a link's |weight| into Â · (influence + w), normalised and summed over the links
/// between kept nodes alone, and all these scores' histogram.
///
/// A slider asks for this many times a second, over up to a hundred million links: each is read once here and once
/// when the strongest are taken, nodes of one level at a time, which do not depend on each other.
fn score(graph: &Graph, nodes: &[bool]) -> (Vec<f64>, Histogram) {
    struct Sums {
        through: Vec<f64>,
        histogram: Histogram,
        row: Vec<Link>,
    }
    let n = nodes.len();
    // One target: its factor, and what flows on to its sources. Kept links are gathered first, without a branch that
    // would be guessed wrong at every other link.
    let pass = |target: usize, through: f64, sums: &mut Sums| -> f64 {
        if through <= 0.0 {
            return 0.0;
        }
        let row = graph.into_node(target);
        if sums.row.len() < row.len() {
            sums.row.resize(row.len(), Link { source: 0, weight: 0.0 });
        }
        let mut count = 0;
        let mut sum = 0f64;
        for link in row {
            let kept = nodes[link.source as usize];
            sums.row[count] = Link { source: link.source, weight: link.weight.abs() };
            count += usize::from(kept);
            sum += if kept { f64::from(link.weight.abs()) } else { 0.0 };
        }
        let factor = through / sum.max(LEAST);
        for link in &sums.row[..count] {
            let score = f64::from(link.weight) * factor;
            sums.through[link.source as usize] += score;
            // Weights and probabilities of a file may make it anything.
            if score > 0.0 {
                sums.histogram.add(score);
            }
        }
        factor
    };
    let sums = || Sums { through: vec![0.0; n], histogram: Histogram::new(), row: Vec::new() };
    let mut factors = vec![0f64; n];
    // What flows through each node so far, and the histogram of all scores but the threads'.
    let mut own = Sums { through: graph.nodes.iter().map(|n| n.prob).collect(), ..sums() };
    let mut threads: Vec<Sums> = Vec::new();
    for level in graph.levels() {
        let targets: Vec<u32> = level.iter().copied().filter(|t| nodes[*t as usize]).collect();
        let size = |t: &u32| graph.range(*t as usize).len();
        let links: usize = targets.iter().map(size).sum();
        if links < PARALLEL {
            for target in targets.iter().map(|t| *t as usize) {
                factors[target] = pass(target, own.through[target], &mut own);
            }
            continue;
        }
        let count = rayon::current_num_threads();
        threads.resize_with(count, sums);
        // Contiguous parts with about as many links each.
        let mut parts: Vec<&[u32]> = Vec::new();
        let mut rest = targets.as_slice();
        for i in 0..count {
            let share = rest.iter().map(size).sum::<usize>() / (count - i);
            let mut sum = 0;
            let end = rest.iter().position(|t| {
                sum += size(t);
                sum > share
            });
            let end = if i + 1 == count { rest.len() } else { end.map_or(rest.len(), |e| (e + 1).min(rest.len())) };
            parts.push(&rest[..end]);
            rest = &rest[end..];
        }
        let known = &own.through;
        let found: Vec<Vec<f64>> = threads
            .par_iter_mut()
            .zip(&parts)
            .map(|(sums, part)| {
                sums.through.fill(0.0);
                part.iter().map(|t| pass(*t as usize, known[*t as usize], sums)).collect()
            })
            .collect();
        for ((part, found), sums) in parts.iter().zip(found).zip(&threads) {
            part.iter().zip(found).for_each(|(t, f)| factors[*t as usize] = f);
            own.through.iter_mut().zip(&sums.through).for_each(|(a, b)| *a += b);
        }
    }
    for sums in &threads {
        own.histogram.0.iter_mut().zip(&sums.histogram.0).for_each(|(a, b)| *a += b);
    }
    (factors, own.histogram)
}

/// The strongest links between kept nodes that together hold a share of all scores, by place.
fn strongest(graph: &Graph, nodes: &[bool], factors: &[f64], histogram: &Histogram, share: f64) -> Vec<Kept> {
    let Some((bucket, before, wanted)) = histogram.at_share(share) else { return Vec::new() };
    // What lies under the bucket only by rounding belongs to it.
    let lowest = f64::from_bits((bucket as u64) << 48) * (1.0 - 2.0 * SLACK);
    let candidates: Vec<Vec<Kept>> = (0..nodes.len())
        .into_par_iter()
        .with_min_len(16)
        .filter(|t| nodes[*t] && factors[*t] > 0.0)
        .map(|target| {
            let (first, row) = (graph.range(target).start, graph.into_node(target));
            // As in `score`: gathered without a branch.
            let mut places = vec![0u32; row.len()];
            let mut count = 0;
            for (i, link) in row.iter().enumerate() {
                let score = f64::from(link.weight.abs()) * factors[target];
                places[count] = i as u32;
                count += usize::from((score >= lowest) & (score > 0.0) & nodes[link.source as usize]);
            }
            let kept = |i: &u32| {
                let link = row[*i as usize];
                let score = f64::from(link.weight.abs()) * factors[target];
                Kept { target: target as u32, source: link.source, at: first + *i as usize, score }
            };
            let out: Vec<Kept> = places[..count].iter().map(kept).collect();
            out
        })
        .collect();
    let scores = candidates.iter().flatten().map(|l| l.score);
    let inside = scores.filter(|s| Histogram::bucket(*s) == bucket).collect();
    let least = reaching(inside, before, wanted) * (1.0 - SLACK);
    let mut out = Vec::with_capacity(candidates.iter().map(Vec::len).sum());
    candidates.into_iter().for_each(|row| out.extend(row.into_iter().filter(|l| l.score >= least)));
    out
}

/// Drops components without a way in and components and errors without a way out, with their links, until none
/// is left.
fn drop_dead_ends(graph: &Graph, nodes: &mut [bool], links: &mut Vec<Kept>) {
    loop {
        let mut leaving = vec![false; nodes.len()];
        let mut arriving = vec![false; nodes.len()];
        for link in links.iter() {
            leaving[link.source as usize] = true;
            arriving[link.target as usize] = true;
        }
        let before = links.len();
        let mut changed = false;
        for (i, node) in nodes.iter_mut().enumerate().filter(|(_, kept)| **kept) {
            *node = match graph.nodes[i].kind {
                NodeKind::Component => leaving[i] && arriving[i],
                NodeKind::Error => leaving[i],
                NodeKind::Token | NodeKind::Logit => true,
            };
            changed |= !*node;
        }
        links.retain(|l| nodes[l.source as usize] && nodes[l.target as usize]);
        if !changed && links.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::graph;
    use super::*;
    use NodeKind::{Component, Error as Missed, Logit, Token};
    use proptest::prelude::*;

    #[test]
    fn the_score_at_a_share() {
        // 4 + 3 + 2 + 1: cumulative 0.4, 0.7, 0.9, 1.
        for (share, expected) in [(0.0, 4.0), (0.3, 4.0), (0.4, 4.0), (0.41, 3.0), (0.7, 3.0), (0.9, 2.0), (1.0, 1.0)] {
            assert_eq!(score_at_share(&[1.0, 4.0, 2.0, 3.0], 0.0, share), expected, "{share}");
        }
        assert_eq!(score_at_share(&[], 0.0, 0.5), 0.0);
        // Zeros at the end are not reached.
        assert_eq!(score_at_share(&[0.0, 2.0, 0.0, 2.0, 0.0], 0.0, 1.0), 2.0);
        // Half of 10 that others hold: 0.7 of 20 is more than all four, 0.3 is reached with the second.
        assert_eq!(score_at_share(&[1.0, 4.0, 2.0, 3.0], 10.0, 0.7), 1.0);
        assert_eq!(score_at_share(&[1.0, 4.0, 2.0, 3.0], 10.0, 0.3), 3.0);
    }

    /// circuit-tracer's own example: c0..c4, errors e5..e8, tokens t9, t10, logit 11; all weights 10.
    /// logit ← c1, c3, e6, e8; c3 ← c0, c1, e6; c1 ← t9, t10; c0 ← t9.
    fn example() -> Graph {
        let links: Vec<(u32, u32, f32)> =
            [(1, 11), (3, 11), (6, 11), (8, 11), (0, 3), (1, 3), (6, 3), (9, 1), (10, 1), (9, 0)]
                .iter()
                .map(|(s, t)| (*s, *t, 10.0))
                .collect();
        let mut kinds = vec![Component; 5];
        kinds.extend([Missed; 4]);
        kinds.extend([Token, Token, Logit]);
        graph(&kinds, &[1.0], &links).unwrap()
    }

    /// (source, target) of the kept links.
    fn ends(g: &Graph, p: &Pruned) -> Vec<(usize, usize)> {
        g.triples().enumerate().filter(|(at, _)| p.links.contains(at)).map(|(_, (s, t, _))| (s, t)).collect()
    }

    #[test]
    fn pruning_by_hand() {
        let g = example();
        let influence = Influence::of(&g);
        // logit: 1/4 each to c1, c3, e6, e8; c3: 1/12 each to c0, c1, e6; so c1 = e6 = 1/3, c3 = e8 = 1/4,
        // c0 = 1/12; c1 gives 1/6 to t9 and t10, c0 1/12 to t9, which has 1/4.
        let expected = [1. / 12., 1. / 3., 0., 0.25, 0., 0., 1. / 3., 0., 0.25, 0.25, 1. / 6., 0.];
        for (a, b) in influence.values.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
        // Of 5/3 in all, 0.8 is 4/3: the two thirds and two of the quarters give 7/6, so a third quarter is
        // needed and c0 (1/12) goes.
        let p = prune(&g, &influence, 0.8, 1.0).unwrap();
        let kept: Vec<usize> = (0..12).filter(|i| p.nodes[*i]).collect();
        assert_eq!(kept, [1, 3, 6, 8, 9, 10, 11]);
        assert_eq!(ends(&g, &p), [(9, 1), (10, 1), (1, 3), (6, 3), (1, 11), (3, 11), (6, 11), (8, 11)]);
    }

    #[test]
    fn what_leads_nowhere_is_dropped_until_none_is_left() {
        // t3 → c0 → c1 → logit4, with c2 → c1; c2 has no way in. A weak link c0 → c1 goes with a low edge
        // threshold, after which c0 has no way out; c1 then lives of nothing once c2 is gone.
        let links = [(3, 0, 1.0), (0, 1, 0.01), (2, 1, 1.0), (1, 4, 1.0)];
        let g = graph(&[Component, Component, Component, Token, Logit], &[1.0], &links).unwrap();
        let p = prune(&g, &Influence::of(&g), 1.0, 0.9).unwrap();
        assert_eq!(p.nodes, [false, false, false, true, true]);
        assert!(p.links.is_empty());
    }

    #[test]
    fn thresholds_are_shares() {
        let g = example();
        let i = Influence::of(&g);
        assert!(prune(&g, &i, 1.1, 0.5).is_err_and(|e| e.is_request()));
        assert!(prune(&g, &i, 0.5, f64::NAN).is_err());
    }

    /// The definition, dense and literal.
    fn literal(g: &Graph, node_threshold: f64, edge_threshold: f64) -> (Vec<bool>, Vec<(usize, usize)>) {
        let n = g.nodes.len();
        let normalise = |a: &[Vec<f64>]| -> Vec<Vec<f64>> {
            a.iter()
                .map(|r| {
                    let sum = r.iter().map(|v| v.abs()).sum::<f64>().max(1e-10);
                    r.iter().map(|v| v.abs() / sum).collect()
                })
                .collect()
        };
        let influence = |a: &[Vec<f64>]| -> Vec<f64> {
            let times = |w: &[f64]| (0..n).map(|s| (0..n).map(|t| w[t] * a[t][s]).sum()).collect::<Vec<f64>>();
            let mut current = times(&g.nodes.iter().map(|n| n.prob).collect::<Vec<_>>());
            let mut total = current.clone();
            while current.iter().any(|v| *v > 0.0) {
                current = times(&current);
                total.iter_mut().zip(&current).for_each(|(t, c)| *t += c);
            }
            total
        };
        let threshold = |scores: &[f64], share: f64| {
            let mut sorted = scores.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = sorted.iter().sum();
            let mut sum = 0.0;
            sorted.iter().copied().find(|v| {
                sum += v;
                sum / total >= share - 1e-9
            })
        };
        let mut a = vec![vec![0.0; n]; n];
        for (s, t, w) in g.triples() {
            a[t][s] = f64::from(w);
        }
        let values = influence(&normalise(&a));
        let least = threshold(&values, node_threshold).unwrap_or(f64::INFINITY);
        let always = |i: usize| matches!(g.nodes[i].kind, Token | Logit);
        let mut nodes: Vec<bool> =
            (0..n).map(|i| always(i) || (values[i] > 0.0 && values[i] >= least - 1e-12)).collect();
        for t in 0..n {
            for s in 0..n {
                if !nodes[t] || !nodes[s] {
                    a[t][s] = 0.0;
                }
            }
        }
        let hat = normalise(&a);
        let inner = influence(&hat);
        let score = |t: usize, s: usize| hat[t][s] * (inner[t] + g.nodes[t].prob);
        let all: Vec<f64> = (0..n).flat_map(|t| (0..n).map(move |s| (t, s))).map(|(t, s)| score(t, s)).collect();
        let least = threshold(&all, edge_threshold).unwrap_or(f64::INFINITY);
        let mut edges: Vec<Vec<bool>> =
            (0..n).map(|t| (0..n).map(|s| score(t, s) > 0.0 && score(t, s) >= least - 1e-12).collect()).collect();
        loop {
            let before = nodes.clone();
            for i in 0..n {
                let out = (0..n).any(|t| edges[t][i]);
                let into = edges[i].iter().any(|e| *e);
                match g.nodes[i].kind {
                    Component => nodes[i] &= out && into,
                    Missed => nodes[i] &= out,
                    _ => {}
                }
            }
            for t in 0..n {
                for s in 0..n {
                    edges[t][s] &= nodes[t] && nodes[s];
                }
            }
            if nodes == before {
                break;
            }
        }
        let kept = g.triples().filter(|(s, t, _)| edges[*t][*s]).map(|(s, t, _)| (s, t)).collect();
        (nodes, kept)
    }

    proptest! {
        #[test]
        fn pruning_equals_the_dense_definition(
            weights in proptest::collection::vec(proptest::option::weighted(0.4, -1f32..1.0), 14 * 13 / 2),
            node_threshold in 0.3f64..1.0, edge_threshold in 0.3f64..1.0,
        ) {
            // Tokens 0–2, errors 3–4, components 5–11, logits 12–13, links from lower to higher ones.
            let mut kinds = vec![Token, Token, Token, Missed, Missed];
            kinds.extend([Component; 7]);
            kinds.extend([Logit, Logit]);
            let pairs = (0..14u32).flat_map(|t| (0..t).map(move |s| (s, t)));
            let links: Vec<(u32, u32, f32)> = pairs
                .zip(&weights)
                .filter(|((_, t), _)| *t > 4)
                .filter_map(|((s, t), w)| w.map(|w| (s, t, w)))
                .filter(|(s, _, _)| *s < 12)
                .collect();
            let g = graph(&kinds, &[0.6, 0.3], &links).unwrap();
            let i = Influence::of(&g);
            prop_assume!(i.values.iter().sum::<f64>() > 0.0);
            let p = prune(&g, &i, node_threshold, edge_threshold).unwrap();
            let (nodes, edges) = literal(&g, node_threshold, edge_threshold);
            prop_assert_eq!(&p.nodes, &nodes);
            prop_assert_eq!(ends(&g, &p), edges);
        }
    }
}
