//! Directions on SmolLM2-135M: a sentiment direction is found and steers, and its control finds nothing.

mod common;

use circuitscope::engine::edit::{Action, Direction, Edit};
use circuitscope::engine::resolve::{Sources, resolve};
use circuitscope::engine::{SiteKind, Trace};
use circuitscope::features::concept::{ConceptSet, Pool, held};
use circuitscope::features::direction::{Method, fit};
use circuitscope::features::rows::Rows;
use circuitscope::features::steering::{Watched, dose_response};
use circuitscope::jobs::Progress;
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
    let alphas = [-2.0, -1.0, 0.0, 1.0, 2.0];
    let edit = |alpha| concept.steer(layer, alpha).map(|e| vec![e]);
    let doses = dose_response(&model, &ids, &edit, &alphas, &watched, &Rows::default(), &progress, |_| {}).unwrap();
    assert!(doses.windows(2).all(|d| d[0].share < d[1].share), "{doses:?}");
    assert!(doses[0].share < 0.3 && doses[4].share > 0.95, "{doses:?}");

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
