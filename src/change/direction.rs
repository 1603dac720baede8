//! From what to what a text's decision changed.
//!
//! Takes what two versions said, gives a direction or that nothing changed. Labels of two versions need not have the same
//! names: allowed stays allowed whatever it is called.

/// A label, and whether it violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<'a> {
    /// One of the policy's labels.
    pub label: &'a str,
    /// Whether it is another than the policy's allowed one.
    pub violates: bool,
}

/// How a decision changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It was allowed and violates now.
    Convicted,
    /// It violated and is allowed now.
    Cleared,
    /// It violates still, under another label.
    Relabelled,
    /// It was decided and is undecided now.
    Lost,
    /// It was undecided and is decided now.
    Found,
}

impl Direction {
    /// Every direction, in the order of reports.
    pub const ALL: [Direction; 5] = [
        Direction::Convicted,
        Direction::Cleared,
        Direction::Relabelled,
        Direction::Lost,
        Direction::Found,
    ];

    /// The words in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Convicted => "allowed->violating",
            Direction::Cleared => "violating->allowed",
            Direction::Relabelled => "label->label",
            Direction::Lost => "decided->undecided",
            Direction::Found => "undecided->decided",
        }
    }
}

/// The way from an old decision to a new one; `None` stands for an undecided one, and is given where nothing changed.
pub fn direction(old: Option<Said<'_>>, new: Option<Said<'_>>) -> Option<Direction> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(Direction::Found),
        (Some(_), None) => Some(Direction::Lost),
        (Some(old), Some(new)) => match (old.violates, new.violates) {
            (false, true) => Some(Direction::Convicted),
            (true, false) => Some(Direction::Cleared),
            (false, false) => None,
            (true, true) => (old.label != new.label).then_some(Direction::Relabelled),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_direction() {
        let said = |label, violates| Some(Said { label, violates });
        let (ok, fine) = (said("allowed", false), said("fine", false));
        let (bad, worse) = (said("bad", true), said("worse", true));
        let cases = [
            (ok, ok, None),
            (ok, fine, None),
            (None, None, None),
            (bad, bad, None),
            (ok, bad, Some("allowed->violating")),
            (bad, fine, Some("violating->allowed")),
            (bad, worse, Some("label->label")),
            (bad, None, Some("decided->undecided")),
            (ok, None, Some("decided->undecided")),
            (None, ok, Some("undecided->decided")),
            (None, bad, Some("undecided->decided")),
        ];
        for (old, new, want) in cases {
            let got = direction(old, new).map(Direction::as_str);
            assert_eq!(got, want, "{old:?} {new:?}");
        }
    }
}
