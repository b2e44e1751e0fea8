//! What waits for the vCPU thread.
//!
//! Does: keep typed bytes, commands and news for the vCPU thread until it comes to a boundary, make
//! it come to one soon, and let it sleep until there is something. Does not: apply anything; that
//! is for the vCPU thread alone, because only it may append entries to the log.
//!
//! Invariant: what is put here is taken once, in order; nobody who puts something waits for the
//! guest, except a typist whose guest does not read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ft::log::ComponentDigest;
use machine::Outcome;

use super::backup_role::ReceivedClone;
use crate::control::{Command, Ticket};

/// So many typed bytes may wait before the typist does.
const TYPED_MAX: usize = 4096;

/// So many received frames may wait before whoever receives them does.
const FRAMES_MAX: usize = 256;

/// A request of a device that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The device's number.
    pub device: u8,
    /// The request.
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What it brings.
    pub data: Vec<u8>,
}

/// What the vCPU thread takes at a boundary.
#[derive(Debug, Default)]
pub struct Mail {
    /// The machine's threads are to end.
    pub stop: bool,
    /// In the order in which they came.
    pub commands: Vec<(Ticket, Command)>,
    /// A clone of a primary's machine is here, to be made a machine.
    pub clone: Option<Box<ReceivedClone>>,
    /// Values of digests, by number.
    pub digests: Vec<(u64, Vec<ComponentDigest>)>,
}

#[derive(Debug, Default)]
struct Contents {
    mail: Mail,
    typed: VecDeque<u8>,
    completions: VecDeque<Completion>,
    /// Frames by device, and how many they are in all.
    frames: BTreeMap<u8, VecDeque<Vec<u8>>>,
    frame_count: usize,
    announcements: Vec<u8>,
    /// Console bytes known to be emitted.
    emitted: u64,
    /// Something has changed since the vCPU thread last looked.
    news: bool,
    /// Nobody looks any more.
    closed: bool,
}

/// The place where it waits.
#[derive(Debug, Default)]
pub struct Inbox {
    contents: Mutex<Contents>,
    changed: Condvar,
    /// The machine's `run` returns soon after this is set.
    kick: AtomicBool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the vCPU thread, wherever it is, that something has changed.
    fn tell(&self, mut contents: MutexGuard<'_, Contents>) {
        contents.news = true;
        self.kick.store(true, Ordering::Relaxed);
        drop(contents);
        self.changed.notify_all();
    }

    // --- For everybody else.

    /// Something that the vCPU thread looks at by itself has changed.
    pub fn ring(&self) {
        self.tell(self.lock());
    }

    /// A command. False if there is nobody to obey it.
    pub fn submit(&self, ticket: Ticket, command: Command) -> bool {
        let mut contents = self.lock();
        if contents.closed {
            return false;
        }
        contents.mail.commands.push((ticket, command));
        self.tell(contents);
        true
    }

    /// Bytes for the serial port. Waits while too many wait; false if nobody wants any more.
    pub fn type_bytes(&self, bytes: &[u8]) -> bool {
        let mut contents = self.lock();
        while contents.typed.len() >= TYPED_MAX && !contents.closed && !contents.mail.stop {
            contents = self
                .changed
                .wait(contents)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if contents.closed || contents.mail.stop {
            return false;
        }
        contents.typed.extend(bytes);
        self.tell(contents);
        true
    }

    /// Console bytes up to the count `through` are emitted. A running guest is not interrupted for
    /// that.
    pub fn emitted(&self, through: u64) {
        let mut contents = self.lock();
        contents.emitted = through.max(contents.emitted);
        contents.news = true;
        drop(contents);
        self.changed.notify_all();
    }

    /// A request of a device has ended.
    pub fn completed(&self, completion: Completion) {
        let mut contents = self.lock();
        contents.completions.push_back(completion);
        self.tell(contents);
    }

    /// Whether more frames are welcome. Waits for that, at most for `timeout`.
    pub fn has_frame_room(&self, timeout: Duration) -> bool {
        let contents = self.lock();
        let is_full = |contents: &mut Contents| contents.frame_count >= FRAMES_MAX;
        let waited = self.changed.wait_timeout_while(contents, timeout, is_full);
        let (contents, _) = waited.unwrap_or_else(PoisonError::into_inner);
        contents.frame_count < FRAMES_MAX
    }

    /// Frames for a network card.
    pub fn received(&self, device: u8, frames: Vec<Vec<u8>>) {
        let mut contents = self.lock();
        contents.frame_count += frames.len();
        contents.frames.entry(device).or_default().extend(frames);
        self.tell(contents);
    }

    /// The driver of a network card is to announce it.
    pub fn announce(&self, device: u8) {
        let mut contents = self.lock();
        contents.announcements.push(device);
        self.tell(contents);
    }

    /// A clone is here.
    pub fn cloned(&self, clone: Box<ReceivedClone>) {
        let mut contents = self.lock();
        contents.mail.clone = Some(clone);
        self.tell(contents);
    }

    /// The values of a digest are here. A running guest is not interrupted for that.
    pub fn digested(&self, id: u64, components: Vec<ComponentDigest>) {
        let mut contents = self.lock();
        contents.mail.digests.push((id, components));
        contents.news = true;
        drop(contents);
        self.changed.notify_all();
    }

    /// The vCPU thread is to end.
    pub fn stop(&self) {
        let mut contents = self.lock();
        contents.mail.stop = true;
        self.tell(contents);
    }

    // --- For the vCPU thread.

    /// What makes `Machine::run` return.
    pub fn kick(&self) -> &AtomicBool {
        &self.kick
    }

    /// Takes what is there, except typed bytes.
    pub fn take(&self) -> Mail {
        let mut contents = self.lock();
        contents.news = false;
        self.kick.store(false, Ordering::Relaxed);
        let mail = &mut contents.mail;
        Mail {
            // The end stays the end.
            stop: mail.stop,
            commands: std::mem::take(&mut mail.commands),
            clone: mail.clone.take(),
            digests: std::mem::take(&mut mail.digests),
        }
    }

    /// Whether the vCPU thread is to end.
    pub fn is_stopping(&self) -> bool {
        self.lock().mail.stop
    }

    /// Looks at nothing but what is asked for by itself; the mail stays.
    pub fn look(&self) {
        self.lock().news = false;
    }

    /// Whether bytes were typed.
    pub fn has_typed(&self) -> bool {
        !self.lock().typed.is_empty()
    }

    /// Takes at most `most` typed bytes.
    pub fn typed(&self, most: usize) -> Vec<u8> {
        let mut contents = self.lock();
        let count = most.min(contents.typed.len());
        let bytes = contents.typed.drain(..count).collect();
        drop(contents);
        self.changed.notify_all();
        bytes
    }

    /// Takes the requests that have ended, in the order of their ends.
    pub fn completions(&self) -> VecDeque<Completion> {
        std::mem::take(&mut self.lock().completions)
    }

    /// Takes the cards that are to be announced.
    pub fn announcements(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().announcements)
    }

    /// The cards for which there are frames.
    pub fn receivers(&self) -> Vec<u8> {
        let contents = self.lock();
        if contents.frame_count == 0 {
            return Vec::new();
        }
        let waiting = contents.frames.iter();
        let waiting = waiting.filter(|(_, frames)| !frames.is_empty());
        waiting.map(|(device, _)| *device).collect()
    }

    /// Takes at most `most` frames for a card.
    pub fn frames(&self, device: u8, most: usize) -> Vec<Vec<u8>> {
        let mut contents = self.lock();
        let Some(waiting) = contents.frames.get_mut(&device) else {
            return Vec::new();
        };
        let count = most.min(waiting.len());
        let frames: Vec<_> = waiting.drain(..count).collect();
        contents.frame_count -= count;
        drop(contents);
        self.changed.notify_all();
        frames
    }

    /// The count of console bytes known to be emitted.
    pub fn emitted_through(&self) -> u64 {
        self.lock().emitted
    }

    /// Sleeps until there is something, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let contents = self.lock();
        if !contents.news {
            // Whoever wakes for nothing looks again.
            drop(self.changed.wait_timeout(contents, timeout));
        }
    }

    /// Nobody looks any more. Gives the commands that were not obeyed.
    pub fn close(&self) -> Vec<(Ticket, Command)> {
        let mut contents = self.lock();
        contents.closed = true;
        let commands = std::mem::take(&mut contents.mail.commands);
        drop(contents);
        self.changed.notify_all();
        commands
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_put_in_is_taken_once() {
        let inbox = Inbox::default();
        assert!(inbox.submit(Ticket(1), Command::Pause));
        assert!(inbox.submit(Ticket(2), Command::Resume));
        assert!(inbox.type_bytes(b"hello"));
        assert!(inbox.kick().load(Ordering::Relaxed));
        let mail = inbox.take();
        assert!(!inbox.kick().load(Ordering::Relaxed));
        assert_eq!(
            mail.commands,
            [(Ticket(1), Command::Pause), (Ticket(2), Command::Resume)]
        );
        assert!(inbox.take().commands.is_empty());
        assert_eq!(inbox.typed(2), b"he");
        assert!(inbox.has_typed());
        assert_eq!(inbox.typed(100), b"llo");
        assert!(!inbox.has_typed());
        inbox.emitted(7);
        inbox.emitted(5);
        assert_eq!(inbox.emitted_through(), 7);
        assert!(!inbox.kick().load(Ordering::Relaxed), "no reason to stop");
    }

    #[test]
    fn the_sleeper_is_woken() {
        let inbox = Arc::new(Inbox::default());
        let too = Arc::clone(&inbox);
        let thread = thread::spawn(move || {
            let mut waits = 0;
            while !too.take().stop {
                too.wait(Duration::from_secs(20));
                waits += 1;
            }
            waits
        });
        inbox.ring();
        inbox.stop();
        assert!(thread.join().unwrap() < 10);
    }

    #[test]
    fn a_typist_waits_for_a_guest_that_does_not_read_but_not_for_ever() {
        let inbox = Arc::new(Inbox::default());
        let too = Arc::clone(&inbox);
        let thread = thread::spawn(move || {
            let mut count = 0;
            while too.type_bytes(&[b'x'; 256]) {
                count += 1;
            }
            count
        });
        while inbox.lock().typed.len() < TYPED_MAX {
            thread::yield_now();
        }
        assert_eq!(inbox.typed(TYPED_MAX).len(), TYPED_MAX);
        while inbox.lock().typed.len() < TYPED_MAX {
            thread::yield_now();
        }
        inbox.stop();
        assert_eq!(thread.join().unwrap(), 2 * TYPED_MAX / 256);
        assert!(inbox.close().is_empty());
        assert!(!inbox.submit(Ticket(1), Command::Pause));
    }
}
