//! Keys that are being asked, over all sessions: whoever meets one waits instead of asking again.
//!
//! Takes keys, gives claims and tickets. A claim is given up key by key as decisions are stored, and as a whole when it
//! is dropped; a ticket is called when its key is free again. Knows nothing of what is asked.

use crate::store::Digest;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Waits until a key is free again.
pub(super) type Ticket = oneshot::Receiver<()>;

/// Who is asking what.
#[derive(Debug, Default)]
pub(super) struct Flights {
    asked: Mutex<HashMap<Digest, Vec<oneshot::Sender<()>>>>,
}

/// Keys that only its holder may ask.
#[derive(Debug)]
pub(super) struct Claim {
    flights: Arc<Flights>,
    keys: HashSet<Digest>,
}

impl Flights {
    /// For each key, in order: `None` where it is claimed now, a ticket where somebody else is asking.
    pub(super) fn claim(self: &Arc<Self>, keys: &[Digest]) -> (Claim, Vec<Option<Ticket>>) {
        let mut claimed = HashSet::new();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ticket = |key: &Digest| match asked.entry(*key) {
            Entry::Vacant(free) => {
                free.insert(Vec::new());
                claimed.insert(*key);
                None
            }
            Entry::Occupied(mut busy) => {
                let (call, ticket) = oneshot::channel();
                busy.get_mut().push(call);
                Some(ticket)
            }
        };
        let tickets = keys.iter().map(&mut ticket).collect();
        drop(asked);
        let flights = Arc::clone(self);
        let claim = Claim {
            flights,
            keys: claimed,
        };
        (claim, tickets)
    }
}

impl Claim {
    /// Whether somebody waits for one of these keys.
    pub(super) fn is_awaited<'k>(&self, keys: impl IntoIterator<Item = &'k Digest>) -> bool {
        let asked = self
            .flights
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        keys.into_iter().any(|key| {
            let mut waiting = asked.get(key).into_iter().flatten();
            waiting.any(|ticket| !ticket.is_closed())
        })
    }

    /// Gives one key up; nothing happens for a key that is not, or no longer, this claim's.
    pub(super) fn release(&mut self, key: &Digest) {
        if !self.keys.remove(key) {
            return;
        }
        let mut asked = self
            .flights
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for waiting in asked.remove(key).into_iter().flatten() {
            // A waiter that is gone no longer wants to know.
            let _ = waiting.send(());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for key in self.keys.clone() {
            self.release(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_to_ask_waits_for_the_first() {
        let flights = Arc::new(Flights::default());
        let (first, tickets) = flights.claim(&[[1; 32], [2; 32]]);
        assert!(tickets.iter().all(Option::is_none));
        assert!(!first.is_awaited(&[[1; 32], [2; 32]]));
        let (second, mut tickets) = flights.claim(&[[2; 32], [3; 32]]);
        assert!(first.is_awaited(&[[1; 32], [2; 32]]) && !first.is_awaited(&[[1; 32]]));
        let ticket = tickets[0].take().unwrap();
        assert!(tickets[1].is_none());
        drop(first);
        ticket.await.unwrap();
        drop(second);
        assert!(flights.asked.lock().unwrap().is_empty());
    }
}
