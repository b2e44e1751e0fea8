//! What is typed at a console's other end.
//!
//! Does: on a thread of its own, read standard input, a pseudo-terminal or a socket, pass on what
//! comes, and tell when the terminal's size has changed. Does not: interpret a byte.
//!
//! Invariant: bytes are passed on in order. The end of standard input ends the reading of it; who
//! leaves a pseudo-terminal or a socket may come again.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::console_socket::ConsoleSocket;
use super::pty::Pty;

/// The most bytes that are passed on at once.
const CHUNK: usize = 256;
/// How often the terminal's size is looked at, and whether somebody has come to a pseudo-terminal.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where bytes are typed.
#[derive(Debug)]
pub enum Keyboard {
    /// This process's standard input; the terminal is on standard output.
    Stdin,
    /// A pseudo-terminal.
    Pty(Pty),
    /// A socket.
    Socket(Arc<ConsoleSocket>),
}

/// Who gets what is typed.
pub trait Typed: Send + 'static {
    /// Takes bytes. It may wait, which makes the typist wait; false if it wants no more.
    fn bytes(&mut self, bytes: &[u8]) -> bool;
    /// The terminal has another size.
    fn size(&mut self, columns: u16, rows: u16);
}

/// The thread that reads, until this goes away.
#[derive(Debug)]
pub struct KeyboardThread {
    stop: EventFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl KeyboardThread {
    /// One of this name.
    pub fn start(name: &str, keyboard: Keyboard, typed: impl Typed) -> io::Result<Self> {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let stop_too = stop.try_clone()?;
        let run = move || read_all(&keyboard, libc::STDIN_FILENO, &stop_too, typed);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(KeyboardThread {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for KeyboardThread {
    fn drop(&mut self) {
        // It fails only when the counter is full: then the thread knows already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It panics only if the receiver did, which has been reported then.
            let _ = thread.join();
        }
    }
}

/// The terminal's size, if it has one.
fn size_of(terminal: RawFd) -> Option<(u16, u16)> {
    // SAFETY: winsize is plain data for which all bits zero are valid.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a live winsize structure.
    let result = unsafe { libc::ioctl(terminal, libc::TIOCGWINSZ, &mut size) };
    (result == 0).then_some((size.ws_col, size.ws_row))
}

/// What came of a read.
enum Came {
    /// So many bytes.
    Bytes(usize),
    /// Nothing, this time.
    Nothing,
    /// Whoever typed is gone.
    End,
}

fn read(mut from: impl Read, bytes: &mut [u8]) -> Came {
    match from.read(bytes) {
        Ok(0) => Came::End,
        Ok(length) => Came::Bytes(length),
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Came::Nothing,
            _ => {
                log::debug!("a console's input has ended: {error}");
                Came::End
            }
        },
    }
}

/// A descriptor that nobody owns here.
struct Borrowed(RawFd);

impl Read for Borrowed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of a live, writable slice.
        let length = unsafe { libc::read(self.0, bytes.as_mut_ptr().cast(), bytes.len()) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }
}

fn read_all(keyboard: &Keyboard, stdin: RawFd, stop: &EventFd, mut typed: impl Typed) {
    let mut bytes = [0; CHUNK];
    let mut last_size = None;
    let mut stdin = Some(stdin);
    loop {
        let connection = match keyboard {
            Keyboard::Socket(socket) => socket.connection(),
            _ => None,
        };
        // What is not there is negative: nobody waits for it.
        let (listener, input, terminal) = match keyboard {
            Keyboard::Stdin => (-1, stdin.unwrap_or(-1), libc::STDOUT_FILENO),
            Keyboard::Pty(pty) => {
                let main = pty.main().as_raw_fd();
                (-1, if pty.is_attached() { main } else { -1 }, main)
            }
            Keyboard::Socket(socket) => {
                let listener = socket.listener().socket().as_raw_fd();
                let input = connection.as_ref().map_or(-1, |stream| stream.as_raw_fd());
                (listener, input, -1)
            }
        };
        let size = size_of(terminal);
        if let (Some((columns, rows)), true) = (size, size != last_size) {
            typed.size(columns, rows);
            last_size = size;
        }
        let mut wait = [stop.as_raw_fd(), listener, input].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        let timeout = match keyboard {
            Keyboard::Socket(_) => -1,
            _ => PATIENCE.as_millis() as libc::c_int,
        };
        // SAFETY: the pointer and the count are those of a live array.
        let ready = unsafe { libc::poll(wait.as_mut_ptr(), 3, timeout) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
        if ready <= 0 {
            continue;
        }
        if wait[0].revents != 0 {
            return;
        }
        if let (Keyboard::Socket(socket), true) = (keyboard, wait[1].revents != 0) {
            socket.accept();
            continue;
        }
        if wait[2].revents == 0 {
            continue;
        }
        let came = match (keyboard, &connection) {
            (Keyboard::Stdin, _) => read(Borrowed(input), &mut bytes),
            (Keyboard::Pty(pty), _) => read(pty.main(), &mut bytes),
            (Keyboard::Socket(_), Some(stream)) => read(&**stream, &mut bytes),
            (Keyboard::Socket(_), None) => Came::Nothing,
        };
        match (came, keyboard) {
            (Came::Bytes(length), _) => {
                if !typed.bytes(&bytes[..length]) {
                    return;
                }
            }
            (Came::Nothing, _) | (Came::End, Keyboard::Pty(_)) => {}
            // The size of the terminal is still of interest.
            (Came::End, Keyboard::Stdin) => stdin = None,
            (Came::End, Keyboard::Socket(socket)) => {
                if let Some(stream) = &connection {
                    socket.disconnected(stream);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::fd::FromRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use vmm_sys_util::tempdir::TempDir;

    use super::super::unix_listener::Claim;
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[derive(Debug, PartialEq)]
    enum News {
        Bytes(Vec<u8>),
        Size(u16, u16),
    }

    struct Teller(mpsc::Sender<News>);

    impl Typed for Teller {
        fn bytes(&mut self, bytes: &[u8]) -> bool {
            self.0.send(News::Bytes(bytes.to_vec())).is_ok()
        }
        fn size(&mut self, columns: u16, rows: u16) {
            let _ = self.0.send(News::Size(columns, rows));
        }
    }

    fn pipe() -> (File, File) {
        let mut ends = [0; 2];
        // SAFETY: the pointer is that of an array of two descriptors.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(result, 0);
        // SAFETY: both descriptors are new and nobody else owns them.
        unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) }
    }

    #[test]
    fn bytes_are_passed_on_and_the_thread_can_be_stopped() {
        let (input, mut output) = pipe();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        output.write_all(&[b'x'; 1000]).unwrap();
        drop(output);
        let (sender, receiver) = mpsc::channel();
        let stop_too = stop.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let stdin = input.as_raw_fd();
            read_all(&Keyboard::Stdin, stdin, &stop_too, Teller(sender));
        });
        let mut all = Vec::new();
        while all.len() < 1000 {
            match receiver.recv_timeout(SOON).unwrap() {
                News::Bytes(bytes) => all.extend(bytes),
                News::Size(..) => {}
            }
        }
        assert_eq!(all, [b'x'; 1000]);
        stop.write(1).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_pseudo_terminal_is_typed_at_and_resized() {
        let (pty, path) = Pty::open().unwrap();
        let (sender, receiver) = mpsc::channel();
        let keyboard = Keyboard::Pty(pty);
        let thread = KeyboardThread::start("pty", keyboard, Teller(sender)).unwrap();
        assert_eq!(receiver.recv_timeout(SOON).unwrap(), News::Size(0, 0));
        for (text, columns) in [(b"ab", 100), (b"cd", 101)] {
            let mut options = OpenOptions::new();
            let mut other = options.read(true).write(true).open(&path).unwrap();
            other.write_all(text).unwrap();
            let came = receiver.recv_timeout(SOON).unwrap();
            assert_eq!(came, News::Bytes(text.to_vec()));
            let size = libc::winsize {
                ws_row: 30,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // SAFETY: the pointer is that of a live winsize structure.
            unsafe { libc::ioctl(other.as_raw_fd(), libc::TIOCSWINSZ, &size) };
            let came = receiver.recv_timeout(SOON).unwrap();
            assert_eq!(came, News::Size(columns, 30));
        }
        drop(thread);
    }

    #[test]
    fn the_last_one_to_connect_has_the_socket() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("console");
        let socket = Arc::new(ConsoleSocket::bind(&path, Claim::Free).unwrap());
        let (sender, receiver) = mpsc::channel();
        let keyboard = Keyboard::Socket(Arc::clone(&socket));
        let thread = KeyboardThread::start("socket", keyboard, Teller(sender)).unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(b"1").unwrap();
        assert_eq!(
            receiver.recv_timeout(SOON).unwrap(),
            News::Bytes(vec![b'1'])
        );
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "disconnected");
        second.write_all(b"2").unwrap();
        assert_eq!(
            receiver.recv_timeout(SOON).unwrap(),
            News::Bytes(vec![b'2'])
        );
        drop(second);
        while socket.connection().is_some() {
            thread::yield_now();
        }
        drop(thread);
    }
}
