//! What nobody waits for: questions go on while verdicts are stored, and verdicts of a while are stored together.
//!
//! Takes decisions as they come, gives them when they are stored, as for anybody. One lot of them is on its way to the store,
//! and the next gathers meanwhile; the last goes beside the one before it. When the last is decided, or somebody waits for one of them, the store is hurried.

use super::{Asked, Decided, Decisions, keys_of, store_failed};
use crate::store::Digest;
use futures::future::{BoxFuture, Either, join, select};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use safeguard_udfs::{ClassifyError, Request};

/// Decisions on their way to the store.
struct Lot {
    chunk: Vec<Decided>,
    keys: Vec<Digest>,
    stored: BoxFuture<'static, Result<(), ClassifyError>>,
}

struct Behind {
    asked: Asked,
    request: Request,
    decided: BoxStream<'static, Vec<Decided>>,
    /// Whether all are decided.
    over: bool,
    lot: Option<Lot>,
    next: Vec<Decided>,
}

/// Decisions in the backfill lane, once they are stored.
pub(super) fn run(
    asked: Asked,
    decided: BoxStream<'static, Vec<Decided>>,
    request: Request,
) -> Decisions {
    let behind = Behind {
        asked,
        request,
        decided,
        over: false,
        lot: None,
        next: Vec::new(),
    };
    let stored = stream::try_unfold(behind, |mut behind| async move {
        let stored = behind.stored().await?;
        Ok::<_, ClassifyError>(stored.map(|chunk| (stream::iter(chunk), behind)))
    });
    stored.try_flatten().boxed()
}

impl Behind {
    /// The next decisions that are stored; `None` where there are no more.
    async fn stored(&mut self) -> Result<Option<Vec<Decided>>, ClassifyError> {
        loop {
            let Some(mut lot) = self.lot.take() else {
                if !self.next.is_empty() {
                    self.lot = Some(self.sent());
                } else if self.over {
                    return Ok(None);
                } else {
                    self.decide().await;
                }
                continue;
            };
            if self.over {
                return self.last(lot).await.map(Some);
            }
            let stored = match select(&mut lot.stored, Box::pin(self.decide())).await {
                Either::Left((stored, _)) => Some(stored),
                Either::Right(_) => None,
            };
            let Some(stored) = stored else {
                self.lot = Some(lot);
                continue;
            };
            stored?;
            self.asked.landed(&lot.chunk, &lot.keys);
            return Ok(Some(lot.chunk));
        }
    }

    /// All are decided: what is left goes with the lot that is on its way, and takes it along.
    async fn last(&mut self, lot: Lot) -> Result<Vec<Decided>, ClassifyError> {
        let rest = self.sent();
        let (first, last) = join(lot.stored, rest.stored).await;
        first?;
        self.asked.landed(&lot.chunk, &lot.keys);
        last?;
        self.asked.landed(&rest.chunk, &rest.keys);
        Ok(lot.chunk.into_iter().chain(rest.chunk).collect())
    }

    /// Waits for further decisions.
    async fn decide(&mut self) {
        match self.decided.next().await {
            Some(chunk) => self.next.extend(chunk),
            None => {
                self.over = true;
                // What is on its way may wait for others.
                self.asked.recall.store.hurry();
            }
        }
    }

    /// What is decided by now goes to the store.
    fn sent(&mut self) -> Lot {
        let decided = std::mem::take(&mut self.next);
        let (chunk, records) = self.asked.placed(decided, &self.request);
        let keys = keys_of(&records);
        let now = self.over || self.asked.claim.is_awaited(&keys);
        let store = self.asked.recall.store.clone();
        let stored = async move {
            let stored = match now {
                _ if records.is_empty() => Ok(()),
                true => store.append(records).await,
                false => store.append_later(records).await,
            };
            stored.map_err(store_failed)
        };
        Lot {
            chunk,
            keys,
            stored: Box::pin(stored),
        }
    }
}
