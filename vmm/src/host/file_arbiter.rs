//! The arbiter's records as files on storage that both hosts share.
//!
//! Does: create a record that does not exist, durably and in one atomic step, and read records.
//! Does not: know what a record means (`ft::arbiter` does), retry, or hurry: on a hard NFS mount
//! every call here may block for ever, so it belongs on a thread that may.
//!
//! Invariant: a record's name refers to nothing or to the whole record, at every moment and after
//! every crash. The name comes into being by `link()`, the one step that two hosts cannot both
//! succeed in (paper §2.3: the atomic test-and-set on the shared storage):
//!
//! 1. write the text to a temporary file whose name nobody else uses, and `fsync` it;
//! 2. `link()` it to the record's name; if that name exists, somebody was first;
//! 3. `fsync` the directory, on either outcome, so that what is answered is durable;
//! 4. remove the temporary name.
//!
//! A crash between the steps leaves a temporary file, which nobody reads. An error after step 2
//! leaves the caller in doubt, and the caller asks again; it then finds the record, its own or not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ft::arbiter::{FlagStore, StoreError};

use super::random;
use crate::config::Lease;

/// The longest record; what is longer is none.
const RECORD_LENGTH_MAX: usize = 64 << 10;

/// Records whose files' names begin with a common path.
#[derive(Clone, Debug)]
pub struct FileStore {
    directory: PathBuf,
    prefix: String,
}

/// The steps of `create`, for tests that crash after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Written,
    Linked,
    Synced,
}

impl FileStore {
    /// The store that `lease` names: its records are files beside it, named after it.
    pub fn new(lease: &Lease) -> Self {
        let Lease::File(path) = lease;
        let prefix = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        FileStore {
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
            prefix: prefix.unwrap_or_default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}.{name}", self.prefix))
    }

    /// Creates a record; `after` is told of each step and may end it there.
    fn create_by_steps(
        &self,
        name: &str,
        text: &str,
        mut after: impl FnMut(Step) -> io::Result<()>,
    ) -> io::Result<bool> {
        let path = self.path(name);
        let unique = u128::from_be_bytes(random::bytes()?);
        let temporary = self.path(&format!("{name}.{unique:032x}.tmp"));
        let written = write_new(&temporary, text).and_then(|()| after(Step::Written));
        let linked = written.and_then(|()| match std::fs::hard_link(&temporary, &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // The link may exist although the answer says otherwise: a lost reply of the server.
            Err(error) if read_record(&path)?.is_some() => {
                log::warn!("linking {} failed ({error}), but it exists", path.display());
                Ok(false)
            }
            Err(error) => Err(error),
        });
        let result = linked.and_then(|is_new| {
            after(Step::Linked)?;
            File::open(&self.directory)?.sync_all()?;
            after(Step::Synced)?;
            Ok(is_new)
        });
        // Nobody reads it, whether it can be removed or not.
        let _ = std::fs::remove_file(&temporary);
        result
    }

    fn explain(&self, what: &str, name: &str, error: &io::Error) -> StoreError {
        StoreError(format!(
            "cannot {what} {}: {error}",
            self.path(name).display()
        ))
    }
}

impl FlagStore for FileStore {
    fn create(&mut self, name: &str, text: &str) -> Result<bool, StoreError> {
        self.create_by_steps(name, text, |_| Ok(()))
            .map_err(|error| self.explain("create", name, &error))
    }

    fn read(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        read_record(&self.path(name)).map_err(|error| self.explain("read", name, &error))
    }
}

/// Writes a file that must not exist yet, so that it survives a crash of this host.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // The other host may run as another user.
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The text of a record, if there is one.
fn read_record(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let limit = RECORD_LENGTH_MAX as u64 + 1;
    file.take(limit).read_to_string(&mut text)?;
    if text.len() > RECORD_LENGTH_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too long for a record",
        ));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::Barrier;
    use std::thread;

    use ft::arbiter::{Answer, Arbiter, Standing};
    use ft::flag::{Decision, Members, flag_name};
    use ft::identity::{Generation, Incarnation, VmId};
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const VM: VmId = VmId([9; 16]);
    const G: Generation = Generation(1);

    fn incarnation(number: u8) -> Incarnation {
        Incarnation([number; 16])
    }

    fn won(number: u8) -> Decision {
        Decision::Won {
            by: incarnation(number),
        }
    }

    fn store(directory: &Path) -> FileStore {
        FileStore::new(&Lease::File(directory.join("lease")))
    }

    /// An arbiter in which generation 1 has begun, with `count` members.
    fn begun(directory: &Path, count: u8) -> Arbiter<FileStore> {
        let mut arbiter = Arbiter::new(store(directory));
        let members = (0..count).map(incarnation).collect();
        let record = Members {
            vm: VM,
            generation: G,
            by: incarnation(0),
            members,
        };
        arbiter.begin(&record).unwrap();
        arbiter
    }

    fn ask(directory: &Path, number: u8) -> Answer {
        Arbiter::new(store(directory)).answer(VM, G, incarnation(number), &won(number))
    }

    fn assert_one_winner(answers: &[Answer]) {
        let winners: Vec<usize> = (0..answers.len())
            .filter(|&i| answers[i] == Answer::Won)
            .collect();
        let &[winner] = &winners[..] else {
            panic!("{answers:?}");
        };
        let to = won(winner as u8);
        for (number, answer) in answers.iter().enumerate() {
            assert!(
                number == winner || *answer == Answer::Lost { to: to.clone() },
                "{answers:?}"
            );
        }
    }

    fn temporaries(directory: &Path) -> usize {
        let entries = std::fs::read_dir(directory).unwrap();
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .ends_with(".tmp")
            })
            .count()
    }

    #[test]
    fn of_many_threads_one_wins() {
        for _ in 0..20 {
            let directory = TempDir::new().unwrap();
            let path = directory.as_path();
            begun(path, 8);
            let barrier = Barrier::new(8);
            let answers: Vec<Answer> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|number| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            barrier.wait();
                            ask(path, number)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_one_winner(&answers);
            // Whoever asks again gets the same answer.
            let again: Vec<Answer> = (0..8).map(|number| ask(path, number)).collect();
            assert_eq!(again, answers);
            assert_eq!(temporaries(path), 0);
        }
    }

    const CHILD: &str = "FILE_ARBITER_TEST_CHILD";

    /// Not a test by itself: what the processes of the next one run.
    #[test]
    fn in_a_child_process() {
        let Ok(text) = std::env::var(CHILD) else {
            return;
        };
        let (number, directory) = text.split_once(':').unwrap();
        let number = number.parse().unwrap();
        // All start when the file appears.
        while !Path::new(directory).join("start").exists() {
            thread::yield_now();
        }
        let answer = ask(Path::new(directory), number);
        std::process::exit(match answer {
            Answer::Won => 10,
            Answer::Lost { to } if to != won(number) => 11,
            _ => 12,
        });
    }

    #[test]
    fn of_many_processes_one_wins() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path();
        begun(path, 6);
        let children: Vec<_> = (0..6)
            .map(|number| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "host::file_arbiter::tests::in_a_child_process"])
                    .env(CHILD, format!("{number}:{}", path.display()))
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::fs::write(path.join("start"), "").unwrap();
        let codes = children
            .into_iter()
            .map(|mut child| child.wait().unwrap().code().unwrap());
        let mut codes: Vec<i32> = codes.collect();
        codes.sort_unstable();
        assert_eq!(codes, [10, 11, 11, 11, 11, 11]);
    }

    #[test]
    fn a_crash_between_the_steps_leaves_all_or_nothing() {
        for step in [Step::Written, Step::Linked, Step::Synced] {
            let directory = TempDir::new().unwrap();
            let path = directory.as_path();
            begun(path, 2);
            let text = won(0).to_text(VM, G);
            let crash = |reached| match reached {
                reached if reached == step => Err(io::Error::other("crash")),
                _ => Ok(()),
            };
            store(path)
                .create_by_steps(&flag_name(VM, G), &text, crash)
                .unwrap_err();
            let (first, second) = if step == Step::Written {
                // Nobody knows of the first claim.
                (Answer::Lost { to: won(1) }, Answer::Won)
            } else {
                (Answer::Won, Answer::Lost { to: won(0) })
            };
            assert_eq!(ask(path, 1), second, "{step:?}");
            assert_eq!(ask(path, 0), first, "{step:?}");
            assert_eq!(ask(path, 1), second, "{step:?}");
        }
    }

    #[test]
    fn a_temporary_file_that_stays_is_no_record() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path();
        let mut arbiter = begun(path, 2);
        let name = format!(
            "lease.{}.00000000000000000000000000000000.tmp",
            flag_name(VM, G)
        );
        std::fs::write(path.join(name), won(1).to_text(VM, G)).unwrap();
        assert!(matches!(arbiter.standing(VM), Ok(Standing::Open(_))));
        assert_eq!(ask(path, 0), Answer::Won);
    }

    #[test]
    fn storage_that_is_not_there_gives_no_answer() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path();
        let gone = path.join("gone");
        assert_eq!(ask(&gone, 0), Answer::Unreachable);
        // An empty directory (nothing mounted, say) is not the arbiter either.
        assert_eq!(ask(path, 0), Answer::Unreachable);
        // A file where the directory should be.
        std::fs::write(path.join("file"), "").unwrap();
        assert_eq!(ask(&path.join("file"), 0), Answer::Unreachable);
    }

    #[test]
    fn a_damaged_flag_gives_no_answer() {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path();
        begun(path, 2);
        let flag = store(path).path(&flag_name(VM, G));
        for damage in [
            Vec::new(),
            b"garbage".to_vec(),
            vec![b'x'; 1 << 20],
            vec![0xff; 10],
        ] {
            std::fs::write(&flag, damage).unwrap();
            assert_eq!(ask(path, 0), Answer::Unreachable);
        }
    }
}
