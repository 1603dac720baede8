//! Figures against scikit-learn's on the same predictions, and what holds at the edges.

use super::*;

/// Predictions (golden,label,score) and scikit-learn's figures of them; `tests/figures/README.md` says where from.
const FIXTURES: [(&str, &str, &str); 2] = [
    (
        "labels",
        include_str!("../../tests/figures/labels.csv"),
        include_str!("../../tests/figures/labels.sklearn.csv"),
    ),
    (
        "hate",
        include_str!("../../tests/figures/hate.csv"),
        include_str!("../../tests/figures/hate.sklearn.csv"),
    ),
];

fn records(csv: &str) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let records = reader.records();
    records
        .map(|record| record.unwrap().iter().map(ToOwned::to_owned).collect())
        .collect()
}

#[test]
fn figures_are_those_of_scikit_learn() {
    for (name, predictions, figures) in FIXTURES {
        let figures = records(figures);
        let (all, of_labels) = figures.split_last().unwrap();
        let labels: Vec<Arc<str>> = of_labels
            .iter()
            .map(|line| line[0].as_str().into())
            .collect();
        let place = |word: &str| labels.iter().position(|label| **label == *word);
        let rows: Vec<Row> = records(predictions)
            .iter()
            .map(|record| Row {
                golden: place(&record[0]).unwrap(),
                label: place(&record[1]),
            })
            .collect();
        assert!(rows.len() >= 200, "{name}: {}", rows.len());
        let found = measure(&labels, &rows);
        assert_eq!(found.len(), figures.len());
        for (measure, wanted) in found.iter().zip(&figures) {
            assert_eq!(*measure.label, *wanted[0]);
            for (figure, wanted) in [measure.precision, measure.recall, measure.f1]
                .into_iter()
                .zip(&wanted[1..])
            {
                match (figure, wanted.parse::<f64>()) {
                    (Some(figure), Ok(wanted)) => {
                        assert!((figure.value - wanted).abs() < 1e-9, "{name} {measure:?}");
                        let Interval { low, high } = figure.interval;
                        assert!(low <= figure.value && figure.value <= high);
                    }
                    (None, Err(_)) => {}
                    other => panic!("{name} {}: {other:?}", measure.label),
                }
            }
        }
        let accuracy: f64 = all[4].parse().unwrap();
        let recall = found.last().unwrap().recall.unwrap();
        assert!((recall.value - accuracy).abs() < 1e-9, "{name}");
    }
}

fn row(golden: usize, label: Option<usize>) -> Row {
    Row { golden, label }
}

fn labels() -> Vec<Arc<str>> {
    ["fine", "rude"].map(Arc::from).to_vec()
}

#[test]
fn nothing_is_measured_over_no_rows() {
    let found = measure(&labels(), &[]);
    assert_eq!(found.len(), 3);
    for measure in found {
        let figures = (measure.precision, measure.recall, measure.f1);
        assert_eq!(figures, (None, None, None), "{}", measure.label);
        assert_eq!((measure.n, measure.predicted, measure.right), (0, 0, 0));
    }
}

#[test]
fn undecided_rows_are_missed_and_never_given_a_label() {
    let rows = [row(0, Some(0)), row(0, None), row(1, None), row(1, None)];
    let found = measure(&labels(), &rows);
    let values = |at: usize| {
        let m = &found[at];
        let value = |figure: Option<Figure>| figure.map(|f| f.value);
        (
            m.undecided,
            value(m.precision),
            value(m.recall),
            value(m.f1),
        )
    };
    assert_eq!(values(0), (1, Some(1.0), Some(0.5), Some(2.0 / 3.0)));
    assert_eq!(values(1), (2, None, Some(0.0), Some(0.0)));
    assert_eq!(values(2), (3, Some(1.0), Some(0.25), Some(0.4)));
    // No row that is right, and all of them decided: there are intervals nevertheless.
    for rows in [
        vec![row(0, None); 30],
        vec![row(0, Some(1)); 30],
        vec![row(0, Some(0)); 30],
    ] {
        let all = measure(&labels(), &rows).pop().unwrap();
        let Interval { low, high } = all.f1.unwrap().interval;
        assert!(low < high && high - low < 0.3, "{all:?}");
    }
}

#[test]
fn changes_are_counted_by_golden_label() {
    let before = [
        row(0, Some(0)),
        row(0, Some(1)),
        row(1, Some(1)),
        row(1, None),
        row(1, Some(0)),
    ];
    let now = [
        row(0, Some(1)),
        row(0, Some(0)),
        row(1, Some(1)),
        row(1, Some(0)),
        row(1, None),
    ];
    let change = |flips, fixed, broken| Change {
        flips,
        fixed,
        broken,
    };
    assert_eq!(
        changes(2, &before, &now),
        [change(2, 1, 1), change(2, 0, 0), change(4, 1, 1)]
    );
    assert_eq!(changes(2, &now, &now), [Change::default(); 3]);
}
