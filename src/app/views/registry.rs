//! Every view: its names, its workspace, what it says of itself.

use super::{
    View, activations, attention, attribution, circuit, edits, features, generation, geometry, graph, lens, norms,
    patching, projection, scratch, toy,
};

/// Names of the views, in the order of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViewKind {
    Attention,
    Lens,
    Norms,
    Projection,
    Activations,
    Geometry,
    Attribution,
    Patching,
    Edits,
    Generation,
    Graph,
    Circuit,
    ToyFeatures,
    ToyScene,
    ToyPhases,
    ToySamples,
    ToyGram,
    ToyWeights,
    ToyExample,
    ToyNorms,
    ToyDimensionality,
    ToyLoss,
    ToyEnergy,
    FeatureHeat,
    FeatureDashboard,
    FeatureMonitor,
    FeatureDirections,
    FeatureMap,
    FeatureNeurons,
    FeatureTraining,
    ScratchCurves,
    ScratchPatterns,
    ScratchFourier,
}

/// Groups of views that are looked at together, with bars of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workspace {
    /// A transformer and a prompt.
    Model,
    /// Toy models of superposition.
    Superposition,
    /// Transformers trained until their circuits appear.
    Scratch,
    /// Dictionaries of features, directions of concepts.
    Features,
}

impl Workspace {
    pub const ALL: [Self; 4] = [Self::Model, Self::Features, Self::Superposition, Self::Scratch];

    pub fn title(self) -> &'static str {
        match self {
            Self::Model => "Model",
            Self::Superposition => "Superposition lab",
            Self::Scratch => "Circuits from scratch",
            Self::Features => "Features",
        }
    }

    /// The title where there is little room.
    pub fn short(self) -> &'static str {
        match self {
            Self::Superposition => "Superposition",
            Self::Scratch => "Scratch",
            other => other.title(),
        }
    }

    pub fn help(self) -> &'static str {
        match self {
            Self::Model => "look into a transformer that reads a prompt",
            Self::Superposition => "train toy models and watch superposition appear",
            Self::Features => "see which features fire, what they mean, and what happens without them",
            Self::Scratch => "train a small transformer and watch its circuit grow",
        }
    }
}

/// What a view is, for menus, tabs, help, `render` and tests.
pub struct ViewDef {
    pub kind: ViewKind,
    /// Name on the command line.
    pub name: &'static str,
    pub title: &'static str,
    pub workspace: Workspace,
    /// What it shows, in two sentences.
    pub help: &'static str,
    /// Formula and source.
    pub formula: &'static str,
    pub make: fn() -> Box<dyn View>,
}

/// Every view.
pub const VIEWS: &[ViewDef] = &[
    ViewDef {
        kind: ViewKind::Attention,
        name: "attention",
        title: "Attention",
        workspace: Workspace::Model,
        help: "Where every head looks: a thumbnail for each head, and one head large. Rows attend to columns; each row adds up to one.",
        formula: "pattern = softmax(q · k / √d_head), blocks.L.attn.hook_pattern [head, dest, src]",
        make: || Box::new(attention::Attention::default()),
    },
    ViewDef {
        kind: ViewKind::Lens,
        name: "lens",
        title: "Logit lens",
        workspace: Workspace::Model,
        help: "What the model would predict if the residual stream of a layer went straight to the output. Reading upwards shows when the answer appears.",
        formula: "softmax(unembed(ln_final(resid_post[l]))) [nostalgebraist 2020]",
        make: || Box::new(lens::LensView::default()),
    },
    ViewDef {
        kind: ViewKind::Norms,
        name: "norms",
        title: "Residual norms",
        workspace: Workspace::Model,
        help: "How large the residual stream is at each layer and position, and how much attention and MLP write. One position often carries most of it: an attention sink.",
        formula: "‖x‖₂ of hook_resid_post, hook_attn_out, hook_mlp_out [pos, d_model]",
        make: || Box::new(norms::NormsView::default()),
    },
    ViewDef {
        kind: ViewKind::Projection,
        name: "projection",
        title: "Projection",
        workspace: Workspace::Model,
        help: "The residual stream of all layers and positions along its two principal components. The line is the pinned token's way through the layers.",
        formula: "PCA of resid_pre[l][pos] over all layers and positions",
        make: || Box::new(projection::ProjectionView),
    },
    ViewDef {
        kind: ViewKind::Activations,
        name: "activations",
        title: "Activations",
        workspace: Workspace::Model,
        help: "Neurons of one layer's MLP on every token, the leading ones first; or how much every head writes. Click a neuron to see which tokens it promotes.",
        formula: "blocks.L.mlp.hook_post [pos, d_mlp]; ‖z · W_O‖₂ per head",
        make: || Box::new(activations::Activations::default()),
    },
    ViewDef {
        kind: ViewKind::Geometry,
        name: "geometry",
        title: "Feature geometry",
        workspace: Workspace::Model,
        help: "How the model's own directions lie to each other: token embeddings, unembedding directions, or the output vectors of a layer's neurons. The measures are those of the superposition lab, whose toy models show what they mean.",
        formula: "‖W_i‖; D_i = ‖W_i‖²/Σ_j (Ŵ_i·W_j)² over all directions; cosines Ŵ_i·Ŵ_j [Elhage et al. 2022]",
        make: || Box::new(geometry::Geometry::default()),
    },
    ViewDef {
        kind: ViewKind::Attribution,
        name: "attribution",
        title: "Direct attribution",
        workspace: Workspace::Model,
        help: "What each head and MLP by itself adds to the answer's logit, or to the difference of two. The parts add up to the logit (difference).",
        formula: "component · (W_U[answer] − W_U[wrong]), final norm's scale frozen [TransformerLens]",
        make: || Box::new(attribution::AttributionView::default()),
    },
    ViewDef {
        kind: ViewKind::Patching,
        name: "patching",
        title: "Patching",
        workspace: Workspace::Model,
        help: "What each place causes: activation patching puts the clean run's value into the corrupted run, ablation takes a value out of the clean run. Every cell is an exact run; click one and its edit joins the stack.",
        formula: "patching: (m − m_corrupted)/(m_clean − m_corrupted) [TransformerLens patching.py]; ablation: m − m_clean",
        make: || Box::new(patching::PatchingView::default()),
    },
    ViewDef {
        kind: ViewKind::Edits,
        name: "edits",
        title: "Edits",
        workspace: Workspace::Model,
        help: "The stack of edits under which the edited run is made, in order: switch, move, remove or add them. Below: what they do to the prediction, and which components step in for what was removed.",
        formula: "set, zero, mean, scale, add, copy, cut or force at any site; backup: rise of direct attribution [Wang et al. 2022]",
        make: || Box::new(edits::EditsView::default()),
    },
    ViewDef {
        kind: ViewKind::Generation,
        name: "generation",
        title: "Generation",
        workspace: Workspace::Model,
        help: "How the prompt goes on, without the edits and with them. The colour is the probability that the model gave each token it wrote.",
        formula: "greedy, or softmax(logits / temperature) cut to top-k and top-p, with a seed",
        make: || Box::new(generation::GenerationView),
    },
    ViewDef {
        kind: ViewKind::Graph,
        name: "graph",
        title: "Graph",
        workspace: Workspace::Model,
        help: "What produced the pinned prediction: tokens, heads and MLPs by position, and the exact linear effects between them with attention patterns, norm scales and MLP gates held still. Click a node for its inputs, right-click to pin, hide, rename, group it or add it to the circuit.",
        formula: "edge = source's output · linear path · target's reading direction, in logits; influence = w(Â + Â² + …) [Ameisen et al. 2025]",
        make: || Box::new(graph::GraphView::default()),
    },
    ViewDef {
        kind: ViewKind::Circuit,
        name: "circuit",
        title: "Circuit",
        workspace: Workspace::Model,
        help: "The circuit that is being collected, and whether it is one: how much of the answer it keeps with everything else ablated, how little is left without it, and what each member is worth. C adds the pinned head; search finds a circuit by itself.",
        formula: "faithfulness (m(C) − m(∅))/(m(M) − m(∅)); completeness: the complement's; CPR, CMD: areas under and beside the curve [MIB]",
        make: || Box::new(circuit::CircuitView::default()),
    },
    ViewDef {
        kind: ViewKind::ToyFeatures,
        name: "toy-features",
        title: "Features",
        workspace: Workspace::Superposition,
        help: "Each arrow is a feature: the direction that it has in the hidden layer, brighter the more important it is. Click a model to select it.",
        formula: "W_i, columns of W [hidden, feature]; circle: length 1",
        make: || Box::new(toy::features::Features),
    },
    ViewDef {
        kind: ViewKind::ToyScene,
        name: "toy-scene",
        title: "Features in 3-D",
        workspace: Workspace::Superposition,
        help: "The selected model's features as arrows in the first three hidden dimensions. Drag turns, the wheel zooms.",
        formula: "W_i[0..3]; the sphere has radius 1",
        make: || Box::new(toy::scene::SceneView::default()),
    },
    ViewDef {
        kind: ViewKind::ToyPhases,
        name: "toy-phases",
        title: "Phase diagram",
        workspace: Workspace::Superposition,
        help: "Every cell is a model: what became of its last feature at this density and relative importance. The lines are where the closed form says the phase changes.",
        formula: "losses of the natural solutions: r·V, (1 + r)p²/6, V, with V = p/3 − p²/4 [Elhage et al. 2022]",
        make: || Box::new(toy::phases::Phases),
    },
    ViewDef {
        kind: ViewKind::ToySamples,
        name: "toy-samples",
        title: "Memorisation",
        workspace: Workspace::Superposition,
        help: "Features (lines) and training samples (dots) in the hidden layer, for data sets of growing size; below, the loss on fresh inputs and on the data set.",
        formula: "h = W x of each sample; x of length 1 [Henighan et al. 2023]",
        make: || Box::new(toy::samples::Samples),
    },
    ViewDef {
        kind: ViewKind::ToyGram,
        name: "toy-gram",
        title: "WᵀW and b",
        workspace: Workspace::Superposition,
        help: "What each input feature does to each output: the diagonal is the feature itself, everything else is interference. The last column is the bias.",
        formula: "WᵀW [output, input], b [output]",
        make: || Box::new(toy::gram::Gram::default()),
    },
    ViewDef {
        kind: ViewKind::ToyWeights,
        name: "toy-weights",
        title: "Neurons",
        workspace: Workspace::Superposition,
        help: "The weights of each hidden unit over all features, and how many features a unit carries. More than one: the unit is polysemantic.",
        formula: "W [hidden, feature], V where the output has weights of its own",
        make: || Box::new(toy::weights::Weights::default()),
    },
    ViewDef {
        kind: ViewKind::ToyExample,
        name: "toy-example",
        title: "Example",
        workspace: Workspace::Superposition,
        help: "One input on its way through the selected model: features, hidden layer, output beside its target. Drag the inputs.",
        formula: "h = W x, x′ = ReLU(Wᵀ h + b)",
        make: || Box::new(toy::example::Example),
    },
    ViewDef {
        kind: ViewKind::ToyNorms,
        name: "toy-norms",
        title: "Norms",
        workspace: Workspace::Superposition,
        help: "How strongly each feature is represented: 1 is perfectly, 0 not at all. The colour says how much other features interfere with it.",
        formula: "‖W_i‖; colour Σ_{j≠i} (Ŵ_i · W_j)² [Elhage et al. 2022]",
        make: || Box::new(toy::norms::ToyNorms::default()),
    },
    ViewDef {
        kind: ViewKind::ToyDimensionality,
        name: "toy-dimensionality",
        title: "Dimensionality",
        workspace: Workspace::Superposition,
        help: "How many dimensions a feature has, on average and one by one, from dense models at the left to sparse ones at the right. Values gather at the fractions that regular figures have.",
        formula: "D* = m/‖W‖²_F; D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)² [Elhage et al. 2022]",
        make: || Box::new(toy::dimensionality::Dimensionality),
    },
    ViewDef {
        kind: ViewKind::ToyLoss,
        name: "toy-loss",
        title: "Loss",
        workspace: Workspace::Superposition,
        help: "The loss of all models over the training, and what each feature adds to the selected one's. Click to go to a step.",
        formula: "Σ_i I_i (x_i − x′_i)², mean over fresh inputs",
        make: || Box::new(toy::loss::Loss),
    },
    ViewDef {
        kind: ViewKind::ToyEnergy,
        name: "toy-energy",
        title: "Energy levels",
        workspace: Workspace::Superposition,
        help: "The loss of every model, coloured by the shape that its features form. Models of one shape share an energy level.",
        formula: "loss; shapes from angles and lengths of W_i",
        make: || Box::new(toy::energy::Energy),
    },
    ViewDef {
        kind: ViewKind::FeatureHeat,
        name: "features",
        title: "Features",
        workspace: Workspace::Features,
        help: "Which features of the open dictionary are active on which token, the leading ones first. Click a cell for the feature's page.",
        formula: "SAE or transcoder activations, by SAELens' formulas; to the answer, first order: a · (W_dec · ∂logit/∂x), logit of the answer less the wrong one's [Nanda 2023]",
        make: || Box::new(features::heatmap::FeatureHeat),
    },
    ViewDef {
        kind: ViewKind::FeatureDashboard,
        name: "dashboard",
        title: "Dashboard",
        workspace: Workspace::Features,
        help: "What one feature, neuron or direction is about: where in the scanned text it is most active, how often it is active how strongly, which tokens it promotes. From here it can be named, monitored, steered and ablated.",
        formula: "top 20 rows, ten quantile groups; logits: (W_dec ∘ w_final) · W_U",
        make: || Box::new(features::dashboard::Dashboard::default()),
    },
    ViewDef {
        kind: ViewKind::FeatureMonitor,
        name: "monitor",
        title: "Monitor",
        workspace: Workspace::Features,
        help: "Concepts and kept features on every token of the prompt. Marked are tokens above the threshold; against the word itself shows where the inside reads more than is written.",
        formula: "(h · d̂ − threshold) / gap: +½ and −½ are the means of texts with and without the concept",
        make: || Box::new(features::monitor::Monitor::default()),
    },
    ViewDef {
        kind: ViewKind::FeatureDirections,
        name: "directions",
        title: "Directions",
        workspace: Workspace::Features,
        help: "How well a direction found at each layer tells held-out texts apart, beside the same procedure on random labels. Below: what adding it, as often as the horizontal axis says, does to the next token.",
        formula: "area under the ROC curve on held-out texts; share = p(towards) / (p(towards) + p(away))",
        make: || Box::new(features::directions::Directions::default()),
    },
    ViewDef {
        kind: ViewKind::FeatureMap,
        name: "feature-map",
        title: "Map",
        workspace: Workspace::Features,
        help: "All decoder directions in the plane: neighbours point the same way. Click a point for its page.",
        formula: "t-SNE of unit decoder rows, perplexity 15 [van der Maaten 2014]; PCA: two principal components",
        make: || Box::new(features::map::Map::default()),
    },
    ViewDef {
        kind: ViewKind::FeatureNeurons,
        name: "polysemantic",
        title: "Polysemantic neurons",
        workspace: Workspace::Features,
        help: "Neurons whose strongest examples fall into unrelated groups, and the features of the open dictionary that split them. Scan the pinned layer's neurons first.",
        formula: "average-linkage clusters of the tokens around each of the top 20 examples, cosine similarity down to 0.12",
        make: || Box::new(features::neurons::NeuronList),
    },
    ViewDef {
        kind: ViewKind::FeatureTraining,
        name: "dictionary-training",
        title: "Train a dictionary",
        workspace: Workspace::Features,
        help: "Trains a sparse autoencoder on what a site holds over a text, and opens it when it is done. The curves say how much it explains with how many active features.",
        formula: "‖x − x̂‖² and the method's sparsity; CE score (CE_ablated − CE_sae)/(CE_ablated − CE)",
        make: || Box::new(features::training::Training),
    },
    ViewDef {
        kind: ViewKind::ScratchCurves,
        name: "scratch-curves",
        title: "Curves",
        workspace: Workspace::Scratch,
        help: "The loss over the training, and what the model can do by then. A circuit appears where both bend. Click to go to a step.",
        formula: "cross-entropy of the predicted tokens, nats; scores as their labels say",
        make: || Box::new(scratch::Curves),
    },
    ViewDef {
        kind: ViewKind::ScratchPatterns,
        name: "scratch-patterns",
        title: "Patterns",
        workspace: Workspace::Scratch,
        help: "The attention patterns of all heads on one watched prompt, as the model learns. Click a head to see it large.",
        formula: "softmax(q · k / √d_head), blocks.L.attn.hook_pattern [head, dest, src]",
        make: || Box::new(scratch::Patterns::default()),
    },
    ViewDef {
        kind: ViewKind::ScratchFourier,
        name: "scratch-fourier",
        title: "Fourier",
        workspace: Workspace::Scratch,
        help: "Which frequencies the model of modular addition uses. Memorised answers have none; the rule uses a few key frequencies, which are marked.",
        formula: "shares of variance: embeddings in cos, sin 2πkn/p; logits in cos 2πk(a + b − c)/p [Nanda et al. 2023]",
        make: || Box::new(scratch::FourierView),
    },
];

/// The view with a name of the command line.
pub fn by_name(name: &str) -> Option<&'static ViewDef> {
    VIEWS.iter().find(|v| v.name == name)
}

impl ViewKind {
    pub fn def(self) -> &'static ViewDef {
        VIEWS.iter().find(|v| v.kind == self).unwrap_or(&VIEWS[0])
    }
}
