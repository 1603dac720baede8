//! Verdicts on their way to the disk: at once, or where nobody waits for them with others of a while.
//!
//! Takes records, answers when they are stored. In a file a commit holds whatever waits by then; in a shared store each
//! commit is a statement that others pay for too, so that a server makes few of them: see [`super::server`]'s pen.

use super::Store;
use super::error::StoreError;
use super::records::Record;
use super::writer::Work;
use crate::config::STORE_COMMIT_ROWS_MAX;

impl Store {
    /// Stores records; returns when they are on the disk. Records under a key that is already stored are dropped, except
    /// a verdict after an undecided. Each run of [`STORE_COMMIT_ROWS_MAX`] records is stored whole or not at all. Dropping
    /// the future does not stop what was handed to the writer.
    ///
    /// Panics if a record has both or neither of `label` and `reason`, or `violates` without `label`.
    pub async fn append(&self, records: Vec<Record>) -> Result<(), StoreError> {
        self.appended(records, Work::Records).await
    }

    /// The same for records that nobody waits for: in a shared store they may wait for others, up to
    /// [`crate::config::STORE_APPEND_LATER_MS`], or until somebody hurries.
    pub async fn append_later(&self, records: Vec<Record>) -> Result<(), StoreError> {
        self.appended(records, Work::Later).await
    }

    /// Somebody waits for records that were to be stored later. They are stored as soon as any others are; those that come
    /// after this call are not meant.
    pub fn hurry(&self) {
        if let Some(appender) = &self.inner.appender {
            // Where there is no room, there is enough to be stored.
            appender.try_write(Work::Records(Vec::new()));
        }
    }

    async fn appended(
        &self,
        mut records: Vec<Record>,
        kind: fn(Vec<Record>) -> Work,
    ) -> Result<(), StoreError> {
        for record in &records {
            assert!(
                record.label.is_some() != record.reason.is_some()
                    && record.label.is_some() == record.violates.is_some(),
                "bug: a record is either a verdict or undecided: {record:?}"
            );
        }
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(STORE_COMMIT_ROWS_MAX));
            self.write(kind(records)).await?;
            records = rest;
        }
        Ok(())
    }
}
