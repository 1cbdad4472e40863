//! `features show`: prints the page of one feature, neuron or direction out of an index.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::cli::output::{document, quoted};
use crate::cli::{ModelArgs, emit, note, table};
use crate::error::{Error, Result};
use crate::features::dashboard::{EACH, Effect, effects, neighbours, neuron_direction, neuronpedia};
use crate::features::labels::{self, Label, Labels, Unit};
use crate::features::scan::Subject;
use crate::features::scan::index::{Example, Index};
use crate::features::scan::index_file;
use crate::features::{Dictionary, Place};
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

/// The direction that the shown unit (a feature, a neuron or a concept's direction) writes, and the dictionary that
/// knows about it.
struct Written {
    direction: Option<Vec<f32>>,
    dictionary: Option<Arc<Dictionary>>,
    /// True where the unit is one of the dictionary's features.
    is_feature: bool,
    /// The layer of a neuron.
    layer: Option<usize>,
}

impl Written {
    fn of(args: &Arguments, model: &Model, index: &Index) -> Result<Self> {
        let dictionary =
            args.dictionary.as_ref().map(|d| crate::features::open(d, &Progress::new())).transpose()?.map(Arc::new);
        if let Some(layer) = index.about.subject.strip_prefix("neurons of layer ").and_then(|l| l.parse().ok()) {
            let direction = Some(neuron_direction(model, layer, args.feature)?);
            return Ok(Self { direction, dictionary, is_feature: false, layer: Some(layer) });
        }
        let Some(d) = &dictionary else {
            return Ok(Self { direction: None, dictionary, is_feature: false, layer: None });
        };
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
        Ok(Self { direction: Some(d.summed_direction(args.feature)?), dictionary, is_feature: true, layer: None })
    }

    /// Returns the direction where it lies in the residual stream, so that its effect on the logits is known.
    fn in_stream(&self, model: &Model) -> Option<&[f32]> {
        let there = !self.is_feature || self.dictionary.as_ref().is_some_and(|d| d.output.is_none_or(Place::in_stream));
        self.direction.as_deref().filter(|d| there && d.len() == model.config.d_model)
    }

    /// Returns the label that the user gave it in the window.
    fn label(&self, number: usize, index: &Index, model: &Model) -> Option<Label> {
        let own = || labels::of_model(&labels::folder(), model);
        let (file, unit) = match (&self.dictionary, self.layer) {
            (_, Some(layer)) => (own(), Unit::Neuron(layer, number)),
            (Some(d), None) if self.is_feature => {
                (Ok(labels::of_dictionary(&labels::folder(), d)), Unit::Feature(number as u32))
            }
            // A feature whose dictionary is not given has a path for a subject, and no direction has such a name.
            _ => (own(), Unit::Direction(index.about.subject.clone())),
        };
        match file.and_then(|f| Labels::open(&f)) {
            Ok(labels) => labels.of(&unit).cloned(),
            // The page is useful without a label.
            Err(e) => {
                note(&format!("circuitscope: no label is shown: {e}"));
                None
            }
        }
    }

    /// Returns the features that write in the same direction, with cosines; none where they write to a site of another
    /// width.
    fn neighbours(&self, feature: usize) -> Result<Vec<(usize, f32)>> {
        match (&self.dictionary, &self.direction) {
            (Some(d), Some(v)) if d.d_out == v.len() && (self.is_feature || d.output.is_none_or(Place::in_stream)) => {
                neighbours(d, v, self.is_feature.then_some(feature))
            }
            _ => Ok(Vec::new()),
        }
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let index = index_file::open(&args.index)?;
    let model = args.model.open()?;
    if model.config.name != index.about.model {
        return Err(Error::request(format!(
            "the index was made with {}, not {}; open it with that model",
            index.about.model, model.config.name
        )));
    }
    let started = Instant::now();
    let entry = index.entries.get(args.feature).ok_or_else(|| {
        Error::request(format!(
            "there is no feature {}; the index has 0 to {}",
            args.feature,
            index.entries.len().saturating_sub(1)
        ))
    })?;
    let written = Written::of(args, &model, &index)?;
    let label = if args.neuronpedia && !args.model.json { None } else { written.label(args.feature, &index, &model) };
    if args.neuronpedia || args.model.json {
        let mut page = neuronpedia(&model, &index, args.feature, written.in_stream(&model))?;
        page["features"] = json!(entry.features);
        page["neurons"] = json!(entry.neurons);
        if args.model.json {
            page["label"] = json!(label);
            page["neighbours"] = json!(written.neighbours(args.feature)?);
            let logits = written.in_stream(&model).map(|d| effects(&model, d)).transpose()?;
            page["logit_histogram"] = json!(logits.map(|e| json!({"range": e.range, "values": e.histogram})));
            page["about"] = json!(index.about);
            return emit(&document(&model, None, started.elapsed().as_secs_f64(), page).to_string());
        }
        return emit(&page.to_string());
    }
    let example = |e: &Example| {
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
    // The name of a direction says already where it lies.
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
    if let Some(d) = written.in_stream(&model) {
        let e = effects(&model, d)?;
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
    let near: Vec<(u32, f32)> = written.neighbours(args.feature)?.into_iter().map(|(i, c)| (i as u32, c)).collect();
    if !near.is_empty() {
        text.push_str(&format!("\nnearest decoder rows {}", list(&near)));
    }
    if let Some(l) = &label {
        text.push_str(&format!("\nlabel: {} {}", l.label, l.note));
    }
    emit(&text)
}
