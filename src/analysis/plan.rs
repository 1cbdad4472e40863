//! What a question would cost, before anything is computed: bytes and seconds, from the model's sizes and the length of
//! the prompt. Sizes are those at which the questions themselves refuse; seconds are guessed from this machine's speed.

use super::contributions::Contributions;
use super::sweep::{Axes, SITES, speed};
use crate::cost::Cost;
use crate::engine::logits::rows_at_once as logits_at_once;
use crate::engine::resume::{bytes_per_row, layer_weights, rows_at_once};
use crate::engine::{Freeze, Site, SiteKind, Trace, gradient};
use crate::model::Model;
use crate::model::config::ModelConfig;

/// What is asked of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Planned {
    Run,
    /// The logits of every layer and position.
    Lens,
    /// Everything that one kept run answers.
    Trace,
    /// Two runs and a sweep over a grid of the second.
    Sweep {
        site: SiteKind,
        by: Axes,
        runs: usize,
    },
    /// Two runs and a backward pass, for one site or for every one that can be swept.
    Nodes {
        site: Option<SiteKind>,
    },
    /// Two runs and as many backward passes, and edges of all pairs of components.
    Edges {
        steps: usize,
    },
    /// Two runs, and as many circuits.
    Circuits {
        circuits: usize,
    },
    /// A run, and its prediction traced back.
    Graph,
}

/// A work that goes over texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OverText {
    /// Features are indexed: so many of them, of dictionaries of so many bytes.
    Scan { features: usize, bytes: usize },
    /// What every head looks at.
    Heads,
    /// A Jacobian lens of so many layers; those beyond the model's do not count.
    Fit { layers: usize },
    /// Activations of so many numbers a position go to a file.
    Harvest,
}

impl Cost {
    /// The cost of so many multiplications beside a model's weights, in so many bytes beyond them.
    pub fn of(model: &Model, multiplications: f64, work: usize) -> Self {
        // Small products, attention and norms keep the whole at about two thirds of the peak.
        let seconds = 2.0 * multiplications / (0.65 * speed());
        Self { weights: model.weight_bytes() as u64, work: work as u64, seconds }
    }
}

/// The sites at which edges are attributed.
const EDGES: [SiteKind; 6] =
    [SiteKind::Q, SiteKind::K, SiteKind::V, SiteKind::ResidPost, SiteKind::MlpPre, SiteKind::MlpPreLinear];

/// The cost of a question on `n` tokens. The model's weights need not be read.
pub fn cost(model: &Model, n: usize, what: Planned) -> Cost {
    let c = &model.config;
    let per_row = c.n_layers * layer_weights(c);
    let unembed = c.d_model * c.d_vocab;
    // A search in a large model takes more multiplications than integers count. Of a head's pattern half is masked, and it is
    // made once and read once.
    let attention = (c.n_layers * c.n_heads * c.d_head) as f64 * (n * n) as f64;
    let pass = n as f64 * (per_row + unembed) as f64 + attention;
    let kept = Trace::bytes_for(model, n);
    let logits = 4 * logits_at_once(n, c.d_vocab) * c.d_vocab;
    let rows = n * bytes_per_row(c);
    let there = |kinds: &[SiteKind]| kinds.iter().copied().filter(|k| k.exists(c)).collect::<Vec<_>>();
    let (multiplications, work) = match what {
        Planned::Run => (pass, rows + logits),
        Planned::Lens => (pass + (c.n_layers * n) as f64 * unembed as f64, kept + rows.max(logits)),
        Planned::Trace => (pass, kept + rows.max(logits)),
        Planned::Sweep { site, by, runs } => {
            let (cells, bytes) = sweep(c, n, site, by);
            (runs as f64 * pass + cells as f64 * layer_weights(c) as f64, runs * kept + bytes.max(rows).max(logits))
        }
        Planned::Nodes { site } => {
            let sites = site.map_or_else(|| there(&SITES), |site| there(&[site]));
            (4.0 * pass, 2 * kept + gradient::bytes_for(c, n, &sites, &[], Freeze::default()))
        }
        Planned::Edges { steps } => {
            let probed = there(&EDGES);
            let edges = receivers(c) * senders(c);
            let vectors = 4 * (receivers(c) + 4 * senders(c)) * n * c.d_model;
            let backward =
                gradient::bytes_for(c, n, &probed, &[SiteKind::ResidPre, SiteKind::ResidMid], Freeze::default());
            (
                (2.0 + 2.0 * steps as f64) * pass + edges as f64 * (n * c.d_model) as f64,
                2 * kept + backward.max(4 * edges) + vectors,
            )
        }
        // A circuit's parts are computed once more, from sums over what is written before them.
        Planned::Circuits { circuits } => {
            let edges = receivers(c) * senders(c);
            let vectors = 4 * (receivers(c) + 4 * senders(c)) * n * c.d_model;
            (
                (2.0 + circuits as f64) * pass + circuits as f64 * edges as f64 * (n * c.d_model) as f64,
                2 * kept + rows.max(logits) + 2 * vectors,
            )
        }
        Planned::Graph => {
            let parts = 1 + c.n_layers * (c.n_heads + 2);
            let edges = parts * parts * n * (n + 1) / 2;
            let backward = gradient::bytes_for(c, n, &there(&[SiteKind::Z, SiteKind::MlpPost]), &[], Freeze::ALL);
            // Of a layer all products of sources with destinations are held at once.
            let products = 2 * c.n_heads * parts * n * n;
            let vectors = 8 * parts * n * c.d_model + products;
            (3.0 * pass + edges as f64 * c.d_model as f64 / 2.0, kept + backward.max(vectors))
        }
    };
    Cost::of(model, multiplications, work)
}

/// The cost of a question on a run of `n` tokens, or a pair of them, that is there already.
pub fn cost_on_run(model: &Model, n: usize, what: Planned) -> Cost {
    let runs = match what {
        Planned::Run => 0,
        Planned::Sweep { runs, .. } => runs,
        Planned::Lens | Planned::Trace | Planned::Graph => 1,
        Planned::Nodes { .. } | Planned::Edges { .. } | Planned::Circuits { .. } => 2,
    };
    let (all, run) = (cost(model, n, what), cost(model, n, Planned::Run));
    let held = (runs * Trace::bytes_for(model, n)) as u64;
    Cost { work: all.work.saturating_sub(held), seconds: (all.seconds - runs as f64 * run.seconds).max(0.0), ..all }
}

/// The cost of reading the logits of `rows` rows of the stream.
pub fn cost_of_logits(model: &Model, rows: usize) -> Cost {
    let c = &model.config;
    let held = 4 * logits_at_once(rows, c.d_vocab) * c.d_vocab;
    Cost::of(model, rows as f64 * (c.d_model * c.d_vocab) as f64, held)
}

/// Tokens that go through the model together in works over texts.
const TOGETHER: usize = 512;
/// Bytes of what an index keeps of a feature, at most.
const INDEXED: usize = 96 << 10;
/// Bytes that all of an index takes, at most.
const INDEX: usize = 6 << 30;

/// The cost of a work over `tokens` tokens in rows of `row`.
pub fn cost_over(model: &Model, tokens: usize, row: usize, what: OverText) -> Cost {
    let c = &model.config;
    let pass = c.n_layers * layer_weights(c);
    let row = row.min(c.n_ctx).max(1);
    let (per_token, kept) = match what {
        OverText::Scan { features, bytes } => {
            // Encoding, and an index beside a copy of it that is written.
            (pass + bytes / 4, bytes + 2 * features.saturating_mul(INDEXED).min(INDEX) + (1 << 30))
        }
        // Every pattern is looked at number by number, twice as slow as a product.
        // Of some rows what every component writes is kept as well, and copied once.
        OverText::Heads => {
            let patterns = 8 * TOGETHER.max(row) * c.n_heads * row;
            (pass + 8 * c.n_layers * c.n_heads * row, patterns + 2 * Contributions::bytes(c, row, c.n_layers - 1))
        }
        // A batch of cotangents for each output goes back through the layers, about a forward pass each.
        OverText::Fit { layers } => {
            let layers = layers.min(c.n_layers - 1);
            (2 * pass * c.d_model, 4 * 4 * layers * c.d_model * c.d_model)
        }
        OverText::Harvest => (pass, 1 << 28),
    };
    Cost::of(model, tokens as f64 * per_token as f64, TOGETHER.max(row) * bytes_per_row(c) + kept)
}

/// The cost of so many steps of training a dictionary, of `batch` positions each: `width` numbers that it reads and writes at
/// a position, and its features.
pub fn training_cost(steps: usize, batch: usize, (width, features): (usize, usize)) -> Cost {
    let weights = width * features;
    // Forward and back.
    let seconds = 2.0 * steps as f64 * (2 * batch * weights) as f64 / (0.65 * speed());
    // Weights, gradients, both of Adam's means and the checkpoint; a batch's activations twice.
    let bytes = 4 * (5 * weights + 2 * batch * features);
    Cost { weights: 0, work: bytes as u64, seconds }
}

/// The components that write, and the inputs that read, of a circuit's wiring.
fn senders(c: &ModelConfig) -> usize {
    1 + c.n_layers * (c.n_heads + usize::from(c.has_mlp()))
}

fn receivers(c: &ModelConfig) -> usize {
    1 + c.n_layers * (3 * c.n_heads + usize::from(c.has_mlp()))
}

/// Rows × layers that a sweep computes at most, and the bytes that it holds.
fn sweep(c: &ModelConfig, n: usize, site: SiteKind, by: Axes) -> (usize, usize) {
    let by_layer: usize = (0..c.n_layers).map(|l| c.n_layers - l).sum();
    let by_position = n * (n + 1) / 2;
    let heads = if matches!(site, SiteKind::K | SiteKind::V) { c.n_kv_heads } else { c.n_heads };
    let row_layers = match by {
        Axes::Layer => by_layer * n,
        Axes::LayerPos => by_layer * by_position,
        Axes::LayerHead => by_layer * heads * n,
        Axes::LayerHeadPos => by_layer * heads * by_position,
        Axes::DestSrc { layer, .. } => (c.n_layers - layer.min(c.n_layers - 1)) * n * by_position,
    };
    let layers = if matches!(by, Axes::DestSrc { .. }) { 1 } else { c.n_layers };
    let copies = 8 * layers * Site::new(site, 0).shape(c, n).iter().product::<usize>();
    let edges = site == SiteKind::Pattern;
    let held = rows_at_once(c, n, edges).max(n);
    let patterns = if edges { 12 * c.n_heads * n * held } else { 0 };
    (row_layers, copies + held * bytes_per_row(c) + patterns)
}

/// Returns the longest prompt, up to `most` tokens, whose cost stays within `free` bytes; 0 where there is none.
pub fn longest(model: &Model, what: Planned, free: u64, most: usize) -> usize {
    let fits = |n: usize| cost(model, n, what).bytes() <= free;
    let (mut low, mut high) = (0, most + 1);
    while low + 1 < high {
        let middle = usize::midpoint(low, high);
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
