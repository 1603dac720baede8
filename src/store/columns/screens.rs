//! The table of screens: what was certified of each, and when that was withdrawn.

use super::{Kind, Table, column, nullable};

/// Certificates of screens; `standing` says what has become of each. The weights are not a column.
pub(in crate::store) static SCREENS: Table = Table {
    name: "screens",
    from: "screens",
    join: "",
    columns: &[
        column("certificate", "certificate", Kind::Int),
        column("event", "event", Kind::Text),
        column("at", "at", Kind::Time),
        column("policy", "policy", Kind::Text),
        column("policy_version", "policy_version", Kind::Int),
        column("policy_digest", "policy_digest", Kind::Text),
        column("screen_digest", "screen_digest", Kind::Hex),
        column("reasoner", "reasoner", Kind::Text),
        column("reasoner_digest", "reasoner_digest", Kind::Text),
        column("basis", "basis", Kind::Text),
        nullable("source", "source", Kind::Text),
        nullable("slice", "slice", Kind::Text),
        column("state", "state", Kind::Text),
        column("standing", STANDING, Kind::Text),
        column("target", "target", Kind::Float),
        column("delta", "delta", Kind::Float),
        nullable("clear_below", "clear_below", Kind::Float),
        nullable("recall_bound", "recall_bound", Kind::Float),
        nullable("precision_target", "precision_target", Kind::Float),
        nullable("convict_above", "convict_above", Kind::Float),
        nullable("precision_bound", "precision_bound", Kind::Float),
        column("texts", "texts", Kind::Int),
        column("cleared", "cleared", Kind::Int),
        column("convicted", "convicted", Kind::Int),
        column("labels", "labels", Kind::Int),
        column("violating", "violating", Kind::Int),
        column("trained_on", "trained_on", Kind::Int),
        nullable("more_labels", "more_labels", Kind::Int),
        column("finding", "finding", Kind::Text),
    ],
};

/// A certificate ends with the next one of its policy's text and reasoner, and when the policy gets another text. Which
/// model reasons now is not known here: what is in force is so beside its own reasoner.
const STANDING: &str = "CASE
    WHEN certificate < (SELECT max(later.certificate) FROM screens AS later
                        WHERE later.policy_digest = screens.policy_digest
                          AND later.reasoner_digest = screens.reasoner_digest) THEN 'superseded'
    WHEN policy_digest NOT IN (SELECT digest FROM policies) THEN 'expired'
    WHEN state = 'on' THEN 'in force'
    ELSE 'off' END";
