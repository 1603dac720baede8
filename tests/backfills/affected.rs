//! `only => 'affected'`: which rows are judged again after an edit, and what the control sample says of the others.

use super::{Bench, STRICT};

const ONLY: &str = ", only => 'affected', note => 'H2 is strict now'";

#[tokio::test]
async fn only_rows_whose_rule_changed_are_judged_again() {
    let bench = Bench::new().await;
    bench.table(2_100).await;
    bench.begin("").await;
    bench.work().await;
    assert_eq!(bench.backfill("state, judged").await, "done|2100");
    bench
        .rows("INSERT INTO posts VALUES (9001, 1, 'new and odd'), (9002, 1, 'endless')")
        .await;
    bench
        .row("SELECT state FROM safeguard_backfill('p', 'SELECT ''endless'' AS body')")
        .await;
    bench.work().await;
    assert_eq!(bench.row(STRICT).await, "2");
    bench.script.asked();
    bench.begin(ONLY).await;
    bench.work().await;
    // 300 are odd, and 30 of those bad, of which H1 was said; one is new, one was undecided; 200 are a sample of the rest.
    let third = |columns: &str| format!("SELECT {columns} FROM safeguard.backfills WHERE id = 3");
    assert_eq!(
        bench
            .row(&third(
                "state, only, rows, judged, undecided, control_rows, control_flips"
            ))
            .await,
        "done|affected|472|472|1|200|0"
    );
    let odd = bench
        .script
        .asked()
        .iter()
        .filter(|text| text.contains("odd"))
        .count();
    assert!(odd >= 271, "{odd}");
    let missed = bench
        .row(&third("missed_share, missed_low, missed_high"))
        .await;
    assert!(missed.starts_with("0.0|0.0|0.018"), "{missed}");
    let flipped =
        "SELECT count(*) FROM safeguard.verdicts WHERE policy_version = 2 AND label = 'bad'";
    let flipped: u64 = bench.row(flipped).await.parse().unwrap();
    assert!(flipped >= 271, "{flipped}");
}

/// An edit outside of the rules that are cited is missed, and the control sample says how much.
#[tokio::test]
async fn what_the_shortcut_misses_is_estimated() {
    let bench = Bench::new().await;
    bench.table(3_000).await;
    bench.begin("").await;
    bench.work().await;
    // H1 alone is said to be changed, but odd texts flip.
    let text = "SELECT version FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\n- H1: bad if it sells, be strict\\n- H2: odd things are allowed')";
    assert_eq!(bench.row(text).await, "2");
    bench.begin(ONLY).await;
    bench.work().await;
    let sql = "SELECT state, rows, control_rows, control_flips > 5, missed_low < 386.0 / 2700, missed_high > 386.0 / 2700,
                      missed_low > 0.05, missed_high < 0.25
               FROM safeguard.backfills WHERE id = 2";
    assert_eq!(
        bench.row(sql).await,
        "done|500|200|true|true|true|true|true"
    );
}

/// `from` names the verdicts that count: of a version that was never judged under, every row is affected.
#[tokio::test]
async fn rows_that_were_never_judged_are_affected() {
    let bench = Bench::new().await;
    bench.table(50).await;
    bench.row(STRICT).await;
    bench.begin(", only => 'affected', from => 'p@1'").await;
    bench.work().await;
    assert_eq!(
        bench
            .backfill("state, rows, control_rows, missed_share")
            .await,
        "done|50|0|NULL"
    );
}
