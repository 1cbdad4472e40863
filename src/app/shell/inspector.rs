//! The inspector: everything known of what is selected.

use crate::app::model::ModelAction;
use eframe::egui::{self, RichText};

use crate::analysis::component::{Component, Part};
use crate::analysis::head_scores::SCORES;
use crate::app::look::theme;
use crate::app::shell::topbar::facts_table;
use crate::app::view::Context;
use crate::app::widgets::bars::{Bar, attended, bar};
use crate::app::widgets::colorbar::share;
use crate::app::widgets::token_text;
use crate::circuit::{Edge, Member, Receiver};
use crate::features::labels::Unit;
use crate::session::desk::Focus;

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let p = cx.pinned();
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        if cx.state.run().is_none() {
            if let Some(m) = cx.state.model.clone() {
                section(ui, cx, "Model");
                facts_table(ui, &m);
            } else {
                ui.label(RichText::new("Nothing is selected yet.").color(cx.palette.weak));
            }
            return;
        }
        // Always in this order: a click changes what is said, not where it stands.
        let parts = [Focus::Token, Focus::Head, Focus::Neuron].map(|part| {
            let from = ui.cursor().min.y;
            match part {
                Focus::Token => {
                    token(ui, cx);
                    lens(ui, cx);
                }
                Focus::Head => head(ui, cx),
                // A neuron belongs to the layer that it was chosen in; later that may be another one.
                Focus::Neuron if p.focus == part => neuron(ui, cx),
                Focus::Neuron => {}
            }
            (part, from)
        });
        // What has been clicked is brought into sight, once.
        let id = egui::Id::unique("inspected");
        let before = ui.data_mut(|d| d.get_temp::<Focus>(id));
        if before != Some(p.focus) {
            ui.data_mut(|d| d.insert_temp(id, p.focus));
            if let (Some(_), Some((_, from))) = (before, parts.iter().find(|(part, _)| *part == p.focus)) {
                let line = egui::Rect::from_x_y_ranges(ui.max_rect().x_range(), *from..=*from + 1.0);
                ui.scroll_to_rect(line, Some(egui::Align::Min));
            }
        }
    });
}

fn section(ui: &mut egui::Ui, cx: &Context<'_>, title: &str) {
    ui.add_space(8.0);
    ui.label(RichText::new(title).font(theme::title()).color(cx.palette.accent));
    ui.add_space(2.0);
}

fn fact(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, value: &str) {
    ui.horizontal(|ui| {
        ui.label(RichText::new(name).font(theme::small()).color(cx.palette.weak));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.label(RichText::new(value).font(theme::mono()));
        });
    });
}

fn caption(ui: &mut egui::Ui, cx: &Context<'_>, text: &str) {
    ui.add_space(4.0);
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
}

fn token(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let Some(run) = cx.run() else { return };
    let p = cx.pinned();
    let Some(text) = run.texts.get(p.pos) else { return };
    section(ui, cx, &format!("Token {} at {}", token_text::short(text, 20), p.pos));
    if let Some(whose) = cx.turns_of(&run).whose(p.pos) {
        fact(ui, cx, "turn", &whose);
    }
    fact(ui, cx, "token id", &run.trace.ids[p.pos].to_string());
    match run.trace.loss[p.pos] {
        Some(l) => fact(ui, cx, "surprise", &format!("{l:.2} nats")),
        None => fact(ui, cx, "surprise", "first token"),
    }
    fact(ui, cx, "entropy of what follows", &format!("{:.2} nats", run.trace.entropy[p.pos]));
    if let Some(l) = run.trace.mean_loss() {
        fact(ui, cx, "mean loss of the prompt", &format!("{l:.2} nats"));
    }
    caption(ui, cx, "most probable next tokens");
    let actual = run.trace.ids.get(p.pos + 1);
    for t in &run.trace.next[p.pos] {
        let label = token_text::short(&cx.text_of(t.id), 14);
        let b = Bar { label, value: t.prob, text: share(t.prob), strong: actual == Some(&t.id) };
        let text = cx.state.model.as_ref().map(|m| m.token_text(t.id));
        if bar(ui, &b, 1.0, false, 96.0)
            .on_hover_text(format!("id {}, logit {:.4}. Click to explain it.", t.id, t.logit))
            .clicked()
            && let Some(text) = text
        {
            cx.push(ModelAction::Answer(text));
        }
    }
}

/// What the pinned layer would predict here.
fn lens(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let p = cx.pinned();
    // After the last layer it is the prediction itself, which stands above.
    if cx.state.model.as_ref().is_some_and(|m| p.layer + 1 == m.config.n_layers) {
        return;
    }
    let Some(result) = cx.state.results.lens_here.get().cloned() else { return };
    let Some(cell) = result.value.cell(p.layer, p.pos) else { return };
    caption(ui, cx, &format!("logit lens at layer {}: entropy {:.2} nats", p.layer, cell.entropy));
    for t in &cell.top {
        let label = token_text::short(&cx.text_of(t.id), 14);
        bar(ui, &Bar { label, value: t.prob, text: share(t.prob), strong: false }, 1.0, false, 96.0);
    }
    if let Some(a) = &cell.answer {
        fact(ui, cx, "answer's probability", &share(a.prob));
        fact(ui, cx, "answer's rank", &(a.rank + 1).to_string());
    }
}

/// The button that puts something into the circuit.
fn collect(ui: &mut egui::Ui, cx: &mut Context<'_>, member: Member) {
    let inside = cx.state.desk().draft.contains(member);
    let text = if inside { "take out of the circuit" } else { "add to the circuit" };
    if ui.small_button(text).on_hover_text("C").clicked() {
        cx.push(ModelAction::Collect(member));
    }
}

fn head(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let p = cx.pinned();
    let Some(h) = p.head.filter(|_| !p.all_heads) else { return };
    section(ui, cx, &format!("Head {}.{h}", p.layer));
    collect(ui, cx, Component::Head { layer: p.layer, head: h }.into());
    let r = &cx.state.results;
    if let Some(a) = r.attribution.get()
        && let Some(v) = a.heads.get(p.layer).and_then(|row| row.get(h))
    {
        fact(ui, cx, "direct logit attribution", &format!("{v:+.2}"));
    }
    if let Some(m) = &cx.state.model
        && m.config.n_kv_heads < m.config.n_heads
    {
        fact(ui, cx, "reads KV head", &m.config.kv_head(h).to_string());
    }
    if let (Some(run), Some(norms)) = (cx.run(), r.norms.get()) {
        let heads = run.trace.model.config.n_heads;
        if let Some(v) = norms.heads.get(p.layer * heads + h).and_then(|row| row.get(p.pos)) {
            fact(ui, cx, "norm of what it writes here", &format!("{v:.2}"));
        }
    }
    let scores = [
        ("on this text", r.text_scores.get().map(|s| &s.now)),
        ("on random repeat", r.random_scores.get().map(|s| &*s.value)),
    ];
    ui.add_space(4.0);
    egui::Grid::new("scores").num_columns(3).min_col_width(78.0).spacing([8.0, 2.0]).show(ui, |ui| {
        ui.label(RichText::new("score").font(theme::small()).color(cx.palette.weak));
        for (name, _) in scores {
            ui.label(RichText::new(name).font(theme::small()).color(cx.palette.weak));
        }
        ui.end_row();
        for s in SCORES {
            ui.label(RichText::new(s.name()).font(theme::small())).on_hover_text(s.explain());
            for (_, scores) in scores {
                let v = scores.map(|x| x.get(s, p.layer, h));
                ui.label(RichText::new(v.map_or("–".to_owned(), |v| format!("{v:>6.2}"))).font(theme::mono()));
            }
            ui.end_row();
        }
    });
    let Some(pattern) = r.pattern.get().cloned().filter(|x| x.question.which == p.which()) else { return };
    let n = pattern.now.len().isqrt();
    if n == 0 || p.pos >= n {
        return;
    }
    caption(ui, cx, &format!("{} ({}) attends to", cx.token(p.pos), p.pos));
    let row = &pattern.now[p.pos * n..][..=p.pos];
    if let Some(key) = attended(ui, cx, row, p.key, 6, 96.0) {
        cx.pin(|p| p.key = Some(key));
    }
    why(ui, cx);
}

/// Why the head attends where it does, and what it does with it.
fn why(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let p = cx.pinned();
    let slot = &cx.state.results.why;
    if let Some(error) = slot.error() {
        caption(ui, cx, error);
        return;
    }
    let Some(result) = slot.get().cloned().filter(|r| r.fresh) else {
        if slot.is_running() {
            caption(ui, cx, "taking the head apart …");
        }
        return;
    };
    let (why, ov) = &*result.value;
    if (why.layer, Some(why.head), why.query) != (p.layer, p.head, p.pos) {
        return;
    }
    let text = format!(
        "why {} → {} ({:.2}): score {:+.2} above the other keys' mean",
        cx.token(why.query),
        cx.token(why.key),
        why.attention,
        why.advantage
    );
    caption(ui, cx, &text);
    let lists = [
        (
            Part::Query,
            "query from",
            &why.by_query,
            "parts of the score by what wrote the query; norm scales frozen, the sum is exact",
        ),
        (Part::Key, "key from", &why.by_key, "parts of the score by what wrote the key, against the other keys"),
        (Part::Value, "value from", &why.by_value, "shares of what the head reads out, by what wrote the values"),
    ];
    for (part, title, list, hint) in lists {
        ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak)).on_hover_text(hint);
        let max = list.first().map_or(1.0, |s| s.1.abs());
        for (component, value) in list.iter().take(4) {
            let label = component.map_or_else(|| "biases".to_owned(), |c| c.to_string());
            let b = Bar { label, value: *value, text: format!("{value:+.2}"), strong: false };
            let response = bar(ui, &b, max, true, 62.0);
            let Some(from) = *component else { continue };
            let response = response.on_hover_text("click shows a head; right click: this edge into the circuit");
            if response.secondary_clicked()
                && let Some(wiring) = cx.state.wiring()
                && let Some(sender) = wiring.sender(from)
                && let Some(receiver) = wiring.receiver(Receiver::Head { layer: why.layer, head: why.head, part })
            {
                cx.push(ModelAction::AddEdge(Edge { sender, receiver }));
            }
            let Component::Head { layer, head } = from else { continue };
            if response.hovered() {
                cx.hovered.head = Some((layer, head));
            }
            if response.clicked() {
                cx.pin(|p| (p.layer, p.head, p.key, p.focus) = (layer, Some(head), None, Focus::Head));
            }
        }
    }
    features(ui, cx);
    let Some(ov) = ov else { return };
    caption(ui, cx, "what attending to a token promotes (OV)");
    fact(ui, cx, "copying score", &format!("{:.2}", ov.copying));
    fact(ui, cx, "suppresses what it sees", &format!("{:.2}", ov.anti_copying));
    for (seen, promoted, logit) in ov.pairs.iter().take(5) {
        let text = format!(
            "{} → {}",
            token_text::short(&cx.text_of(*seen), 12),
            token_text::short(&cx.text_of(*promoted), 12)
        );
        fact(ui, cx, &text, &format!("{logit:+.2}"));
    }
    ui.label(RichText::new(format!("over {} tokens by themselves, after the first layer", ov.tried)).font(theme::small()).color(cx.palette.faint))
        .on_hover_text("copying: share of tokens among the 5 that attending to them promotes most; effective embedding · W_V · W_O · W_U [Elhage et al. 2021; Wang et al. 2022]");
}

/// Pairs of features at query and key that make the score, where the graph is on a set's features.
fn features(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let slot = &cx.state.results.looks;
    // What is wrong with the set is told where the graph would stand.
    if let Some(error) = slot.error().filter(|e| cx.state.results.graph.error() != Some(e)) {
        caption(ui, cx, error);
    }
    let Some(looks) = slot.get().filter(|l| l.fresh).map(|l| l.value.clone()) else { return };
    caption(ui, cx, &format!("in features: {}", looks.words()));
    let max = looks.features().next().map_or(1.0, |p| p.value.abs());
    for pair in looks.features().take(5) {
        let label = format!("{} · {}", looks.name(pair.query), looks.name(pair.key));
        let b = Bar { label, value: pair.value, text: format!("{:+.2}", pair.value), strong: false };
        bar(ui, &b, max, true, 96.0).on_hover_text(
            "LAYER:FEATURE at the query, then at the key: their part of the score, norm scales held still; all parts add up to it",
        );
    }
}

fn neuron(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let p = cx.pinned();
    let Some(i) = p.neuron else { return };
    let label = cx.state.features.labels.words(&Unit::Neuron(p.layer, i)).map(|l| format!(" · {l}"));
    section(ui, cx, &format!("Neuron {}.{i}{}", p.layer, label.unwrap_or_default()));
    collect(ui, cx, Member::Neuron { layer: p.layer, neuron: i });
    let r = &cx.state.results;
    if let Some(n) = r.neurons.get().filter(|n| n.layer == p.layer)
        && let Some(v) = n.order.iter().position(|o| *o == i).and_then(|at| n.values.get(at))
        && let Some(x) = v.get(p.pos)
    {
        fact(ui, cx, &format!("activation on {}", cx.token(p.pos)), &format!("{x:+.2}"));
    }
    let Some(tokens) = r.neuron_tokens.get().cloned().filter(|t| (t.value.layer, t.value.neuron) == (p.layer, i))
    else {
        caption(ui, cx, r.neuron_tokens.error().map_or("computing its tokens …", String::as_str));
        return;
    };
    let largest = |list: &[(u32, f32)]| list.first().map_or(1.0, |x| x.1.abs());
    let max = largest(&tokens.value.promoted).max(largest(&tokens.value.suppressed));
    for (title, list) in [
        ("promotes when positive (W_out · W_U, logit per unit)", &tokens.value.promoted),
        ("suppresses when positive", &tokens.value.suppressed),
    ] {
        caption(ui, cx, title);
        for (id, v) in list {
            let b = Bar {
                label: token_text::short(&cx.text_of(*id), 14),
                value: *v,
                text: format!("{v:+.2}"),
                strong: false,
            };
            bar(ui, &b, max, true, 96.0);
        }
    }
}
