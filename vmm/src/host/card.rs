//! The sending side of a network card on this host.
//!
//! Does: write the guest's frames to its TAP device, set offloads, and tell the network where the
//! card is. Does not: receive.
//!
//! Invariant: a device that is gone loses frames and stops nobody.

use std::io;
use std::time::{Duration, Instant};

use machine::{Offloads, Request};
use net_util::{MacAddress, Tap, announcement};

use super::request_thread::Backend;

/// The first announcement may be lost: a switch may not pass frames on yet.
const ANNOUNCEMENTS: u32 = 4;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_millis(150);

/// The card.
#[derive(Debug)]
pub struct Card {
    tap: Option<Tap>,
    complained: bool,
    /// What is still to be announced, how often, and when it was the last time.
    announces: Option<(MacAddress, u32, Instant)>,
}

impl Card {
    /// On `tap`, if there is one.
    pub fn new(tap: Option<Tap>) -> Self {
        Card {
            tap,
            complained: false,
            announces: None,
        }
    }

    /// Tells the network that `mac` is here, at once and a few times more.
    pub fn announce(&mut self, mac: MacAddress) {
        self.send(&announcement(mac));
        self.announces = Some((mac, ANNOUNCEMENTS, Instant::now()));
    }

    fn send(&mut self, frame: &[u8]) {
        let Some(tap) = &mut self.tap else {
            return;
        };
        if let Err(error) = tap.send(frame)
            && !self.complained
        {
            self.complained = true;
            log::error!("the guest's frames are lost: {error}");
        }
    }
}

impl Backend for Card {
    fn is_ready(&mut self) -> bool {
        if let Some((mac, left, last)) = self.announces
            && last.elapsed() >= ANNOUNCEMENT_INTERVAL
        {
            self.send(&announcement(mac));
            self.announces = (left > 1).then(|| (mac, left - 1, Instant::now()));
        }
        true
    }

    fn carry_out(&mut self, request: &Request, _durable: bool) -> io::Result<Vec<u8>> {
        match request {
            Request::Transmit { frames } => frames.iter().for_each(|frame| self.send(frame)),
            Request::Offloads(offloads) => {
                let Offloads {
                    checksums,
                    segments4,
                    segments6,
                    congestion,
                    fragments,
                } = *offloads;
                let offloads = net_util::Offloads {
                    checksums,
                    segments4,
                    segments6,
                    congestion,
                    fragments,
                };
                if let Some(Err(error)) = self.tap.as_ref().map(|tap| tap.set_offloads(offloads)) {
                    log::error!("the guest may not understand what it receives: {error}");
                }
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(Vec::new())
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}
