//! The thread that hashes.
//!
//! Does: finish digests that the vCPU thread has begun, one after the other, and hand their values
//! over. Does not: begin any; the position of a digest is the vCPU thread's business.
//!
//! Invariant: values come in the order in which the digests were begun. The vCPU thread never waits
//! here, except for a page that is being hashed when it wants to write it, and for a whole digest
//! when it begins the next one before this one is done.

use std::io;
use std::sync::mpsc;
use std::thread;

use ft::log::ComponentDigest;
use machine::{DigestJob, HashJob};

use super::digests;

/// The way to it. The thread ends when this goes away and everything is hashed.
#[derive(Debug)]
pub struct DigestThread {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Digest(u64, Box<DigestJob>),
    Ahead(HashJob),
}

impl DigestThread {
    /// Starts it. `done` gets the number and the values of each digest, on the thread.
    pub fn start(
        mut done: impl FnMut(u64, Vec<ComponentDigest>) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("digest".to_owned())
            .spawn(move || {
                for job in receiver {
                    match job {
                        Job::Digest(id, job) => done(id, digests::components(&job.finish())),
                        Job::Ahead(job) => job.finish(),
                    }
                }
            })?;
        Ok(DigestThread { jobs })
    }

    /// Finishes digest `id`.
    pub fn digest(&self, id: u64, job: DigestJob) {
        self.submit(Job::Digest(id, Box::new(job)));
    }

    /// Hashes what somebody will want to know.
    pub fn ahead(&self, job: HashJob) {
        self.submit(Job::Ahead(job));
    }

    fn submit(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            log::error!("the digest thread has panicked: digests are not compared any more");
        }
    }
}
