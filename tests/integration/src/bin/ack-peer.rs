//! A peer that acknowledges and does not replay: what protection costs the primary alone.
//!
//!     ack-peer ADDRESS:PORT
//!
//! Stands in for a backup at `ft-enable --peer tcp:ADDRESS:PORT`. It accepts any clone and throws it
//! away, decodes and checks the log as a backup does, and acknowledges every batch when it has it.
//! It could never go on with the VM, so it is for measurements only. Serves one primary after the
//! other; prints `listening` when it can be connected to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ft::channel::{Ack, Heartbeat, Hello, Message, Role};
use ft::frame::FrameReader;
use ft::identity::Incarnation;
use ft::log::BatchReader;
use integration::failure::While;
use integration::{Failure, Outcome};

/// The primary hears this often that somebody is there.
const SIGN_OF_LIFE: Duration = Duration::from_millis(20);
/// The most bytes that are read at once.
const CHUNK: usize = 256 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ack-peer: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), None) = (arguments.next(), arguments.next()) else {
        return Err(Failure::new("usage: ack-peer ADDRESS:PORT"));
    };
    let listener = TcpListener::bind(&address).during(&address)?;
    println!("listening");
    for stream in listener.incoming() {
        let end = stream.during("accepting").and_then(Peer::serve);
        eprintln!(
            "ack-peer: {}",
            end.err().map_or_else(String::new, |end| end.to_string())
        );
    }
    Ok(())
}

/// What is known of one primary.
struct Peer {
    stream: TcpStream,
    /// Since the clone's end.
    log: Option<BatchReader>,
    echo: u64,
    ack_due: bool,
    /// The last heartbeat, when it was sent, and where to; from the introduction on.
    heartbeat: Option<(Heartbeat, Instant, SocketAddr)>,
    datagrams: UdpSocket,
}

impl Peer {
    /// Speaks with a primary until it is gone; how that came.
    fn serve(stream: TcpStream) -> Outcome<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SIGN_OF_LIFE))?;
        let mut peer = Peer {
            stream,
            log: None,
            echo: 0,
            ack_due: false,
            heartbeat: None,
            datagrams: UdpSocket::bind("0.0.0.0:0")?,
        };
        let mut frames = FrameReader::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            peer.beat();
            match peer.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::new("the primary has hung up")),
                Ok(length) => frames.feed(&chunk[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).during("reading"),
            }
            while let Some(frame) = frames.next_frame().during("the primary's frames")? {
                let message = Message::decode(&frame).during("the primary's messages")?;
                peer.on_message(message)?;
            }
            peer.acknowledge()?;
        }
    }

    fn on_message(&mut self, message: Message<'_>) -> Outcome<()> {
        match message {
            Message::Hello(hello) => {
                let to = (self.stream.peer_addr()?.ip(), hello.heartbeat_port);
                let answer = Hello {
                    incarnation: Incarnation(*b"acknowledge only"),
                    role: Role::Backup,
                    heartbeat_port: 0,
                    ..hello
                };
                let beat = Heartbeat {
                    vm: answer.vm,
                    generation: answer.generation,
                    incarnation: answer.incarnation,
                    counter: 0,
                };
                self.heartbeat = Some((beat, Instant::now(), to.into()));
                self.send(&Message::HelloAck(answer))?;
            }
            Message::CloneEnd(end) => {
                self.log = Some(BatchReader::new(end.first_seq, end.position));
                self.ack_due = true;
            }
            Message::LogBatch(payload) => {
                let log = self.log.as_mut();
                let log = log.ok_or_else(|| Failure::new("a log before the clone's end"))?;
                log.read(payload).during("the log")?;
                self.ack_due = true;
            }
            Message::Ping(echo) => {
                self.echo = echo;
                self.ack_due = true;
            }
            Message::Goodbye(reason, text) => {
                return Err(Failure::new(format!(
                    "the primary has left: {reason:?} {text}"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    fn beat(&mut self) {
        if let Some((beat, last, to)) = &mut self.heartbeat
            && last.elapsed() >= SIGN_OF_LIFE
        {
            beat.counter += 1;
            *last = Instant::now();
            // A network that is down loses it.
            let _ = self.datagrams.send_to(&beat.encode(), *to);
        }
    }

    /// Everything received counts as executed.
    fn acknowledge(&mut self) -> Outcome<()> {
        let Some(log) = self.log.as_ref().filter(|_| self.ack_due) else {
            return Ok(());
        };
        self.ack_due = false;
        let ack = Ack {
            next_expected: log.next_seq(),
            executed: log.last(),
            echo: self.echo,
        };
        self.send(&Message::Ack(ack))
    }

    fn send(&mut self, message: &Message<'_>) -> Outcome<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).during("writing")
    }
}
