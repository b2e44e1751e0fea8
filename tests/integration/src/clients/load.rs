//! Clients that ask a service for operations on registers, all the time, and write down what
//! they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::history::{Key, Operation, Value};
use crate::failure::{Failure, Outcome};
use crate::seed::Random;

/// How long a client waits for a connection, and for an answer.
pub use super::sessions::PATIENCE;
/// How long a client waits before it tries to connect again.
const RETRY: Duration = Duration::from_millis(50);

/// What a client asks for: reads and then writes, all at one moment or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The registers whose values it wants, as they were before the writes.
    pub reads: BTreeSet<Key>,
    /// What it writes.
    pub writes: BTreeMap<Key, Value>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The service said no: there was no effect.
    Refused(Failure),
    /// The connection is lost: nobody knows.
    Lost(Failure),
}

/// What was read.
pub type Values = BTreeMap<Key, Option<Value>>;

/// A service that keeps registers.
pub trait Service: Clone + Send + 'static {
    /// A connection to it.
    type Connection;

    /// Makes all registers empty.
    fn clear(&self) -> Outcome<()>;

    /// Connects within [`PATIENCE`].
    fn connect(&self) -> Outcome<Self::Connection>;

    /// Asks and waits for the answer.
    fn ask(connection: &mut Self::Connection, request: &Request) -> Result<Values, NoAnswer>;

    /// Whether one request may be for several registers.
    const HAS_TRANSACTIONS: bool;
}

/// How many clients do what.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients, each with a connection of its own and one request at a time.
    pub clients: u32,
    /// Registers.
    pub keys: u32,
    /// The longest pause of a client between two requests.
    pub pause: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    history: Mutex<Vec<Operation>>,
    last_value: AtomicU64,
    connections: AtomicU64,
    refusals: Mutex<Vec<Failure>>,
}

/// What a load brought.
#[derive(Debug)]
pub struct Recorded {
    /// Everything that was asked, in the order of the answers.
    pub history: Vec<Operation>,
    /// How many connections were made.
    pub connections: u64,
    /// What was refused.
    pub refusals: Vec<Failure>,
}

impl Recorded {
    /// The longest time, in nanoseconds, in which no client got an answer.
    pub fn longest_silence(&self) -> u64 {
        let mut returns: Vec<u64> = self.history.iter().filter_map(|o| o.returned).collect();
        returns.sort_unstable();
        let pairs = returns.windows(2).map(|pair| pair[1] - pair[0]);
        pairs.max().unwrap_or(0)
    }
}

impl Load {
    /// Starts clients of `service`, whose registers must be empty.
    pub fn start<S: Service>(service: &S, shape: Shape, random: &mut Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::<Shared>::default();
        let began = Instant::now();
        let threads = (0..shape.clients).map(|number| {
            let client = Client {
                number,
                service: service.clone(),
                shape,
                random: Random::new(random.number()),
                began,
                stop: Arc::clone(&stop),
                shared: Arc::clone(&shared),
            };
            thread::spawn(move || client.work())
        });
        Load {
            threads: threads.collect(),
            stop,
            shared,
        }
    }

    /// How many answers there are so far.
    pub fn answers(&self) -> usize {
        let history = self.shared.history.lock().expect("a client panicked");
        history.iter().filter(|o| o.returned.is_some()).count()
    }

    /// Lets the clients finish what they are at, reads every register once more, and gives all
    /// that was recorded.
    pub fn finish(self) -> Outcome<Recorded> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| Failure::new("a client panicked"))?;
        }
        let shared = Arc::into_inner(self.shared).expect("all clients have ended");
        Ok(Recorded {
            history: shared.history.into_inner().expect("no client panicked"),
            connections: shared.connections.into_inner(),
            refusals: shared.refusals.into_inner().expect("no client panicked"),
        })
    }
}

struct Client<S: Service> {
    number: u32,
    service: S,
    shape: Shape,
    random: Random,
    began: Instant,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl<S: Service> Client<S> {
    fn work(mut self) {
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            let request = self.request();
            self.ask(&mut connection, &request);
            if !self.shape.pause.is_zero() {
                thread::sleep(self.random.time_below(self.shape.pause));
            }
        }
        // What was last written must be there. One client asks for all.
        if self.number == 0 {
            let deadline = Instant::now() + PATIENCE;
            for key in 0..self.shape.keys {
                let reads = BTreeSet::from([key]);
                let request = Request {
                    reads,
                    ..Request::default()
                };
                while !self.ask(&mut connection, &request) && Instant::now() < deadline {}
            }
        }
    }

    /// Mostly reads with writes, which show what they came after.
    fn request(&mut self) -> Request {
        let mut keys = BTreeSet::from([self.key()]);
        if S::HAS_TRANSACTIONS && self.random.below(2) == 0 {
            keys.insert(self.key());
        }
        let kind = self.random.below(8);
        let value = || self.shared.last_value.fetch_add(1, Ordering::Relaxed) + 1;
        Request {
            writes: match kind {
                0..3 => BTreeMap::new(),
                _ => keys.iter().map(|key| (*key, value())).collect(),
            },
            reads: if kind == 3 { BTreeSet::new() } else { keys },
        }
    }

    fn key(&mut self) -> Key {
        self.random.below(u64::from(self.shape.keys)) as Key
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Connects if need be, asks once, and records. Whether there was an answer.
    fn ask(&self, connection: &mut Option<S::Connection>, request: &Request) -> bool {
        if connection.is_none() {
            match self.service.connect() {
                Ok(new) => {
                    self.shared.connections.fetch_add(1, Ordering::Relaxed);
                    *connection = Some(new);
                }
                Err(_) => {
                    // It may be between two hosts.
                    thread::sleep(RETRY);
                    return false;
                }
            }
        }
        let open = connection.as_mut().expect("it was just made");
        let invoked = self.now();
        let answer = S::ask(open, request);
        let returned = self.now();
        let mut operation = Operation {
            client: self.number,
            invoked,
            returned: None,
            reads: BTreeMap::new(),
            writes: request.writes.clone(),
        };
        match answer {
            Ok(reads) => {
                operation.returned = Some(returned);
                operation.reads = reads;
            }
            Err(NoAnswer::Refused(failure)) => {
                let mut refusals = self.shared.refusals.lock().expect("a client panicked");
                refusals.push(failure);
                // A connection may be good after a refusal or not: a new one is.
                *connection = None;
                return false;
            }
            Err(NoAnswer::Lost(_)) => *connection = None,
        }
        let is_answered = operation.returned.is_some();
        let mut history = self.shared.history.lock().expect("a client panicked");
        history.push(operation);
        is_answered
    }
}
