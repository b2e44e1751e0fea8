//! A wire between two hosts that somebody tampers with.
//!
//! Does: pass on what the primary and the backup say, and change log entries on the way, as a test
//! wants. Frames stay whole and their checksums good, so that what arrives differs as if the two
//! machines did.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ft::channel::Message;
use ft::frame::FrameReader;
use ft::log::{BatchReader, BatchWriter, Body};
use vmm::config::TcpAddress;

/// Changes an entry; whether it did.
pub type Tamper = Box<dyn FnMut(&mut Body) -> bool + Send>;

/// A wire.
pub struct Wire {
    /// Where the primary finds it.
    pub address: TcpAddress,
    tamper: Arc<Mutex<Option<Tamper>>>,
}

impl Wire {
    /// One that leads to `to`.
    pub fn to(to: &TcpAddress) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = TcpAddress {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let tamper = Arc::new(Mutex::new(None));
        let (to, tamper_too) = ((to.host.clone(), to.port), Arc::clone(&tamper));
        thread::spawn(move || {
            let (primary, _) = listener.accept().unwrap();
            let backup = TcpStream::connect(to).unwrap();
            let back = (backup.try_clone().unwrap(), primary.try_clone().unwrap());
            thread::spawn(move || copy(back.0, back.1));
            pass_on(primary, backup, &tamper_too);
        });
        Wire { address, tamper }
    }

    /// From here on each entry goes through `tamper`, until it has changed one.
    pub fn tamper(&self, tamper: impl FnMut(&mut Body) -> bool + Send + 'static) {
        *self.tamper.lock().unwrap() = Some(Box::new(tamper));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // Either end may hang up.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn pass_on(mut primary: TcpStream, mut backup: TcpStream, tamper: &Mutex<Option<Tamper>>) {
    let mut frames = FrameReader::new();
    let mut log: Option<(BatchReader, BatchWriter)> = None;
    let mut chunk = vec![0; 1 << 16];
    while let Ok(length @ 1..) = primary.read(&mut chunk) {
        frames.feed(&chunk[..length]);
        let mut out = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            match Message::decode(&frame).unwrap() {
                Message::CloneEnd(end) => {
                    let (seq, at) = (end.first_seq, end.position);
                    log = Some((BatchReader::new(seq, at), BatchWriter::new(seq, at)));
                    Message::CloneEnd(end).encode(&mut out);
                }
                Message::LogBatch(payload) => {
                    let (reader, writer) = log.as_mut().unwrap();
                    for mut entry in reader.read(payload).unwrap() {
                        let mut tamper = tamper.lock().unwrap();
                        if tamper
                            .as_mut()
                            .is_some_and(|change| change(&mut entry.body))
                        {
                            *tamper = None;
                        }
                        writer.push(&entry, &mut out).unwrap();
                    }
                    writer.seal(&mut out);
                }
                message => message.encode(&mut out),
            }
        }
        if backup.write_all(&out).is_err() {
            break;
        }
    }
    // Either end may have hung up already.
    let _ = backup.shutdown(Shutdown::Both);
    let _ = primary.shutdown(Shutdown::Both);
}
