//! Stored verdicts asked again: on the scripted backend of `auto`, from SQL.

use crate::auto::{PUBLISH, Run};
use crate::stores;
use safeguard::policy::folder;
use safeguard::store::{Record, text_digest};

/// The key of the one verdict about a text under a policy.
async fn key(run: &mut Run, policy: &str, text: &str) -> String {
    let sql = format!(
        "SELECT verdict_digest FROM safeguard.verdicts
         WHERE policy = '{policy}' AND text_digest = safeguard_digest('{text}')"
    );
    let rows = run.rows(&sql).await.unwrap();
    assert_eq!(rows.len(), 1, "{policy} {text}");
    rows[0][0].clone()
}

/// What a replay says: status, what differs, why not, old and new label.
async fn replayed(run: &mut Run, verdict: &str, more: &str) -> Vec<String> {
    let sql = format!(
        "SELECT status, differs, why, old_label, new_label FROM safeguard_replay('{verdict}'{more})"
    );
    run.rows(&sql).await.unwrap().remove(0)
}

/// A stored verdict is asked again as it was asked, and what cannot be is said not to be.
#[tokio::test]
async fn verdicts_are_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let open = || stores::open(dir.path());
    let mut one = Run::new(open(), "one").await;
    for sql in [
        PUBLISH,
        "SET safeguard.mode = 'reason'",
        "SELECT safeguard_classify('p', t) FROM (VALUES ('bad one'), ('endless'), ('wobbly')) AS v(t)",
        "SELECT safeguard_classify(E'---\\nlabels: [allowed, bad]\\n---\\ninline', 'bad one')",
        "RESET safeguard.mode",
    ] {
        one.rows(sql).await.unwrap();
    }
    let golden = folder::shipped().remove(0);
    let (shipped, text) = (
        golden.policy.name,
        &golden.golden[0].text.replace('\'', "''"),
    );
    let judge = format!("SELECT safeguard_classify('{shipped}', '{text}')");
    one.rows(&judge).await.unwrap();
    let bad = key(&mut one, "p", "bad one").await;
    let (endless, wobbly) = (
        key(&mut one, "p", "endless").await,
        key(&mut one, "p", "wobbly").await,
    );
    let (inline, of_golden) = (
        key(&mut one, "inline", "bad one").await,
        key(&mut one, &shipped, text).await,
    );
    one.script.asked();
    let stored = "SELECT count(*) FROM safeguard.verdicts";
    let before = one.rows(stored).await.unwrap();
    let equal = ["equal", "NULL", "NULL", "bad", "bad"];
    let source = ", source => 'SELECT ''no'' AS t UNION ALL SELECT ''bad one'''";
    for (verdict, more) in [
        (&bad, ", text => 'bad one'"),
        (&bad[..9].to_owned(), source),
    ] {
        assert_eq!(replayed(&mut one, verdict, more).await, equal, "{more}");
    }
    assert_eq!(one.script.asked(), (0, 2));
    assert_eq!(
        replayed(&mut one, &endless, ", text => 'endless'").await,
        ["equal", "NULL", "NULL", "undecided", "undecided"]
    );
    assert_eq!(
        replayed(&mut one, &wobbly, ", text => 'wobbly'").await,
        ["drifted", "label, score", "NULL", "allowed", "bad"]
    );
    let kept = replayed(&mut one, &of_golden, "").await;
    assert_eq!(kept[0], "equal", "{kept:?}");
    one.script.asked();
    let unheard = [
        (&bad, "", "nothing stored quotes the text with the digest "),
        (&bad, ", text => 'bad two'", "the text's digest is "),
        (
            &bad,
            ", source => 'SELECT ''no'' AS t'",
            "no text of the source has the digest ",
        ),
        (
            &inline,
            ", text => 'bad one'",
            "its policy was an inline text, which is not kept",
        ),
    ];
    for (verdict, more, why) in unheard {
        let said = replayed(&mut one, verdict, more).await;
        assert_eq!(
            (&*said[0], &*said[3], &*said[4]),
            ("not replayable", "bad", "NULL"),
            "{more}"
        );
        assert!(said[2].starts_with(why), "{said:?}");
    }
    assert_eq!(one.script.asked(), (0, 0));
    one.rows("SET safeguard.answer = 'stored'").await.unwrap();
    let said = replayed(&mut one, &bad, ", text => 'bad one'").await;
    assert_eq!(said[2], "the model did not answer: budget");
    one.rows("RESET safeguard.answer").await.unwrap();
    // An override quotes the text.
    let quote =
        "INSERT INTO safeguard.overrides (policy, text, label) VALUES ('p', 'bad one', 'allowed')";
    one.rows(quote).await.unwrap();
    assert_eq!(replayed(&mut one, &bad, "").await, equal);
    assert_eq!(
        one.rows(stored).await.unwrap(),
        before,
        "a replay stores nothing"
    );
    // Another model says the same and is named.
    let mut two = Run::new(open(), "two").await;
    assert_eq!(
        replayed(&mut two, &bad, "").await,
        ["equal", "model", "NULL", "bad", "bad"]
    );
    let sql = format!(
        "SELECT policy, policy_current, mode, rationale_equal, score_difference, old_model_digest, new_model_digest FROM safeguard_replay('{bad}')"
    );
    assert_eq!(
        two.rows(&sql).await.unwrap(),
        [["p@1", "true", "reason", "true", "0.0", "one", "two"]]
    );
}

/// Verdicts that are not there, not one, or of a policy that is gone.
#[tokio::test]
async fn what_cannot_be_replayed_is_an_error_or_says_why() {
    let mut run = Run::new(stores::new(), "one").await;
    let record = |last, version| Record {
        verdict_digest: {
            let mut key = [0xab; 32];
            key[3] = last;
            key
        },
        policy: "spam".into(),
        policy_version: version,
        policy_digest: "0123456789".into(),
        text_digest: text_digest("hello"),
        label: Some("allowed".into()),
        violates: Some(false),
        score: None,
        gap: None,
        rationale: None,
        rules: Vec::new(),
        reason: None,
        stage: "score".into(),
        mode: "score".into(),
        effort: "low".into(),
        model: "m".into(),
        model_digest: "md".into(),
        tokens_in: 0,
        tokens_out: 0,
        seconds: None,
        judged_at: 7,
    };
    let store = run.engine.store().clone();
    store
        .append(vec![record(1, 1), record(2, 9)])
        .await
        .unwrap();
    for (verdict, error) in [
        (
            "abab",
            "22023 safeguard_replay: \"abab\" is not 6 to 64 hex digits of a verdict_digest",
        ),
        (
            "abcxyz",
            "22023 safeguard_replay: \"abcxyz\" is not 6 to 64 hex digits of a verdict_digest",
        ),
        ("abcdef", "42704 verdict \"abcdef\" does not exist"),
        (
            "ababab",
            "42725 \"ababab\" is the beginning of several verdicts",
        ),
    ] {
        let failed = run
            .rows(&format!("SELECT * FROM safeguard_replay('{verdict}')"))
            .await;
        assert_eq!(failed.unwrap_err().to_string(), error);
    }
    for (last, name) in [("01", "spam@1"), ("02", "spam@9")] {
        let whole = format!("ABABAB{last}{}", "AB".repeat(28));
        let said = replayed(&mut run, &whole, ", text => 'hello'").await;
        assert_eq!(said[2], format!("policy \"{name}\" is gone"));
    }
}
