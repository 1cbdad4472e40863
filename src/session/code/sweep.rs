//! Sweeps of patching and ablation, as loops.

use super::places::{pairs, same_places, sound};
use super::script::{Script, ending, list, print_grid, wrapped};
use super::{Facts, Snippet};
use crate::analysis::metric::Metric;
use crate::analysis::patching::Ablation;
use crate::analysis::sweep::Axes;
use crate::engine::resolve::Alignment;
use crate::engine::{Action, SiteKind};
use crate::error::{Error, Result};
use crate::session::Desk;
use crate::session::desk::{Intervention, Source};

pub(super) fn patching(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    if desk.patching.source != Source::Exact {
        return Err(Error::request(
            "approximate numbers are shown, which are not written as code; choose the exact ones and copy again",
        ));
    }
    if facts.pair.corrupted.is_none() {
        return Err(Error::request("patching compares two prompts; type a corrupted prompt"));
    }
    Sweep::of(desk, facts, None)?.write()
}

pub(super) fn ablation(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let with = match desk.patching.intervention {
        Some(Intervention::Ablate(with)) => with,
        _ => Ablation::Zero,
    };
    if with == Ablation::Resample && facts.pair.corrupted.is_none() {
        return Err(Error::request("resampling takes values from the other prompt; type a corrupted prompt"));
    }
    if with == Ablation::Mean && desk.patching.site == SiteKind::Pattern {
        return Err(Error::request(
            "patterns cannot be mean-ablated, their rows differ in length; choose zero or resample",
        ));
    }
    Sweep::of(desk, facts, Some(with))?.write()
}

/// A sweep that is to be written as loops.
struct Sweep<'a> {
    desk: &'a Desk,
    facts: Facts<'a>,
    /// `None` for patching.
    with: Option<Ablation>,
    metric: Metric,
    site: SiteKind,
    axes: Vec<(&'static str, usize)>,
    /// From the edited run's positions to the other's, where values are copied.
    alignment: Option<Alignment>,
}

impl<'a> Sweep<'a> {
    fn of(desk: &'a Desk, facts: Facts<'a>, with: Option<Ablation>) -> Result<Self> {
        use crate::analysis::patching::{ablation, patching};
        let settings = desk.patching;
        let (answer, wrong) = facts.pair.answers(facts.clean.answer, facts.clean.wrong);
        let metric = settings.metric.with(answer, wrong)?;
        let sweep = match with {
            None => patching(settings.site, settings.by, metric),
            Some(with) => ablation(settings.site, settings.by, with, metric),
        };
        let base = facts.pair.run(sweep.base)?;
        sweep.check(base)?;
        sound(facts.config(), settings.site)?;
        let copies = matches!(sweep.action, Action::Copy(_));
        let alignment = copies.then(|| facts.pair.alignment_from(sweep.base));
        if let Some(a) = &alignment
            && settings.site == SiteKind::Pattern
        {
            same_places(a, facts.pair.run(sweep.base.other())?.len())?;
        }
        Ok(Self { desk, facts, with, metric, site: settings.site, axes: sweep.axes(base), alignment })
    }

    fn write(&self) -> Result<String> {
        let what = if self.with.is_none() { Snippet::Patching } else { Snippet::Ablation };
        let axes: Vec<&str> = self.axes.iter().map(|(name, _)| *name).collect();
        let site = self.site.hook().rsplit("hook_").next().unwrap_or_default();
        let label = self.metric.kind().label();
        let prints = match self.with {
            None => format!(
                "{site} of the clean run in the corrupted one, by {}: 0 is the corrupted run's {label}, 1 the clean one's",
                axes.join(", ")
            ),
            Some(with) => {
                format!("change of the {label} under {} ablation of {site}, by {}", with.label(), axes.join(", "))
            }
        };
        let mut s = Script::begin(self.facts, what, &prints);
        s.prompt("clean", &self.facts.clean.trace);
        if let Some(corrupted) = self.facts.pair.corrupted.as_deref().filter(|_| self.alignment.is_some()) {
            s.prompt("corrupted", corrupted);
        }
        s.line("");
        self.write_metric(&mut s);
        self.write_sources(&mut s)?;
        self.write_loops(&mut s);
        print_grid(&mut s);
        Ok(s.text)
    }

    fn write_metric(&self, s: &mut Script<'_>) {
        let tokens = self.metric.tokens();
        s.answers(tokens.first().copied(), tokens.get(1).copied());
        if self.metric == Metric::Kl {
            s.line("clean_log_probs = model(clean)[0, -1].log_softmax(-1)");
        }
        s.line("\n\ndef metric(logits):");
        s.line(match self.metric {
            Metric::LogitDifference { .. } => "    return (logits[0, -1, answer] - logits[0, -1, wrong]).item()",
            Metric::Logit { .. } => "    return logits[0, -1, answer].item()",
            Metric::Probability { .. } => "    return logits[0, -1].softmax(-1)[answer].item()",
            Metric::Rank { .. } => "    return (logits[0, -1] > logits[0, -1, answer]).sum().item()",
            Metric::Kl => {
                "    log_probs = logits[0, -1].log_softmax(-1)\n    return (clean_log_probs.exp() * (clean_log_probs - log_probs)).sum().item()"
            }
        });
        s.line("\n");
    }

    /// Writes the runs that values are taken from, and the unedited metrics.
    fn write_sources(&self, s: &mut Script<'_>) -> Result<()> {
        let filter = ending(self.site);
        let keep = |s: &mut Script<'_>, name: &str, of: &str| {
            s.line(&format!("_, {name} = model.run_with_cache({of}, names_filter={filter})"));
        };
        match self.with {
            None => keep(s, "cache", "clean"),
            Some(Ablation::Resample) => keep(s, "cache", "corrupted"),
            Some(_) => {}
        }
        if self.with == Some(Ablation::Mean) && !self.desk.stack.reference.is_empty() {
            s.references(&self.desk.stack.reference, &filter)?;
        }
        let own_mean = self.with == Some(Ablation::Mean) && self.desk.stack.reference.is_empty();
        if self.site == SiteKind::ResidMid {
            let both = "lambda name: name.endswith((\"hook_resid_pre\", \"hook_resid_mid\"))";
            s.line(&format!("_, own = model.run_with_cache({}, names_filter={both})", self.base()));
        } else if own_mean {
            keep(s, "own", self.base());
        }
        if self.with.is_none() {
            s.line("at_clean, at_corrupted = metric(model(clean)), metric(model(corrupted))");
        } else {
            s.line("baseline = metric(model(clean))");
            s.line("print(\"without ablation\", baseline)");
        }
        if let Some((to, from)) = self.moved() {
            s.line(&wrapped("positions = [", &to, "]  # of the edited run"));
            s.line(&wrapped("sources = [", &from, "]  # their counterparts in the other one"));
        }
        Ok(())
    }

    /// The prompt whose run is edited.
    fn base(&self) -> &'static str {
        if self.with.is_none() { "corrupted" } else { "clean" }
    }

    /// The positions that are copied to and from, where they are not all of both prompts in their order.
    fn moved(&self) -> Option<(Vec<usize>, Vec<usize>)> {
        let alignment = self.alignment.as_ref()?;
        let all = alignment.iter().enumerate().all(|(i, p)| *p == Some(i));
        (!all).then(|| pairs(alignment, 0..alignment.len()))
    }

    fn write_loops(&self, s: &mut Script<'_>) {
        let shape: Vec<usize> = self.axes.iter().map(|(_, n)| *n).collect();
        let edge = matches!(self.desk.patching.by, Axes::DestSrc { .. });
        // What causality forbids stays as it is; a position without a counterpart has no value.
        s.line(&if edge {
            format!("result = torch.zeros({})", list(&shape))
        } else {
            format!("result = torch.full({}, float(\"nan\"))", list(&shape))
        });
        let moved = self.moved().is_some();
        let mut depth = 0;
        let mut open = |s: &mut Script<'_>, line: &str| {
            s.line(&format!("{}{line}", "    ".repeat(depth)));
            depth += 1;
        };
        if let Axes::DestSrc { layer, head } = self.desk.patching.by {
            s.line(&format!("layer, head = {layer}, {head}"));
        }
        for (axis, n) in &self.axes {
            match *axis {
                "layer" => open(s, &format!("for layer in range({n}):")),
                "head" | "kv_head" => open(s, &format!("for head in range({n}):")),
                "pos" if moved => open(s, "for pos, source in zip(positions, sources):"),
                "pos" => open(s, &format!("for pos in range({n}):")),
                "dest" => open(s, &format!("for dest in range({n}):")),
                _ => open(s, "for src in range(dest + 1):"),
            }
        }
        let names: Vec<&str> = self.axes.iter().map(|(a, _)| if *a == "kv_head" { "head" } else { *a }).collect();
        let has = |name: &str| names.contains(&name) || edge && name == "head";
        let (at, of) = self.indices(&has, moved);
        let tab = "    ".repeat(depth);
        // TransformerLens' hook_resid_mid reaches the MLP alone; the stream is changed by what attention adds to it.
        let mid = self.site == SiteKind::ResidMid;
        let hook = if mid { SiteKind::AttnOut } else { self.site };
        s.line(&format!("{tab}name = f\"blocks.{{layer}}.{}\"\n", self.site.hook()));
        s.line(&format!("{tab}def edit(value, hook):"));
        let new = match self.with {
            None | Some(Ablation::Resample) => format!("cache[name][{of}]"),
            Some(Ablation::Zero) => "0.0".to_owned(),
            Some(Ablation::Mean) => {
                let head = if has("head") { "[head]" } else { "" };
                let rows = if self.desk.stack.reference.is_empty() {
                    "own[name][0]"
                } else {
                    "torch.cat([c[name][0] for c in caches])"
                };
                format!("{rows}.mean(0){head}")
            }
        };
        if mid {
            s.line(&format!(
                "{tab}    # hook_resid_mid itself reaches the MLP alone: the stream is set by what attention adds to it"
            ));
        }
        s.line(&format!("{tab}    value = value.clone()"));
        s.line(&if mid {
            format!("{tab}    value[{at}] = {new} - own[f\"blocks.{{layer}}.hook_resid_pre\"][{at}]")
        } else {
            format!("{tab}    value[{at}] = {new}")
        });
        s.line(&format!("{tab}    return value\n"));
        let hooked = if mid { format!("f\"blocks.{{layer}}.{}\"", hook.hook()) } else { "name".to_owned() };
        s.line(&format!("{tab}logits = model.run_with_hooks({}, fwd_hooks=[({hooked}, edit)])", self.base()));
        let cell = names.join(", ");
        s.line(&match self.with {
            None => format!("{tab}result[{cell}] = (metric(logits) - at_corrupted) / (at_clean - at_corrupted)"),
            Some(_) => format!("{tab}result[{cell}] = metric(logits) - baseline"),
        });
    }

    /// The part of a value that a cell changes, and the part of the other run's that is copied there.
    fn indices(&self, has: &dyn Fn(&str) -> bool, moved: bool) -> (String, String) {
        if self.site == SiteKind::Pattern {
            let at = match (has("dest"), has("pos")) {
                (true, _) => ":, head, dest, src",
                (false, true) => ":, head, pos",
                (false, false) => ":, head",
            };
            return (at.to_owned(), at.to_owned());
        }
        let head = if has("head") { ", head" } else { "" };
        let (to, from) = match (has("pos"), moved) {
            (true, true) => ("pos", "source"),
            (true, false) => ("pos", "pos"),
            (false, true) => ("positions", "sources"),
            (false, false) => (":", ":"),
        };
        (format!(":, {to}{head}"), format!(":, {from}{head}"))
    }
}
