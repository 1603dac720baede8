//! The servers of this program, and the replicas that they ask.
//!
//! Real: which replica gets the next request of a server, how many each has at once, when one is left alone and tried again
//! (`backend::endpoint::replicas`, one a server, as each process has its own), and the meter that tells the questions'
//! parts of the busy time (`classify::meter`). Modelled: what goes over sockets, and the loop around it (`Endpoint::send`,
//! bound to them and to tokio's clock): a request waits for one of the server's threads, then for a place; a fault is
//! followed by the program's own pause and another try. A reply that comes after the limit of time counts as late when it
//! comes, and not when the limit is over, unless its replica hangs.

mod loss;

use crate::agenda::{Agenda, Event, Instants, Micros};
use crate::options::Options;
use crate::replica::{Curve, Replica, State, weight};
use crate::world::Size;
use safeguard::backend::endpoint::replicas::{Pick, Replicas, pause};
use safeguard::backend::endpoint::{Fault, Tuning};
use safeguard::classify::meter::{Meter, Turn};
use safeguard::config::{ENDPOINT_IN_FLIGHT_MAX, ENDPOINT_TRIES_MAX};
use safeguard_udfs::{Cost, Lane, Promise};
use std::collections::VecDeque;
use std::sync::Arc;

/// Microseconds until a lost server's machine refuses a connection; a guess.
const REFUSED: Micros = 1_000;

/// Who wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A fresh row, by its place.
    Fresh(usize),
    /// A worker, by its number, and which of its questions.
    Chunk(usize, usize),
}

/// A question with its answer, or why there is none.
#[derive(Debug)]
pub struct Answered {
    pub owner: Owner,
    pub size: Size,
    pub day: usize,
    pub fault: Option<String>,
}

/// What is asked, and of whose means.
#[derive(Debug)]
pub struct Ask {
    pub server: usize,
    pub lane: Lane,
    pub owner: Owner,
    pub size: Size,
    /// Whose limits count.
    pub day: usize,
    /// Of limits of the day and of the backfill's budget.
    pub promises: [Option<Promise>; 2],
}

#[derive(Debug)]
struct Question<'m> {
    /// Changes with every request, so that what was put down for an earlier one is passed over.
    serial: u64,
    ask: Ask,
    turn: Turn<'m>,
    tries: u32,
    begun: Micros,
    /// Where its request is.
    at: Option<usize>,
}

#[derive(Debug)]
struct Server {
    alive: bool,
    replicas: Replicas,
    /// Requests that it may still begin.
    threads: usize,
    /// Questions that wait for one, in their order.
    door: VecDeque<usize>,
    /// Questions that wait for a place, by lane, each with its turn.
    seats: [VecDeque<(u64, usize)>; 2],
    turn: u64,
    sent: u64,
    /// When it looks again by itself.
    looks: Option<Micros>,
}

/// See the module.
#[derive(Debug)]
pub struct Fleet<'m> {
    options: Options,
    instants: Instants,
    meters: &'m [Meter],
    servers: Vec<Server>,
    pub replicas: Vec<Replica>,
    questions: Vec<Option<Question<'m>>>,
    free: Vec<usize>,
    serial: u64,
    tuning: Tuning,
    /// To be taken out by whoever runs the day.
    pub answered: Vec<Answered>,
    pub counts: Counts,
}

/// What happened to questions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub put: u64,
    pub answered: u64,
    pub failed: u64,
    /// Their server was killed.
    pub cut: u64,
    pub requests: u64,
    /// Of these, after a fault.
    pub again: u64,
    /// The most requests that one server had under way.
    pub most_threads: usize,
    /// Busy seconds by the meters, of fresh rows and of the backfill.
    pub busy: [f64; 2],
}

fn lane_number(lane: Lane) -> usize {
    match lane {
        Lane::Interactive => 0,
        Lane::Backfill => 1,
    }
}

impl<'m> Fleet<'m> {
    /// One meter a server.
    pub fn new(
        options: &Options,
        curve: &Arc<Curve>,
        instants: Instants,
        meters: &'m [Meter],
    ) -> Fleet<'m> {
        let server = || Server {
            alive: true,
            replicas: Replicas::new(options.replicas),
            threads: ENDPOINT_IN_FLIGHT_MAX,
            door: VecDeque::new(),
            seats: [VecDeque::new(), VecDeque::new()],
            turn: 0,
            sent: 0,
            looks: None,
        };
        Fleet {
            options: options.clone(),
            instants,
            meters,
            servers: meters.iter().map(|_| server()).collect(),
            replicas: (0..options.replicas)
                .map(|_| Replica::new(options, curve))
                .collect(),
            questions: Vec::new(),
            free: Vec::new(),
            serial: 0,
            tuning: Tuning::default(),
            answered: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Questions under way.
    pub fn open(&self) -> usize {
        self.questions.len() - self.free.len()
    }

    pub fn is_alive(&self, server: usize) -> bool {
        self.servers[server].alive
    }

    /// Whether questions wait for a thread of their server; for a place at a replica.
    pub fn waits(&self) -> (bool, bool) {
        let servers = || self.servers.iter().filter(|server| server.alive);
        let seats = |server: &Server| server.seats.iter().any(|lane| !lane.is_empty());
        (
            servers().any(|server| !server.door.is_empty()),
            servers().any(seats),
        )
    }

    /// Puts a question.
    pub fn put(&mut self, agenda: &mut Agenda, mut ask: Ask) {
        let least = Cost {
            questions: 1,
            tokens: ask.size.prompt,
        };
        ask.promises
            .iter_mut()
            .flatten()
            .for_each(|promise| promise.put(least));
        let (server, now) = (ask.server, agenda.now);
        let question = Question {
            serial: 0,
            turn: self.meters[server].begin(self.instants.at(now)),
            ask,
            tries: 0,
            begun: now,
            at: None,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.questions.push(None);
            self.questions.len() - 1
        });
        self.questions[place] = Some(question);
        self.counts.put += 1;
        match self.servers[server].threads {
            0 => self.servers[server].door.push_back(place),
            _ => self.enter(agenda, server, place),
        }
    }

    /// A question gets a thread.
    fn enter(&mut self, agenda: &mut Agenda, server: usize, place: usize) {
        let server_of = &mut self.servers[server];
        server_of.threads -= 1;
        let used = ENDPOINT_IN_FLIGHT_MAX - server_of.threads;
        self.counts.most_threads = self.counts.most_threads.max(used);
        self.seat(agenda, place);
    }

    fn question(&mut self, place: usize) -> &mut Question<'m> {
        self.questions[place]
            .as_mut()
            .expect("bug: a question that nobody put")
    }

    fn is_here(&self, place: usize, serial: u64) -> bool {
        let question = self.questions.get(place).and_then(Option::as_ref);
        question.is_some_and(|question| question.serial == serial && serial > 0)
    }

    /// A question wants a place at a replica.
    fn seat(&mut self, agenda: &mut Agenda, place: usize) {
        let (server, lane) = {
            let ask = &self.question(place).ask;
            (ask.server, ask.lane)
        };
        let of = &mut self.servers[server];
        match of.replicas.pick(lane, self.instants.at(agenda.now)) {
            Pick::Take(replica) => self.send(agenda, place, replica),
            Pick::Out(why) => self.end(agenda, place, Some(format!("no server answers: {why}"))),
            Pick::Wait(wait) => {
                of.turn += 1;
                of.seats[lane_number(lane)].push_back((of.turn, place));
                self.look_again(agenda, server, wait);
            }
        }
    }

    fn look_again(
        &mut self,
        agenda: &mut Agenda,
        server: usize,
        wait: Option<std::time::Duration>,
    ) {
        let Some(wait) = wait else { return };
        let time = agenda.now + wait.as_micros() as Micros;
        let of = &mut self.servers[server];
        if of
            .looks
            .is_none_or(|looks| looks <= agenda.now || time < looks)
        {
            of.looks = Some(time);
            agenda.at(time, Event::Seats(server));
        }
    }

    /// Whoever waits at a server tries again, in the order of waiting, as far as there are places.
    pub fn wake(&mut self, agenda: &mut Agenda, server: usize) {
        let mut full = [false; 2];
        loop {
            let of = &mut self.servers[server];
            let front = |lane: usize| of.seats[lane].front().filter(|_| !full[lane]).copied();
            let lane = match (front(0), front(1)) {
                (None, None) => return,
                (Some(a), Some(b)) => usize::from(b < a),
                (None, Some(_)) => 1,
                (Some(_), None) => 0,
            };
            let lanes = [Lane::Interactive, Lane::Backfill];
            match of.replicas.pick(lanes[lane], self.instants.at(agenda.now)) {
                Pick::Wait(wait) => {
                    full[lane] = true;
                    self.look_again(agenda, server, wait);
                }
                picked => {
                    let Some((_, place)) = of.seats[lane].pop_front() else {
                        return;
                    };
                    match picked {
                        Pick::Take(replica) => self.send(agenda, place, replica),
                        Pick::Out(why) => {
                            self.end(agenda, place, Some(format!("no server answers: {why}")));
                        }
                        Pick::Wait(_) => {}
                    }
                }
            }
        }
    }

    fn send(&mut self, agenda: &mut Agenda, place: usize, number: usize) {
        self.serial += 1;
        let (serial, now) = (self.serial, agenda.now);
        let question = self.questions[place]
            .as_mut()
            .expect("bug: a question that nobody put");
        (question.serial, question.begun, question.at) = (serial, now, Some(number));
        question.tries += 1;
        let size = question.ask.size;
        self.servers[question.ask.server].sent += 1;
        self.counts.requests += 1;
        let replica = &mut self.replicas[number];
        match replica.state {
            State::Lost => agenda.after(REFUSED, Event::Refused(place, serial)),
            State::Hung => {
                replica.add(
                    now,
                    (place, serial),
                    weight(&self.options, size.text, size.decode),
                );
                agenda.after(
                    self.tuning.reply.as_micros() as Micros,
                    Event::Late(place, serial),
                );
            }
            State::Up => {
                replica.add(
                    now,
                    (place, serial),
                    weight(&self.options, size.text, size.decode),
                );
                self.plan(agenda, number);
            }
        }
    }

    /// Puts down when a replica's next reply comes.
    fn plan(&mut self, agenda: &mut Agenda, number: usize) {
        let questions = &self.questions;
        let next = self.replicas[number].next(|place, serial| {
            questions[place]
                .as_ref()
                .is_some_and(|question| question.serial == serial)
        });
        if let Some(time) = next {
            let planned = &mut self.replicas[number].planned;
            if planned.is_none_or(|planned| time < planned || planned <= agenda.now) {
                *planned = Some(time);
                agenda.at(time, Event::Reply(number));
            }
        }
    }

    /// A replica may have replies.
    pub fn replies(&mut self, agenda: &mut Agenda, number: usize) {
        // Another event came to stand for this one.
        if self.replicas[number].planned != Some(agenda.now) {
            return;
        }
        self.replicas[number].planned = None;
        self.replicas[number].advance(agenda.now);
        loop {
            let questions = &self.questions;
            let answered = self.replicas[number].answered(|place, serial| {
                questions[place]
                    .as_ref()
                    .is_some_and(|question| question.serial == serial)
            });
            let Some(place) = answered else { break };
            let took = agenda.now - self.question(place).begun;
            let late = took >= self.tuning.reply.as_micros() as Micros;
            self.came(
                agenda,
                place,
                late.then(|| Fault::Slow("no reply in time".to_owned())),
            );
        }
        self.plan(agenda, number);
    }

    /// A request's fault that was put down has come, unless something else came before.
    pub fn faulted(&mut self, agenda: &mut Agenda, (place, serial): (usize, u64), fault: Fault) {
        if !self.is_here(place, serial) {
            return;
        }
        if matches!(fault, Fault::Slow(_))
            && let Some(number) = self.question(place).at
        {
            self.replicas[number].leave(agenda.now);
        }
        self.came(agenda, place, Some(fault));
    }

    /// A request has ended, as it ends in `Endpoint::send`.
    fn came(&mut self, agenda: &mut Agenda, place: usize, fault: Option<Fault>) {
        let now = agenda.now;
        let question = self.questions[place]
            .as_mut()
            .expect("bug: a question that nobody put");
        // Its name in a replica's heap means nothing any more.
        question.serial = 0;
        let number = question.at.take().expect("bug: a reply to no request");
        let (server, tries, begun) = (question.ask.server, question.tries, question.begun);
        let of = &mut self.servers[server];
        of.replicas.ended(
            number,
            self.instants.at(begun),
            self.instants.at(now),
            fault.as_ref(),
        );
        match fault {
            None => self.end(agenda, place, None),
            Some(fault) if tries >= ENDPOINT_TRIES_MAX => {
                let why = format!("{}; given up after {ENDPOINT_TRIES_MAX} tries", fault.why());
                self.end(agenda, place, Some(why));
            }
            Some(_) => {
                let chance = of.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                let wait = pause(tries, chance, self.tuning.pause);
                self.serial += 1;
                let serial = self.serial;
                self.question(place).serial = serial;
                agenda.after(wait.as_micros() as Micros, Event::Again(place, serial));
            }
        }
        self.wake(agenda, server);
    }

    /// After its pause a question is sent again.
    pub fn again(&mut self, agenda: &mut Agenda, place: usize, serial: u64) {
        if self.is_here(place, serial) {
            self.counts.again += 1;
            self.question(place).serial = 0;
            self.seat(agenda, place);
        }
    }

    /// A question has come to its end: its thread is the next one's.
    fn end(&mut self, agenda: &mut Agenda, place: usize, fault: Option<String>) {
        let question = self.questions[place]
            .take()
            .expect("bug: a question that nobody put");
        self.free.push(place);
        let ask = question.ask;
        let seconds = question.turn.seconds(self.instants.at(agenda.now));
        self.counts.busy[lane_number(ask.lane)] += seconds;
        drop(question.turn);
        match fault {
            None => {
                self.counts.answered += 1;
                let tokens = ask.size.prompt + ask.size.decode;
                let spent = Cost {
                    questions: 1,
                    tokens,
                };
                ask.promises
                    .into_iter()
                    .flatten()
                    .for_each(|promise| promise.settle(spent));
            }
            // A promise that is dropped has cost the prompt.
            Some(_) => self.counts.failed += 1,
        }
        self.answered.push(Answered {
            owner: ask.owner,
            size: ask.size,
            day: ask.day,
            fault,
        });
        self.servers[ask.server].threads += 1;
        if let Some(next) = self.servers[ask.server].door.pop_front() {
            self.enter(agenda, ask.server, next);
        }
    }
}
