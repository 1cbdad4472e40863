//! `render`: draws any view to PNG or SVG without a window.

use crate::app::model::ModelAction;
use crate::cli::writable;
use std::path::{Path, PathBuf};

use eframe::egui;

use super::sweep::{DoArg, SiteArg, parse_axes};
use super::{Start, emit};
use crate::analysis::patching::Ablation;
use crate::analysis::run::laid;
use crate::app::action::Action;
use crate::app::features::{Chosen, FeatureAction, Scanned};
use crate::app::look::picture::{Scene, Subject, png};
use crate::app::shell::layout::Layout;
use crate::app::shell::session::apart;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Workspace;
use crate::app::{App, view};
use crate::engine::SiteKind;
use crate::error::{Error, Result};
use crate::features::dictionary::formats;
use crate::features::dictionary::store::path_of;
use crate::features::direction::Method;
use crate::features::direction::concept::Pool;
use crate::features::direction::search::{DirectionSearch, Examples};
use crate::files::write_atomic;
use crate::graph::part::mlp_id;
use crate::graph::readers::Attention;
use crate::model::Model;
use crate::session::Desk;
use crate::session::desk::{Focus, Intervention, PatchSettings};
use crate::superposition::Recipe;
use crate::superposition::presets::{self, PRESETS};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    what: Start,
    /// View to draw, or `window` for everything
    #[arg(long, value_name = "NAME")]
    view: String,
    /// Where to write the picture
    #[arg(short, long, value_name = "FILE.png|svg", value_parser = writable)]
    output: PathBuf,
    /// Size in points
    #[arg(long, default_value = "1280x800", value_name = "WxH")]
    size: String,
    /// Pixels per point
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    scale: f32,
    /// Colours: dark, or light for projectors and papers
    #[arg(long, default_value = "dark", value_parser = ["dark", "light"])]
    theme: String,
    /// Head to show large, as LAYER.HEAD
    #[arg(long, value_name = "L.H")]
    head: Option<String>,
    /// Layer whose neurons to show
    #[arg(long, value_name = "L")]
    layer: Option<usize>,
    /// Position to pin (default: the last)
    #[arg(long, value_name = "N")]
    pos: Option<usize>,
    /// Run that the views show (default: edited where there are edits, else clean)
    #[arg(long, value_parser = ["clean", "corrupted", "edited", "difference"])]
    show: Option<String>,
    /// Sweep of the patching view: where
    #[arg(long, value_enum)]
    site: Option<SiteArg>,
    /// Sweep of the patching view: over which axes
    #[arg(long, value_name = "AXES", requires = "site")]
    by: Option<String>,
    /// Sweep of the patching view: what is done at each cell
    #[arg(long = "do", value_enum)]
    intervention: Option<DoArg>,
    /// A circuit file for the circuit view
    #[arg(long, value_name = "FILE.json")]
    circuit: Option<PathBuf>,
    /// A prompt set that the circuit is tried on, with the curve over sizes
    #[arg(long, value_name = "NAME|FILE.toml", requires = "circuit")]
    set: Option<String>,
    /// A graph file for the graph view
    #[arg(long, value_name = "FILE.json")]
    graph: Option<PathBuf>,
    /// Shares of influence that the graph view's nodes and links hold
    #[arg(long, value_name = "NODE,EDGE", value_delimiter = ',')]
    thresholds: Option<Vec<f64>>,
    /// Whether the graph view's attention patterns are held still or followed
    #[arg(long, value_enum)]
    attention: Option<Attention>,
    /// MLPs of the graph to take apart into neurons, as 0@9 for layer 0 at position 9
    #[arg(long, value_name = "LAYER@POS", value_delimiter = ',', value_parser = layer_at)]
    open_mlp: Vec<(usize, usize)>,
    /// A second circuit file that the first is compared with
    #[arg(long, value_name = "FILE.json", requires = "circuit")]
    compare: Option<PathBuf>,
    /// Dictionary for the views of features
    #[arg(long, value_name = "DIR")]
    dictionary: Option<String>,
    /// Feature whose page is shown
    #[arg(long, value_name = "N")]
    feature: Option<u32>,
    /// Scan so many tokens of the shipped text for examples
    #[arg(long, value_name = "TOKENS")]
    scan: Option<usize>,
    /// Scan so many tokens for the pinned layer's neurons
    #[arg(long, value_name = "TOKENS")]
    scan_neurons: Option<usize>,
    /// Example set whose direction is found (sentiment, royalty, code-vs-prose, or a file); repeatable
    #[arg(long, value_name = "SET")]
    direction: Vec<String>,
    /// Lay the map of features out
    #[arg(long)]
    map: bool,
    /// Try doses along what is shown
    #[arg(long, requires = "towards", value_name = "TOKENS", allow_hyphen_values = true)]
    away: Option<String>,
    /// Tokens between commas whose probability is to rise
    #[arg(long, value_name = "TOKENS", allow_hyphen_values = true)]
    towards: Option<String>,
    /// Figure for the superposition lab's views (see `superposition --preset list`)
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Steps of the superposition lab's training instead of the preset's
    #[arg(long, value_name = "N", requires = "preset")]
    steps: Option<usize>,
    /// Model of the superposition lab to select, from 0
    #[arg(long, value_name = "K", requires = "preset")]
    instance: Option<usize>,
    /// Tokens to generate for the generation view
    #[arg(long, value_name = "N")]
    generate: Option<usize>,
}

/// Reads a layer and a position, as `0@9`.
fn layer_at(text: &str) -> std::result::Result<(usize, usize), String> {
    let parts = text.split_once('@').and_then(|(l, p)| Some((l.parse().ok()?, p.parse().ok()?)));
    parts.ok_or_else(|| "write LAYER@POSITION, as 0@9".to_owned())
}

/// Returns the sweep that the picture shows, where it shows one.
fn patching(args: &Arguments, app: &App) -> Result<Option<PatchSettings>> {
    let asked = args.site.is_some() || args.intervention.is_some();
    if !asked && args.view != "patching" {
        return Ok(None);
    }
    let mut settings = app.state.desk().patching;
    if let Some(site) = args.site {
        settings.site = site.kind();
        settings.by = parse_axes(
            settings.site,
            args.by.as_deref(),
            args.head.as_deref().filter(|_| args.by.as_deref() == Some("dest,src")),
        )?;
    }
    if let Some(i) = args.intervention {
        settings.intervention = Some(match i {
            DoArg::Patch => Intervention::Patch,
            DoArg::Zero => Intervention::Ablate(Ablation::Zero),
            DoArg::Mean => Intervention::Ablate(Ablation::Mean),
            DoArg::Resample => Intervention::Ablate(Ablation::Resample),
        });
    }
    Ok(Some(settings))
}

/// Reads a size in points, as `1280x800`.
fn size(text: &str) -> Option<egui::Vec2> {
    let (w, h) = text.split_once('x')?;
    let (w, h): (u16, u16) = (w.parse().ok()?, h.parse().ok()?);
    ((64..=8192).contains(&w) && (64..=8192).contains(&h)).then(|| egui::vec2(f32::from(w), f32::from(h)))
}

/// Reads a head, as `5.1`.
fn head(text: &str) -> Result<(usize, usize)> {
    let parsed = text.split_once('.').and_then(|(l, h)| Some((l.parse::<usize>().ok()?, h.parse::<usize>().ok()?)));
    parsed.ok_or_else(|| Error::request(format!("--head {text} is not LAYER.HEAD, such as 5.1")))
}

fn subject(args: &Arguments) -> Result<Subject> {
    if args.view == "window" {
        return Ok(Subject::Window);
    }
    let def = view::by_name(&args.view).ok_or_else(|| {
        let known: Vec<&str> = view::all().map(|v| v.name).collect();
        Error::request(format!("there is no view `{}`; there are window, {}", args.view, known.join(", ")))
    })?;
    Ok(Subject::View(def.name))
}

/// Pins the head, the layer and the position that were asked for.
fn pin(args: &Arguments, head: Option<(usize, usize)>, model: &Model, app: &mut App) -> Result<()> {
    let len = app.state.run().map_or(1, |r| r.trace.len());
    let mut p = app.state.pinned();
    if let Some((l, h)) = head {
        (p.layer, p.head, p.focus) = (l, Some(h), Focus::Head);
    }
    if let Some(l) = args.layer {
        p.layer = l;
    }
    if let Some(pos) = args.pos {
        p.pos = pos;
    }
    if p.layer >= model.config.n_layers || p.head.is_some_and(|h| h >= model.config.n_heads) || p.pos >= len {
        return Err(Error::request(format!(
            "the model has {} layers of {} heads and the prompt {len} tokens; --head, --layer or --pos lies outside",
            model.config.n_layers, model.config.n_heads
        )));
    }
    if head.is_some() || args.layer.is_some() {
        app.state.document.desk.chose_head = true;
    }
    app.state.apply(ModelAction::Pin(p), 0.0);
    Ok(())
}

/// Opens a file that is neither a session nor a model, as if it were dropped on the window.
fn open_beside(file: Option<&Path>, subject: Subject, app: &mut App) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    app.open_beside(file)?;
    if let Subject::View(name) = subject {
        app.layout = Layout::single(name);
    }
    Ok(())
}

/// Opens the circuit, with what it is compared with and tried on; an error goes to `wrong`.
fn circuit(args: &Arguments, app: &mut App, wrong: &mut Option<Error>) {
    if let Some(path) = &args.circuit {
        match crate::circuit::file::CircuitFile::open(path) {
            Ok(file) => app.state.apply(ModelAction::Circuit("open a circuit", file.draft()), 0.0),
            Err(e) => *wrong = Some(e),
        }
        app.layout.show("circuit");
    }
    if let Some(path) = &args.compare {
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        match crate::circuit::file::CircuitFile::open(path) {
            Ok(file) => app.state.apply(ModelAction::Compare(Some((name, file.draft()))), 0.0),
            Err(e) => *wrong = Some(e),
        }
    }
    if let Some(set) = &args.set {
        let settings =
            crate::session::desk::CircuitSettings { set: Some(set.clone()), curve: true, ..Default::default() };
        app.state.apply(ModelAction::CircuitSettings(settings), 0.0);
    }
}

/// Opens or traces the graph, pruned and taken apart as was asked for; an error goes to `wrong`.
fn graph(args: &Arguments, app: &mut App, wrong: &mut Option<Error>) {
    match args.thresholds.as_deref() {
        None => {}
        Some(shares) if !shares.iter().all(|s| (0.0..=1.0).contains(s)) => {
            *wrong = Some(Error::request("--thresholds takes shares between 0 and 1"));
        }
        Some([node, edge]) => app.state.apply(ModelAction::Thresholds(Some((*node, *edge))), 0.0),
        Some(_) => *wrong = Some(Error::request("--thresholds takes two shares, as 0.8,0.98")),
    }
    if let Some(attention) = args.attention {
        app.state.apply(ModelAction::Attention(attention), 0.0);
    }
    if let Some(model) = app.state.model.clone() {
        for (layer, pos) in &args.open_mlp {
            let n = app.state.run().map_or(0, |r| r.trace.len());
            if !model.config.has_mlp() || *layer >= model.config.n_layers || *pos >= n {
                *wrong = Some(Error::request(format!(
                    "--open-mlp {layer}@{pos} is no MLP of this prompt; layers go to {} and positions to {}",
                    model.config.n_layers - 1,
                    n.saturating_sub(1)
                )));
            }
            app.state.apply(ModelAction::OpenMlp(mlp_id(&model.config, *layer, *pos)), 0.0);
        }
    }
    let set = args.dictionary.as_ref().filter(|d| is_set(d));
    if let Some(spec) = set {
        app.state.apply(ModelAction::GraphSet(Some(spec.clone())), 0.0);
    }
    if let Some(path) = &args.graph {
        app.state.apply(ModelAction::OpenGraph(path.display().to_string()), 0.0);
    }
    if args.view == "window"
        && (args.graph.is_some()
            || set.is_some()
            || args.thresholds.is_some()
            || args.attention.is_some()
            || !args.open_mlp.is_empty())
    {
        app.layout.show("graph");
    }
}

/// Whether a name or path holds a dictionary for each of several layers.
fn is_set(spec: &str) -> bool {
    path_of(spec).is_ok_and(|path| formats::is_set(&path))
}

/// Opens the dictionary, scans the text and finds the directions that the views of features show.
fn features(args: &Arguments, app: &mut App) {
    let queue = &mut app.state.features.queue;
    // A set is what the graph is traced to.
    if let Some(d) = args.dictionary.as_ref().filter(|d| !is_set(d)) {
        queue.push_back(FeatureAction::Open(d.clone()));
    }
    if let Some(n) = args.scan {
        queue.push_back(FeatureAction::Scan(Scanned::Features, "mixed".to_owned(), n));
    }
    if let Some(n) = args.scan_neurons {
        let layer = args.layer.unwrap_or(0);
        queue.push_back(FeatureAction::Scan(Scanned::Neurons(layer), "mixed".to_owned(), n));
    }
    for set in &args.direction {
        let examples = Examples::Set(set.clone());
        let search = DirectionSearch {
            examples,
            method: Method::DifferenceOfMeans,
            kind: SiteKind::ResidPost,
            pool: Pool::Mean,
        };
        queue.push_back(FeatureAction::Find(Box::new(search)));
    }
    if args.map {
        queue.push_back(FeatureAction::Map);
    }
    if let Some(f) = args.feature {
        let chosen = match args.scan_neurons {
            Some(_) if args.dictionary.is_none() || args.scan.is_none() => {
                Chosen::Neuron(args.layer.unwrap_or(0), f as usize)
            }
            _ => Chosen::Feature(f),
        };
        queue.push_back(FeatureAction::Choose(chosen));
    }
    if let (Some(t), Some(a)) = (&args.towards, &args.away) {
        let list = |s: &String| s.split(',').map(str::to_owned).collect();
        queue.push_back(FeatureAction::Dose(list(t), list(a), "prose".to_owned()));
    }
    if !queue.is_empty() && args.view == "window" {
        app.enter(Workspace::Features);
    }
}

/// Trains the toy models that the views of the superposition lab show.
fn toy_models(args: &Arguments, subject: Subject, app: &mut App) -> Result<()> {
    let shows_toys = matches!(subject, Subject::View(v) if view::by_name(v).is_some_and(|v| v.workspace == Workspace::Superposition));
    let Some(name) = args.preset.as_deref().or(shows_toys.then_some(PRESETS[0].name)) else { return Ok(()) };
    let preset = presets::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
        Error::request(format!("there is no preset `{name}`; there are {}", known.join(", ")))
    })?;
    app.state.apply(Action::Superposition(SuperpositionAction::Preset(preset.name)), 0.0);
    if let Some(steps) = args.steps {
        let recipe = Recipe { steps, ..app.state.superposition.recipe.clone() };
        recipe.setup()?;
        app.state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))), 0.0);
        app.state.apply(Action::Superposition(SuperpositionAction::Start), 0.0);
    }
    if let Some(k) = args.instance {
        let count = app.state.superposition.recipe.instances();
        if k >= count {
            return Err(Error::request(format!("--instance {k} does not exist; give 0 to {}", count - 1)));
        }
        app.state.apply(Action::Superposition(SuperpositionAction::Select(k)), 0.0);
    }
    if subject == Subject::Window {
        app.enter(Workspace::Superposition);
        if let Some(view) = view::by_name(preset.view) {
            app.layout.show(view.name);
        }
    }
    Ok(())
}

/// What the window would show as messages: a prompt that the model cannot read, an answer that is not one token.
fn check(model: &Model, desk: &Desk) -> Result<()> {
    let ids = laid(model, &desk.prompt, desk.ids.as_deref(), desk.conversation.as_ref())?.ids;
    model.network().check(&ids)?;
    for token in [&desk.answer, &desk.wrong].into_iter().filter(|t| !t.is_empty()) {
        model.single_token(token)?;
    }
    Ok(())
}

pub fn execute(args: &Arguments) -> Result<()> {
    let subject = subject(args)?;
    let size = size(&args.size)
        .ok_or_else(|| Error::request(format!("--size {} is not WIDTHxHEIGHT between 64 and 8192", args.size)))?;
    if !(0.5..=4.0).contains(&args.scale) || (size * args.scale).max_elem() > 8192.0 {
        return Err(Error::request(format!(
            "--scale {} does not fit; give 0.5 to 4, at most 8192 pixels a side",
            args.scale
        )));
    }
    let extension = args.output.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !["png", "svg"].contains(&extension.as_str()) {
        return Err(Error::request(format!(
            "{} ends in neither .png nor .svg, the formats that can be written",
            args.output.display()
        )));
    }
    let head = args.head.as_deref().map(head).transpose()?;
    let theme = if args.theme == "light" { egui::Theme::Light } else { egui::Theme::Dark };
    let (start, beside) = apart(&args.what);
    let document = start.document()?;
    let mut wrong = None;
    let scene = Scene::new(document.clone(), subject, size, theme, |app| {
        let Some(model) = app.state.model.clone() else { return };
        if let Err(e) = check(&model, &document.desk) {
            wrong = Some(e);
            return;
        }
        if let Some(e) = pin(args, head, &model, app).and_then(|()| open_beside(beside.as_deref(), subject, app)).err()
        {
            wrong = Some(e);
            return;
        }
        if let Some(name) = &args.show {
            match app.state.showable().into_iter().find(|s| s.label() == name) {
                Some(show) => app.state.apply(ModelAction::Show(show), 0.0),
                None => {
                    let what = "needs a corrupted prompt (--corrupt) or edits (--edits)";
                    wrong = Some(Error::request(format!("--show {name} {what}")));
                }
            }
        }
        match patching(args, app) {
            Ok(Some(settings)) => {
                app.state.apply(ModelAction::Patch(settings), 0.0);
                app.state.apply(ModelAction::Sweep(None), 0.0);
                app.layout.show("patching");
            }
            Ok(None) => {}
            Err(e) => wrong = Some(e),
        }
        features(args, app);
        if let Err(e) = toy_models(args, subject, app) {
            wrong = Some(e);
        }
        circuit(args, app, &mut wrong);
        graph(args, app, &mut wrong);
        if let Some(n) = args.generate {
            app.state.apply(ModelAction::Sampling(Default::default(), n), 0.0);
            app.state.apply(ModelAction::Generate, 0.0);
            app.layout.show("generation");
        }
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    let mut scene = match scene {
        Ok(scene) => scene,
        // The window knows errors as sentences only; asked again, they come with their kind.
        Err(e) => {
            check(&super::open_model(&document.desk.model, document.desk.weights)?, &document.desk)?;
            return Err(e);
        }
    };
    if let Some(error) = scene.circuit_error() {
        return Err(Error::request(error));
    }
    if extension == "svg" {
        write_atomic(&args.output, scene.svg().as_bytes())?;
        return emit(&format!("{} ({} × {} points)", args.output.display(), size.x, size.y));
    }
    let picture = scene.image(args.scale)?;
    write_atomic(&args.output, &png(&picture)?)?;
    emit(&format!("{} ({} × {} pixels)", args.output.display(), picture.width(), picture.height()))
}
