//! `features show`: prints the page of one feature, neuron or direction out of an index.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::cli::output::{document, quoted};
use crate::cli::{ModelArgs, emit, emit_json, table, warn};
use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::features::labels::{self, Label, Labels, Unit};
use crate::features::page::{EACH, Effect, Written, neuronpedia, written};
use crate::features::scan::index::Index;
use crate::features::scan::{Subject, index_file};
use crate::features::writer::Writer;
use crate::model::Model;
use crate::progress::Progress;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Index file
    index: PathBuf,
    /// The feature (or neuron; a direction is number 0 of its index)
    #[arg(long, value_name = "N", default_value_t = 0)]
    feature: usize,
    /// The dictionary, for what the feature promotes and its neighbours
    #[arg(long, value_name = "DIR")]
    dictionary: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print the page in the JSON that Neuronpedia's viewers read
    #[arg(long)]
    neuronpedia: bool,
}

/// Returns what writes the direction of an index's unit, where that is known: without its dictionary a feature's is not.
fn writer(number: usize, index: &Index, dictionary: Option<&Arc<Dictionary>>) -> Result<Option<Writer>> {
    if let Some(layer) = index.about.layer_of_neurons() {
        return Ok(Some(Writer::Neuron(layer, number)));
    }
    let Some(d) = dictionary else { return Ok(None) };
    if Subject::Features(d.clone()).hash()? != index.about.subject_hash {
        return Err(Error::request(format!(
            "the index is of {}, {} features at {}; {} is another dictionary of {}",
            index.about.subject,
            index.entries.len(),
            index.about.site,
            d.path.display(),
            d.d_sae
        )));
    }
    Ok(Some(Writer::Feature(d.clone(), number)))
}

/// Returns what the user called a unit, in the window.
fn label(writer: Option<&Writer>, index: &Index, model: &Model) -> Option<Label> {
    let own = || labels::of_model(&labels::folder(), model);
    let (file, unit) = match writer {
        Some(Writer::Neuron(layer, n)) => (own(), Unit::Neuron(*layer, *n)),
        Some(Writer::Feature(d, f)) => (Ok(labels::of_dictionary(&labels::folder(), d)), Unit::Feature(*f as u32)),
        // Without its dictionary a feature goes by a path, which is no direction's name.
        _ => (own(), Unit::Direction(index.about.subject.clone())),
    };
    match file.and_then(|f| Labels::open(&f)) {
        Ok(labels) => labels.of(&unit).cloned(),
        // The page is whole without it.
        Err(e) => {
            warn(&format!("no label is shown: {e}"));
            None
        }
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let index = index_file::open(&args.index)?;
    let model = args.model.open()?;
    index.check_model(&model)?;
    let started = Instant::now();
    let entry = index.entries.get(args.feature).ok_or_else(|| {
        Error::request(format!(
            "there is no feature {}; the index has 0 to {}",
            args.feature,
            index.entries.len().saturating_sub(1)
        ))
    })?;
    let dictionary = args.dictionary.as_ref().map(|d| crate::features::open(d, &Progress::new())).transpose()?;
    dictionary.iter().for_each(|d| super::check(&model, d));
    let dictionary = dictionary.map(Arc::new);
    let writer = writer(args.feature, &index, dictionary.as_ref())?;
    let known = writer.as_ref().map(|w| written(&model, w, dictionary.as_deref())).transpose()?;
    let Written { effects, neighbours } = known.unwrap_or_default();
    let label = if args.neuronpedia && !args.model.json { None } else { label(writer.as_ref(), &index, &model) };
    if args.neuronpedia || args.model.json {
        let mut page = neuronpedia(&model, &index, args.feature, effects.as_ref())?;
        page["features"] = json!(entry.features);
        page["neurons"] = json!(entry.neurons);
        if args.model.json {
            page["label"] = json!(label);
            page["neighbours"] = json!(neighbours);
            page["logit_histogram"] = json!(effects.map(|e| json!({"range": e.range, "values": e.histogram})));
            page["about"] = json!(index.about);
            return emit_json(document(&model, None, started.elapsed().as_secs_f64(), page));
        }
        return emit(&page.to_string());
    }
    let example = |e: &crate::features::scan::index::Example| {
        let text: String = e
            .tokens
            .iter()
            .enumerate()
            .map(|(i, id)| {
                let t = model.token_text(*id).replace('\n', "⏎");
                if i == e.at() { format!("»{t}«") } else { t }
            })
            .collect();
        vec![text, format!("{:.3}", e.value)]
    };
    let mut rows: Vec<Vec<String>> = entry.top.iter().map(example).collect();
    for group in entry.quantile_groups(EACH).iter().rev().filter(|g| !g.is_empty()) {
        rows.push(vec!["·".to_owned(), String::new()]);
        rows.extend(group.iter().map(|e| example(e)));
    }
    // A direction says itself where it lies.
    let of = match index.about.subject.ends_with(&format!(" at {}", index.about.site)) {
        true => index.about.subject.clone(),
        false => format!("feature {} of {} at {}", args.feature, index.about.subject, index.about.site),
    };
    let mut text = format!(
        "{of}\nactive at {:.4} % of {} positions, {:.3} on average, {:.3} at most\n\n{}",
        100.0 * index.density(args.feature),
        index.about.positions,
        entry.mean(),
        entry.max,
        table(&["example", "activation"], &rows)
    );
    if let Some(e) = &effects {
        let list = |l: &[Effect]| {
            l.iter().map(|e| format!("{} {:+.2}", quoted(&e.text), e.logit)).collect::<Vec<_>>().join("  ")
        };
        text.push_str(&format!("\n\npromotes   {}\nsuppresses {}", list(&e.promoted), list(&e.suppressed)));
    }
    let list = |l: &[(u32, f32)]| l.iter().map(|(i, c)| format!("{i} {c:.2}")).collect::<Vec<_>>().join("  ");
    if !entry.features.is_empty() {
        let of = index.about.features_of.as_ref().map_or(String::new(), |d| format!(" of {d}"));
        text.push_str(&format!("\ncorrelated features{of}  {}", list(&entry.features)));
    }
    if !entry.neurons.is_empty() {
        text.push_str(&format!("\ncorrelated neurons  {}", list(&entry.neurons)));
    }
    let near: Vec<(u32, f32)> = neighbours.into_iter().map(|(i, c)| (i as u32, c)).collect();
    if !near.is_empty() {
        text.push_str(&format!("\nnearest decoder rows {}", list(&near)));
    }
    if let Some(l) = &label {
        text.push_str(&format!("\nlabel: {} {}", l.label, l.note));
    }
    emit(&text)
}
