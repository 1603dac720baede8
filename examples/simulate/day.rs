//! One day: what happens in it, in its order, and what is to be seen in the end.
//!
//! Takes options and a scenario (whether there is the edit, and the loss), gives figures, or what must be true and is not.
//! The day goes on past midnight until the backfill is done.

use crate::agenda::{Agenda, EPOCH, Event, HOUR, Instants, Micros, SECOND};
use crate::background::Background;
use crate::fleet::{Fleet, Owner};
use crate::fresh::Fresh;
use crate::options::Options;
use crate::replica::{Curve, State};
use crate::world::{Judged, World};
use safeguard::backend::endpoint::Fault;
use safeguard::classify::limits::{DayLimits, Now};
use safeguard::classify::meter::Meter;
use safeguard::config::{ENDPOINT_IN_FLIGHT_MAX, Role, RoleLimits, RolesLimits};
use safeguard::jobs::pace::{Clock, Pace};
use safeguard::store::{Store, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use tokio::runtime::Runtime;

/// Seconds between two looks at what limits the work.
const LOOK: Micros = 10 * SECOND;
/// From this share of what the replicas can do on, they are what limits.
const FULL: f64 = 0.85;

/// What became of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Their text was judged already, or is being asked.
    pub recalled: u64,
    /// By the screen.
    pub cleared: u64,
    /// Asked, and there is a label.
    pub asked: u64,
    /// Asked, and there is none.
    pub undecided: u64,
    /// Given up.
    pub failed: u64,
    /// They are still to be judged.
    pub left: bool,
}

impl Counts {
    pub fn rows(&self) -> u64 {
        self.recalled + self.cleared + self.asked + self.undecided + self.failed
    }

    pub fn add(&mut self, more: &Counts) {
        self.recalled += more.recalled;
        self.cleared += more.cleared;
        self.asked += more.asked;
        self.undecided += more.undecided;
        self.failed += more.failed;
    }
}

/// What limits the work at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing: whatever arrives is judged at once.
    Arrivals,
    /// No replica answers.
    Outage,
    /// A limit of the day.
    Budget,
    /// The replicas do all that they can.
    Replicas,
    /// Servers give replicas no more places than they have shown to bear.
    Places,
    /// Servers have as many requests under way as they may.
    Requests,
    /// Workers have no more chunks in hand.
    Chunks,
    /// The source is still being spooled.
    Spooling,
}

impl Limit {
    pub const ALL: [Limit; 8] = [
        Limit::Arrivals,
        Limit::Outage,
        Limit::Budget,
        Limit::Replicas,
        Limit::Places,
        Limit::Requests,
        Limit::Chunks,
        Limit::Spooling,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Arrivals => "arrivals",
            Limit::Outage => "outage",
            Limit::Budget => "budget",
            Limit::Replicas => "replicas",
            Limit::Places => "places",
            Limit::Requests => "requests",
            Limit::Chunks => "chunks",
            Limit::Spooling => "spooling",
        }
    }
}

/// An hour of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hour {
    pub arrived: u64,
    /// Rows of the backfill.
    pub judged: u64,
    /// Questions answered.
    pub answered: u64,
    pub worst_lag: Micros,
    /// Statements of the store for chunks.
    pub statements: u64,
    /// What the replicas did, in questions of mean work.
    pub worked: f64,
    /// Looks, by what limited.
    pub looks: [u64; Limit::ALL.len()],
}

/// What happens beside arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub edit: bool,
    pub loss: bool,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match (self.edit, self.loss) {
            (false, false) => "a quiet day",
            (false, true) => "a loss",
            (true, false) => "an edit",
            (true, true) => "an edit and a loss",
        }
    }
}

/// What is to be seen in the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub scenario: Scenario,
    pub hours: Vec<Hour>,
    pub ended: Micros,
    /// From the edit to the last row; `None` where it was not reached, or there was no edit.
    pub backfill: Option<Micros>,
    pub backfill_rows: u64,
    pub backfill_counts: Counts,
    pub fresh_rows: u64,
    pub fresh_counts: Counts,
    pub fresh_waiting: u64,
    /// Milliseconds, ascending.
    pub lags: Vec<u32>,
    pub fleet: crate::fleet::Counts,
    /// In questions of mean work.
    pub worked: f64,
    pub claims: u64,
    pub lost_claims: u64,
    pub tokens: u64,
    pub events: u64,
    pub broken: Vec<String>,
}

/// See the module.
pub struct Day<'m> {
    pub options: Options,
    pub world: World,
    pub agenda: Agenda,
    pub fleet: Fleet<'m>,
    pub background: Background,
    pub fresh: Fresh,
    /// Under the version before, and the new one once there is one.
    pub judged: [Option<Judged>; 2],
    pub store: Store,
    pub limits: Vec<DayLimits>,
    pub pace: Pace,
    scenario: Scenario,
    curve: Arc<Curve>,
    runtime: Runtime,
    clock: Arc<AtomicI64>,
    hours: Vec<Hour>,
    broken: Vec<String>,
}

/// Plays a day to its end.
pub fn play(options: &Options, curve: &Arc<Curve>, scenario: Scenario) -> Figures {
    let meters: Vec<Meter> = (0..options.servers).map(|_| Meter::default()).collect();
    let mut day = Day::new(options, curve, scenario, &meters);
    day.run();
    day.figures()
}

impl<'m> Day<'m> {
    fn new(
        options: &Options,
        curve: &Arc<Curve>,
        scenario: Scenario,
        meters: &'m [Meter],
    ) -> Day<'m> {
        let world = World::new(options);
        let store = Store::ephemeral().expect("the store of the simulation cannot be made");
        let clock = Arc::new(AtomicI64::new(EPOCH));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let mut day = Day {
            fleet: Fleet::new(options, curve, Instants::new(), meters),
            background: Background::new(options.servers, options.workers),
            fresh: Fresh::default(),
            judged: [Some(Judged::all(&world)), None],
            world,
            agenda: Agenda::default(),
            limits: Vec::new(),
            pace: Pace {
                clock: Clock::of({
                    let clock = Arc::clone(&clock);
                    move || clock.load(Relaxed)
                }),
                ..Pace::default()
            },
            store,
            scenario,
            curve: Arc::clone(curve),
            runtime: runtime.expect("a runtime cannot be begun"),
            clock,
            hours: Vec::new(),
            broken: Vec::new(),
            options: options.clone(),
        };
        day.limits = (0..options.servers).map(|_| day.new_limits()).collect();
        day
    }

    /// The limits as a server knows them that has just begun.
    fn new_limits(&self) -> DayLimits {
        let limits = DayLimits::new(self.store.clone());
        let (asked, tokens) = (
            self.options.fresh_asked_per_day,
            self.options.backfill_tokens_per_day,
        );
        let roles = RolesLimits {
            analyst: RoleLimits {
                asked_per_day: asked,
                tokens_per_day: None,
            },
            admin: RoleLimits {
                asked_per_day: None,
                tokens_per_day: tokens,
            },
            ..RolesLimits::default()
        };
        let clock = Arc::clone(&self.clock);
        let now: Now = Arc::new(move || clock.load(Relaxed));
        limits.set(roles, now);
        limits
    }

    /// Waits for the store, which takes no simulated time: that is modelled apart.
    pub fn wait<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> T {
        self.runtime
            .block_on(asked)
            .expect("the store of the simulation fails")
    }

    /// A server does not need what it holds of a role's day.
    pub fn rest(&self, server: usize, role: Role) {
        self.runtime.block_on(self.limits[server].rest(role));
    }

    /// Something that must be so.
    pub fn hold(&mut self, so: bool, why: &str) {
        const BROKEN_MAX: usize = 20;
        if !so && self.broken.len() < BROKEN_MAX {
            self.broken.push(why.to_owned());
        }
    }

    /// The hour that it is.
    pub fn hour(&mut self) -> &mut Hour {
        let hour = (self.agenda.now / HOUR) as usize;
        if self.hours.len() <= hour {
            self.hours.resize(hour + 1, Hour::default());
        }
        &mut self.hours[hour]
    }

    /// Whether no more rows arrive: a day is over, and the backfill.
    pub fn arrivals_are_over(&self) -> bool {
        self.agenda.now >= 24 * HOUR && self.background.is_over()
    }

    fn is_over(&self) -> bool {
        self.arrivals_are_over() && self.fleet.open() == 0 && self.fresh.waiting() == 0
    }

    fn run(&mut self) {
        let at = |hour: f64| (hour * HOUR as f64) as Micros;
        for event in [Event::Arrivals, Event::Sweep, Event::Look] {
            self.agenda.at(0, event);
        }
        if self.scenario.edit {
            self.agenda.at(at(self.options.edit_at), Event::Edit);
        }
        if self.scenario.loss {
            self.agenda.at(at(self.options.lost_at), Event::Loss);
            self.agenda.at(
                at(self.options.lost_at + self.options.lost_for),
                Event::Return,
            );
        }
        let horizon = at(self.options.hours);
        while let Some(event) = self.agenda.pop() {
            if self.agenda.now >= horizon || (event == Event::Look && self.is_over()) {
                break;
            }
            self.clock.store(EPOCH + self.agenda.now as i64, Relaxed);
            self.happens(event);
            while let Some(answered) = self.fleet.answered.pop() {
                self.hour().answered += u64::from(answered.fault.is_none());
                match answered.owner {
                    Owner::Fresh(place) => self.fresh_answered(place, &answered),
                    Owner::Chunk(worker, number) => {
                        self.chunk_answered((worker, number), &answered)
                    }
                }
            }
        }
    }

    fn happens(&mut self, event: Event) {
        let agenda = &mut self.agenda;
        match event {
            Event::Arrivals => self.arrivals(),
            Event::Sweep => self.sweep(),
            Event::Look => self.look(),
            Event::Edit => self.edit(),
            Event::Spool => self.spool(),
            Event::Loss => self.lose(),
            Event::Return => self.bring_back(),
            Event::Reply(replica) => self.fleet.replies(agenda, replica),
            Event::Refused(place, serial) => {
                let fault = Fault::Down("connection refused".to_owned());
                self.fleet.faulted(agenda, (place, serial), fault);
            }
            Event::Late(place, serial) => {
                let fault = Fault::Slow("no reply in time".to_owned());
                self.fleet.faulted(agenda, (place, serial), fault);
            }
            Event::Again(place, serial) => self.fleet.again(agenda, place, serial),
            Event::Seats(server) => self.fleet.wake(agenda, server),
            Event::Poll(worker, polls) => self.poll(worker, polls),
            Event::Portion(worker, serial) => self.portion(worker, serial),
            Event::Renew(worker, serial) => self.renew(worker, serial),
        }
    }

    /// The first replicas are lost, the next hang, the last servers are killed.
    fn lose(&mut self) {
        let (lost, hung) = (self.options.lost, self.options.hung);
        for number in 0..lost + hung {
            let state = if number < lost {
                State::Lost
            } else {
                State::Hung
            };
            self.fleet.turn(&mut self.agenda, number, state);
        }
        for server in self.options.servers - self.options.killed..self.options.servers {
            for owner in self.fleet.kill(&mut self.agenda, server) {
                if let Owner::Fresh(place) = owner {
                    self.fresh_cut(place);
                }
            }
            self.drop_hands(server);
        }
    }

    fn bring_back(&mut self) {
        for number in 0..self.options.lost + self.options.hung {
            self.fleet.turn(&mut self.agenda, number, State::Up);
        }
        for server in self.options.servers - self.options.killed..self.options.servers {
            // What the killed one held of a day is spent.
            self.limits[server] = self.new_limits();
            self.fleet.revive(server);
            self.begin_workers(server);
        }
    }

    /// Notes what limits the work now, and what was done since the last look.
    fn look(&mut self) {
        let limit = self.limit();
        let now = self.agenda.now;
        let mut worked = 0.0;
        for replica in &mut self.fleet.replicas {
            replica.advance(now);
            worked += replica.worked;
        }
        let before: f64 = self.hours.iter().map(|hour| hour.worked).sum();
        let hour = self.hour();
        hour.worked += worked - before;
        let number = Limit::ALL.iter().position(|other| *other == limit);
        hour.looks[number.expect("bug: a limit that is none of all")] += 1;
        self.agenda.after(LOOK, Event::Look);
    }

    fn limit(&self) -> Limit {
        let up = || {
            self.fleet
                .replicas
                .iter()
                .filter(|replica| replica.state == State::Up)
        };
        let can: f64 = up().map(|_| self.curve.most()).sum();
        let does: f64 = up()
            .map(|replica| self.curve.rate(replica.questions()))
            .sum();
        let (requests, places) = self.fleet.waits();
        let spooling = self.background.state == Some(safeguard::store::State::Spooling);
        let until = self.background.budget_until.max(self.fresh.budget_until);
        if can == 0.0 {
            Limit::Outage
        } else if until > self.agenda.now && self.background.in_hand() == 0 {
            Limit::Budget
        } else if does >= FULL * can {
            Limit::Replicas
        } else if requests {
            Limit::Requests
        } else if places {
            Limit::Places
        } else if self.background.in_hand() > 0 {
            Limit::Chunks
        } else if spooling {
            Limit::Spooling
        } else {
            Limit::Arrivals
        }
    }

    fn figures(mut self) -> Figures {
        self.check_backfill();
        self.check_fresh();
        let counts = self.fleet.counts;
        let open = self.fleet.open() as u64;
        let ended = counts.answered + counts.failed + counts.cut + open;
        self.hold(
            counts.put == ended,
            &format!("{} questions were put, {ended} are known of", counts.put),
        );
        let most = counts.most_threads;
        self.hold(
            most <= ENDPOINT_IN_FLIGHT_MAX,
            &format!("a server had {most} requests under way"),
        );
        let edited = (self.options.edit_at * HOUR as f64) as Micros;
        let mut lags = std::mem::take(&mut self.fresh.lags);
        // Whoever waits still has waited so long.
        if let Some(oldest) = self.fresh.oldest() {
            lags.push(u32::try_from((self.agenda.now - oldest) / 1_000).unwrap_or(u32::MAX));
        }
        lags.sort_unstable();
        Figures {
            scenario: self.scenario,
            ended: self.agenda.now,
            backfill: self.background.ended.map(|ended| ended - edited),
            backfill_rows: self.background.rows,
            backfill_counts: self.background.counts,
            fresh_rows: self.fresh.arrived,
            fresh_counts: self.fresh.counts,
            fresh_waiting: self.fresh.waiting() as u64,
            lags,
            fleet: counts,
            worked: self
                .fleet
                .replicas
                .iter()
                .map(|replica| replica.worked)
                .sum(),
            claims: self.background.claims,
            lost_claims: self.background.lost_claims,
            tokens: self.background.tokens.iter().sum(),
            events: self.agenda.events(),
            hours: self.hours,
            broken: self.broken,
        }
    }
}
