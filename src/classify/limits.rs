//! What each role may ask in a day: one counter for all who have the role, over all statements and connections.
//!
//! Takes what a question can cost before it is put, gives a promise, or says which limit is spent and until when. What may
//! be spent is taken from the store in blocks ahead and what is left of a block is given back when the role rests: a
//! process that is killed has spent the whole of its block, so that no limit is exceeded. Processes that share a store
//! share the limits. Days are those of UTC. Knows no users and no texts; the clock is an argument.

use crate::config::{
    LIMIT_BLOCK_QUESTIONS, LIMIT_BLOCK_TOKENS, LIMIT_RETRY_MS, Role, RoleLimits, RolesLimits,
};
use crate::store::{self, DayLease, Store, StoreError};
use safeguard_udfs::{Budget, Cost, Most, Promise};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Microseconds since 1970-01-01 UTC.
pub type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The limits of all roles.
pub struct DayLimits {
    store: Store,
    state: Mutex<State>,
}

struct State {
    now: Now,
    limits: RolesLimits,
    /// Of each role, its latest days.
    accounts: HashMap<Role, Vec<Arc<Account>>>,
}

/// What this process may spend of a role's day.
struct Account {
    role: Role,
    /// Days since 1970-01-01.
    day: i64,
    most: RoleLimits,
    budget: Arc<Budget>,
    /// Held by whoever takes a block. Until when the store had no more.
    empty_until: tokio::sync::Mutex<i64>,
}

/// Why a question is not put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// Which limit, and when it begins anew.
    pub note: String,
    /// When it begins anew, in microseconds since 1970-01-01 UTC.
    pub until: i64,
}

impl fmt::Debug for DayLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DayLimits")
            .field("limits", &self.lock().limits)
            .finish_non_exhaustive()
    }
}

impl DayLimits {
    /// None yet.
    pub fn new(store: Store) -> DayLimits {
        let state = State {
            now: Arc::new(store::now),
            limits: RolesLimits::default(),
            accounts: HashMap::new(),
        };
        DayLimits {
            store,
            state: Mutex::new(state),
        }
    }

    /// From now on these, by this clock.
    pub fn set(&self, limits: RolesLimits, now: Now) {
        let mut state = self.lock();
        state.limits = limits;
        state.now = now;
        state.accounts.clear();
    }

    /// What a role may ask in a day.
    pub fn of(&self, role: Role) -> RoleLimits {
        self.lock().limits.of(role)
    }

    /// Room for one question of a role's; `tokens` is the most that it can cost, and only called where they have a limit.
    ///
    /// # Errors
    /// The store fails; then nothing may be asked.
    pub async fn reserve(
        &self,
        role: Role,
        tokens: impl FnOnce() -> u64,
    ) -> Result<Result<Option<Promise>, Spent>, StoreError> {
        self.room(role, tokens, true).await
    }

    /// The same for whoever does not wait: a limit counts as spent although questions under way may give something back.
    ///
    /// # Errors
    /// The store fails; then nothing may be asked.
    pub async fn reserve_now(
        &self,
        role: Role,
        tokens: impl FnOnce() -> u64,
    ) -> Result<Result<Option<Promise>, Spent>, StoreError> {
        self.room(role, tokens, false).await
    }

    async fn room(
        &self,
        role: Role,
        tokens: impl FnOnce() -> u64,
        waits: bool,
    ) -> Result<Result<Option<Promise>, Spent>, StoreError> {
        let most = self.of(role);
        if most == RoleLimits::default() {
            return Ok(Ok(None));
        }
        let cost = Cost {
            questions: 1,
            tokens: most.tokens_per_day.map_or(0, |_| tokens()),
        };
        loop {
            let (account, now) = self.account(role);
            let promise = match self.take(&account, cost, now).await? {
                None if waits => account.budget.reserve(cost).await,
                taken => taken,
            };
            let Some(promise) = promise else {
                return Ok(Err(account.spent(cost)));
            };
            // Waiting may have gone past midnight: then it is the next day's to count.
            if self.account(role).0.day == account.day {
                return Ok(Ok(Some(promise)));
            }
        }
    }

    /// Room in this account, as long as the day has any that is not promised.
    async fn take(
        &self,
        account: &Arc<Account>,
        cost: Cost,
        now: i64,
    ) -> Result<Option<Promise>, StoreError> {
        if let Some(promise) = account.budget.take(cost) {
            return Ok(Some(promise));
        }
        let mut empty_until = account.empty_until.lock().await;
        // Somebody else may have taken a block meanwhile.
        if let Some(promise) = account.budget.take(cost) {
            return Ok(Some(promise));
        }
        while *empty_until <= now {
            let wanted = Cost {
                questions: cost.questions.max(LIMIT_BLOCK_QUESTIONS),
                tokens: cost.tokens.max(LIMIT_BLOCK_TOKENS),
            };
            let lease = DayLease {
                day: account.day,
                role: account.role.as_str(),
                asked_per_day: account.most.asked_per_day,
                tokens_per_day: account.most.tokens_per_day,
                asked: wanted.questions,
                tokens: wanted.tokens,
            };
            let (asked, tokens) = self.store.lease_day(lease).await?;
            if asked < wanted.questions && account.most.asked_per_day.is_some()
                || tokens < wanted.tokens && account.most.tokens_per_day.is_some()
            {
                *empty_until = now.saturating_add(LIMIT_RETRY_MS * 1_000);
            }
            account.budget.grow(Cost {
                questions: asked,
                tokens,
            });
            if let Some(promise) = account.budget.take(cost) {
                return Ok(Some(promise));
            }
        }
        Ok(None)
    }

    /// What is left of a role's limits today, 0 where there is none; what other processes hold in blocks counts as spent.
    ///
    /// # Errors
    /// The store fails.
    pub async fn left(&self, role: Role) -> Result<Cost, StoreError> {
        let most = self.of(role);
        let (account, _) = self.account(role);
        let (asked, tokens) = self.store.day_spent(account.day, role.as_str()).await?;
        // What this process holds of it is not spent yet.
        let held = account.budget.left();
        let left = |most: Option<u64>, spent: u64, held: u64| {
            most.map_or(0, |most| most.saturating_sub(spent).saturating_add(held))
        };
        Ok(Cost {
            questions: left(most.asked_per_day, asked, held.questions),
            tokens: left(most.tokens_per_day, tokens, held.tokens),
        })
    }

    /// Gives back what this process holds of a role's days and does not need now. To be called when a statement ends.
    pub async fn rest(&self, role: Role) {
        let accounts = self.lock().accounts.get(&role).cloned();
        for account in accounts.unwrap_or_default() {
            let mut empty_until = account.empty_until.lock().await;
            let left = account.budget.shrink();
            if left == Cost::default() {
                continue;
            }
            let back = (
                account.day,
                account.role.as_str(),
                left.questions,
                left.tokens,
            );
            if let Err(error) = self.store.give_day_back(back).await {
                tracing::warn!("what was not spent of a day counts as spent: {error}");
            }
            *empty_until = 0;
        }
    }

    /// The account of a role's day that it is now.
    fn account(&self, role: Role) -> (Arc<Account>, i64) {
        let mut state = self.lock();
        let now = (state.now)();
        let (day, most) = (now.div_euclid(DAY), state.limits.of(role));
        let accounts = state.accounts.entry(role).or_default();
        if let Some(account) = accounts.iter().find(|account| account.day == day) {
            return (Arc::clone(account), now);
        }
        let none = Most {
            questions: most.asked_per_day.map(|_| 0),
            tokens: most.tokens_per_day.map(|_| 0),
        };
        let account = Arc::new(Account {
            role,
            day,
            most,
            budget: Arc::new(Budget::new(none)),
            empty_until: tokio::sync::Mutex::new(i64::MIN),
        });
        // Questions of yesterday may still be under way, and give something back.
        accounts.retain(|account| account.day + 1 >= day);
        accounts.push(Arc::clone(&account));
        (account, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Which of the limits had no room for this.
    fn spent(&self, cost: Cost) -> Spent {
        let until = (self.day + 1).saturating_mul(DAY);
        let asked = self.budget.misses(cost).questions > 0;
        let (key, most) = match (asked, self.most) {
            (
                true,
                RoleLimits {
                    asked_per_day: Some(most),
                    ..
                },
            ) => ("asked_per_day", most),
            (
                _,
                RoleLimits {
                    tokens_per_day: Some(most),
                    ..
                },
            ) => ("tokens_per_day", most),
            (_, most) => ("asked_per_day", most.asked_per_day.unwrap_or_default()),
        };
        let anew = chrono::DateTime::from_timestamp_micros(until);
        let anew = anew.map_or_else(String::new, |at| {
            at.format("%Y-%m-%d %H:%M UTC").to_string()
        });
        Spent {
            note: format!(
                "limits.{}.{key} = {most} has no room left for this day; it begins anew at {anew}",
                self.role
            ),
            until,
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
