//! What lies between hosts: connections that keep order, datagrams that get lost, the arbiter.

use ft::Tick;
use ft::flag::{Decision, Members};
use ft::identity::Generation;

use super::checkers::speaker;
use super::world::{Event, Happening, MS, US, World};

impl World {
    pub(super) fn other(&self, connection: usize, p: usize) -> usize {
        let [a, b] = self.connections[connection].ends;
        if a == p { b } else { a }
    }

    pub(super) fn begin(&mut self, members: &Members) -> bool {
        let begun = self.now >= self.arbiter_down_until && self.arbiter.begin(members).is_ok();
        self.speaker = speaker(&mut self.arbiter, self.vm);
        begun
    }

    pub(super) fn ask(&mut self, p: usize, generation: Generation, decision: Decision) {
        let delay = self.prng.range(0, 10) * MS;
        self.schedule(self.now + delay, Happening::Decide(p, generation, decision));
    }

    fn transit(&mut self, from: usize, to: usize) -> Tick {
        let open = self.blocked.get(&(from, to)).copied().unwrap_or(0);
        let jitter = match self.prng.range(0, 99) {
            0 => self.prng.range(0, 30) * MS,
            _ => self.prng.range(50, 2000) * US,
        };
        self.now.max(open) + jitter
    }

    /// In order and without loss, but for as long as it takes.
    pub(super) fn send(&mut self, from: usize, connection: usize, bytes: Option<Vec<u8>>) {
        let to = self.other(connection, from);
        let arrival = self.transit(from, to).max(self.stuck_until);
        let link = &mut self.connections[connection];
        let end = usize::from(link.ends[1] == to);
        link.arrival[end] = link.arrival[end].max(arrival);
        let at = link.arrival[end];
        let event = Event::Received(connection, bytes);
        self.schedule(at, Happening::At(to, event));
    }

    pub(super) fn send_datagram(&mut self, from: usize, datagram: &[u8]) {
        let Some(connection) = self.processes[from].connection else {
            return;
        };
        let to = self.other(connection, from);
        let is_blocked = self
            .blocked
            .get(&(from, to))
            .is_some_and(|until| self.now < *until);
        if is_blocked || self.now < self.datagrams_lost_until || self.prng.chance(5) {
            return;
        }
        let at = self.transit(from, to);
        let event = Event::Datagram(datagram.to_vec());
        self.schedule(at, Happening::At(to, event));
    }

    pub(super) fn close(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.received.clear();
        if let Some(connection) = process.connection.take() {
            self.send(p, connection, None);
        }
    }
}
