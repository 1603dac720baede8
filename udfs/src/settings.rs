//! `SET safeguard.*`: what a connection may choose, checked when it is set.

/// How the reasoner reaches a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Score, and reason only where the calibrated gap is small; without a calibration, reason.
    #[default]
    Auto,
    /// Read the label from the logits behind an empty analysis.
    Score,
    /// Decode an analysis first.
    Reason,
}

/// How much the model is told to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Effort {
    /// `Reasoning: low`
    #[default]
    Low,
    /// `Reasoning: medium`
    Medium,
    /// `Reasoning: high`
    High,
}

/// Whether a statement waits for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Answer {
    /// Judge now.
    #[default]
    Wait,
    /// Come back at once with `undecided: queued` and judge in the background.
    Queue,
    /// Never ask: only what is stored.
    Stored,
}

/// Which work goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lane {
    /// Someone waits.
    #[default]
    Interactive,
    /// Nobody waits.
    Backfill,
}

/// A connection's `safeguard.*` settings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SafeguardSettings {
    /// `safeguard.mode`
    pub mode: Mode,
    /// `safeguard.effort`
    pub effort: Effort,
}
