use super::*;

fn example(text: &str, violates: bool) -> Example {
    Example {
        text: text.into(),
        violates,
    }
}

#[test]
fn a_text_is_in_one_fold_and_kinds_are_spread() {
    let examples: Vec<Example> = (0..40)
        .map(|n| example(&format!("text {}", n % 20), n % 5 == 0))
        .collect();
    let (of, distinct) = folds(&examples);
    assert_eq!(distinct, 20);
    for n in 0..20 {
        assert_eq!(of[n], of[n + 20]);
    }
    for fold in 0..FOLDS {
        let rows = || (0..20).filter(|n| of[*n] == fold);
        assert_eq!(
            (rows().count(), rows().filter(|n| n % 5 == 0).count()),
            (5, 1)
        );
    }
    let few = [example("a", true), example("b", false), example("c", false)];
    assert!(folds(&few).0.iter().all(|fold| *fold == 0));
}

#[test]
fn the_curve_finds_the_probabilities_behind_scores() {
    // At score s one in 1 + e^-(2s - 1) violates.
    let (mut scored, mut labels) = (Vec::new(), Vec::new());
    for step in -20..=20 {
        let score = f64::from(step) / 10.0;
        let violating = (1000.0 / (1.0 + (1.0 - 2.0 * score).exp())).round() as usize;
        for n in 0..1000 {
            scored.push(score);
            labels.push(n < violating);
        }
    }
    let (slope, offset) = calibrate(&scored, &labels);
    assert!(
        (slope - 2.0).abs() < 0.02 && (offset + 1.0).abs() < 0.02,
        "{slope} {offset}"
    );
    let upside_down: Vec<bool> = labels.iter().map(|violates| !violates).collect();
    assert_eq!(calibrate(&scored, &upside_down).0, SLOPE_MIN);
    // Scores that part the kinds leave the curve finite.
    let (slope, offset) = calibrate(&[-1.0, 1.0, -1.0, 1.0], &[false, true, false, true]);
    assert!(slope.is_finite() && offset.is_finite() && slope > SLOPE_MIN);
}

#[test]
fn work_comes_back_in_order() {
    for threads in [1, 2, 5] {
        assert_eq!(each(7, threads, |at| at * at), [0, 1, 4, 9, 16, 25, 36]);
    }
    assert!(each(0, 3, |at| at).is_empty());
}
