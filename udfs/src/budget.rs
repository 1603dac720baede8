//! A budget: what may be spent, what is spent, and what is promised to questions under way.
//!
//! Takes the most that a question can cost before it is put, gives a promise or a refusal; takes what it did cost. Who
//! finds too little left waits, in the order of coming, while others may still give something back, and is refused once
//! nobody can. So a budget is never exceeded, and nobody is refused while it is not used up. Knows nothing of what is
//! asked, of whom, or of time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What a question costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Questions, or texts that were not asked about before: what the budget counts.
    pub questions: u64,
    /// Tokens, prompt and decoded.
    pub tokens: u64,
}

/// What may be spent; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// As [`Cost::questions`].
    pub questions: Option<u64>,
    /// As [`Cost::tokens`].
    pub tokens: Option<u64>,
}

/// One counter, shared by all who spend from it.
#[derive(Debug, Default)]
pub struct Budget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    most: Most,
    spent: Cost,
    promised: Cost,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    cost: Cost,
    told: oneshot::Sender<Option<Promise>>,
}

/// Room for one question. What it did not cost is given back when it is dropped.
#[derive(Debug)]
pub struct Promise {
    budget: Arc<Budget>,
    promised: Cost,
    spent: Cost,
}

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            questions: self.questions.saturating_add(other.questions),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    fn minus(self, other: Cost) -> Cost {
        Cost {
            questions: self.questions.saturating_sub(other.questions),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

impl Most {
    fn allows(self, sum: Cost) -> bool {
        self.questions.is_none_or(|most| sum.questions <= most)
            && self.tokens.is_none_or(|most| sum.tokens <= most)
    }

    fn plus(self, more: Cost) -> Most {
        Most {
            questions: self
                .questions
                .map(|most| most.saturating_add(more.questions)),
            tokens: self.tokens.map(|most| most.saturating_add(more.tokens)),
        }
    }
}

impl State {
    fn fits(&self, cost: Cost) -> bool {
        self.most.allows(self.spent.plus(self.promised).plus(cost))
    }

    /// Whether it would fit if all that is promised were given back.
    fn may_fit(&self, cost: Cost) -> bool {
        self.most.allows(self.spent.plus(cost))
    }
}

impl Budget {
    /// Nothing is spent of it yet.
    pub fn new(most: Most) -> Budget {
        let state = State {
            most,
            ..State::default()
        };
        Budget {
            state: Mutex::new(state),
        }
    }

    /// What is spent so far.
    pub fn spent(&self) -> Cost {
        self.lock().spent
    }

    /// What is neither spent nor promised; 0 of what has no limit.
    pub fn left(&self) -> Cost {
        let state = self.lock();
        let most = Cost {
            questions: state.most.questions.unwrap_or_default(),
            tokens: state.most.tokens.unwrap_or_default(),
        };
        most.minus(state.spent.plus(state.promised))
    }

    /// What a question that costs `cost` would need beyond what is left.
    pub fn misses(&self, cost: Cost) -> Cost {
        let state = self.lock();
        let sum = state.spent.plus(state.promised).plus(cost);
        let most = Cost {
            questions: state.most.questions.unwrap_or(u64::MAX),
            tokens: state.most.tokens.unwrap_or(u64::MAX),
        };
        sum.minus(most)
    }

    /// Room for a question that costs `cost` at the most, if there is some now and nobody waits.
    pub fn take(self: &Arc<Self>, cost: Cost) -> Option<Promise> {
        let mut state = self.lock();
        (state.waiting.is_empty() && state.fits(cost)).then(|| {
            state.promised = state.promised.plus(cost);
            self.promise(cost)
        })
    }

    /// The same, after waiting while others may give something back; `None` when there is too little left.
    pub async fn reserve(self: &Arc<Self>, cost: Cost) -> Option<Promise> {
        let answer = {
            let mut state = self.lock();
            if state.waiting.is_empty() && state.fits(cost) {
                state.promised = state.promised.plus(cost);
                return Some(self.promise(cost));
            }
            if !state.may_fit(cost) {
                return None;
            }
            let (told, answer) = oneshot::channel();
            state.waiting.push_back(Waiting { cost, told });
            answer
        };
        answer.await.ok().flatten()
    }

    /// Adds to what may be spent.
    pub fn grow(self: &Arc<Self>, more: Cost) {
        self.change(|state| state.most = state.most.plus(more));
    }

    /// Takes away what is neither spent nor promised, where nobody waits for it. Gives how much.
    pub fn shrink(&self) -> Cost {
        let mut state = self.lock();
        if !state.waiting.is_empty() {
            return Cost::default();
        }
        let used = state.spent.plus(state.promised);
        let most = Cost {
            questions: state.most.questions.unwrap_or(used.questions),
            tokens: state.most.tokens.unwrap_or(used.tokens),
        };
        state.most = Most {
            questions: state.most.questions.map(|most| most.min(used.questions)),
            tokens: state.most.tokens.map(|most| most.min(used.tokens)),
        };
        most.minus(used)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn promise(self: &Arc<Self>, promised: Cost) -> Promise {
        Promise {
            budget: Arc::clone(self),
            promised,
            spent: Cost::default(),
        }
    }

    /// Changes the state and tells those who wait what that means for them.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut told = Vec::new();
        let mut state = self.lock();
        change(&mut state);
        while let Some(first) = state.waiting.front() {
            let (cost, gone) = (first.cost, first.told.is_closed());
            let fits = !gone && state.fits(cost);
            if !gone && !fits && state.may_fit(cost) {
                break;
            }
            if fits {
                state.promised = state.promised.plus(cost);
            }
            if let Some(first) = state.waiting.pop_front() {
                told.push((first.told, fits.then(|| self.promise(cost))));
            }
        }
        drop(state);
        for (sender, answer) in told {
            // Whoever is gone gives it back: the promise is dropped here, with the lock free.
            let _ = sender.send(answer);
        }
    }
}

impl Promise {
    /// The question is put. Should it be given up, `least` is what it cost.
    pub fn put(&mut self, least: Cost) {
        self.spent = least;
    }

    /// The question is answered and did cost this.
    pub fn settle(mut self, spent: Cost) {
        self.spent = spent;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let (promised, spent) = (self.promised, self.spent);
        let budget = Arc::clone(&self.budget);
        budget.change(|state| {
            state.promised = state.promised.minus(promised);
            state.spent = state.spent.plus(spent);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn cost(questions: u64, tokens: u64) -> Cost {
        Cost { questions, tokens }
    }

    fn budget(questions: Option<u64>, tokens: Option<u64>) -> Arc<Budget> {
        Arc::new(Budget::new(Most { questions, tokens }))
    }

    #[test]
    fn what_fits_is_promised_and_no_more() {
        let cases = [
            (None, None, 100),
            (Some(7), None, 7),
            (None, Some(95), 9),
            (Some(20), Some(95), 9),
            (Some(3), Some(95), 3),
            (Some(0), None, 0),
            (None, Some(9), 0),
        ];
        for (questions, tokens, want) in cases {
            let budget = budget(questions, tokens);
            let kept: Vec<_> = (0..100).filter_map(|_| budget.take(cost(1, 10))).collect();
            assert_eq!(kept.len(), want, "{questions:?} {tokens:?}");
            assert_eq!(budget.spent(), cost(0, 0));
            for mut promise in kept {
                promise.put(cost(1, 10));
            }
            assert_eq!(budget.spent(), cost(want as u64, 10 * want as u64));
        }
    }

    #[test]
    fn who_comes_too_late_waits_for_what_others_give_back() {
        let budget = budget(Some(10), Some(100));
        let first = budget.take(cost(1, 60)).unwrap();
        let second = budget.take(cost(1, 40)).unwrap();
        let mut third = Box::pin(budget.reserve(cost(1, 50)));
        let mut fourth = Box::pin(budget.reserve(cost(1, 5)));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(
            fourth.as_mut().now_or_never().is_none(),
            "its turn is later"
        );
        assert!(
            budget
                .reserve(cost(1, 101))
                .now_or_never()
                .unwrap()
                .is_none()
        );
        first.settle(cost(1, 10));
        let third = third.now_or_never().unwrap().unwrap();
        assert!(fourth.as_mut().now_or_never().is_none());
        second.settle(cost(1, 40));
        assert!(
            fourth.as_mut().now_or_never().is_none(),
            "50 are spent and 50 promised"
        );
        third.settle(cost(1, 45));
        let fourth = fourth.now_or_never().unwrap().unwrap();
        // 95 are spent and 5 promised: the next is refused as soon as these are not given back.
        let mut fifth = Box::pin(budget.reserve(cost(1, 5)));
        assert!(fifth.as_mut().now_or_never().is_none());
        fourth.settle(cost(1, 5));
        assert!(fifth.now_or_never().unwrap().is_none());
        assert_eq!(budget.spent(), cost(4, 100));
    }

    #[test]
    fn who_leaves_gives_back_what_came_too_late() {
        let budget = budget(Some(1), None);
        let first = budget.take(cost(1, 0)).unwrap();
        let mut gone = Box::pin(budget.reserve(cost(1, 0)));
        let mut stays = Box::pin(budget.reserve(cost(1, 0)));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(stays.as_mut().now_or_never().is_none());
        // It was promised to the one that leaves with it.
        drop(first);
        drop(gone);
        assert!(stays.now_or_never().unwrap().is_some());
        assert!(budget.take(cost(1, 0)).is_some(), "nothing was spent");
    }

    #[test]
    fn a_budget_grows_and_shrinks() {
        let budget = budget(Some(0), None);
        assert!(budget.take(cost(1, 9)).is_none());
        budget.grow(cost(5, 7));
        budget.take(cost(1, 9)).unwrap().settle(cost(1, 9));
        let held = budget.take(cost(1, 9)).unwrap();
        assert_eq!(budget.left(), cost(3, 0));
        assert_eq!(budget.shrink(), cost(3, 0));
        assert!(budget.take(cost(1, 9)).is_none());
        drop(held);
        assert_eq!(budget.shrink(), cost(1, 0));
        assert_eq!(budget.shrink(), cost(0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_spend_exactly_all_of_it() {
        let budget = budget(Some(500), Some(10_000));
        let ask = |i: u64| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move {
                let Some(mut promise) = budget.reserve(cost(1, 200)).await else {
                    return false;
                };
                promise.put(cost(1, 10));
                tokio::task::yield_now().await;
                // Every third is not asked after all.
                match i % 3 {
                    0 => promise.settle(Cost::default()),
                    _ => promise.settle(cost(1, 10)),
                }
                !i.is_multiple_of(3)
            })
        };
        let all: Vec<_> = (0..3_000).map(ask).collect();
        let mut asked = 0;
        for one in all {
            asked += u64::from(one.await.unwrap());
        }
        assert_eq!(budget.spent(), cost(asked, 10 * asked));
        assert_eq!(asked, 500);
    }
}
