//! What only a shared store does: it is made once, refused or shared by version, outlives its connections, and hands work
//! out to any number of servers.

use super::schema::KNOWN;
use crate::store::bed::shared;
use crate::store::tests::{key, verdict};
use crate::store::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_postgres::{Client, NoTls};

#[path = "version_tests.rs"]
mod versions;

/// A client by the side of ours, in the schema of a store.
async fn beside(url: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(shared::folder().unwrap())
        .user("postgres")
        .dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let schema = url.rsplit_once('=').unwrap().1;
    let path = format!("SET search_path = {schema}");
    client.batch_execute(&path).await.unwrap();
    client
}

/// Ends every connection that works on a store.
async fn cut(url: &str) -> u64 {
    let schema = url.rsplit_once('=').unwrap().1;
    let client = beside(url).await;
    // Locks of the schema's tables would tell only of those at work: the setting tells of all.
    let ended = client
        .execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
             WHERE a.application_name = 'safeguard ' || $1",
            &[&schema],
        )
        .await;
    ended.unwrap()
}

#[tokio::test]
async fn it_has_the_columns_of_a_file() {
    let Some(url) = shared::url() else { return };
    let _store = Store::shared(&url).unwrap();
    let schema = url.rsplit_once('=').unwrap().1.to_owned();
    let rows = beside(&url)
        .await
        .query(
            "SELECT table_name::text, column_name::text, is_nullable::text
             FROM information_schema.columns WHERE table_schema = $1",
            &[&schema],
        )
        .await
        .unwrap();
    let mut server: BTreeMap<String, BTreeSet<(String, bool)>> = BTreeMap::new();
    for row in rows {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let nullable = row.get::<_, String>(2) == "YES";
        server.entry(table).or_default().insert((column, nullable));
    }
    for own in ["aloft", "presences", "store_format"] {
        assert!(server.remove(own).is_some());
    }
    let views = server.remove("policies").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = Store::open(dir.path()).unwrap();
    let reader = file.inner.readers.take().unwrap();
    let mut select = reader
        .sqlite()
        .prepare(
            "SELECT m.name, c.name, c.\"notnull\" = 0 AND c.pk = 0 FROM sqlite_schema AS m
             JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'",
        )
        .unwrap();
    let mut ours: BTreeMap<String, BTreeSet<(String, bool)>> = BTreeMap::new();
    let found = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    for row in found.unwrap() {
        let (table, column, nullable) = row.unwrap();
        ours.entry(table).or_default().insert((column, nullable));
    }
    assert_eq!(server, ours);
    assert_eq!(views.len(), 7);
}

#[tokio::test]
async fn many_may_make_it_at_once() {
    let Some(url) = shared::url() else { return };
    std::thread::scope(|scope| {
        let openings: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| Store::shared(&url).map(drop)))
            .collect();
        for opening in openings {
            opening.join().unwrap().unwrap();
        }
    });
    let formats = beside(&url).await;
    let formats = formats.query("SELECT version FROM store_format", &[]).await;
    assert_eq!(formats.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_a_known_store_is_refused_and_left() {
    let Some(url) = shared::url() else { return };
    let schema = url.rsplit_once('=').unwrap().1;
    let client = beside(&url).await;
    let other = format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.mine (x int)");
    client.batch_execute(&other).await.unwrap();
    let refused = Store::shared(&url).unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
    let dropped = format!("DROP SCHEMA {schema} CASCADE");
    client.batch_execute(&dropped).await.unwrap();
    Store::shared(&url)
        .unwrap()
        .append(vec![verdict(1)])
        .await
        .unwrap();
    // A newer program was here. It says whether older ones may still work on it.
    let newer = KNOWN + 1;
    for (oldest, fits) in [(KNOWN, true), (newer, false)] {
        let note = format!(
            "DELETE FROM store_format WHERE version > {KNOWN};
             INSERT INTO store_format (version, oldest) VALUES ({newer}, {oldest})"
        );
        client.batch_execute(&note).await.unwrap();
        match (Store::shared(&url), fits) {
            (Ok(store), true) => {
                assert!(store.recall(&[key(1)]).await.unwrap()[0].is_some());
            }
            (Err(StoreError::Newer { found, known, .. }), false) => {
                assert_eq!((found, known), (newer, KNOWN));
            }
            (opened, _) => panic!("{oldest}: {opened:?}"),
        }
    }
    let lost = format!("DELETE FROM store_format WHERE version > {KNOWN}; DROP TABLE queries");
    client.batch_execute(&lost).await.unwrap();
    let refused = Store::shared(&url).unwrap_err().to_string();
    assert!(
        refused.ends_with("is damaged: no such table: queries (left as it is)"),
        "{refused}"
    );
}

#[test]
fn who_cannot_connect_is_told_why_and_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("postgres://ann:s3cret@/app?host={}", dir.path().display());
    let refused = Store::shared(&nowhere).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unreachable { .. }),
        "{refused}"
    );
    let refused = refused.to_string();
    assert!(
        refused.contains("cannot be reached") && !refused.contains("s3cret"),
        "{refused}"
    );
    let refused = Store::shared("postgres://a,b/c").unwrap_err();
    assert!(
        matches!(refused, StoreError::Unopenable { .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_made_anew() {
    let Some(url) = shared::url() else { return };
    let store = Store::shared(&url).unwrap();
    for round in 0..3 {
        store.append(vec![verdict(round)]).await.unwrap();
        assert!(store.recall(&[key(round)]).await.unwrap()[0].is_some());
        let number = store.append_query(QueryRow::default()).await.unwrap();
        assert!(number > 0);
        assert!(cut(&url).await > 1, "round {round}");
        // A transaction, a read, and verdicts, each on a connection that is gone.
        store.drawn_at(key(round), 7).await.unwrap();
        assert!(store.recall(&[key(round)]).await.unwrap()[0].is_some());
    }
    let all: Vec<Digest> = (0..3).map(key).collect();
    let kept = store.recall(&all).await.unwrap();
    assert!(kept.iter().all(Option::is_some));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_that_store_the_same_keys_store_each_once() {
    let Some(url) = shared::url() else { return };
    let stores: Vec<Store> = (0..3).map(|_| Store::shared(&url).unwrap()).collect();
    let tasks: Vec<_> = (0..12)
        .map(|task: u64| {
            let store = stores[task as usize % 3].clone();
            tokio::spawn(async move {
                let mut keys: Vec<u64> = (0..400).collect();
                // Each in an order of its own.
                keys.rotate_left(task as usize * 33);
                for some in keys.chunks(50) {
                    store
                        .append(some.iter().map(|n| verdict(*n)).collect())
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let count = "SELECT count(*), count(DISTINCT verdict_digest) FROM verdicts";
    let row = beside(&url).await.query_one(count, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (400, 400));
}

/// A way to the server on which, when it is told to, the answer to the next COMMIT is lost.
fn proxy(dir: &std::path::Path, lose: &Arc<AtomicBool>) {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).unwrap();
    let (there, lose) = (
        shared::folder().unwrap().join(".s.PGSQL.5432"),
        Arc::clone(lose),
    );
    // Ends with the process.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), UnixStream::connect(&there).unwrap());
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            let lose = Arc::clone(&lose);
            std::thread::spawn(move || {
                let mut bytes = [0; 65_536];
                while let Ok(read @ 1..) = client.read(&mut bytes) {
                    let commits = bytes[..read].windows(6).any(|word| word == b"COMMIT");
                    if commits && lose.swap(false, Ordering::SeqCst) {
                        let _ = client.shutdown(std::net::Shutdown::Both);
                    }
                    if server.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_stored_or_not_is_said_so_or_stored_again() {
    let Some(url) = shared::url() else { return };
    let (dir, lose) = (
        tempfile::tempdir().unwrap(),
        Arc::new(AtomicBool::new(false)),
    );
    proxy(dir.path(), &lose);
    let schema = url.rsplit_once('=').unwrap().1;
    let through = format!(
        "postgres://postgres@/postgres?host={}&search_path={schema}",
        dir.path().display()
    );
    let store = Store::shared(&through).unwrap();
    let submit = || store.submit_backfill(asked_for(1));
    assert_eq!(submit().await.unwrap(), 1);
    lose.store(true, Ordering::SeqCst);
    let unsure = submit().await.unwrap_err();
    assert!(matches!(unsure, StoreError::Unsure { .. }), "{unsure}");
    // It was stored, and once.
    while store.backfills().await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(submit().await.unwrap() > 2);
    assert_eq!(store.backfills().await.unwrap().len(), 3);
    // What is the same when it is done twice is done again.
    lose.store(true, Ordering::SeqCst);
    let version = crate::store::tests::version("hate", 1, "a");
    store.append_version(version.clone()).await.unwrap();
    assert!(!lose.load(Ordering::SeqCst), "an answer was lost");
    assert_eq!(store.versions().await.unwrap(), [version]);
}

fn by(worker: String, now: i64) -> Claimant {
    Claimant {
        worker: worker.into(),
        model_digest: "md".into(),
        now,
        lease_until: now + 1_000_000,
    }
}

fn judging() -> Judging {
    Judging {
        reference: "p@1".to_owned(),
        policy: "p@1".to_owned(),
        policy_version: 1,
        policy_digest: "d".to_owned(),
        model: "m".to_owned(),
        model_digest: "md".to_owned(),
        mode: "auto".to_owned(),
        effort: "low".to_owned(),
    }
}

fn asked_for(chunks: usize) -> NewBackfill {
    NewBackfill {
        judging: judging(),
        settings: "{}".to_owned(),
        source: "s".to_owned(),
        selection: "s".to_owned(),
        order_by: None,
        note: None,
        only: None,
        from: None,
        rows: chunks as u64,
        budget: None,
        requested_by: "ann".to_owned(),
        requested_at: 1,
    }
}

async fn spooled(store: &Store, chunks: usize) -> i64 {
    let id = store.submit_backfill(asked_for(chunks)).await.unwrap();
    let me = || by("spooler".to_owned(), 1);
    assert_eq!(store.claim_spool(me()).await.unwrap().unwrap().id, id);
    let row = |n: usize| SpoolRow {
        id: None,
        text: format!("row {n}\0").into(),
        weight: Some(1.0),
        old: None,
    };
    let rows = (0..chunks).map(|n| (false, vec![row(n)])).collect();
    assert!(store.spool(id, me(), 0, rows).await.unwrap());
    let end = (chunks as u64, chunks as f64, false);
    assert!(store.end_spool(id, me(), end).await.unwrap());
    id
}

fn judged(worker: &str, texts: impl Iterator<Item = Arc<str>>) -> Settlement {
    Settlement {
        worker: worker.into(),
        now: 20,
        fates: texts
            .map(|text| (text_digest(&text), Fate::Judged(None)))
            .collect::<HashMap<_, _>>(),
        spent: Spent::default(),
        then: Then::Again,
        interval: |_, _| (0.0, 1.0),
    }
}

/// Three servers with four workers each: no chunk is anybody else's, and the last one ends the backfill.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_number_of_servers_work_one_backfill() {
    const CHUNKS: usize = 120;
    let Some(url) = shared::url() else { return };
    let stores: Vec<Store> = (0..3).map(|_| Store::shared(&url).unwrap()).collect();
    let id = spooled(&stores[0], CHUNKS).await;
    let workers = (0..12).map(|n: usize| {
        let store = stores[n % 3].clone();
        tokio::spawn(async move {
            let (name, mut had) = (format!("worker {n}"), Vec::new());
            while let Some(claimed) = store.claim_chunk(by(name.clone(), 10)).await.unwrap() {
                let at = (claimed.backfill, claimed.position);
                assert!(store.renew_chunk(at, by(name.clone(), 11)).await.unwrap());
                let texts = claimed.rows.iter().map(|row| Arc::clone(&row.text));
                let settled = store.settle_chunk(at, judged(&name, texts)).await.unwrap();
                assert!(settled.is_some(), "chunk {at:?} was another's");
                had.push(claimed.position);
            }
            had
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    let distinct: HashSet<i64> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (CHUNKS, CHUNKS));
    let done = stores[1].backfill(id).await.unwrap().unwrap();
    assert_eq!((done.state, done.judged), (State::Done, CHUNKS as u64));
}

/// The same of the queue, whose texts stay what they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_number_of_servers_work_one_queue() {
    const TEXTS: usize = 1_500;
    let Some(url) = shared::url() else { return };
    let stores: Vec<Store> = (0..3).map(|_| Store::shared(&url).unwrap()).collect();
    let texts: Vec<Arc<str>> = (0..TEXTS).map(|n| format!("text\0{n}").into()).collect();
    let enqueued = stores.iter().map(|store| {
        store.enqueue(Enqueued {
            judging: judging(),
            retry_undecided: false,
            texts: texts.clone(),
            now: 1,
        })
    });
    for taken in futures::future::join_all(enqueued).await {
        assert!(taken.unwrap().iter().all(|taken| *taken));
    }
    assert_eq!(stores[2].queue_depth("md").await.unwrap(), TEXTS as u64);
    let workers = (0..6).map(|n: usize| {
        let store = stores[n % 3].clone();
        tokio::spawn(async move {
            let (name, mut had) = (format!("worker {n}"), Vec::new());
            // What a claim finds held by others at that moment is not there for it; the queue says when it is empty.
            while store.queue_depth("md").await.unwrap() > 0 {
                let Some(claim) = store.claim_queue(by(name.clone(), 10)).await.unwrap() else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let texts = claim.texts.into_iter().map(|(text, _)| text);
                let texts: Vec<Arc<str>> = texts.collect();
                let settlement = judged(&name, texts.iter().cloned());
                store.settle_queue(claim.judge, settlement).await.unwrap();
                had.extend(texts);
            }
            had
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    let distinct: HashSet<Arc<str>> = all.iter().cloned().collect();
    assert_eq!((all.len(), distinct.len()), (TEXTS, TEXTS));
    assert!(texts.iter().all(|text| distinct.contains(text)));
}

#[tokio::test]
async fn a_server_is_there_until_it_leaves_or_its_lease_is_over() {
    let Some(url) = shared::url() else { return };
    let (here, there) = (Store::shared(&url).unwrap(), Store::shared(&url).unwrap());
    let (one, other) = (here.announce().unwrap(), there.announce().unwrap());
    let present: BTreeSet<String> = here.present().unwrap().into_iter().collect();
    assert_eq!(
        present,
        BTreeSet::from([one.id().to_owned(), other.id().to_owned()])
    );
    let gone = one.id().to_owned();
    drop(one);
    assert!(!there.is_present(&gone) && there.is_present(other.id()));
    // Nobody renews a row of long ago.
    let client = beside(&url).await;
    let old = "INSERT INTO presences VALUES ('dead', 1)";
    client.batch_execute(old).await.unwrap();
    assert!(!here.is_present("dead"));
}

#[tokio::test]
async fn the_time_is_the_databases() {
    let Some(url) = shared::url() else { return };
    let store = Store::shared(&url).unwrap();
    let said = beside(&url).await;
    let said = said
        .query_one(
            "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)",
            &[],
        )
        .await
        .unwrap();
    let apart = (store.clock() - said.get::<_, i64>(0)).abs();
    assert!(apart < 5_000_000, "{apart} microseconds");
    let first = store.clock();
    assert!(store.clock() >= first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_asked_about_by_one_server() {
    let Some(url) = shared::url() else { return };
    let (here, there) = (Store::shared(&url).unwrap(), Store::shared(&url).unwrap());
    let keys: Vec<Digest> = (0..4).map(key).collect();
    here.append(vec![verdict(3)]).await.unwrap();
    let (mut ours, mine) = here.take_off(keys[..2].to_vec()).await.unwrap();
    assert_eq!(mine, [true, true]);
    let (theirs, mine) = there.take_off(keys.clone()).await.unwrap();
    // Two are asked about, one is decided.
    assert_eq!(mine, [false, false, true, false]);
    let elsewhere = || there.asked_elsewhere(keys.clone());
    assert_eq!(elsewhere().await.unwrap(), [true, true, false, false]);
    // A verdict gives its key up, and so does whoever gives up.
    here.append(vec![verdict(0)]).await.unwrap();
    ours.landed(&key(0));
    assert_eq!(elsewhere().await.unwrap(), [false, true, false, false]);
    drop(ours);
    while elsewhere().await.unwrap()[1] {
        tokio::task::yield_now().await;
    }
    let (_again, mine) = there.take_off(keys.clone()).await.unwrap();
    assert_eq!(mine, [false, true, true, false]);
    // A server that was not heard of for long has given up, and one that renews what it holds has not.
    let client = beside(&url).await;
    let late = "UPDATE aloft SET lease_until = 1";
    client.batch_execute(late).await.unwrap();
    let by_there = || here.asked_elsewhere(keys.clone());
    assert_eq!(by_there().await.unwrap(), [false; 4]);
    let (held, Place::Server(server)) = (keys.clone(), &there.inner.place) else {
        panic!("a shared store is a file");
    };
    let owner = server.owner().to_owned();
    let renewed = there.transact_once(move |c| aloft::renew(c, &held, &owner));
    renewed.await.unwrap();
    assert_eq!(by_there().await.unwrap(), [false, true, true, false]);
    drop(theirs);
    let dead = "UPDATE aloft SET lease_until = 1, owner = 'dead'";
    client.batch_execute(dead).await.unwrap();
    assert_eq!(elsewhere().await.unwrap(), [false; 4]);
    let file = Store::ephemeral().unwrap();
    let (_aloft, mine) = file.take_off(keys.clone()).await.unwrap();
    assert_eq!(mine, [true; 4]);
}
