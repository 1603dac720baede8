//! Pages about what was measured: made from what the store keeps, on the scripted backend of `auto`, asking nothing.

use crate::auto::{PUBLISH, Run};
use crate::stores;
use safeguard::change::report::{Kind, page};

#[tokio::test]
async fn what_was_found_is_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::new(stores::open(dir.path()), "one").await;
    for sql in [
        PUBLISH,
        "SET safeguard.mode = 'score'",
        "CREATE VIEW posts AS SELECT 'post ' || text AS id, text || ' <script>' AS text FROM golden",
        "SELECT safeguard_classify('p', text) FROM posts",
        "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nalso bad: vague')",
        "SELECT * FROM safeguard_evaluate('p', golden => 'golden', against => 'p@1')",
        "SELECT * FROM safeguard_backtest('p@1', 'p@2', 'SELECT id, text FROM posts', 120)",
        "SELECT * FROM safeguard_backfill('p@2', 'SELECT id, text FROM posts', note => 'why not')",
    ] {
        run.rows(sql).await.unwrap();
    }
    run.script.asked();
    let session = run.engine.session("ann");
    for (kind, shown) in [
        (
            Kind::Evaluation,
            [
                "Evaluation 1: p@2",
                "recall of bad",
                "golden label violating",
            ],
        ),
        (
            Kind::Backtest,
            ["Backtest 1: from p@1 to p@2", "allowed → bad", "post vague"],
        ),
        (Kind::Backfill, ["Backfill 1: p", "why not", "weight"]),
    ] {
        let html = page(&session, kind, 1).await.unwrap().html();
        for wanted in shown {
            assert!(html.contains(wanted), "{kind:?}: {wanted}\n{html}");
        }
        assert!(!html.contains("<script>"), "{html}");
        let missing = page(&session, kind, 7).await.unwrap_err();
        assert_eq!(missing.sqlstate(), "42704", "{missing}");
    }
    assert_eq!(run.script.asked(), (0, 0));
}
