//! Limits of a day hold for work in the background: it waits for the next day, and asks nothing twice.

use super::Bench;
use safeguard::config::{RoleLimits, RolesLimits};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

impl Bench {
    fn limit(&self, limits: RolesLimits) {
        let clock = Arc::clone(&self.clock);
        self.engine
            .limit(limits, Arc::new(move || clock.load(Relaxed)));
    }
}

fn asked(most: u64) -> RoleLimits {
    RoleLimits {
        asked_per_day: Some(most),
        tokens_per_day: None,
    }
}

#[tokio::test]
async fn a_backfill_is_its_admins_and_waits_for_the_next_day() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.limit(RolesLimits {
        admin: asked(400),
        analyst: asked(0),
        ..RolesLimits::default()
    });
    bench.begin("").await;
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, reason").await,
        "running|400|budget: limits.admin.asked_per_day = 400 has no room left for this day; it begins anew at 2100-01-02 00:00 UTC"
    );
    assert_eq!(bench.script.asked().len(), 400);
    bench.later(HOUR);
    bench.work().await;
    assert!(bench.script.asked().is_empty());
    bench.later(24 * HOUR);
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, failed, reason").await,
        "done|600|0|NULL"
    );
    assert_eq!(bench.script.asked().len(), 200);
    let days = "SELECT role, asked FROM safeguard.limit_days ORDER BY day";
    assert_eq!(bench.rows(days).await, ["admin|400", "admin|200"]);
}

#[tokio::test]
async fn what_waits_in_the_queue_is_the_analysts() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.limit(RolesLimits {
        admin: asked(0),
        analyst: asked(300),
        ..RolesLimits::default()
    });
    bench.rows("SET safeguard.answer = 'queue'").await;
    bench
        .rows("SELECT safeguard_classify('p', body) FROM posts")
        .await;
    let depth = "SELECT depth, judged, failed FROM safeguard.queue";
    for left in ["300|300|0", "0|600|0", "0|600|0"] {
        bench.work().await;
        assert_eq!(bench.rows(depth).await, [left]);
        bench.later(24 * HOUR);
    }
    assert_eq!(bench.script.asked().len(), 600, "each once");
}
