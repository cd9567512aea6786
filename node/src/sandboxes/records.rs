//! What is kept of sandboxes on disk: a directory each, with `record.json` and the output of every
//! process.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use chalk_core::wire::agent::SandboxReport;
use chalk_store::failpoint::{Step, around};
use chalk_store::temporary;
use tokio::sync::oneshot;

use super::below;

const RECORD: &str = "record.json";

/// Directory of the output of processes.
const OUTPUT: &str = "output";

/// The records. Writes happen on a thread of their own, in the order of the calls.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
}

enum Job {
    Put(Box<SandboxReport>),
    Remove(String, oneshot::Sender<()>),
}

impl Records {
    /// Opens `dir`, which is made, and reads what is there; directories without a whole record
    /// are removed, and so are records that were on their way when a node was killed.
    pub(super) fn open(dir: &Path) -> io::Result<(Records, Vec<SandboxReport>)> {
        fs::create_dir_all(dir)?;
        let mut old = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let read = fs::read(entry.path().join(RECORD));
            let report = read
                .ok()
                .and_then(|json| serde_json::from_slice::<SandboxReport>(&json).ok())
                .filter(|report| entry.file_name().to_str() == Some(&report.id));
            match report {
                Some(report) => {
                    temporary::sweep(&entry.path())?;
                    old.push(report);
                }
                None => super::log::remove(&entry.path()),
            }
        }
        let (jobs, receiver) = mpsc::channel();
        let own = dir.to_owned();
        std::thread::Builder::new()
            .name("sandbox records".into())
            .spawn(move || work(&own, &receiver))?;
        let dir = dir.to_owned();
        Ok((Records { dir, jobs }, old))
    }

    /// Writes a record, sometime.
    pub(super) fn put(&self, report: &SandboxReport) {
        let _ = self.jobs.send(Job::Put(Box::new(report.clone())));
    }

    /// Removes everything of a sandbox.
    pub(super) async fn remove(&self, id: &str) {
        let (done, removed) = oneshot::channel();
        if self.jobs.send(Job::Remove(id.to_owned(), done)).is_ok() {
            let _ = removed.await;
        }
    }

    /// Where the output of a process lies.
    pub(super) fn output(&self, id: &str, process: &str) -> PathBuf {
        self.dir.join(id).join(OUTPUT).join(process)
    }

    /// The processes of a sandbox that have output.
    pub(super) fn processes(&self, id: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join(id).join(OUTPUT));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

fn work(dir: &Path, jobs: &mpsc::Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Put(report) => {
                if let Err(error) = write(dir, &report) {
                    tracing::warn!(id = report.id, %error, "cannot write the record of a sandbox");
                }
            }
            Job::Remove(id, done) => {
                if let Some(dir) = below(dir, &id) {
                    super::log::remove(&dir);
                }
                let _ = done.send(());
            }
        }
    }
}

fn write(dir: &Path, report: &SandboxReport) -> io::Result<()> {
    let dir = below(dir, &report.id).ok_or_else(|| io::Error::other("no name of a directory"))?;
    fs::create_dir_all(&dir)?;
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    file.write_all(&serde_json::to_vec(report)?)?;
    file.as_file().sync_data()?;
    around(Step::NodeSandbox, || file.persist(dir.join(RECORD)))?;
    fs::File::open(&dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_node_was_writing_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("one");
        fs::create_dir(&own).unwrap();
        fs::write(own.join(RECORD), r#"{"id": "one", "state": "running"}"#).unwrap();
        let half = tempfile::NamedTempFile::new_in(&own).unwrap();
        let (_, half) = half.keep().unwrap();
        let (_, old) = Records::open(temp.path()).unwrap();
        assert_eq!(old.len(), 1);
        assert!(!half.exists());
    }
}
