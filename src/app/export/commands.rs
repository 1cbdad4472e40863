//! The command lines that compute a view's numbers again.

use crate::analysis::sweep::Axes;
use crate::app::model::views;
use crate::app::state::State;
use crate::app::view::ViewDef;
use crate::session::code::Snippet;
use crate::session::desk::{Intervention, Source};

/// The command line for a view, where there is a subcommand with these numbers. Edits are not part of it.
pub fn command(state: &State, view: &ViewDef) -> Option<String> {
    let desk = state.desk();
    let token = |id: Option<u32>| id.zip(state.model.as_ref()).map(|(id, m)| m.token_text(id));
    let clean = state.clean()?;
    let (answer, wrong) = (token(clean.answer), token(clean.wrong));
    let asked = || {
        let against = wrong.as_ref().map_or_else(String::new, |w| format!(" --wrong {}", shell(w)));
        answer.as_ref().map(|a| format!(" --answer {}{against}", shell(a)))
    };
    let asked_or_none = || asked().unwrap_or_default();
    let prompt = match &desk.ids {
        Some(ids) => format!(" --ids {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        None => format!(" -p {}", shell(&desk.prompt)),
    };
    let model = format!(" -m {}", shell(&desk.model));
    let one = |name: &str| format!("circuitscope {name}{model}{prompt}");
    let pair = || {
        (!desk.corrupted.is_empty())
            .then(|| format!(" --clean {} --corrupt {}", shell(&desk.prompt), shell(&desk.corrupted)))
    };
    let is = |def: &ViewDef| view.name == def.name;
    let line = if is(&views::lens::VIEW) {
        format!("{} --pos all{}", one("lens"), asked_or_none())
    } else if is(&views::attribution::VIEW) {
        format!("{}{}", one("dla"), asked()?)
    } else if is(&views::entropy::VIEW) {
        one("entropy")
    } else if is(&views::attention::VIEW) {
        let p = desk.pinned;
        format!("{} --capture 'blocks.{}.attn.hook_pattern' -o pattern.safetensors", one("run"), p.layer)
    } else if is(&views::norms::VIEW) {
        format!("{} --capture 'blocks.*.hook_resid_post' -o stream.safetensors", one("run"))
    } else if is(&views::activations::VIEW) {
        format!("{} --capture 'blocks.{}.mlp.hook_post' -o neurons.safetensors", one("run"), desk.pinned.layer)
    } else if is(&views::graph::VIEW) {
        format!("{} -o graph.json", one("trace"))
    } else if is(&views::patching::VIEW) && desk.patching.source == Source::Exact {
        let (site, axes) = (views::patching::short_name(desk.patching.site), desk.patching.by);
        let head = match axes {
            Axes::DestSrc { layer, head } => format!(" --head {layer}.{head}"),
            _ => String::new(),
        };
        let grid = format!(" --site {site} --by {}{head}", axes.name());
        match state.intervention() {
            Intervention::Patch => format!("circuitscope patch{model}{}{}{grid}", pair()?, asked()?),
            Intervention::Ablate(with) => format!("{}{}{grid} --with {}", one("ablate"), asked()?, with.label()),
        }
    } else {
        return None;
    };
    Some(format!("{line} --json"))
}

/// The script for a view, where there is one.
pub fn snippet(state: &State, view: &ViewDef) -> Option<Snippet> {
    let is = |def: &ViewDef| view.name == def.name;
    Some(if is(&views::lens::VIEW) {
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

/// A text as one word for a shell.
fn shell(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::shell;

    #[test]
    fn shells_read_one_word() {
        assert_eq!([shell("text"), shell(" Mary"), shell("it's")], ["text", "' Mary'", "'it'\\''s'"]);
        assert_eq!(shell(""), "''");
    }
}
