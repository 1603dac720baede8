//! What goes wrong, fault by fault: the decision or the exact message, and how often it was asked.

use super::double::{Double, Fault, MODEL, Skills};
use super::{hurried, label, open, open_with, prompt};
use safeguard::backend::endpoint::{Endpoint, Tuning};
use safeguard::backend::{Backend, BackendError, NoAnswer};
use safeguard::error::Error;
use safeguard_udfs::Mode;
use std::time::Duration;

/// Asks once about a text that violates: label, failure or neither, with the times that the server was asked.
async fn ask(
    endpoint: &Endpoint,
    double: &Double,
    faults: &[Fault],
) -> (Result<usize, String>, usize) {
    double.fail(faults);
    let reply = endpoint.ask(prompt("bad", Mode::Reason)).await;
    let said = match (&reply, label(&reply)) {
        (_, Ok(index)) => Ok(index),
        (Err(error), _) => Err(error.to_string().replace(&double.address, "URL")),
        (_, Err(why)) => Err(format!("{why:?}")),
    };
    (said, double.asked().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_asked_again_and_what_stays_is_said() {
    let again = |why: &str| Err(format!("model failed: {why}; given up after 5 tries"));
    let once = |why: &str| Err(format!("model failed: {why}"));
    let body = |body: &str| Fault::Body(body.to_owned());
    let busy = Fault::Status(429, Some("0"));
    let cases: Vec<(Vec<Fault>, Result<usize, String>, usize)> = vec![
        (vec![], Ok(1), 1),
        (vec![busy.clone(); 3], Ok(1), 4),
        (
            vec![busy.clone(); 5],
            again("URL answers 429 Too Many Requests: not now"),
            5,
        ),
        (
            vec![
                Fault::Status(500, None),
                Fault::Cut,
                Fault::Status(503, Some("0")),
            ],
            Ok(1),
            4,
        ),
        (
            vec![Fault::Status(400, None)],
            once("URL answers 400 Bad Request: not now"),
            1,
        ),
        (
            vec![Fault::Status(404, None)],
            once("URL answers 404 Not Found: not now"),
            1,
        ),
        (
            vec![Fault::Status(401, None)],
            once("URL answers 401 Unauthorized: SAFEGUARD_API_KEY must hold a key that it accepts"),
            1,
        ),
        (
            vec![Fault::Status(302, None)],
            once("URL answers 302 Found: not now"),
            1,
        ),
        (
            vec![Fault::Model("another")],
            once(&format!("URL answers as \"another\", not as \"{MODEL}\"")),
            1,
        ),
        (vec![body("<html>busy</html>")], Ok(1), 2),
        (
            vec![body("{\"error\": {\"message\": \"worker died\"}}")],
            Ok(1),
            2,
        ),
        (vec![body("{\"choices\": [{\"text\": \"cut\"}]}")], Ok(1), 2),
        (
            vec![body(&" ".repeat(9 << 20))],
            once("URL: the reply has more than 8388608 bytes"),
            1,
        ),
    ];
    for (faults, expected, asked) in cases {
        // Each on a server of its own: one that failed before is asked less.
        let double = Double::start(Skills::default()).await;
        let endpoint = open(&double).await;
        let found = ask(&endpoint, &double, &faults).await;
        let shown = format!("{faults:?}");
        assert_eq!(
            found,
            (expected, asked),
            "{}",
            &shown[..shown.len().min(200)]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_says_decides_and_only_its_final_channel() {
    let double = Double::start(Skills::default()).await;
    let endpoint = open(&double).await;
    let chat = Double::start(Skills {
        ids: false,
        text: false,
        ..Skills::default()
    })
    .await;
    let by_chat = open(&chat).await;
    let none = |why: NoAnswer| Err(format!("Some({why:?})"));
    for (analysis, last, finish, expected) in [
        ("a", "violates", "stop", Ok(1)),
        ("a", "", "stop", none(NoAnswer::Unparsed)),
        ("a", "allowed", "length", none(NoAnswer::Truncated)),
        ("a", "bad\nviolates", "stop", Ok(1)),
        (
            "a",
            "allowed\nbad\nviolates",
            "stop",
            none(NoAnswer::Contradictory),
        ),
        (
            "a",
            "I\u{2019}m sorry, but I can\u{2019}t help with that.",
            "stop",
            none(NoAnswer::Refused),
        ),
        ("a", "x", "content_filter", none(NoAnswer::Refused)),
        ("a", "allowed", "tool_calls", none(NoAnswer::Unparsed)),
        ("allowed", "nothing of it", "stop", none(NoAnswer::Unparsed)),
    ] {
        let says = [Fault::Says(analysis, last, finish)];
        for (endpoint, double) in [(&endpoint, &double), (&by_chat, &chat)] {
            let found = ask(endpoint, double, &says).await;
            assert_eq!(found, (expected.clone(), 1), "{last} {finish}");
        }
    }
    // A header that is none, so that nothing is final.
    let found = ask(
        &endpoint,
        &double,
        &[Fault::Says("a", "allowed", "malformed")],
    )
    .await;
    assert_eq!(found, (none(NoAnswer::Unparsed), 1));
    // A chat server that has not taken the reply apart.
    let raw = "analysisIt is allowed";
    assert_eq!(
        ask(&by_chat, &chat, &[Fault::Says("", raw, "stop")])
            .await
            .0,
        none(NoAnswer::Unparsed)
    );
    let raw = "<|channel|>analysis<|message|>allowed<|end|><|start|>assistant<|channel|>final<|message|>violates";
    assert_eq!(
        ask(&by_chat, &chat, &[Fault::Says("", raw, "stop")])
            .await
            .0,
        Ok(1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_without_end_is_ended() {
    let double = Double::start(Skills::default()).await;
    let short = Tuning {
        reply: Duration::from_millis(200),
        ..hurried()
    };
    let endpoint = open_with(double.address.clone(), None, short)
        .await
        .expect("opened");
    assert_eq!(ask(&endpoint, &double, &[Fault::Endless]).await, (Ok(1), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_meanwhile_is_no_fault() {
    let once = Skills {
        once: true,
        ..Skills::default()
    };
    let double = Double::start(once).await;
    let endpoint = open(&double).await;
    for _ in 0..10 {
        let reply = endpoint.ask(prompt("bad", Mode::Reason)).await;
        assert_eq!(label(&reply), Ok(1));
    }
    assert_eq!((endpoint.sent(), double.asked().len()), (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_says_why_and_never_the_key() {
    let locked = Double::start(Skills {
        key: Some("right-key"),
        ..Skills::default()
    })
    .await;
    let two = Double::start(Skills {
        models: vec!["a", "b"],
        ..Skills::default()
    })
    .await;
    let mute = Double::start(Skills {
        ids: false,
        text: false,
        chat: false,
        ..Skills::default()
    })
    .await;
    let other = Double::start(Skills {
        models: vec!["gpt-oss-20b"],
        ..Skills::default()
    })
    .await;
    let well = Double::start(Skills::default()).await;
    let (locked, two, mute, other, well) = (
        &locked.address,
        &two.address,
        &mute.address,
        &other.address,
        &well.address,
    );
    let wrong_path = well.replace("/v1", "/v2");
    let refused = format!(
        "{locked} answers 401 Unauthorized: SAFEGUARD_API_KEY must hold a key that it accepts"
    );
    for (said, key, sqlstate, why) in [
        (locked.clone(), None, "28000", refused.clone()),
        (locked.clone(), Some("wrong-key"), "28000", refused),
        (
            two.clone(),
            None,
            "42704",
            format!("{two} has a, b; say which: {two}#NAME"),
        ),
        (
            format!("{two}#c"),
            None,
            "42704",
            format!("{two} has no model \"c\"; it has a, b"),
        ),
        (
            wrong_path.clone(),
            None,
            "08P01",
            format!(
                "{wrong_path} answers 404 Not Found: not served here; {wrong_path}/models should list its models"
            ),
        ),
        (
            mute.clone(),
            None,
            "08P01",
            format!(
                "{mute} can be asked neither by /completions nor by /chat/completions: {mute} answers 400 Bad Request: not served here"
            ),
        ),
        (
            format!("{well},{other}"),
            None,
            "42704",
            format!(
                "{well} has \"{MODEL}\" and {other} has \"gpt-oss-20b\": replicas must have one model"
            ),
        ),
        (
            "http://".to_owned(),
            None,
            "22023",
            "\"http://\" is not an address such as http://host:8000/v1".to_owned(),
        ),
    ] {
        let error = open_with(said, key, hurried()).await.expect_err("refused");
        assert!(
            !format!("{error:?} {error}").contains("wrong-key"),
            "{error:?}"
        );
        assert_eq!(error.to_string(), why);
        assert_eq!(Error::Backend(error).sqlstate(), sqlstate, "{why}");
    }
    let opened = open_with(locked.clone(), Some("right-key"), hurried())
        .await
        .expect("opened");
    assert!(!format!("{opened:?}").contains("right-key"));
    let dead = Double::start(Skills::default()).await;
    dead.kill();
    let error = open_with(dead.address.clone(), None, hurried())
        .await
        .expect_err("nobody there");
    assert!(
        matches!(&error, BackendError::Unreachable(why) if why.starts_with(&dead.address)),
        "{error}"
    );
    assert_eq!(Error::Backend(error).sqlstate(), "08001");
    let some = open_with(format!("{},{well}", dead.address), None, hurried())
        .await
        .expect("one answers");
    let down: Vec<bool> = some
        .found()
        .iter()
        .map(|found| found.ways.is_err())
        .collect();
    assert_eq!(down, [true, false]);
    assert_eq!(label(&some.ask(prompt("bad", Mode::Reason)).await), Ok(1));
}
