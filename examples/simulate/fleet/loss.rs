//! What a loss does to questions under way: those of a replica that is lost or hangs, those of a server that is killed.

use super::{Fleet, Owner};
use crate::agenda::{Agenda, Event, Micros};
use crate::replica::State;
use safeguard::backend::endpoint::Fault;
use safeguard::backend::endpoint::replicas::Replicas;
use safeguard::config::ENDPOINT_IN_FLIGHT_MAX;
use std::collections::VecDeque;

impl Fleet<'_> {
    /// A replica is in another state from now on.
    pub fn turn(&mut self, agenda: &mut Agenda, number: usize, state: State) {
        let now = agenda.now;
        self.replicas[number].advance(now);
        self.replicas[number].state = state;
        match state {
            State::Lost => {
                let questions = &self.questions;
                let here = self.replicas[number].clear(now, |place, serial| {
                    questions[place]
                        .as_ref()
                        .is_some_and(|question| question.serial == serial)
                });
                for place in here {
                    self.came(
                        agenda,
                        place,
                        Some(Fault::Gone("the connection was closed".to_owned())),
                    );
                }
            }
            State::Hung => {
                for place in 0..self.questions.len() {
                    let Some(question) = &self.questions[place] else {
                        continue;
                    };
                    if question.at == Some(number) {
                        let late = question.begun + self.tuning.reply.as_micros() as Micros;
                        agenda.at(late, Event::Late(place, question.serial));
                    }
                }
            }
            State::Up => self.plan(agenda, number),
        }
    }

    /// A server is killed: its questions are nobody's any more, their owners are told to whoever runs the day.
    pub fn kill(&mut self, agenda: &mut Agenda, server: usize) -> Vec<Owner> {
        let mut owners = Vec::new();
        for place in 0..self.questions.len() {
            let gone = self.questions[place].take_if(|question| question.ask.server == server);
            let Some(question) = gone else { continue };
            self.free.push(place);
            self.counts.cut += 1;
            if let Some(number) = question.at
                && self.replicas[number].state != State::Lost
            {
                self.replicas[number].leave(agenda.now);
            }
            owners.push(question.ask.owner);
        }
        let replicas = Replicas::new(self.options.replicas);
        let of = &mut self.servers[server];
        (of.alive, of.replicas, of.threads) = (false, replicas, ENDPOINT_IN_FLIGHT_MAX);
        of.door.clear();
        of.seats.iter_mut().for_each(VecDeque::clear);
        (0..self.replicas.len()).for_each(|number| self.plan(agenda, number));
        owners
    }

    pub fn revive(&mut self, server: usize) {
        self.servers[server].alive = true;
    }
}
