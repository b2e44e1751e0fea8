//! The client's side of `tests/guests/serve.c`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, While};

/// Where the guest serves.
pub const PORT: u16 = 5000;
/// Bytes of an echoed message.
const MESSAGE: usize = 64;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Echoes before the first that counts.
const WARM_UP: usize = 50;

/// Round trips, in order of their length, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Trips(Vec<f64>);

impl Trips {
    /// The time that so many percent of the trips do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((self.0.len() * percent / 100).min(last))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => return Err(error).during(address),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn request(address: SocketAddr, kind: u8, length: u64, count: u64) -> Outcome<TcpStream> {
    let mut stream = connect(address)?;
    let mut bytes = vec![kind];
    bytes.extend(length.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// Waits until somebody serves there.
pub fn await_server(address: SocketAddr) -> Outcome<()> {
    connect(address).map(drop)
}

/// Echoes one 64-byte message after the other, for `duration`.
pub fn echo(address: SocketAddr, duration: Duration) -> Outcome<Trips> {
    let stream = request(address, b'E', MESSAGE as u64, 0)?;
    trips(stream, duration)
}

fn trips(mut stream: TcpStream, duration: Duration) -> Outcome<Trips> {
    let mut message = [7; MESSAGE];
    let mut trips = Vec::new();
    let mut end = Instant::now() + duration;
    for trip in 0.. {
        let began = Instant::now();
        if trip == WARM_UP {
            trips.clear();
            end = began + duration;
        }
        stream.write_all(&message)?;
        stream.read_exact(&mut message).during("an echo")?;
        trips.push(began.elapsed().as_secs_f64());
        if trip > WARM_UP && Instant::now() > end {
            break;
        }
    }
    trips.sort_by(f64::total_cmp);
    Ok(Trips(trips))
}

/// The same on the loopback interface, against a thread of this process.
pub fn bare_echo(duration: Duration) -> Outcome<Trips> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut message = [0; MESSAGE];
        while theirs.read_exact(&mut message).is_ok() && theirs.write_all(&message).is_ok() {}
    });
    let result = trips(stream, duration);
    // It ends with the connection.
    let _ = echo.join();
    result
}

/// Sends `bytes` to the guest; how many it took a second.
pub fn receive_rate(address: SocketAddr, bytes: u64) -> Outcome<f64> {
    let mut stream = request(address, b'R', 0, bytes)?;
    let part = vec![5; 256 << 10];
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let most = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= stream.write(&part[..most])? as u64;
    }
    stream
        .read_exact(&mut [0])
        .during("the end of what the guest receives")?;
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}

/// Receives `bytes` from the guest; how many a second.
pub fn transmit_rate(address: SocketAddr, bytes: u64) -> Outcome<f64> {
    let began = Instant::now();
    let mut stream = request(address, b'S', 0, bytes)?;
    let mut part = vec![0; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        let length = stream.read(&mut part).during("what the guest sends")? as u64;
        if length == 0 {
            return Err(Failure::new("the guest has hung up"));
        }
        left = left.saturating_sub(length);
    }
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}

/// Lets the guest compute so many steps; how many a second.
pub fn compute_rate(address: SocketAddr, steps: u64) -> Outcome<f64> {
    let began = Instant::now();
    let mut stream = request(address, b'C', 0, steps)?;
    stream.read_exact(&mut [0; 8]).during("a result")?;
    Ok(steps as f64 / began.elapsed().as_secs_f64())
}
