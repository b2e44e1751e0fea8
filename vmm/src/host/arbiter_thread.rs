//! The thread that speaks to the arbiter.
//!
//! Does: carry out questions one after the other and call back with the answers. Does not: time
//! out; a dead mount may hold it for ever, and it alone.
//!
//! Invariant: no other thread of the process ever touches the arbiter's storage for a running VM,
//! so none of them ever hangs on it (a claim runs off the vCPU and channel threads).

use std::io;
use std::sync::mpsc;
use std::thread;

use ft::arbiter::Arbiter;

use super::file_arbiter::FileStore;
use crate::config::Lease;

type Question = Box<dyn FnOnce(&mut Arbiter<FileStore>) + Send>;

/// Whoever holds this can ask.
#[derive(Clone, Debug)]
pub struct ArbiterThread {
    questions: mpsc::Sender<Question>,
    lease: Lease,
}

impl ArbiterThread {
    /// Starts the thread for the arbiter `lease`. It ends when nobody can ask any more and the last
    /// question is answered; nobody waits for that.
    pub fn start(lease: &Lease) -> io::Result<Self> {
        let (questions, receiver) = mpsc::channel::<Question>();
        let mut arbiter = Arbiter::new(FileStore::new(lease));
        thread::Builder::new()
            .name("ft-arbiter".to_owned())
            .spawn(move || {
                for question in receiver {
                    question(&mut arbiter);
                }
            })?;
        let lease = lease.clone();
        Ok(ArbiterThread { questions, lease })
    }

    /// Which arbiter it is.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Asks. `question` runs on the thread, and brings its answer home itself.
    pub fn ask(&self, question: impl FnOnce(&mut Arbiter<FileStore>) + Send + 'static) {
        if self.questions.send(Box::new(question)).is_err() {
            log::error!("the arbiter's thread has panicked: there will be no answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use ft::arbiter::Standing;
    use ft::identity::VmId;
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn answers_come_in_order() {
        let directory = TempDir::new().unwrap();
        let lease = Lease::File(directory.as_path().join("lease"));
        let arbiter = ArbiterThread::start(&lease).unwrap();
        let (sender, receiver) = mpsc::channel();
        for number in 0..10_u8 {
            let sender = sender.clone();
            arbiter.ask(move |arbiter| {
                let standing = arbiter.standing(VmId([number; 16])).unwrap();
                sender.send((number, standing)).unwrap();
            });
        }
        for number in 0..10 {
            assert_eq!(receiver.recv().unwrap(), (number, Standing::Never));
        }
    }
}
