//! `features dashboard`, `merge` and `show`: an index of where every feature is active, and one feature's page of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::{TextArgs, shown};
use crate::cli::output::{document, quoted};
use crate::cli::{ModelArgs, emit, note, progress, table};
use crate::error::{Error, Result};
use crate::features::direction::Concept;
use crate::features::labels::{self, Label, Labels, Unit};
use crate::features::page::{EACH, Effect, Written, neuronpedia, written};
use crate::features::rows::Rows;
use crate::features::scan::index::Index;
use crate::features::scan::index_file;
use crate::features::scan::{Plan, Subject, WINDOW};
use crate::features::writer::Writer;
use crate::features::{Dictionary, Place};
use crate::model::Model;
use crate::progress::Progress;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Dictionaries whose features are indexed; repeatable
    #[arg(long, value_name = "DIR", required_unless_present_any = ["neurons", "direction"])]
    dictionary: Vec<String>,
    /// The site that the dictionaries read, where their files do not say
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// The site that the transcoders among them write, where their files do not say
    #[arg(long, value_name = "SITE", requires = "site")]
    target: Option<String>,
    /// Layers whose neurons are indexed; repeatable
    #[arg(long, value_name = "LAYER")]
    neurons: Vec<usize>,
    /// Directions that `direction find` wrote, at their best layer or the one given; repeatable
    #[arg(long, value_name = "FILE[@LAYER]")]
    direction: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Index file to write (Arrow IPC); a folder where there are several subjects. An unfinished one is gone on with
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Scan only part I of N, counted from 0; put the parts together with `features merge`
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: String,
    /// Tokens shown on either side of an example
    #[arg(long, value_name = "N", default_value_t = WINDOW)]
    window: usize,
}

#[derive(clap::Args, Debug)]
pub struct Merge {
    /// Index files of all parts
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Index file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct Show {
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

fn shard(text: &str) -> Result<(usize, usize)> {
    text.split_once('/')
        .and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)))
        .filter(|(i, n)| i < n)
        .ok_or_else(|| {
            Error::request(format!("--shard {text} is not a part; give I/N with I from 0 to N − 1, as in 0/4"))
        })
}

pub fn execute(args: &Arguments) -> Result<()> {
    let shard = shard(&args.shard)?;
    let (progress, bar) = progress("scanning");
    let mut subjects = Vec::new();
    for spec in &args.dictionary {
        let mut d = crate::features::open(spec, &progress)?;
        if let Some(site) = args.site.as_ref().filter(|_| d.input.is_none()) {
            let target = args.target.as_deref().filter(|_| d.transcoder && d.output.is_none());
            d = d.placed(Place::parse(site)?, target.map(Place::parse).transpose()?)?;
        }
        subjects.push(Subject::Features(Arc::new(d)));
    }
    // Neurons and directions are correlated with the features of the first dictionary.
    let companion = subjects.iter().find_map(|s| match s {
        Subject::Features(d) => Some(d.clone()),
        _ => None,
    });
    subjects.extend(args.neurons.iter().map(|l| Subject::Neurons(*l)));
    for spec in &args.direction {
        subjects.push(read_out(spec)?);
    }
    let model = args.model.open()?;
    for s in &subjects {
        match s {
            Subject::Features(d) => drop(d.check(&model.config)?),
            Subject::Neurons(_) => s.place()?.check(&model.config)?,
            Subject::Direction(c, _) => c.check(&model)?,
        }
    }
    let several = subjects.len() > 1;
    let begins = |s: &Subject| match s {
        Subject::Features(d) => Some(d.wants_bos(&model)),
        _ => None,
    };
    let (with, without) =
        (subjects.iter().any(|s| begins(s) == Some(true)), subjects.iter().any(|s| begins(s) == Some(false)));
    if with && without && !args.text.bos {
        return Err(Error::request(
            "some of these dictionaries read text that begins with the beginning-of-sequence token and others do not; index them one by one, or give --bos",
        ));
    }
    let cut = args.text.cut(&model, companion.as_deref());
    let rows = Rows::cut(&model, &args.text.text, &cut, &progress)?;
    if several {
        std::fs::create_dir_all(&args.output).map_err(|e| Error::write(&args.output, e))?;
    }
    let started = Instant::now();
    let name = |(i, s): (usize, &Subject)| -> Result<PathBuf> {
        Ok(if several { args.output.join(format!("{i}-{}.arrow", s.place()?)) } else { args.output.clone() })
    };
    let paths = subjects.iter().enumerate().map(name).collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        model: &model,
        subjects,
        companion,
        rows: &rows,
        texts: args.text.text.clone(),
        context: args.text.context,
        limit: args.text.tokens,
        shard,
        window: args.window,
    };
    let indexes = plan.run(Some(&paths), &progress, &mut |_, _| {})?;
    let written: Vec<(PathBuf, Index)> = paths.into_iter().zip(indexes).collect();
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let files: Vec<_> = written
            .iter()
            .map(|(p, i)| json!({"output": shown(p), "about": i.about, "features": i.entries.len(), "dead": dead(i)}))
            .collect();
        return emit(&document(&model, None, seconds, json!({"indexes": files})).to_string());
    }
    let lines: Vec<String> = written
        .iter()
        .map(|(p, i)| {
            format!(
                "{}: {} of {} features active on {} positions at {}",
                p.display(),
                i.entries.len() - dead(i),
                i.entries.len(),
                i.about.positions,
                i.about.site
            )
        })
        .collect();
    emit(&format!("{}\n{seconds:.1} s", lines.join("\n")))
}

/// A direction by the path of its file and perhaps a layer.
fn read_out(spec: &str) -> Result<Subject> {
    let (path, layer) = match spec.rsplit_once('@').map(|(p, l)| (p, l.parse())) {
        // A file may have such a name itself.
        Some((path, Ok(layer))) if !Path::new(spec).is_file() => (path, Some(layer)),
        _ => (spec, None),
    };
    let concept = Concept::open(Path::new(path))?;
    let layer = concept.layer(layer)?;
    Ok(Subject::Direction(Arc::new(concept), layer))
}

fn dead(index: &Index) -> usize {
    index.entries.iter().filter(|e| e.active == 0).count()
}

pub fn merge(args: &Merge) -> Result<()> {
    // One at a time: a part may be large.
    let (first, others) = args.parts.split_first().ok_or_else(|| Error::request("name the parts to merge"))?;
    let started = Instant::now();
    let mut whole = index_file::open(first)?;
    whole.check_finished()?;
    for part in others {
        whole.absorb(index_file::open(part)?)?;
    }
    index_file::save(&whole, &args.output)?;
    let missing = whole.about.of.saturating_sub(whole.about.shards.len());
    if args.json {
        let doc = json!({"model": {"name": whole.about.model}, "seconds": started.elapsed().as_secs_f64(),
            "load_seconds": 0.0, "output": shown(&args.output), "about": whole.about, "missing": missing,
            "features": whole.entries.len()});
        return emit(&doc.to_string());
    }
    let left =
        if missing > 0 { format!("; {missing} of {} parts are still missing", whole.about.of) } else { String::new() };
    emit(&format!("{} positions in {}{left}", whole.about.positions, args.output.display()))
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
            note(&format!("circuitscope: no label is shown: {e}"));
            None
        }
    }
}

pub fn show(args: &Show) -> Result<()> {
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
            return emit(&document(&model, None, started.elapsed().as_secs_f64(), page).to_string());
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
