//! Users of the server: who may log in, with which role.
//!
//! Takes and gives [`UserRow`]s, always from the file: `safeguard user add` is another process, and a new user logs in at
//! once. Unlike facts, rows are replaced and removed. Knows nothing of passwords or of how a verifier is checked; SQL
//! sees names and roles only.

use super::Store;
use super::db::{self, Connection, Optional, Row, params};
use super::error::StoreError;
use super::writer::Work;
use std::fmt;

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRow {
    /// What the user logs in as.
    pub name: String,
    /// `reader`, `analyst` or `admin`.
    pub role: String,
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in base64. Not shown by `Debug`.
    pub verifier: String,
    /// Microseconds since 1970-01-01 UTC.
    pub created_at: i64,
    /// From when on the user cannot log in; `None` for never. Microseconds since 1970-01-01 UTC.
    pub valid_until: Option<i64>,
}

impl fmt::Debug for UserRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRow")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("created_at", &self.created_at)
            .field("valid_until", &self.valid_until)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Every user, by name.
    pub async fn users(&self) -> Result<Vec<UserRow>, StoreError> {
        self.read(|reader| {
            let mut select = reader.prepare_cached(&select("ORDER BY name"))?;
            select.query_map((), user)?.collect()
        })
        .await
    }

    /// The user of this name.
    pub async fn user(&self, name: &str) -> Result<Option<UserRow>, StoreError> {
        let name = name.to_owned();
        self.read(move |reader| {
            let mut select = reader.prepare_cached(&select("WHERE name = ?1"))?;
            select.query_row([&name], user).optional()
        })
        .await
    }

    /// Stores a user, in the place of one of the same name. What was replaced is overwritten in the file. The role is the
    /// caller's to check; one that is not known is [`StoreError::Failed`].
    pub async fn put_user(&self, user: UserRow) -> Result<(), StoreError> {
        self.write(Work::PutUser(Box::new(user))).await.map(drop)
    }

    /// Removes a user; whether there was one. What was removed is overwritten in the file.
    pub async fn remove_user(&self, name: &str) -> Result<bool, StoreError> {
        let removed = self.write(Work::RemoveUser(name.to_owned())).await?;
        Ok(removed > 0)
    }

    /// 32 random bytes that are this store's own, made with it. For salts of names that no user has.
    pub async fn mock_secret(&self) -> Result<[u8; 32], StoreError> {
        self.read(|reader| {
            reader.query_row("SELECT mock_secret FROM particulars", (), |row| row.get(0))
        })
        .await
    }
}

fn select(which: &str) -> String {
    format!("SELECT name, role, verifier, created_at, valid_until FROM users {which}")
}

fn user(row: &Row<'_>) -> db::Result<UserRow> {
    Ok(UserRow {
        name: row.get(0)?,
        role: row.get(1)?,
        verifier: row.get(2)?,
        created_at: row.get(3)?,
        valid_until: row.get(4)?,
    })
}

/// Within the writer's transaction.
pub(super) fn put(writer: &Connection, user: &UserRow) -> db::Result<()> {
    let sql = "INSERT INTO users (name, role, verifier, created_at, valid_until)
               VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (name) DO UPDATE SET
                   role = excluded.role, verifier = excluded.verifier,
                   created_at = excluded.created_at, valid_until = excluded.valid_until";
    let values = params![
        user.name,
        user.role,
        user.verifier,
        user.created_at,
        user.valid_until
    ];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

/// Within the writer's transaction. Gives the users removed.
pub(super) fn remove(writer: &Connection, name: &str) -> db::Result<i64> {
    let removed = writer
        .prepare_cached("DELETE FROM users WHERE name = ?1")?
        .execute([name])?;
    Ok(i64::from(removed > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::bed::{Bed, on_both};
    use crate::store::tests::{rows, session};

    fn ada() -> UserRow {
        UserRow {
            name: "ada".to_owned(),
            role: "analyst".to_owned(),
            verifier: "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".to_owned(),
            created_at: 1_700_000_000_000_000,
            valid_until: None,
        }
    }

    async fn users_are_kept_replaced_and_removed(bed: Bed) {
        let store = bed.open();
        assert_eq!(store.users().await.unwrap(), []);
        assert_eq!(store.user("ada").await.unwrap(), None);
        store.put_user(ada()).await.unwrap();
        let bob = UserRow {
            name: "Bob \"é\"".to_owned(),
            role: "reader".to_owned(),
            valid_until: Some(7),
            ..ada()
        };
        store.put_user(bob.clone()).await.unwrap();
        assert_eq!(store.users().await.unwrap(), [bob.clone(), ada()]);
        let changed = UserRow {
            verifier: "SCRAM-SHA-256$4096:bmV3$bmV3:bmV3".to_owned(),
            role: "admin".to_owned(),
            ..ada()
        };
        store.put_user(changed.clone()).await.unwrap();
        // Another process sees it at once.
        let other = bed.open();
        assert_eq!(other.user("ada").await.unwrap(), Some(changed));
        assert!(other.remove_user("ada").await.unwrap());
        assert!(!other.remove_user("ada").await.unwrap());
        assert_eq!(store.user("ada").await.unwrap(), None);
        assert_eq!(store.users().await.unwrap(), [bob]);
    }

    async fn an_unknown_role_is_refused(bed: Bed) {
        let store = bed.new_store();
        let row = UserRow {
            role: "root".to_owned(),
            ..ada()
        };
        let error = store.put_user(row).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");
        assert_eq!(store.users().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_verifier_that_was_replaced_is_gone_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for number in 0..3 {
            let verifier = format!("SCRAM-SHA-256$4096:c2FsdA==$secret{number}:c2VydmVy");
            store.put_user(UserRow { verifier, ..ada() }).await.unwrap();
        }
        let found = |word: &str| {
            std::fs::read_dir(dir.path()).unwrap().any(|file| {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                bytes.windows(word.len()).any(|w| w == word.as_bytes())
            })
        };
        assert!(!found("secret0") && !found("secret1") && found("secret2"));
        store.remove_user("ada").await.unwrap();
        assert!(!found("secret2"));
    }

    async fn sql_sees_no_verifier(bed: Bed) {
        let store = bed.new_store();
        store.put_user(ada()).await.unwrap();
        let session = session(&store).await;
        assert_eq!(
            rows(&session, "SELECT * FROM safeguard.users").await,
            ["ada|analyst|2023-11-14T22:13:20Z"]
        );
        for sql in [
            "SELECT verifier FROM safeguard.users",
            "SELECT 1 FROM safeguard.users WHERE verifier LIKE 'SCRAM%'",
            "SELECT * FROM safeguard.particulars",
        ] {
            assert!(session.sql(sql).await.is_err(), "{sql}");
        }
        let sql = "INSERT INTO safeguard.users VALUES ('eve', 'admin', now())";
        let inserted = session.sql(sql).await.unwrap().collect().await;
        assert!(inserted.is_err());
        assert!(!format!("{:?}", ada()).contains("c3RvcmVk"));
    }

    async fn the_mock_secret_is_the_stores_own(bed: Bed) {
        let first = bed.open().mock_secret().await.unwrap();
        let again = bed.open().mock_secret().await.unwrap();
        let other = bed.new_store().mock_secret().await.unwrap();
        assert_eq!(first, again);
        assert_ne!(first, other);
    }

    on_both!(
        users_are_kept_replaced_and_removed,
        an_unknown_role_is_refused,
        sql_sees_no_verifier,
        the_mock_secret_is_the_stores_own,
    );
}
