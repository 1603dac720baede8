//! External tables, views and schemas after a restart: what is made again, what is said of the rest, what is never kept.

use crate::auto::Script;
use crate::slt::rows;
use crate::stores;
use futures::TryStreamExt;
use safeguard::engine::{End, Engine, Session};
use safeguard::error::Error;
use std::path::{Path, PathBuf};

/// A program over a data folder, until it is dropped.
pub(crate) struct Program {
    engine: Engine,
    session: Session,
    pub(crate) unmade: Vec<String>,
}

impl Program {
    pub(crate) async fn start(data: &Path, roots: Option<Vec<PathBuf>>) -> Program {
        let store = stores::open(data);
        let engine = Engine::with_backend(store, Script::new("one"))
            .await
            .unwrap();
        let engine = safeguard::jobs::complete(engine.with_roots(roots).unwrap());
        let unmade = engine.restore(&engine.session("safeguard")).await.unwrap();
        Program {
            session: engine.session("ann"),
            engine,
            unmade,
        }
    }

    /// The last statement's cells joined by `|`, rows by `;`, and the notices, or the SQLSTATE.
    pub(crate) async fn said(&self, script: &str) -> String {
        match self.run(script).await {
            Ok(said) => said,
            Err(error) => error.sqlstate().to_owned(),
        }
    }

    pub(crate) async fn run(&self, script: &str) -> Result<String, Error> {
        let mut said = String::new();
        for statement in self.session.split(script) {
            let (stream, ended) = self.session.run(&statement?).await?.split();
            let batches: Vec<_> = stream.try_collect().await?;
            let notices = self.session.finish(ended, End::Done).await;
            let rows = batches.iter().flat_map(rows).map(|row| row.join("|"));
            said = rows.chain(notices).collect::<Vec<_>>().join(";");
        }
        Ok(said)
    }
}

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("content")).unwrap();
        std::fs::write(dir.path().join("content/a.csv"), "id,body\n1,one\n2,two\n").unwrap();
        Folder { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("content/a.csv")
    }

    fn table(&self, name: &str) -> String {
        format!(
            "CREATE EXTERNAL TABLE {name} STORED AS CSV LOCATION '{}'",
            self.file().display()
        )
    }
}

#[tokio::test]
async fn what_sql_made_is_there_after_a_restart() {
    let folder = Folder::new();
    let first = Program::start(&folder.data(), None).await;
    assert_eq!(first.unmade, [""; 0]);
    let script = format!(
        "CREATE SCHEMA s; {}; {}; {};
         CREATE VIEW v AS SELECT id, body FROM t WHERE id > 1;
         CREATE VIEW s.w AS SELECT upper(body) AS \"Loud\" FROM v;
         CREATE VIEW judged AS SELECT id, safeguard_classify('spam', body) AS label FROM v;
         CREATE VIEW args AS SELECT * FROM safeguard_erase(text => 'x');
         CREATE TABLE m AS SELECT 1 AS a;
         CREATE VIEW gone AS SELECT 1 AS a; DROP VIEW gone;
         {}; DROP TABLE dropped",
        folder.table("t"),
        folder.table("s.t"),
        folder.table("IF NOT EXISTS t"),
        folder.table("dropped")
    );
    assert_eq!(first.said(&script).await, "");
    let kept =
        "SELECT kind, \"schema\", name, created_by FROM safeguard.relations ORDER BY position";
    let want = "schema|s||ann;table|public|t|ann;table|s|t|ann;view|public|v|ann;view|s|w|ann;view|public|judged|ann;view|public|args|ann";
    let want = want.replace("||", "|(empty)|");
    assert_eq!(first.said(kept).await, want);
    let typed = "SELECT sql FROM safeguard.relations WHERE name = 'v'";
    assert_eq!(
        first.said(typed).await,
        "CREATE VIEW v AS SELECT id, body FROM t WHERE id > 1"
    );
    drop(first);
    let second = Program::start(&folder.data(), None).await;
    assert_eq!(second.unmade, [""; 0]);
    for (sql, want) in [
        ("SELECT count(*) FROM t", "2"),
        ("SELECT count(*) FROM s.t", "2"),
        ("SELECT * FROM v", "2|two"),
        ("SELECT \"Loud\" FROM s.w", "TWO"),
        ("SELECT texts FROM args", "1"),
        ("SELECT * FROM m", "42P01"),
        ("SELECT * FROM gone", "42P01"),
        ("SELECT * FROM dropped", "42P01"),
        ("CREATE VIEW v AS SELECT 1 AS a", "42P07"),
    ] {
        assert_eq!(second.said(sql).await, want, "{sql}");
    }
    assert_eq!(second.said(kept).await, want);
    // Twice in one process makes nothing twice.
    assert_eq!(
        second.engine.restore(&second.session).await.unwrap(),
        [""; 0]
    );
}

#[tokio::test]
async fn what_is_replaced_and_dropped_is_so_after_a_restart() {
    let folder = Folder::new();
    let first = Program::start(&folder.data(), None).await;
    first
        .run(&format!(
            "{}; CREATE VIEW a AS SELECT 1 AS n; CREATE VIEW b AS SELECT 2 AS n;
             CREATE OR REPLACE VIEW a AS SELECT n + 10 AS n FROM b;
             {}; CREATE OR REPLACE TABLE in_memory AS SELECT 1 AS n;
             CREATE SCHEMA s; CREATE VIEW s.v AS SELECT 1 AS n; DROP SCHEMA s CASCADE;
             DROP VIEW IF EXISTS never; DROP TABLE IF EXISTS never",
            folder.table("t"),
            folder.table("in_memory"),
        ))
        .await
        .unwrap();
    drop(first);
    let second = Program::start(&folder.data(), None).await;
    // `a` came first and needs `b` now.
    assert_eq!(second.unmade, [""; 0]);
    let names = "SELECT name FROM safeguard.relations ORDER BY position";
    assert_eq!(second.said("SELECT n FROM a").await, "12");
    assert_eq!(second.said(names).await, "t;a;b");
    assert_eq!(second.said("SELECT * FROM in_memory").await, "42P01");
}

#[tokio::test]
async fn what_cannot_be_made_is_said_and_kept() {
    let folder = Folder::new();
    let first = Program::start(&folder.data(), None).await;
    first
        .run(&format!(
            "{}; CREATE VIEW v AS SELECT * FROM t; CREATE TABLE m AS SELECT 1 AS a; CREATE VIEW of_m AS SELECT * FROM m; DROP TABLE m",
            folder.table("t")
        ))
        .await
        .unwrap();
    drop(first);
    let away = folder.dir.path().join("content/b.csv");
    std::fs::rename(folder.file(), &away).unwrap();
    let second = Program::start(&folder.data(), None).await;
    assert_eq!(second.unmade.len(), 3);
    let missing = format!(
        "table public.t could not be made and stays kept: cannot read {}: no such file or folder",
        folder.file().display()
    );
    assert_eq!(second.unmade[0], missing);
    assert!(
        second.unmade[1].starts_with("view public.v could not be made and stays kept: table "),
        "{:?}",
        second.unmade
    );
    drop(second);
    // Outside of the content roots: the same, and nothing is read.
    std::fs::rename(&away, folder.file()).unwrap();
    let elsewhere = folder.dir.path().canonicalize().unwrap().join("data");
    let third = Program::start(&folder.data(), Some(vec![elsewhere])).await;
    assert!(
        third.unmade[0].ends_with("it is outside of the content roots"),
        "{:?}",
        third.unmade
    );
    drop(third);
    // When it can be made, it is.
    let fourth = Program::start(&folder.data(), None).await;
    assert_eq!(fourth.unmade.len(), 1, "{:?}", fourth.unmade);
    assert_eq!(fourth.said("SELECT count(*) FROM v").await, "2");
    // What is not there can be dropped for good.
    assert_eq!(fourth.said("DROP VIEW of_m").await, "");
    assert_eq!(fourth.said("DROP VIEW of_m").await, "42P01");
    drop(fourth);
    assert_eq!(Program::start(&folder.data(), None).await.unmade, [""; 0]);
}

#[tokio::test]
async fn secrets_are_not_kept() {
    let folder = Folder::new();
    let first = Program::start(&folder.data(), None).await;
    let secret = format!(
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true', 'aws.secret_access_key' 'hunter2')",
        folder.file().display()
    );
    let said = first.run(&secret).await;
    // Whether the format takes the option or not: nothing is kept of it, nothing is said of its value.
    let said = said.unwrap_or_else(|error| error.to_string());
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(
        first.said("SELECT count(*) FROM safeguard.relations").await,
        "0"
    );
    let sas = format!(
        "{} OPTIONS ('format.has_header' 'true', 'format.password' 'hunter2')",
        folder.table("u")
    );
    let said = first
        .run(&sas)
        .await
        .unwrap_or_else(|error| error.to_string());
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(
        first.said("SELECT count(*) FROM safeguard.relations").await,
        "0"
    );
    if !stores::are_shared() {
        let bytes = std::fs::read(folder.data().join("verdicts.db")).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
}
