//! What waits for the model's thread: two lanes, bounded, closed from either end.
//!
//! Takes work from async callers, gives all of it at once to one thread, which waits for it only when it wants to. Each
//! lane holds a fixed number of pieces of work, waiting or running; a caller beyond that waits for a place. When the
//! queue closes, what still waits is dropped. It knows nothing of prompts, nor which lane goes first.

use safeguard_udfs::Lane;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    interactive: Arc<Semaphore>,
    backfill: Arc<Semaphore>,
}

#[derive(Debug)]
struct State<T> {
    interactive: VecDeque<Placed<T>>,
    backfill: VecDeque<Placed<T>>,
    closed: bool,
}

/// Work and its place in a lane, which becomes free when this is dropped.
#[derive(Debug)]
pub(super) struct Placed<T> {
    pub(super) work: T,
    _place: OwnedSemaphorePermit,
}

/// The queue takes no work any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

impl<T> Queue<T> {
    /// An open queue with `places` in each lane.
    pub(super) fn new(places: usize) -> Self {
        let state = State {
            interactive: VecDeque::new(),
            backfill: VecDeque::new(),
            closed: false,
        };
        Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
            interactive: Arc::new(Semaphore::new(places)),
            backfill: Arc::new(Semaphore::new(places)),
        }
    }

    /// Hands over work as soon as its lane has a place. Dropping the future hands over nothing.
    pub(super) async fn push(&self, lane: Lane, work: T) -> Result<(), Closed> {
        let places = match lane {
            Lane::Interactive => &self.interactive,
            Lane::Backfill => &self.backfill,
        };
        let place = Arc::clone(places)
            .acquire_owned()
            .await
            .map_err(|_| Closed)?;
        let mut state = self.state();
        if state.closed {
            return Err(Closed);
        }
        let waiting = match lane {
            Lane::Interactive => &mut state.interactive,
            Lane::Backfill => &mut state.backfill,
        };
        waiting.push_back(Placed {
            work,
            _place: place,
        });
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// All work that waits, each lane oldest first; none where none waits, unless it is to `wait` for some. `None` once
    /// closed.
    pub(super) fn take(&self, wait: bool) -> Option<Vec<(Lane, Placed<T>)>> {
        let mut state = self.state();
        while wait && !state.closed && state.interactive.is_empty() && state.backfill.is_empty() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        let interactive = std::mem::take(&mut state.interactive).into_iter();
        let backfill = std::mem::take(&mut state.backfill).into_iter();
        let interactive = interactive.map(|placed| (Lane::Interactive, placed));
        Some(
            interactive
                .chain(backfill.map(|placed| (Lane::Backfill, placed)))
                .collect(),
        )
    }

    /// Takes no more work and drops what waits.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let dropped = (
            std::mem::take(&mut state.interactive),
            std::mem::take(&mut state.backfill),
        );
        drop(state);
        drop(dropped);
        self.interactive.close();
        self.backfill.close();
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Every change of the state is one push, pop or take: a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn work_is_taken_at_once_and_lanes_keep_their_order() {
        let queue = Queue::new(8);
        for (lane, work) in [
            (Lane::Backfill, 1),
            (Lane::Interactive, 2),
            (Lane::Backfill, 3),
            (Lane::Interactive, 4),
        ] {
            assert_eq!(queue.push(lane, work).now_or_never(), Some(Ok(())));
        }
        let taken = |wait| {
            let all = queue.take(wait).unwrap().into_iter();
            all.map(|(lane, placed)| (lane, placed.work)).collect()
        };
        let (interactive, backfill) = (Lane::Interactive, Lane::Backfill);
        let all: Vec<(Lane, i32)> = taken(true);
        assert_eq!(
            all,
            [
                (interactive, 2),
                (interactive, 4),
                (backfill, 1),
                (backfill, 3)
            ]
        );
        assert_eq!(taken(false), [], "it does not wait");
    }

    #[test]
    fn a_full_lane_makes_callers_wait_until_work_is_done() {
        let queue = Queue::new(2);
        for work in [1, 2] {
            assert_eq!(
                queue.push(Lane::Backfill, work).now_or_never(),
                Some(Ok(()))
            );
        }
        let mut third = Box::pin(queue.push(Lane::Backfill, 3));
        assert_eq!(third.as_mut().now_or_never(), None);
        assert_eq!(
            queue.push(Lane::Interactive, 9).now_or_never(),
            Some(Ok(())),
            "the other lane has places"
        );
        let mut running = queue.take(true).unwrap();
        running.retain(|(lane, _)| *lane == Lane::Backfill);
        assert_eq!(
            third.as_mut().now_or_never(),
            None,
            "another lane's place is no place, and running work keeps its own"
        );
        drop(running);
        assert_eq!(third.as_mut().now_or_never(), Some(Ok(())));
    }

    #[test]
    fn a_caller_who_gave_up_has_left_nothing() {
        let queue = Queue::new(1);
        assert_eq!(
            queue.push(Lane::Interactive, 1).now_or_never(),
            Some(Ok(()))
        );
        assert_eq!(queue.push(Lane::Interactive, 2).now_or_never(), None);
        drop(queue.take(true));
        assert_eq!(
            queue.push(Lane::Interactive, 3).now_or_never(),
            Some(Ok(()))
        );
        let last = queue.take(true).unwrap();
        assert_eq!(last.iter().map(|(_, placed)| placed.work).sum::<i32>(), 3);
    }

    #[test]
    fn closing_drops_what_waits_and_wakes_everyone() {
        let queue = Arc::new(Queue::new(1));
        let (kept, gone) = std::sync::mpsc::channel::<()>();
        assert_eq!(
            queue.push(Lane::Interactive, kept.clone()).now_or_never(),
            Some(Ok(()))
        );
        let mut waiting = Box::pin(queue.push(Lane::Interactive, kept));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        queue.close();
        assert_eq!(waiting.as_mut().now_or_never(), Some(Err(Closed)));
        drop(waiting);
        assert!(gone.recv().is_err(), "all work was dropped");
        assert!(queue.take(false).is_none() && queue.take(true).is_none());

        let queue = Arc::new(Queue::<()>::new(1));
        let blocked = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.take(true).is_none()
        });
        queue.close();
        assert!(blocked.join().unwrap());
        assert_eq!(
            queue.push(Lane::Backfill, ()).now_or_never(),
            Some(Err(Closed))
        );
    }
}
