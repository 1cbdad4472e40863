//! Directions on SmolLM2-135M: a sentiment direction is found and steers, and its control finds nothing.

mod common;

use candle_core::{Device, Tensor};
use circuitscope::engine::dictionaries::NoDictionaries;
use circuitscope::engine::edit::{Action, Direction, Edit, FeatureChange};
use circuitscope::engine::resolve::{Sources, resolve};
use circuitscope::engine::{Site, SiteKind, Trace};
use circuitscope::features::dictionary::edit::changed;
use circuitscope::features::direction::concept::{ConceptSet, Pool, held};
use circuitscope::features::direction::{Method, fit};
use circuitscope::features::rows::{Cut, Rows};
use circuitscope::features::steering::{Watched, dose_response, strengths};
use circuitscope::features::{Activation, Dictionary, Place, Store};
use circuitscope::progress::Progress;
use common::smollm2;

#[test]
fn sentiment_is_a_direction_that_steers() {
    let (model, progress) = (smollm2(), Progress::new());
    let set = ConceptSet::open("sentiment").unwrap();
    let held = held(&model, &set, SiteKind::ResidPost, Pool::Mean, &progress).unwrap();
    let concept = fit(&model, &set, &held, Pool::Mean, Method::DifferenceOfMeans, &progress).unwrap();
    let best = concept.best().unwrap();
    assert!(best.auc >= 0.95, "AUC {} at layer {}", best.auc, best.layer);
    assert!((best.control_auc - 0.5).abs() < 0.2, "random labels: AUC {}", best.control_auc);
    let layer = best.layer;

    // Adding it moves positive against negative continuations the same way all along.
    let ids = model.encode("I watched the film last night. In my opinion it was", false).unwrap();
    let words = |list: [&str; 4]| list.map(str::to_owned).to_vec();
    let towards = words([" good", " great", " excellent", " wonderful"]);
    let away = words([" bad", " terrible", " awful", " boring"]);
    let watched = Watched::parse(&model, &towards, &away).unwrap();
    // The strengths that the window shows.
    let alphas = strengths(2.0, 6);
    let edit = |alpha| concept.steer(layer, alpha).map(|e| vec![e]);
    let doses =
        dose_response(&model, &ids, &edit, &NoDictionaries, &alphas, &watched, &Rows::default(), &progress, |_| {})
            .unwrap();
    assert!(doses.windows(2).all(|d| d[0].share < d[1].share), "{doses:?}");
    assert_eq!(doses.len(), 13);
    assert!(doses[0].share < 0.3 && doses[12].share > 0.95, "{doses:?}");

    // Taking it out leaves nothing of it, and the rest as it was.
    let base = Trace::run(&model, ids, &progress).unwrap();
    let site = concept.site(layer).unwrap();
    let action = Action::Project { direction: concept.edit_direction(layer).unwrap() };
    let ops = vec![resolve(&Edit::new(site, action), &Sources::alone(&base)).unwrap()];
    let run = Trace::run_edited(&model, base.ids.clone(), std::sync::Arc::new(ops), &progress).unwrap();
    let vector = &concept.at(layer).unwrap().vector;
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    let (before, after): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
        (base.value(site).unwrap().to_vec2().unwrap(), run.value(site).unwrap().to_vec2().unwrap());
    for (b, a) in before.iter().zip(&after) {
        let along = |row: &[f32]| row.iter().zip(vector).map(|(x, v)| x * v / length).sum::<f32>();
        let size = b.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!(along(a).abs() < 1e-4 * size, "{} of {size}", along(a));
        let expected = along(b);
        let off = a.iter().zip(b).zip(vector).map(|((a, b), v)| (a - (b - expected * v / length)).abs());
        assert!(off.fold(0f32, f32::max) < 1e-4 * size);
    }
    // A direction of another width is refused with both numbers.
    let wrong = Edit::new(site, Action::Add { direction: Direction::Vector(vec![1.0; 5]), factor: 1.0 });
    let message = resolve(&wrong, &Sources::alone(&base)).unwrap_err().to_string();
    assert!(message.contains('5') && message.contains("576"), "{message}");
}

/// Ablating a feature takes its part out at the dictionary's site and nothing else, where it is active; in the residual
/// stream of a model with outliers as well.
#[test]
fn ablating_a_feature_changes_exactly_what_the_edit_says() {
    let (model, progress) = (smollm2(), Progress::new());
    let d = model.config.d_model;
    let place = Place::parse("blocks.12.hook_resid_post").unwrap();
    let ids = model.encode("The queen of the old country gave a speech to her people", false).unwrap();
    let base = Trace::run(&model, ids, &progress).unwrap();
    let held: Vec<Vec<f32>> = base.value(place.site).unwrap().to_vec2().unwrap();
    // Each feature reads one position's own direction, the mean taken out, and writes somewhere else.
    let n = held.len() - 1;
    let mean: Vec<f32> = (0..d).map(|i| held[1..].iter().map(|r| r[i]).sum::<f32>() / n as f32).collect();
    let mut w_enc = vec![0f32; d * n];
    let mut b_enc = vec![0f32; n];
    for f in 0..n {
        let own: Vec<f32> = held[f + 1].iter().zip(&mean).map(|(x, m)| x - m).collect();
        let square: f32 = own.iter().map(|x| x * x).sum();
        for i in 0..d {
            w_enc[i * n + f] = own[i] / square;
        }
        b_enc[f] = -own.iter().zip(&mean).map(|(o, m)| o * m).sum::<f32>() / square - 0.2;
    }
    let dictionary = Dictionary {
        name: "positions".to_owned(),
        path: "positions".into(),
        format: "SAELens",
        d_in: d,
        d_sae: n,
        d_out: d,
        w_enc: Tensor::from_vec(w_enc, (d, n), &Device::Cpu).unwrap(),
        b_enc,
        w_dec: Tensor::randn(0f32, 1f32, (n, d), &Device::Cpu).unwrap(),
        later: Default::default(),
        b_dec: vec![0.0; d],
        activation: Activation::Relu,
        subtract_b_dec: false,
        rescale: false,
        normalisation: Default::default(),
        skip: None,
        transcoder: false,
        input: Some(place),
        output: Some(place),
        model_name: None,
        config: serde_json::Value::Null,
        warnings: Vec::new(),
    };
    let store = Store::default();
    store.insert("positions", std::sync::Arc::new(dictionary.clone())).unwrap();
    let acts = dictionary.encode(&base.value(place.site).unwrap(), &progress).unwrap();
    let feature = (0..n as u32).max_by(|a, b| acts.at(n, *a).total_cmp(&acts.at(n, *b))).unwrap();
    assert!(acts.at(n, feature) > 0.1, "the last position's feature is active there");
    let edits = changed(&dictionary, "positions", feature as usize, FeatureChange::Set(0.0), &model.config).unwrap();
    let ops = edits.iter().map(|e| resolve(e, &Sources::alone(&base).with_dictionaries(&store)).unwrap()).collect();
    let run = Trace::run_edited(&model, base.ids.clone(), std::sync::Arc::new(ops), &progress).unwrap();
    let after: Vec<Vec<f32>> = run.value(place.site).unwrap().to_vec2().unwrap();
    let row = dictionary.direction(feature as usize).unwrap();
    for (p, (b, a)) in held.iter().zip(&after).enumerate() {
        let size = b.iter().map(|v| v * v).sum::<f32>().sqrt();
        for ((b, a), w) in b.iter().zip(a).zip(&row) {
            assert!((a - (b - acts.at(p, feature) * w)).abs() < 1e-5 * size, "position {p}");
        }
    }
    // What comes before is the same bit for bit, and what comes after is not.
    let site = |l: usize| Site::new(SiteKind::ResidPost, l);
    let of = |t: &Trace, l: usize| t.value(site(l)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(of(&base, 11), of(&run, 11));
    assert_ne!(of(&base, 13), of(&run, 13));
}

/// Words of one token are not read at the first position, where the model holds much the same whatever stands there.
#[test]
fn lists_of_words_give_a_direction() {
    let (model, progress) = (smollm2(), Progress::new());
    let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let royal = list("king queen prince princess crown throne royal duke emperor castle palace reign");
    let other = list("farmer baker tree stone river market window bread garden street bridge boat");
    let set = ConceptSet::from_lists("royal", &royal, &other).unwrap();
    let held = held(&model, &set, SiteKind::ResidPost, Pool::Last, &progress).unwrap();
    let concept = fit(&model, &set, &held, Pool::Last, Method::DifferenceOfMeans, &progress).unwrap();
    let good = concept.layers.iter().filter(|l| l.auc >= 0.9).count();
    assert!(good > concept.layers.len() / 2, "{:?}", concept.layers.iter().map(|l| l.auc).collect::<Vec<_>>());
    // The first position's outliers are a hundred times as long.
    assert!(concept.layers[12].gap < 100.0, "{}", concept.layers[12].gap);
}

/// Rows can all begin with the beginning-of-sequence token, as much text's dictionaries were trained on did.
#[test]
fn rows_begin_with_the_token_that_is_asked_for() {
    let (model, progress) = (smollm2(), Progress::new());
    let cut =
        |bos| Rows::cut(&model, &["prose".to_owned()], &Cut { bos, ..Cut::new(32, Some(999)) }, &progress).unwrap();
    let (plain, begun) = (cut(false), cut(true));
    let bos = model.tokenizer.as_ref().unwrap().bos_token().unwrap();
    assert!(plain.tokens() <= 999 && begun.tokens() <= 999 && begun.lengths().all(|l| l <= 32));
    for i in 0..begun.len() {
        assert_eq!(begun.row(i).unwrap()[0], bos);
    }
    assert_eq!(begun.row(0).unwrap()[1..], plain.row(0).unwrap()[..31]);
    assert_ne!(plain.row(0).unwrap()[0], bos);
}

/// Words that no training sentence has are told apart as well: it is the concept that was found.
#[test]
fn royalty_is_a_direction() {
    let (model, progress) = (smollm2(), Progress::new());
    let set = ConceptSet::open("royalty").unwrap();
    let held = held(&model, &set, SiteKind::ResidPost, Pool::Last, &progress).unwrap();
    let concept = fit(&model, &set, &held, Pool::Last, Method::DifferenceOfMeans, &progress).unwrap();
    let best = concept.best().unwrap();
    assert!(best.auc >= 0.95, "AUC {} at layer {}", best.auc, best.layer);
    assert!((best.control_auc - 0.5).abs() < 0.2, "random labels: AUC {}", best.control_auc);
}
