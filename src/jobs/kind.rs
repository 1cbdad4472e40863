//! Kinds of request: how urgent they are, where they run, and what they make pointless.

/// Kinds of request, most urgent first. Of each kind one waits and one runs at most: a newer request
/// replaces the waiting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Open,
    Run,
    RunCorrupted,
    RunEdited,
    Pattern,
    Attribution,
    Backup,
    Thumbnails,
    Lens,
    Norms,
    Neurons,
    NeuronTokens,
    Geometry,
    Projection,
    Sweep,
    Approximation,
    TextScores,
    RandomScores,
    Generate,
    Graph,
    GraphFile,
    Drawing,
    Why,
    Quality,
    Search,
}

/// The model's threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Clicks,
    Sweeps,
    Graphs,
    Circuits,
}

impl Lane {
    pub const ALL: [Self; 4] = [Self::Clicks, Self::Sweeps, Self::Graphs, Self::Circuits];

    /// The thread's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clicks => "model",
            Self::Sweeps => "sweeps",
            Self::Graphs => "graphs",
            Self::Circuits => "circuits",
        }
    }
}

impl Kind {
    /// All kinds, most urgent first.
    pub const ALL: [Self; 25] = [
        Self::Open,
        Self::Run,
        Self::RunCorrupted,
        Self::RunEdited,
        Self::Pattern,
        Self::Attribution,
        Self::Backup,
        Self::Thumbnails,
        Self::Lens,
        Self::Norms,
        Self::Neurons,
        Self::NeuronTokens,
        Self::Geometry,
        Self::Projection,
        Self::Sweep,
        Self::Approximation,
        Self::TextScores,
        Self::RandomScores,
        Self::Generate,
        Self::Graph,
        Self::GraphFile,
        Self::Drawing,
        Self::Why,
        Self::Quality,
        Self::Search,
    ];

    /// What the status line says while it runs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "opening model",
            Self::Run => "running prompt",
            Self::RunCorrupted => "running the corrupted prompt",
            Self::RunEdited => "running with edits",
            Self::Backup => "backup components",
            Self::Sweep => "patching sweep",
            Self::Approximation => "attribution patching",
            Self::Generate => "generating",
            Self::Graph => "attribution graph",
            Self::GraphFile => "opening a graph",
            Self::Drawing => "pruning the graph",
            Self::Why => "taking a head apart",
            Self::Quality => "trying the circuit",
            Self::Search => "searching a circuit",
            Self::Pattern => "attention pattern",
            Self::Attribution => "direct attribution",
            Self::Thumbnails => "all attention patterns",
            Self::Lens => "logit lens",
            Self::Norms => "norms",
            Self::Neurons => "neurons",
            Self::NeuronTokens => "neuron's tokens",
            Self::Geometry => "feature geometry",
            Self::Projection => "projection",
            Self::TextScores => "head scores on this text",
            Self::RandomScores => "head scores on random tokens",
        }
    }

    /// Which thread it runs on: what a click asks for need not wait for a sweep, nor a graph for a search.
    pub fn lane(self) -> Lane {
        match self {
            Self::Sweep | Self::Approximation | Self::Generate | Self::RandomScores | Self::Geometry => Lane::Sweeps,
            Self::Graph | Self::GraphFile | Self::Drawing => Lane::Graphs,
            Self::Quality | Self::Search => Lane::Circuits,
            _ => Lane::Clicks,
        }
    }

    /// What it depends on: opening makes everything else pointless, a new run all its analyses.
    pub fn outdates(self, other: Self) -> bool {
        match self {
            // A graph from a file has nothing to do with any model.
            Self::Open => !matches!(other, Self::GraphFile | Self::Drawing),
            Self::Run => !matches!(
                other,
                Self::Open | Self::RandomScores | Self::NeuronTokens | Self::Geometry | Self::GraphFile | Self::Drawing
            ),
            // What compares the two prompts depends on the corrupted run as well.
            Self::RunCorrupted => {
                other == self
                    || matches!(
                        other,
                        Self::RunEdited
                            | Self::Backup
                            | Self::Sweep
                            | Self::Approximation
                            | Self::Generate
                            | Self::Quality
                            | Self::Search
                    )
            }
            Self::RunEdited => other == self || matches!(other, Self::Backup | Self::Generate),
            _ => other == self,
        }
    }
}
