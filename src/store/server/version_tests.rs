//! Programs of two versions on one store.

use super::super::schema::{KNOWN, Step, prepare_by};
use super::{by, judged, spooled};
use crate::store::bed::shared;
use crate::store::tests::verdict;
use crate::store::*;
use std::sync::Arc;

/// A program of a later version comes to a store that this one works on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_share_a_store_while_the_newer_only_adds() {
    let Some(url) = shared::url() else { return };
    let store = Store::shared(&url).unwrap();
    store.append(vec![verdict(1)]).await.unwrap();
    let Place::Server(server) = store.inner.place.clone() else {
        panic!("a shared store is a file");
    };
    let step = |version, oldest, sql| Step {
        version,
        oldest,
        sql,
    };
    let comes = |steps: Vec<Step>| {
        let server = Arc::clone(&server);
        let opening = move || prepare_by(&server.connect()?, &server, &steps);
        async { tokio::task::spawn_blocking(opening).await.unwrap() }
    };
    let adds = || {
        step(
            KNOWN + 1,
            KNOWN,
            "ALTER TABLE backfills ADD COLUMN later BIGINT; CREATE TABLE later (x BIGINT)",
        )
    };
    let renames = || {
        let sql = "ALTER TABLE backfills RENAME COLUMN later TO latest";
        step(KNOWN + 2, KNOWN + 2, sql)
    };
    let present = store.announce().unwrap();
    comes(vec![adds()]).await.unwrap();
    // The older one goes on, and another of its kind may come.
    store.append(vec![verdict(2)]).await.unwrap();
    let id = spooled(&store, 2).await;
    let claimed = store.claim_chunk(by("old".to_owned(), 10)).await.unwrap();
    let claimed = claimed.expect("a chunk");
    let at = (claimed.backfill, claimed.position);
    let texts = claimed.rows.iter().map(|row| Arc::clone(&row.text));
    let settled = store.settle_chunk(at, judged("old", texts)).await.unwrap();
    assert_eq!(settled.map(|row| (row.id, row.judged)), Some((id, 1)));
    drop(Store::shared(&url).unwrap());
    // What it could not go on with is not done while it is there.
    let refused = comes(vec![adds(), renames()]).await.unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("1 running servers that cannot work with format"),
        "{said}"
    );
    assert!(store.backfill(id).await.unwrap().is_some());
    drop(present);
    comes(vec![adds(), renames()]).await.unwrap();
    let refused = Store::shared(&url).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { .. }), "{refused}");
}
