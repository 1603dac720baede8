//! Estimates: what is projected from what, and how it is said.

use super::*;

#[test]
fn what_was_not_read_is_projected() {
    let seen = |rows, whole| Seen {
        rows,
        whole,
        ..Seen::default()
    };
    let cases = [
        (
            seen(10, true),
            Precision::Exact(10),
            1.0,
            "exact: the whole input was read",
        ),
        (
            seen(10, true),
            Precision::Absent,
            1.0,
            "exact: the whole input was read",
        ),
        (
            seen(10, false),
            Precision::Exact(40),
            4.0,
            "a sample: the first 10 rows were read, of 40 by statistics; texts that come again make it less",
        ),
        (
            seen(10, false),
            Precision::Inexact(40),
            4.0,
            "a sample: the first 10 rows were read, of about 40 by statistics; texts that come again make it less",
        ),
        (
            seen(10, false),
            Precision::Inexact(5),
            1.0,
            "at least: the first 10 rows were read, and how many there are is unknown",
        ),
        (
            seen(10, false),
            Precision::Absent,
            1.0,
            "at least: the first 10 rows were read, and how many there are is unknown",
        ),
    ];
    for (seen, rows, want, basis) in cases {
        assert_eq!(scale(&seen, rows), (want, basis.to_owned()), "{rows:?}");
    }
}

#[test]
fn durations_are_as_exact_as_they_deserve() {
    let cases = [
        (0.34, "0.3 s"),
        (75.4, "75 s"),
        (720.0, "12 min"),
        (12_240.0, "3.4 h"),
    ];
    for (seconds, want) in cases {
        assert_eq!(duration(seconds), want);
    }
}
