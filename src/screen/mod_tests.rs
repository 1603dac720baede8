use super::measure::auc;
use super::*;

fn example(text: &str, violates: bool) -> Example {
    Example {
        text: text.into(),
        violates,
    }
}

/// Messages about money that violate and messages about gardens that do not, with words that both have.
fn made_up(from: usize, to: usize) -> Vec<Example> {
    let money = ["bank", "account", "prize", "cash", "refund", "invoice"];
    let garden = ["tulip", "garden", "spade", "hedge", "lawn", "compost"];
    let both = [
        "today", "please", "see", "the", "new", "with", "your", "for",
    ];
    (from..to)
        .map(|n| {
            let violates = n % 3 == 0;
            let own = if violates { money } else { garden };
            let word = |step: usize, of: &[&str]| of[(n * step + n / 7) % of.len()].to_owned();
            let text = [
                word(1, &both),
                word(5, &own),
                word(3, &both),
                word(7, &own),
                n.to_string(),
            ];
            example(&text.join(" "), violates)
        })
        .collect()
}

fn trained() -> Screen {
    Screen::train(&made_up(0, 300), &Training::default()).unwrap()
}

#[test]
fn what_it_learned_holds_for_texts_it_never_saw() {
    let screen = trained();
    let scored: Vec<(f64, bool)> = made_up(300, 600)
        .iter()
        .map(|example| (screen.score(&example.text), example.violates))
        .collect();
    assert_eq!(auc(&scored), Some(1.0));
    let (high, low) = (
        screen.score("your bank refund"),
        screen.score("the new lawn"),
    );
    assert!(high > 0.8 && low < 0.2, "{high} {low}");
    assert_eq!(screen.trained_on(), 300);
}

#[test]
fn training_gives_the_same_bytes_on_any_number_of_threads() {
    let examples = made_up(0, 200);
    let train = |threads, seed| Screen::train(&examples, &Training { threads, seed }).unwrap();
    let one = train(1, 5);
    for threads in [0, 2, 3, 9] {
        assert_eq!(train(threads, 5).to_bytes(), one.to_bytes(), "{threads}");
    }
    assert_ne!(train(1, 6).to_bytes(), one.to_bytes());
}

#[test]
fn bytes_make_the_same_screen() {
    let screen = trained();
    let again = Screen::from_bytes(&screen.to_bytes()).unwrap();
    assert_eq!(again, screen);
    assert_eq!(again.digest(), *blake3::hash(&screen.to_bytes()).as_bytes());
    for example in made_up(250, 350) {
        let (one, other) = (screen.score(&example.text), again.score(&example.text));
        assert_eq!(one.to_bits(), other.to_bits());
    }
    assert!(screen.to_bytes().len() < 300_000);
}

#[test]
fn scores_on_threads_are_the_scores_of_each() {
    let screen = trained();
    let texts: Vec<Arc<str>> = made_up(0, 101)
        .into_iter()
        .map(|example| example.text)
        .collect();
    let each: Vec<f64> = texts.iter().map(|text| screen.score(text)).collect();
    for threads in [0, 1, 2, 7, 500] {
        assert_eq!(screen.scores(&texts, threads), each, "{threads}");
    }
    assert!(screen.scores(&[], 3).is_empty());
}

#[test]
fn one_kind_and_too_much_are_refused() {
    let train = |examples: &[Example]| Screen::train(examples, &Training::default()).unwrap_err();
    for (examples, violating) in [
        (vec![], 0),
        (vec![example("a", true), example("b", true)], 2),
        (vec![example("a", false)], 0),
    ] {
        let count = examples.len();
        assert_eq!(
            train(&examples),
            ScreenError::OneKind {
                examples: count,
                violating
            }
        );
    }
    let long = example(
        &"word ".repeat(crate::config::SCREEN_TRAINING_BYTES_MAX / 5 + 1),
        true,
    );
    assert!(matches!(
        train(&[long, example("b", false)]),
        ScreenError::TooMany { .. }
    ));
    let many = vec![example("a", true); crate::config::SCREEN_EXAMPLES_MAX + 1];
    assert!(matches!(
        train(&many),
        ScreenError::TooMany { of: "texts", .. }
    ));
}

#[test]
fn any_text_has_a_score() {
    let screen = trained();
    let odd =
        "\u{0}\u{FFFF}\u{10FFFF}\u{FDD0}\u{300}\u{301}\u{202E}\u{FFFD}\u{1F3F4}\u{E0067}\u{E007F}";
    let enormous = "the bank \u{1F600} garden ".repeat(400_000);
    let unbroken = "x".repeat(3_000_000);
    for text in [
        "",
        " ",
        "\n\n",
        odd,
        &odd.repeat(1000),
        &enormous,
        &unbroken,
        "\u{130}\u{1E9E}",
    ] {
        let score = screen.score(text);
        assert!(
            (0.0..=1.0).contains(&score),
            "{score} for {} bytes",
            text.len()
        );
    }
    // What occurs again changes nothing, however often.
    assert_eq!(
        screen.score("bank lawn bank lawn"),
        screen.score(&"bank lawn ".repeat(50_000))
    );
}

#[test]
fn little_and_contradictory_training_gives_numbers() {
    for examples in [
        vec![example("yes", true), example("no", false)],
        vec![example("same", true), example("same", false)],
        vec![example("", true), example("", false), example("", true)],
        vec![
            example("yes", true),
            example("no", false),
            example("yes", true),
            example("so", false),
        ],
    ] {
        let screen = Screen::train(&examples, &Training::default()).unwrap();
        for text in ["yes", "no", "same", "", "else"] {
            assert!((0.0..=1.0).contains(&screen.score(text)));
        }
    }
    let sure = Screen::train(
        &[example("yes", true), example("no", false)],
        &Training::default(),
    )
    .unwrap();
    assert!(sure.score("yes") > sure.score("no"));
}
