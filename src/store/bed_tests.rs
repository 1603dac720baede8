//! Where tests keep a store: each runs in a file, and in PostgreSQL where that is installed.

use super::Store;

#[expect(dead_code, reason = "tests of content use more of it")]
#[path = "../../tests/postgres/cluster.rs"]
mod cluster;
#[path = "../../tests/postgres/shared.rs"]
pub(super) mod shared;

/// Says what is not shown here; where it must be, that is a failure.
fn skip(what: &str) {
    let required = std::env::var("SAFEGUARD_CLIENTS").is_ok_and(|word| word == "require");
    assert!(!required, "{what} is not installed");
    println!("skipped: {what} is not installed");
}

/// A place that one store is in.
pub(super) enum Bed {
    File(tempfile::TempDir),
    Server(String),
}

impl Bed {
    pub(super) fn file() -> Option<Bed> {
        Some(Bed::File(tempfile::tempdir().unwrap()))
    }

    pub(super) fn server() -> Option<Bed> {
        shared::url().map(Bed::Server)
    }

    /// The store that is there, once more.
    pub(super) fn open(&self) -> Store {
        match self {
            Bed::File(dir) => Store::open(dir.path()).unwrap(),
            Bed::Server(url) => Store::shared(url).unwrap(),
        }
    }

    /// Another one, of the same kind.
    pub(super) fn new_store(&self) -> Store {
        match self {
            Bed::File(_) => Store::ephemeral().unwrap(),
            Bed::Server(_) => Store::shared(&shared::url().unwrap()).unwrap(),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Bed::File(_))
    }
}

/// Makes tests of functions that take a [`Bed`].
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod in_a_file {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let bed = $crate::store::bed::Bed::file().expect("a folder");
                    super::$test(bed).await;
                }
            )*
        }
        mod in_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(bed) = $crate::store::bed::Bed::server() {
                        super::$test(bed).await;
                    }
                }
            )*
        }
    };
}
pub(super) use on_both;
