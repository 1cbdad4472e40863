//! `features dashboard`: scans a text and writes an index of where every feature is active.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{TextArgs, shown};
use crate::analysis::plan::OverText;
use crate::cli::submit::{Work, dictionary_bytes};
use crate::cli::{Job, ModelArgs, ShardArgs};
use crate::error::{Error, Result};
use crate::features::Place;
use crate::features::direction::Concept;
use crate::features::rows::Rows;
use crate::features::scan::index::Index;
use crate::features::scan::{Plan, Subject, WINDOW};
use crate::files::Claim;

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
    #[command(flatten)]
    shard: ShardArgs,
    /// Tokens shown on either side of an example
    #[arg(long, value_name = "N", default_value_t = WINDOW)]
    window: usize,
}

impl Arguments {
    /// What is gone over.
    pub fn work(&self) -> Work<'_> {
        let bytes: usize = self.dictionary.iter().map(|d| dictionary_bytes(d)).sum();
        // A feature has a row of each matrix, of a thousand numbers or so.
        let features = bytes / (8 << 10) + 4096 * (self.neurons.len() + self.direction.len());
        self.text.work(&self.model, OverText::Scan { features, bytes })
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let shard = args.shard.shard.begin(Some(&args.output))?;
    let mut job = Job::begin(&args.model, "scanning")?;
    let model = job.model.clone();
    let mut subjects = Vec::new();
    for spec in &args.dictionary {
        let mut d = crate::features::open(spec, &job.progress)?;
        if let Some(site) = args.site.as_ref().filter(|_| d.input.is_none()) {
            let target = args.target.as_deref().filter(|_| d.transcoder && d.output.is_none());
            d = d.placed(Place::parse(site)?, target.map(Place::parse).transpose()?)?;
        }
        super::check(&model, &d);
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
    let rows = Rows::cut(&model, &args.text.text, &cut, &job.progress)?;
    // The files of several lie in a folder, which another dashboard would write over.
    let _claim = several.then(|| Claim::of(&args.output)).transpose()?;
    job.restart();
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
    let indexes = plan.run(Some(&paths), &job.progress, &mut |_, _| {})?;
    let written: Vec<(PathBuf, Index)> = paths.into_iter().zip(indexes).collect();
    let seconds = job.stop();
    let json = || {
        let files: Vec<_> = written
            .iter()
            .map(|(p, i)| json!({"output": shown(p), "about": i.about, "features": i.entries.len(), "dead": dead(i)}))
            .collect();
        json!({"indexes": files})
    };
    let text = || {
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
        format!("{}\n{seconds:.1} s", lines.join("\n"))
    };
    job.finish(None, json, text)
}

/// Opens a direction: the path of its file and perhaps a layer.
fn read_out(spec: &str) -> Result<Subject> {
    let (path, layer) = match spec.rsplit_once('@').map(|(p, l)| (p, l.parse())) {
        // A file may itself be called so.
        Some((path, Ok(layer))) if !Path::new(spec).is_file() => (path, Some(layer)),
        _ => (spec, None),
    };
    let concept = Concept::open(Path::new(path))?;
    let layer = concept.layer(layer)?;
    Ok(Subject::Direction(Arc::new(concept), layer))
}

/// Counts the features that are active nowhere.
fn dead(index: &Index) -> usize {
    index.entries.iter().filter(|e| e.active == 0).count()
}
