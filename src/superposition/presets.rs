//! One preset for each figure of the papers on toy models.

use super::phases::Grid;
use super::recipe::{Recipe, Sweep};
use super::setup::{Task, Tie};

/// A training that reproduces a figure.
pub struct Preset {
    pub name: &'static str,
    pub title: &'static str,
    /// The paper and the figure.
    pub source: &'static str,
    /// A paragraph on what to look at, for someone who has not read the paper.
    pub explain: &'static str,
    pub recipe: fn() -> Recipe,
    /// The view that shows it best.
    pub view: &'static str,
}

/// Every preset. The workspace opens on the first one.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "pentagon",
        title: "Five features in two dimensions",
        source: "Toy Models of Superposition, introduction and “Demonstrating Superposition”",
        explain: "Ten models, each squeezing five features through two hidden dimensions. Left, every input has all \
                  features: the model keeps the two most important ones at a right angle and gives up the rest. To the \
                  right features become rare, and the model stores more of them than it has dimensions: first two \
                  antipodal pairs, in the end all five as a pentagon.",
        // A seed with which each model finds the best shape; other seeds leave one or two in local minima.
        recipe: || Recipe { seed: 2, ..Recipe::falling(5, 2, 10, 0.05, 0.9) },
        view: "toy-features",
    },
    Preset {
        name: "energy-levels",
        title: "Energy levels",
        source: "Toy Models of Superposition, “Discrete Energy Level Jumps”",
        explain: "Forty models that differ only in their first weights. They fall into a few shapes, and each shape \
                  has its own loss: a pentagon is the best, two antipodal pairs with a short fifth vector a local \
                  minimum. Watch the losses drop in jumps as a vector snaps into place.",
        recipe: || Recipe::repeated(5, 2, 0.95, 1.0, 40),
        view: "toy-energy",
    },
    Preset {
        name: "three-dimensions",
        title: "Eight features in three dimensions",
        source: "Toy Models of Superposition, “The Geometry of Superposition”",
        explain: "The same in three dimensions, to be turned. Dense: three orthogonal features. Then three antipodal \
                  pairs, the corners of an octahedron; and where features are rarest all eight, as the corners of a \
                  square antiprism, each with 3/8 of a dimension.",
        recipe: || {
            let sparsities = [0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98];
            Recipe { seed: 1, ..Recipe::sweep(8, 3, &sparsities, 0.95) }
        },
        view: "toy-scene",
    },
    Preset {
        name: "demonstrating",
        title: "Twenty features in five dimensions",
        source: "Toy Models of Superposition, “Demonstrating Superposition”",
        explain: "Importance falls as 0.7^i. Dense inputs: the five most important features get a dimension each, as \
                  PCA would do. Sparser inputs: more features are represented than there are dimensions, at the price \
                  of interference, which the colour of the bars shows. Switch the output to linear and superposition \
                  is gone.",
        recipe: || Recipe::sweep(20, 5, &[0.0, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999], 0.7),
        view: "toy-norms",
    },
    Preset {
        name: "phase-diagram",
        title: "Phase diagram, two features in one dimension",
        source: "Toy Models of Superposition, “Superposition as a Phase Change”",
        explain: "Every cell is a model of its own: to the right the features are rarer, upwards the second one is \
                  more important. The second feature is either ignored, or gets the dimension for itself, or both \
                  share it in superposition, and the borders are sharp. The lines are where theory puts them.",
        recipe: || Recipe::phases(2, 1, Grid::new(20, 4)),
        view: "toy-phases",
    },
    Preset {
        name: "phase-diagram-3",
        title: "Phase diagram, three features in two dimensions",
        source: "Toy Models of Superposition, “Superposition as a Phase Change”",
        explain: "As the diagram of two features, with a third beside two equally important ones in two dimensions.",
        recipe: || Recipe::phases(3, 2, Grid::new(20, 4)),
        view: "toy-phases",
    },
    Preset {
        name: "geometry",
        title: "Feature geometry, 200 features in 20 dimensions",
        source: "Toy Models of Superposition, “The Geometry of Superposition”",
        explain: "Equally important features at ever lower density. Dimensions per feature start at one, then hold at \
                  one half: the features pair up as antipodes. Around and beyond, single features gather at other \
                  fractions, each the corners of a polytope: 2/3 a triangle, 2/5 a pentagon, 3/8 a square antiprism.",
        recipe: || Recipe::falling(200, 20, 16, 0.02, 1.0),
        view: "toy-dimensionality",
    },
    Preset {
        name: "correlated",
        title: "Features that come together",
        source: "Toy Models of Superposition, “Correlated Features”",
        explain: "Four features in two dimensions, in two pairs that are always active together. Features of a pair \
                  would disturb each other most, so they end up orthogonal; each shares its line with a feature of the \
                  other pair.",
        recipe: || Recipe { groups: Some((Tie::Correlated, 2)), ..Recipe::repeated(4, 2, 0.95, 1.0, 10) },
        view: "toy-features",
    },
    Preset {
        name: "anticorrelated",
        title: "Features that exclude each other",
        source: "Toy Models of Superposition, “Correlated Features”",
        explain: "Four features in two dimensions, in two pairs of which exactly one is active at a time. Such a pair can \
                  share a line at no cost: its features end up antipodal.",
        recipe: || Recipe { groups: Some((Tie::Anticorrelated, 2)), ..Recipe::repeated(4, 2, 0.5, 1.0, 10) },
        view: "toy-features",
    },
    Preset {
        name: "absolute-value",
        title: "Computing in superposition: absolute value",
        source: "Toy Models of Superposition, “Computation in Superposition”",
        explain: "Forty hidden neurons compute |x| of a hundred features. Dense: each of the twenty most important \
                  features uses two neurons, one for x and one for −x. The sparser the inputs, the more features share \
                  neurons: they become polysemantic, and more features are computed than would fit.",
        recipe: || Recipe {
            tied: false,
            hidden_relu: true,
            task: Task::Absolute,
            ..Recipe::sweep(100, 40, &[0.0, 0.5, 0.9, 0.97, 0.99, 0.997], 0.8)
        },
        view: "toy-weights",
    },
    Preset {
        name: "privileged-basis",
        title: "A privileged basis",
        source: "Toy Models of Superposition, “Superposition in a Privileged Basis”",
        explain: "The hidden layer has a ReLU, so that its axes mean something. Dense: each neuron carries one feature. \
                  Sparser: some neurons carry several, and are polysemantic.",
        recipe: || Recipe { hidden_relu: true, ..Recipe::sweep(10, 5, &[0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99], 0.75) },
        view: "toy-weights",
    },
    Preset {
        name: "memorisation",
        title: "Memorisation and double descent",
        source: "Superposition, Memorization, and Double Descent [Henighan et al. 2023]",
        explain: "The same model on data sets of growing size, in two hidden dimensions. Few samples: the model stores \
                  the samples themselves, which form a polygon. Many: it stores features. Between, it does neither \
                  well, and the loss on fresh inputs peaks.",
        recipe: || {
            let mut r = Recipe::sweep(400, 2, &[], 1.0);
            let values = vec![3, 5, 8, 15, 30, 60, 100, 200, 500, 1000, 2000];
            (r.sweep, r.unit_inputs, r.steps) = (Sweep::Samples { sparsity: 0.99, values }, true, 4000);
            r.optimiser.weight_decay = 0.1;
            r
        },
        view: "toy-samples",
    },
];

pub fn by_name(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| p.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_can_be_trained() {
        for (i, p) in PRESETS.iter().enumerate() {
            let recipe = (p.recipe)();
            let setup = recipe.setup().unwrap_or_else(|e| panic!("{}: {e}", p.name));
            assert_eq!(setup.instances.len(), recipe.instances());
            assert!(PRESETS[..i].iter().all(|q| q.name != p.name));
            assert!(p.explain.len() > 80 && !p.source.is_empty());
        }
    }
}
