//! What waits for the vCPU thread.
//!
//! Does: keep typed bytes, commands and news for the vCPU thread until it comes to a boundary, make
//! it come to one soon, and let it sleep until there is something. Does not: apply anything; that
//! is for the vCPU thread alone, because only it may append entries to the log.
//!
//! Invariant: what is put here is taken once, in order; nobody who puts something waits for the
//! guest, except a typist whose guest does not read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ft::log::ComponentDigest;
use machine::{Event, Lane, Outcome, StreamEvent};
use vmm_sys_util::eventfd::EventFd;

use super::backup_role::ReceivedClone;
use super::hotplug::Prepared;
use crate::control::{Command, Ticket};
use crate::host::sleeper::{Sleeper, Watched};

/// So many typed bytes may wait before the typist does.
const TYPED_MAX: usize = 4096;

/// So many received frames may wait before whoever receives them does.
const FRAMES_MAX: usize = 256;

/// So many bytes of a stream may wait before its program does.
const STREAM_MAX: usize = 64 << 10;

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
    /// Devices that can be plugged in, or cannot.
    pub prepared: Vec<Prepared>,
    /// The backup's answers about devices, by number: what its host does not have.
    pub device_answers: Vec<(u64, Option<String>)>,
}

/// What waits of a stream of a device.
#[derive(Debug, Default)]
struct WaitingStream {
    bytes: VecDeque<u8>,
    /// Comes after the bytes.
    end: Option<StreamEvent>,
}

#[derive(Debug, Default)]
struct Contents {
    mail: Mail,
    /// Typed bytes by console.
    typed: BTreeMap<Lane, VecDeque<u8>>,
    completions: VecDeque<Completion>,
    /// Frames by device, and how many they are in all.
    frames: BTreeMap<u8, VecDeque<Vec<u8>>>,
    frame_count: usize,
    /// What programs send the guest, by device and stream.
    streams: BTreeMap<(u8, u64), WaitingStream>,
    /// Whom to tell that there is room for a device's streams again.
    stream_readers: BTreeMap<u8, Arc<EventFd>>,
    /// What else devices are told, in order.
    events: Vec<(u8, Event)>,
    /// Bytes known to be emitted, by console.
    emitted: BTreeMap<Lane, u64>,
    /// Something has changed since the vCPU thread last looked.
    news: bool,
    /// The vCPU thread sleeps, or is about to.
    sleeps: bool,
    /// So many others wait for room.
    waiting: usize,
    /// Nobody looks any more.
    closed: bool,
}

impl Contents {
    fn typed_count(&self, lane: Lane) -> usize {
        self.typed.get(&lane).map_or(0, VecDeque::len)
    }
}

/// The place where it waits.
pub struct Inbox {
    contents: Mutex<Contents>,
    /// Somebody may find room now.
    changed: Condvar,
    sleeper: Sleeper,
    /// By device.
    sources: Mutex<BTreeMap<u8, Weak<dyn Watched>>>,
    /// The machine's `run` returns soon after this is set.
    kick: AtomicBool,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contents = &*self.lock();
        f.debug_struct("Inbox")
            .field("contents", contents)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Inbox {
            contents: Mutex::default(),
            changed: Condvar::new(),
            sleeper: Sleeper::new()?,
            sources: Mutex::default(),
            kick: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<u8, Weak<dyn Watched>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the vCPU thread, wherever it is, that something has changed.
    fn tell(&self, contents: MutexGuard<'_, Contents>) {
        self.kick.store(true, Ordering::Relaxed);
        self.tell_sleeper(contents);
    }

    /// The same, but a guest that runs is not interrupted for it.
    fn tell_sleeper(&self, mut contents: MutexGuard<'_, Contents>) {
        contents.news = true;
        let sleeps = std::mem::take(&mut contents.sleeps);
        drop(contents);
        if sleeps {
            self.sleeper.wake();
        }
    }

    /// There may be room: whoever waits for it looks.
    fn tell_waiting(&self, contents: MutexGuard<'_, Contents>) {
        let waiting = contents.waiting;
        drop(contents);
        if waiting > 0 {
            self.changed.notify_all();
        }
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

    /// Bytes for a console. Waits while too many wait; false if nobody wants any more.
    pub fn type_bytes(&self, lane: Lane, bytes: &[u8]) -> bool {
        let mut contents = self.lock();
        contents.waiting += 1;
        let is_full = |contents: &mut Contents| {
            contents.typed_count(lane) >= TYPED_MAX && !contents.closed && !contents.mail.stop
        };
        let waited = self.changed.wait_while(contents, is_full);
        contents = waited.unwrap_or_else(PoisonError::into_inner);
        contents.waiting -= 1;
        if contents.closed || contents.mail.stop {
            return false;
        }
        contents.typed.entry(lane).or_default().extend(bytes);
        self.tell(contents);
        true
    }

    /// A console's bytes up to the count `through` are emitted. A running guest is not interrupted
    /// for that.
    pub fn emitted(&self, lane: Lane, through: u64) {
        let mut contents = self.lock();
        let emitted = contents.emitted.entry(lane).or_default();
        *emitted = through.max(*emitted);
        self.tell_sleeper(contents);
    }

    /// A request of a device has ended.
    pub fn completed(&self, completion: Completion) {
        let mut contents = self.lock();
        contents.completions.push_back(completion);
        self.tell(contents);
    }

    /// Whether more frames are welcome. Waits for that, at most for `timeout`.
    pub fn has_frame_room(&self, timeout: Duration) -> bool {
        let is_full = |contents: &mut Contents| contents.frame_count >= FRAMES_MAX;
        let mut contents = self.lock();
        if is_full(&mut contents) && !timeout.is_zero() {
            contents.waiting += 1;
            let waited = self.changed.wait_timeout_while(contents, timeout, is_full);
            contents = waited.unwrap_or_else(PoisonError::into_inner).0;
            contents.waiting -= 1;
        }
        !is_full(&mut contents)
    }

    /// Frames for a network card.
    pub fn received(&self, device: u8, frames: Vec<Vec<u8>>) {
        let mut contents = self.lock();
        contents.frame_count += frames.len();
        contents.frames.entry(device).or_default().extend(frames);
        self.tell(contents);
    }

    /// The world says something to a device, for which the device needs no room.
    pub fn tell_device(&self, device: u8, event: Event) {
        let mut contents = self.lock();
        contents.events.push((device, event));
        self.tell(contents);
    }

    /// `reader` is to be told when there is room for streams of a device again.
    pub fn set_stream_reader(&self, device: u8, reader: EventFd) {
        let mut contents = self.lock();
        contents.stream_readers.insert(device, Arc::new(reader));
    }

    /// How many bytes of a stream are welcome.
    pub fn stream_room(&self, device: u8, stream: u64) -> usize {
        let contents = self.lock();
        let waiting = contents.streams.get(&(device, stream));
        STREAM_MAX - waiting.map_or(0, |waiting| waiting.bytes.len().min(STREAM_MAX))
    }

    /// Bytes of a stream.
    pub fn stream_bytes(&self, device: u8, stream: u64, bytes: &[u8]) {
        let mut contents = self.lock();
        let waiting = contents.streams.entry((device, stream)).or_default();
        waiting.bytes.extend(bytes);
        self.tell(contents);
    }

    /// What follows the bytes of a stream.
    pub fn stream_end(&self, device: u8, stream: u64, end: StreamEvent) {
        let mut contents = self.lock();
        let waiting = contents.streams.entry((device, stream)).or_default();
        waiting.end = Some(end);
        self.tell(contents);
    }

    /// The host side of a device that is to be added is there, or cannot be had.
    pub fn prepared(&self, prepared: Prepared) {
        let mut contents = self.lock();
        if !contents.closed {
            contents.mail.prepared.push(prepared);
            self.tell(contents);
        }
    }

    /// The backup has answered a question about a device.
    pub fn answered_about_device(&self, id: u64, missing: Option<String>) {
        let mut contents = self.lock();
        contents.mail.device_answers.push((id, missing));
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
        self.tell_sleeper(contents);
    }

    /// The vCPU thread is to end.
    pub fn stop(&self) {
        let mut contents = self.lock();
        contents.mail.stop = true;
        self.tell(contents);
        self.tell_waiting(self.lock());
    }

    /// What a device waits for comes from `source` too, for as long as that is there. Whoever else
    /// waits for it begins to wait after this.
    pub fn watch(&self, device: u8, source: Weak<dyn Watched>) -> io::Result<()> {
        if let Some(there) = source.upgrade() {
            self.sleeper.watch(there.descriptor(), device.into())?;
            self.sources().insert(device, source);
        }
        Ok(())
    }

    /// Ends what `watch` began, while the source's descriptor is still open.
    pub fn unwatch(&self, device: u8, descriptor: RawFd) {
        self.sleeper.unwatch(descriptor);
        self.sources().remove(&device);
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
            prepared: std::mem::take(&mut mail.prepared),
            device_answers: std::mem::take(&mut mail.device_answers),
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

    /// The consoles at which bytes were typed.
    pub fn typed_at(&self) -> Vec<Lane> {
        let contents = self.lock();
        let waiting = contents.typed.iter().filter(|(_, bytes)| !bytes.is_empty());
        waiting.map(|(lane, _)| *lane).collect()
    }

    /// Takes at most `most` bytes typed at a console.
    pub fn typed(&self, lane: Lane, most: usize) -> Vec<u8> {
        let mut contents = self.lock();
        let Some(waiting) = contents.typed.get_mut(&lane) else {
            return Vec::new();
        };
        let count = most.min(waiting.len());
        let bytes = waiting.drain(..count).collect();
        self.tell_waiting(contents);
        bytes
    }

    /// Takes the requests that have ended, in the order of their ends.
    pub fn completions(&self) -> VecDeque<Completion> {
        std::mem::take(&mut self.lock().completions)
    }

    /// Takes what else devices are told.
    pub fn events(&self) -> Vec<(u8, Event)> {
        std::mem::take(&mut self.lock().events)
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

    /// The lengths of the frames that wait for a card.
    pub fn frame_lengths(&self, device: u8) -> Vec<usize> {
        let contents = self.lock();
        let waiting = contents.frames.get(&device);
        waiting.into_iter().flatten().map(Vec::len).collect()
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
        self.tell_waiting(contents);
        frames
    }

    /// The streams of which something waits, by device.
    pub fn streams(&self) -> Vec<(u8, u64)> {
        self.lock().streams.keys().copied().collect()
    }

    /// Takes at most `most` bytes of a stream, and then its end, if no byte is left.
    pub fn stream(&self, device: u8, stream: u64, most: usize) -> (Vec<u8>, Option<StreamEvent>) {
        let mut contents = self.lock();
        let Some(waiting) = contents.streams.get_mut(&(device, stream)) else {
            return (Vec::new(), None);
        };
        let count = most.min(waiting.bytes.len());
        let bytes: Vec<u8> = waiting.bytes.drain(..count).collect();
        let mut end = None;
        if waiting.bytes.is_empty() {
            end = waiting.end.take();
            contents.streams.remove(&(device, stream));
        }
        let reader = contents.stream_readers.get(&device).cloned();
        drop(contents);
        if let Some(reader) = reader.filter(|_| !bytes.is_empty()) {
            // It fails only when the counter is full: then the reader knows already.
            let _ = reader.write(1);
        }
        (bytes, end)
    }

    /// The counts of bytes known to be emitted, by console.
    pub fn emitted_through(&self) -> Vec<(Lane, u64)> {
        let contents = self.lock();
        let emitted = contents.emitted.iter();
        emitted.map(|(lane, through)| (*lane, *through)).collect()
    }

    /// Sleeps until there is something, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let is_full = {
            let mut contents = self.lock();
            if contents.news {
                return;
            }
            contents.sleeps = true;
            contents.frame_count >= FRAMES_MAX
        };
        // Frames for which there is no room would wake it again and again.
        let ready = if is_full {
            self.sleeper.sleep_deaf(timeout);
            Vec::new()
        } else {
            self.sleeper.sleep(timeout)
        };
        self.lock().sleeps = false;
        for number in ready {
            self.fetch(number);
        }
    }

    fn fetch(&self, number: u32) {
        let device = u8::try_from(number).unwrap_or(u8::MAX);
        let source = self.sources().get(&device).and_then(Weak::upgrade);
        if let Some(source) = source
            && !source.fetch()
        {
            self.sleeper.unwatch(source.descriptor());
        }
    }

    /// Nobody looks any more. Gives the commands that were not obeyed.
    pub fn close(&self) -> Vec<(Ticket, Command)> {
        let mut contents = self.lock();
        contents.closed = true;
        let commands = std::mem::take(&mut contents.mail.commands);
        self.tell_waiting(contents);
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
        let inbox = Inbox::new().unwrap();
        assert!(inbox.submit(Ticket(1), Command::Pause));
        assert!(inbox.submit(Ticket(2), Command::Resume));
        assert!(inbox.type_bytes(Lane::Console, b"hello"));
        assert!(inbox.kick().load(Ordering::Relaxed));
        let mail = inbox.take();
        assert!(!inbox.kick().load(Ordering::Relaxed));
        assert_eq!(
            mail.commands,
            [(Ticket(1), Command::Pause), (Ticket(2), Command::Resume)]
        );
        assert!(inbox.take().commands.is_empty());
        assert_eq!(inbox.typed(Lane::Console, 2), b"he");
        assert_eq!(inbox.typed_at(), [Lane::Console]);
        assert_eq!(inbox.typed(Lane::Console, 100), b"llo");
        assert!(inbox.typed_at().is_empty());
        assert!(inbox.typed(Lane::Device(1), 1).is_empty());
        inbox.emitted(Lane::Console, 7);
        inbox.emitted(Lane::Console, 5);
        assert_eq!(inbox.emitted_through(), [(Lane::Console, 7)]);
        assert!(!inbox.kick().load(Ordering::Relaxed), "no reason to stop");
    }

    #[test]
    fn the_sleeper_is_woken() {
        let inbox = Arc::new(Inbox::new().unwrap());
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
        let inbox = Arc::new(Inbox::new().unwrap());
        let too = Arc::clone(&inbox);
        let thread = thread::spawn(move || {
            let mut count = 0;
            while too.type_bytes(Lane::Console, &[b'x'; 256]) {
                count += 1;
            }
            count
        });
        while inbox.lock().typed_count(Lane::Console) < TYPED_MAX {
            thread::yield_now();
        }
        assert_eq!(inbox.typed(Lane::Console, TYPED_MAX).len(), TYPED_MAX);
        while inbox.lock().typed_count(Lane::Console) < TYPED_MAX {
            thread::yield_now();
        }
        inbox.stop();
        assert_eq!(thread.join().unwrap(), 2 * TYPED_MAX / 256);
        assert!(inbox.close().is_empty());
        assert!(!inbox.submit(Ticket(1), Command::Pause));
    }
}
