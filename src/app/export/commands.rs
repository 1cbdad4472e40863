//! The command lines that compute a view's numbers again.

use crate::analysis::patching::Ablation;
use crate::analysis::sweep::Axes;
use crate::app::features::views::probes;
use crate::app::model::views;
use crate::app::state::State;
use crate::app::view::ViewDef;
use crate::engine::edit::FeatureChange;
use crate::engine::{Hold, RunSide};
use crate::features::direction::concept::Pool;
use crate::graph::SILENT;
use crate::graph::features::effect::changes;
use crate::graph::features::opened::Live;
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::probes::question::{Kind, site_name};
use crate::probes::set::Texts;
use crate::session::code::Snippet;
use crate::session::desk::{GraphDirection, GraphTarget, Intervention, Show, Source};
use crate::shell::word;

/// The command line for a view, where there is a subcommand with the numbers that it shows: those of the clean run, and of
/// sweeps over pairs that correspond as they were found.
pub fn command(state: &State, view: &ViewDef) -> Option<String> {
    let desk = state.desk();
    let is = |def: &ViewDef| view.name == def.name;
    let model = format!(" -m {}", word(&desk.model));
    if is(&probes::VIEW) {
        return probe(&probes::settings_of(desk), &model);
    }
    let clean = state.clean()?;
    let line = if is(&views::patching::VIEW) {
        sweep(state, &model)?
    } else {
        if state.shown_run()?.stamp.0 != Show::Clean || desk.show == Show::Difference {
            return None;
        }
        let pos = desk.pinned.pos;
        let token = |id: Option<u32>| id.zip(state.model.as_ref()).map(|(id, m)| word(&m.token_name(id)));
        let (answer, wrong) = clean.asked_at(&clean.trace, pos);
        let against = |flag: &str| token(wrong).map_or_else(String::new, |w| format!(" {flag} {w}"));
        let asked = format!(" --answer {}{}", token(answer)?, against("--wrong"));
        let one = |name: &str| format!("circuitscope {name}{model}{}", text(state, "-p", "--ids"));
        if is(&views::lens::VIEW) {
            // The answer that is followed is the prompt's, whatever is pinned.
            let read = views::lens::read(desk, state.model.as_ref()?)?;
            let swap = if read.swapped { format!(" --swap {}", token(clean.answer)?) } else { String::new() };
            let faithful = if read.faithful { format!(" --faithful{swap}") } else { String::new() };
            match &read.lens {
                Some(lens) => format!("{} --lens {}{faithful}", one("jlens read"), word(lens)),
                None => {
                    let wrong = token(clean.wrong).map_or_else(String::new, |w| format!(" --wrong {w}"));
                    let answer = token(clean.answer).map_or_else(String::new, |a| format!(" --answer {a}{wrong}"));
                    format!("{} --pos all{answer}{faithful}", one("lens"))
                }
            }
        } else if is(&views::attribution::VIEW) {
            format!("{} --pos {pos}{asked}", one("dla"))
        } else if is(&views::attention::VIEW) {
            let layer = desk.pinned.layer;
            format!("{} --capture 'blocks.{layer}.attn.hook_pattern' -o pattern.safetensors", one("run"))
        } else if is(&views::norms::VIEW) {
            format!("{} --capture 'blocks.*.hook_resid_post' -o stream.safetensors", one("run"))
        } else if is(&views::activations::VIEW) && clean.trace.model.config.has_mlp() {
            format!("{} --capture 'blocks.{}.mlp.hook_post' -o neurons.safetensors", one("run"), desk.pinned.layer)
        } else if is(&views::entropy::VIEW) {
            // The view keeps its unit by the name that the command line has for it.
            let unit = desk.views.get(view.name).and_then(|v| v.as_str()).unwrap_or("nats");
            format!("{} --pos all --unit {unit}", one("entropy"))
        } else if is(&views::graph::VIEW) && desk.graph.file.is_none() {
            let (nodes, links) = state.results.drawing.value()?.thresholds;
            let target = explained(state)?;
            let attention = match desk.graph.attention {
                Attention::Frozen => "frozen",
                Attention::FirstOrder => "first-order",
            };
            let of = match &desk.graph.set {
                Some(set) => {
                    let most = desk.graph.most.map_or_else(String::new, |n| format!(" --max-features {n}"));
                    format!("--dictionary {}{}{most}", word(set), silent(desk.graph.silent()))
                }
                None => format!("--attention {attention}"),
            };
            let cut = format!("{of} --node-threshold {nodes:.6} --edge-threshold {links:.6}");
            format!("{} --pos {pos}{target} {cut} -o graph.json", one("trace"))
        } else {
            return None;
        }
    };
    Some(format!("{line} --json"))
}

/// The options that name what the graph explains; `None` for a direction that lies in no file.
fn explained(state: &State) -> Option<String> {
    let (graph, model) = (&state.desk().graph, state.model.as_ref()?);
    match (graph.target, &graph.direction) {
        (GraphTarget::Tokens, _) if graph.set.is_some() => {
            let tokens = graph.tokens.split(',').filter(|t| !t.trim().is_empty());
            return Some(tokens.map(|t| format!(" --target {}", word(t))).collect());
        }
        (GraphTarget::Direction, Some(GraphDirection::File(path))) if graph.set.is_some() => {
            return Some(format!(" --direction {}", word(path)));
        }
        (GraphTarget::Direction, Some(GraphDirection::Found { .. })) if graph.set.is_some() => return None,
        _ => {}
    }
    let token = |id: u32| word(&model.token_name(id));
    Some(match state.graph_target()? {
        Target::Top => String::new(),
        Target::Token(a) => format!(" --target {}", token(a)),
        Target::Difference(a, b) => format!(" --target {} --against {}", token(a), token(b)),
    })
}

/// The commands for probes and for an interchange; of texts that lie in no file there are none.
fn probe(settings: &probes::ProbesSettings, model: &str) -> Option<String> {
    let file = |texts: &Texts| match texts {
        Texts::Set(spec) => Some(word(spec)),
        Texts::Typed(_) => None,
    };
    let list = |items: Vec<String>| word(&items.join(","));
    let read = |site, pool: Pool| format!("--site {} --pool {}", site_name(site), pool.name());
    let fit = settings.fit.as_ref().and_then(|r| {
        let kind = match r.kind {
            Kind::Linear => format!("--random {}", r.random),
            Kind::Sparse(k) => format!("--k {k}"),
        };
        let layers: Vec<String> = r.layers.iter().map(ToString::to_string).collect();
        let layers = if layers.is_empty() { String::new() } else { format!(" --layers {}", list(layers)) };
        let (set, read, seed) = (file(&r.texts)?, read(r.site, r.pool), r.seed);
        Some(format!("circuitscope probe fit{model} --set {set} {read} {kind}{layers} --seed {seed} --json"))
    });
    // A direction of the monitor lies in no file.
    let interchange = settings.interchange.as_ref().filter(|i| i.direction.is_none()).and_then(|i| {
        let r = &i.recipe;
        let (set, answers) = (file(&r.texts)?, list(r.answers.clone()));
        let (layer, rank, pairs, seed) = (r.layer, r.rank, r.pairs, r.seed);
        let k = match r.kind {
            Kind::Linear => String::new(),
            Kind::Sparse(k) => format!(" --k {k}"),
        };
        let read = read(r.site, r.pool);
        let numbers = format!("{read} --layer {layer}{k} --rank {rank} --pairs {pairs} --seed {seed}");
        Some(format!("circuitscope probe interchange{model} --set {set} --answers {answers} {numbers} --json"))
    });
    let lines: Vec<String> = [fit, interchange].into_iter().flatten().collect();
    (!lines.is_empty()).then(|| lines.join(" && "))
}

/// The option for first positions that are left out, where it is not the usual number.
fn silent(n: usize) -> String {
    if n == SILENT { String::new() } else { format!(" --silent {n}") }
}

/// The command line that gives features of the graph's set the values that the stack gives them, where the stack does
/// nothing else.
pub fn intervention(state: &State) -> Option<String> {
    let desk = state.desk();
    let Live { found, set, .. } = state.live_graph()?;
    let (changes, others) = changes(&found, &desk.stack);
    if others > 0 || changes.is_empty() || desk.stack.base != RunSide::Clean {
        return None;
    }
    let value = |change: &FeatureChange| match change {
        FeatureChange::Set(v) => v.to_string(),
        FeatureChange::Scale(f) => format!("{f}x"),
    };
    let set_to: String = changes
        .iter()
        .map(|((layer, pos, feature), change)| format!(" --set {layer}:{pos}:{feature}={}", value(change)))
        .collect();
    let layers = match &desk.stack.hold {
        Hold::Part(layers) => {
            format!(" --layers {}", layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        }
        _ => String::new(),
    };
    let (model, prompt) = (word(&desk.model), text(state, "-p", "--ids"));
    Some(format!(
        "circuitscope features intervene -m {model}{prompt} --dictionary {}{}{set_to} --mode {}{layers} --json",
        word(&set.spec),
        silent(found.silent),
        desk.stack.hold.name()
    ))
}

/// The sweep that the patching view shows.
fn sweep(state: &State, model: &str) -> Option<String> {
    let desk = state.desk();
    let (settings, pair) = (desk.patching, state.pair()?);
    if settings.source != Source::Exact || desk.alignment.is_some() || !desk.stack.reference.is_empty() {
        return None;
    }
    let clean = state.clean()?;
    let token = |id: Option<u32>| id.zip(state.model.as_ref()).map(|(id, m)| word(&m.token_name(id)));
    // The window chooses the answers that are not given; on the command line they are named.
    let (answer, wrong) = pair.answers(clean.answer, clean.wrong);
    let asked = format!(" --answer {} --wrong {} --metric {}", token(answer)?, token(wrong)?, settings.metric.name());
    let head = match settings.by {
        Axes::DestSrc { layer, head } => format!(" --head {layer}.{head}"),
        _ => String::new(),
    };
    let grid = format!(" --site {} --by {}{head}", views::patching::short_name(settings.site), settings.by.name());
    let corrupted = || (!desk.corrupted.is_empty()).then(|| format!(" --corrupt {}", word(&desk.corrupted)));
    Some(match state.intervention() {
        Intervention::Patch => {
            let clean = text(state, "--clean", "--clean-ids");
            format!("circuitscope patch{model}{clean}{}{asked}{grid}", corrupted()?)
        }
        Intervention::Ablate(with) => {
            let prompt = text(state, "-p", "--ids");
            let other = if with == Ablation::Resample { corrupted()? } else { String::new() };
            format!("circuitscope ablate{model}{prompt}{asked}{grid} --with {}{other}", with.label())
        }
    })
}

/// The prompt, or the ids in its place: a conversation's as well, whose messages lie in no file.
fn text(state: &State, by_text: &str, by_ids: &str) -> String {
    let desk = state.desk();
    let laid = state.clean().map(|run| &run.trace.ids[..]).filter(|_| desk.conversation.is_some());
    let prompt = &desk.prompt;
    match laid.or(desk.ids.as_deref()) {
        Some(ids) => format!(" {by_ids} {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        None => format!(" {by_text} {}", word(prompt)),
    }
}

/// The script for a view, where there is one.
pub fn snippet(state: &State, view: &ViewDef) -> Option<Snippet> {
    let is = |def: &ViewDef| view.name == def.name;
    Some(if is(&views::lens::VIEW) {
        views::lens::read(state.desk(), state.model.as_ref()?).filter(|read| read.lens.is_none())?;
        Snippet::Lens
    } else if is(&views::attribution::VIEW) {
        Snippet::Attribution
    } else if is(&views::attention::VIEW) {
        Snippet::Pattern
    } else if is(&views::patching::VIEW) {
        match state.intervention() {
            Intervention::Patch => Snippet::Patching,
            Intervention::Ablate(_) => Snippet::Ablation,
        }
    } else if is(&views::generation::VIEW) || is(&views::edits::VIEW) {
        Snippet::Run
    } else {
        return None;
    })
}
