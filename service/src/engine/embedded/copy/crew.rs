//! Files of a copy, written by several threads: for a small one nearly all of the time goes into
//! calls of the system, which run side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use chalk_store::BlobStore;

use super::dest::{DestDir, Facts};
use super::source::{Node, Result};

/// Files that wait until they are written together. Each holds its directory open.
const TOGETHER: usize = 256;
/// Bytes that are copied at once.
const PIECE: usize = 128 << 10;

/// A regular file that is to be written.
pub(super) struct Task<'a> {
    /// Where.
    pub(super) dir: Arc<DestDir>,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// What it holds.
    pub(super) node: Node<'a>,
    /// Owner, mode and time.
    pub(super) facts: Facts,
}

/// Writes files, in no order: none of them may be in the way of another.
pub(super) struct Crew<'a> {
    store: &'a BlobStore,
    waiting: Vec<Task<'a>>,
    threads: usize,
    buffer: Vec<u8>,
}

impl<'a> Crew<'a> {
    pub(super) fn new(store: &'a BlobStore) -> Self {
        Self {
            store,
            waiting: Vec::new(),
            threads: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            buffer: vec![0; PIECE],
        }
    }

    /// Writes a file at once.
    pub(super) fn write_now(&mut self, task: &Task<'_>) -> Result<()> {
        task.write(self.store, &mut self.buffer)
    }

    /// Writes a file, at the latest when [`finish`](Self::finish) is called.
    pub(super) fn write(&mut self, task: Task<'a>) -> Result<()> {
        self.waiting.push(task);
        match self.waiting.len() {
            TOGETHER => self.finish(),
            _ => Ok(()),
        }
    }

    /// Writes all that waits. Of several failures the first in the order of the files is told.
    pub(super) fn finish(&mut self) -> Result<()> {
        let tasks = std::mem::take(&mut self.waiting);
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, String)>> = Mutex::default();
        let work = |buffer: &mut [u8]| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(number) else { break };
                let Err(why) = task.write(self.store, buffer) else {
                    continue;
                };
                // What stands before it is being written already.
                next.fetch_max(tasks.len(), Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                    *failed = Some((number, why));
                }
            }
        };
        let others = self.threads.min(tasks.len()).saturating_sub(1);
        thread::scope(|scope| {
            for _ in 0..others {
                // One that cannot be had is not missed: the work is done here, too.
                let builder = thread::Builder::new().name("copy".to_owned());
                let _ = builder.spawn_scoped(scope, || work(&mut vec![0; PIECE]));
            }
            work(&mut self.buffer);
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((_, why)) => Err(why),
        }
    }
}

impl Task<'_> {
    fn write(&self, store: &BlobStore, buffer: &mut [u8]) -> Result<()> {
        let attributes = self.node.attributes()?;
        let write = |file: &mut std::fs::File| self.node.write_to(file, store, buffer);
        self.dir.file(&self.name, self.facts, &attributes, write)
    }
}
