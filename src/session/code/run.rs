//! What is said of a run: next tokens, a pattern, the lens, what adds to the answer.

use super::script::{Script, ending, print_grid};
use super::{Facts, Snippet};
use crate::analysis::patterns::PatternChoice;
use crate::engine::{Edit, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::config::{NormPlacement, Positions as Embedding};
use crate::session::Desk;

pub(super) fn next_tokens(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let (answer, wrong) = (facts.clean.answer, facts.clean.wrong);
    let compares = answer.is_some() && wrong.is_some();
    let mut prints = "the most probable tokens after the prompt".to_owned();
    if compares {
        prints += ", the logit difference of two answers";
    }
    if shown.trace.len() > 1 {
        prints += ", the mean loss in nats";
    }
    let mut s = Script::begin(facts, Snippet::Run, &prints);
    s.shown(desk, &shown)?;
    s.line("");
    s.run(&shown, None);
    s.line("result = logits[0, -1].softmax(-1).topk(10)");
    s.line("for prob, token in zip(result.values, result.indices):");
    s.line("    print(f\"{prob.item():.6f}  {logits[0, -1, token].item():9.4f}  {model.tokenizer.decode([token.item()])!r}\")");
    if compares {
        s.answers(answer, wrong);
        s.line("difference = (logits[0, -1, answer] - logits[0, -1, wrong]).item()");
        s.line("print(\"logit difference\", difference)");
    }
    if shown.trace.len() > 1 {
        s.line("loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()");
        s.line("print(\"loss\", loss)");
    }
    Ok(s.text)
}

pub(super) fn pattern(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let which = desk.pinned.which();
    let of = match which {
        PatternChoice::Head(layer, head) => format!("head {layer}.{head}"),
        PatternChoice::LayerMean(layer) => format!("layer {layer}, the mean of its heads"),
        PatternChoice::ModelMean => "the mean of all heads".to_owned(),
    };
    let prints = format!("{of}, one row for each query and one column for each key");
    let mut s = Script::begin(facts, Snippet::Pattern, &prints);
    s.shown(desk, &shown)?;
    s.line("");
    let one = |layer: usize| format!("\"{}\"", Site::new(SiteKind::Pattern, layer));
    match which {
        PatternChoice::Head(layer, head) => {
            s.line(&format!("name = {}", one(layer)));
            s.run(&shown, Some("name"));
            s.line(&format!("result = cache[name][0, {head}]"));
        }
        PatternChoice::LayerMean(layer) => {
            s.line(&format!("name = {}", one(layer)));
            s.run(&shown, Some("name"));
            s.line("result = cache[name][0].mean(0)");
        }
        PatternChoice::ModelMean => {
            s.run(&shown, Some(&ending(SiteKind::Pattern)));
            s.line(
                "patterns = [cache[f\"blocks.{layer}.attn.hook_pattern\"][0] for layer in range(model.cfg.n_layers)]",
            );
            s.line("result = torch.stack(patterns).mean((0, 1))");
        }
    }
    print_grid(&mut s);
    Ok(s.text)
}

pub(super) fn lens(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let answer = facts.clean.answer;
    let wrong = facts.clean.wrong.filter(|_| answer.is_some());
    let mut columns = vec!["the most probable token", "its probability"];
    if answer.is_some() {
        columns.push("that of the answer");
    }
    if wrong.is_some() {
        columns.push("the logit difference");
    }
    let prints =
        format!("for each layer and the pinned position, {}; `result` holds all positions", columns.join(", "));
    let mut s = Script::begin(facts, Snippet::Lens, &prints);
    s.shown(desk, &shown)?;
    s.answers(answer, wrong);
    s.line(&format!("pos = {}", position(desk, shown.trace)));
    s.line("");
    s.run(&shown, Some(&ending(SiteKind::ResidPost)));
    s.line("result = []  # of each layer, for all positions");
    s.line("for layer in range(model.cfg.n_layers):");
    s.line("    resid = cache[f\"blocks.{layer}.hook_resid_post\"]");
    s.line("    logits = model.unembed(model.ln_final(resid))[0]");
    if let Some(cap) = facts.config().final_softcap {
        s.line(&format!("    logits = {cap:?} * (logits / {cap:?}).tanh()  # the model's cap"));
    }
    s.line("    probs = logits.softmax(-1)");
    s.line("    row = {\"token\": probs.argmax(-1), \"prob\": probs.amax(-1)}");
    if answer.is_some() {
        s.line("    row[\"answer\"] = probs[:, answer]");
    }
    if wrong.is_some() {
        s.line("    row[\"difference\"] = logits[:, answer] - logits[:, wrong]");
    }
    s.line("    result.append(row)");
    s.line("    numbers = [f\"{name} {value[pos].item():.4f}\" for name, value in row.items() if name != \"token\"]");
    s.line("    print(layer, repr(model.tokenizer.decode([row[\"token\"][pos].item()])), *numbers)");
    Ok(s.text)
}

/// The pinned position: the end, until another one is chosen.
fn position(desk: &Desk, trace: &Trace) -> usize {
    let last = trace.len().saturating_sub(1);
    if desk.chose_pos { desk.pinned.pos.min(last) } else { last }
}

pub(super) fn attribution(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let c = facts.config();
    let at_embedding = |e: &Edit| e.site.kind == SiteKind::Embed || e.site == Site::new(SiteKind::ResidPre, 0);
    if shown.edited && desk.stack.active().any(at_embedding) {
        return Err(Error::request(
            "the embedding is edited, whose part is then not told from the edit's in code; switch that edit off",
        ));
    }
    let post_norm = matches!(c.norm_placement, NormPlacement::Post | NormPlacement::Sandwich);
    if post_norm && c.centres() {
        return Err(Error::request("this model centres what attention writes, which is not written as code"));
    }
    let pos = position(desk, shown.trace);
    let other_length = shown.trace.len() != facts.clean.trace.len();
    if shown.edited && other_length && (facts.clean.answer.is_none() || pos + 1 != shown.trace.len()) {
        return Err(Error::request(
            "the edited run's own favourite is explained; type an answer and pin the last token",
        ));
    }
    let (answer, wrong) = facts.clean.asked_at(shown.trace, pos);
    let answer = answer.ok_or_else(|| Error::request("there is no token to explain; type an answer"))?;
    let of = if wrong.is_some() { "the logit difference" } else { "the answer's logit" };
    let prints = format!("what each component adds to {of}, with the final norm's scale held still");
    let mut s = Script::begin(facts, Snippet::Attribution, &prints);
    s.shown(desk, &shown)?;
    s.answers(Some(answer), wrong);
    s.line(&format!("pos = {pos}"));
    s.line("");
    s.line("KEPT = (\"hook_resid_pre\", \"hook_resid_post\", \"hook_z\", \"hook_mlp_out\", \"hook_scale\")");
    s.run(&shown, Some("lambda name: name.endswith(KEPT)"));
    s.line(if wrong.is_some() {
        "direction = model.W_U[:, answer] - model.W_U[:, wrong]"
    } else {
        "direction = model.W_U[:, answer]"
    });
    // Gemma's gains are stored without the 1 that is added to them.
    let one = if c.family.starts_with("gemma") { "1 + " } else { "" };
    let gain = |norm: &str| if one.is_empty() { format!("{norm}.weight") } else { format!("({one}{norm}.weight)") };
    s.line(&format!("reading = direction * {}", gain("model.ln_final")));
    if c.centres() {
        s.line("reading = reading - reading.mean()");
    }
    s.line("reading = reading / cache[\"ln_final.hook_scale\"][0, pos]");
    let positions = if c.positions == Embedding::Learned { "  # with the position's" } else { "" };
    s.line(&format!("parts = {{\"embed\": (cache[\"blocks.0.hook_resid_pre\"][0, pos] @ reading).item()}}{positions}"));
    s.line("for layer in range(model.cfg.n_layers):");
    s.line("    z, W_O = cache[f\"blocks.{layer}.attn.hook_z\"][0, pos], model.blocks[layer].attn.W_O");
    if post_norm {
        s.line("    norm = model.blocks[layer].ln1_post  # on what attention writes; its scale is held still as well");
        s.line(&format!(
            "    local = reading * {} / cache[f\"blocks.{{layer}}.ln1_post.hook_scale\"][0, pos]",
            gain("norm")
        ));
        s.line("    heads = torch.einsum(\"hd,hdm,m->h\", z, W_O, local)");
    } else {
        s.line("    heads = torch.einsum(\"hd,hdm,m->h\", z, W_O, reading)");
    }
    s.line("    parts.update({f\"a{layer}.h{head}\": part.item() for head, part in enumerate(heads)})");
    if c.has_mlp() {
        s.line("    parts[f\"m{layer}\"] = (cache[f\"blocks.{layer}.hook_mlp_out\"][0, pos] @ reading).item()");
    }
    s.line(&format!("resid = cache[\"blocks.{}.hook_resid_post\"][:, pos]", c.n_layers - 1));
    s.line("logit = (model.ln_final(resid)[0] @ direction).item()");
    if facts.model().weights.unembed_bias.is_some() {
        let minus = if wrong.is_some() { " - model.b_U[wrong]" } else { "" };
        s.line(&format!("logit += (model.b_U[answer]{minus}).item()"));
    }
    let rest = if shown.edited { "biases and edits" } else { "biases" };
    s.line(&format!("parts[\"{rest}\"] = logit - sum(parts.values())"));
    s.line("result = parts");
    s.line("for name, part in sorted(parts.items(), key=lambda item: -abs(item[1]))[:20]:");
    s.line("    print(f\"{name:8}{part:+.4f}\")");
    s.line(&format!("print(\"sum\", logit){}", c.final_softcap.map_or("", |_| "  # before the model's cap")));
    Ok(s.text)
}
