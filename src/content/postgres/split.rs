//! One table read over several connections, which see the same rows.
//!
//! The first connection takes a snapshot and exports it; the others read under it. Each reads the pages of a range, and
//! every version of a row lies on one page, so that together they read what one connection would. Small tables are read
//! by the first alone. Knows pages and snapshots, and nothing of columns or filters.

use super::connect::{Connection, For, Server};
use super::literal;
use crate::config::SERVER_SPLIT_PAGES_MIN;
use crate::content::ContentError;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// The first version that reads pages of a range without reading all others.
const TID_RANGES_SINCE: i32 = 140_000;
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A table that is read once, in parts.
#[derive(Debug)]
pub(super) struct Split {
    server: Arc<Server>,
    from: String,
    parts: usize,
    first: OnceCell<First>,
}

/// The connection that the others follow.
#[derive(Debug)]
struct First {
    connection: Connection,
    snapshot: String,
    /// Of the table; how many parts have something to read.
    pages: u64,
    parts: usize,
}

/// A connection of a part. The snapshot lives as long as any of them.
pub(super) enum Held {
    Own {
        connection: Connection,
        _split: Option<Arc<Split>>,
    },
    First(Arc<Split>),
}

impl From<Connection> for Held {
    fn from(connection: Connection) -> Held {
        Held::Own {
            connection,
            _split: None,
        }
    }
}

impl Deref for Held {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Held::Own { connection, .. } => connection,
            Held::First(split) => {
                let first = split.first.get();
                &first
                    .expect("bug: the first connection is not open")
                    .connection
            }
        }
    }
}

impl Split {
    /// `from` is the table's qualified name, quoted.
    pub(super) fn new(server: Arc<Server>, from: String, parts: usize) -> Split {
        Split {
            server,
            from,
            parts,
            first: OnceCell::new(),
        }
    }

    /// A part's connection, and the condition on the rows that are this part's, if any; `None` where there are none.
    ///
    /// # Errors
    /// The server cannot be reached, has no connections left, or exports no snapshot.
    pub(super) async fn part(
        self: Arc<Split>,
        number: usize,
    ) -> Result<Option<(Held, Option<String>)>, ContentError> {
        let first = self.first.get_or_try_init(|| self.open()).await?;
        let condition = match (number >= first.parts, first.parts) {
            (true, _) => return Ok(None),
            (false, 1) => None,
            (false, parts) => Some(pages(first.pages, number, parts)),
        };
        if number == 0 {
            return Ok(Some((Held::First(Arc::clone(&self)), condition)));
        }
        let connection = self.server.connect(For::Reading).await?;
        let begin = format!(
            "{BEGIN}; SET TRANSACTION SNAPSHOT {}",
            literal(&first.snapshot)
        );
        let begun = connection.batch_execute(&begin).await;
        begun.map_err(|e| self.server.failed(&e))?;
        let held = Held::Own {
            connection,
            _split: Some(Arc::clone(&self)),
        };
        Ok(Some((held, condition)))
    }

    async fn open(&self) -> Result<First, ContentError> {
        let failed = |e| self.server.failed(&e);
        let connection = self.server.connect(For::Reading).await?;
        connection.batch_execute(BEGIN).await.map_err(failed)?;
        let asked = format!(
            "SELECT pg_export_snapshot(), pg_relation_size({}::regclass) / current_setting('block_size')::bigint, \
             current_setting('server_version_num')::int",
            literal(&self.from)
        );
        let row = connection.query_one(&asked, &[]).await.map_err(failed)?;
        let read =
            || Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (snapshot, pages, version): (String, i64, i32) = read().map_err(failed)?;
        let pages = u64::try_from(pages).unwrap_or_default();
        let most = usize::try_from(pages / SERVER_SPLIT_PAGES_MIN).unwrap_or(usize::MAX);
        let parts = match version >= TID_RANGES_SINCE {
            true => most.clamp(1, self.parts),
            false => 1,
        };
        Ok(First {
            connection,
            snapshot,
            pages,
            parts,
        })
    }
}

/// The rows on one part of the pages. The first begins and the last ends with the table, whatever its size is by now.
fn pages(pages: u64, number: usize, parts: usize) -> String {
    let at = |number: usize| pages * number as u64 / parts as u64;
    let from = format!("ctid >= '({},0)'::tid", at(number));
    let to = format!("ctid < '({},0)'::tid", at(number + 1));
    match (number == 0, number + 1 == parts) {
        (true, _) => to,
        (false, true) => from,
        (false, false) => format!("{from} AND {to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_without_a_gap() {
        for (number, want) in [
            (0, "ctid < '(33,0)'::tid"),
            (1, "ctid >= '(33,0)'::tid AND ctid < '(66,0)'::tid"),
            (2, "ctid >= '(66,0)'::tid"),
        ] {
            assert_eq!(pages(100, number, 3), want);
        }
    }
}
