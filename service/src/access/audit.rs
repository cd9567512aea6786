//! The audit log: who changed what, when, from where, and how it ended.
//!
//! `audit/current.jsonl` in the state directory, one JSON document a line. A change is answered only
//! when its entry is on the disk; entries that come at the same time share one sync. A file that is
//! full is renamed after its first entry (`<number, 16 hex digits>.jsonl`), and the oldest ones go, so
//! that all together have a bounded size. A crash may leave half a line at the end, which the next
//! start cuts off: nobody was told of it.
//!
//! Nothing of a request gets in but its path, so that no secret does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use chalk_core::wire::AuditEntry;
use chalk_store::failpoint::{Step, around};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::oneshot;

/// File that is written to.
const CURRENT: &str = "current.jsonl";
/// Most files, the current one included.
const FILES: u64 = 8;
/// How often a log that failed is tried again while nothing comes in.
const PROBE: Duration = Duration::from_secs(1);
/// Most entries that share a sync.
const BATCH: usize = 1024;
/// Bytes of the disk that are taken beforehand after a fault, before changes are let again.
const ROOM: u64 = 64 << 10;

/// Why an entry is not kept, or the log not read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the audit log {} failed: {reason}", path.display())]
pub(crate) struct AuditError {
    path: PathBuf,
    reason: String,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Those before this number.
    pub(crate) before: Option<u64>,
    /// Those of this client, node or administrator, by `who` or by its name.
    pub(crate) who: Option<String>,
    /// Those whose action begins so.
    pub(crate) action: Option<String>,
    /// Those in this project.
    pub(crate) project: Option<String>,
}

impl Filter {
    fn takes(&self, entry: &AuditEntry) -> bool {
        let who = |who: &String| *who == entry.who || entry.name.as_ref() == Some(who);
        self.before.is_none_or(|before| entry.seq < before)
            && self.who.as_ref().is_none_or(who)
            && self
                .action
                .as_ref()
                .is_none_or(|action| entry.action.starts_with(action.as_str()))
            && (self.project.is_none() || entry.project == self.project)
    }
}

type Told = oneshot::Sender<Result<(), AuditError>>;
/// An entry, or nothing, which only tries whether one could be written; and who waits for it.
type Waiting = (Option<AuditEntry>, Told);

/// The log.
#[derive(Debug)]
pub(crate) struct Audit {
    dir: PathBuf,
    sound: Arc<AtomicBool>,
    entries: Option<Sender<Waiting>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Audit {
    /// Waits until what was given is on the disk.
    fn drop(&mut self) {
        self.entries = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Audit {
    /// Opens the log in `dir`, or makes one, that takes at most about `limit` bytes. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub(crate) fn open(dir: &Path, limit: u64) -> Result<Self, AuditError> {
        let failed = |error: io::Error| AuditError {
            path: dir.to_owned(),
            reason: error.to_string(),
        };
        fs::create_dir_all(dir).map_err(failed)?;
        if let Some(parent) = dir.parent() {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(failed)?;
        }
        let mut writer = Writer {
            dir: dir.to_owned(),
            file: None,
            bytes: 0,
            first: None,
            next: 1,
            limit: (limit / FILES).max(1),
        };
        writer.recover().map_err(failed)?;
        let (entries, waiting) = channel();
        let sound = Arc::new(AtomicBool::new(true));
        let shared = sound.clone();
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&waiting, &shared))
            .map_err(failed)?;
        Ok(Self {
            dir: dir.to_owned(),
            sound,
            entries: Some(entries),
            writer: Some(writer),
        })
    }

    /// Whether the newest entries were kept, as far as is known.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed)
    }

    /// Tries to write once more, after a fault that may have passed; gives whether that went well.
    pub(crate) async fn try_again(&self) -> bool {
        self.queue(None).await.is_ok()
    }

    /// Keeps an entry, whose number is given here; done when it is on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn append(&self, entry: AuditEntry) -> Result<(), AuditError> {
        self.queue(Some(entry)).await
    }

    async fn queue(&self, entry: Option<AuditEntry>) -> Result<(), AuditError> {
        let stopped = || AuditError {
            path: self.dir.clone(),
            reason: "the service stops".to_owned(),
        };
        let (told, done) = oneshot::channel();
        let queue = self.entries.as_ref().ok_or_else(stopped)?;
        queue.send((entry, told)).map_err(|_| stopped())?;
        done.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Entries that a filter takes, newest first, at most `limit`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) async fn list(
        &self,
        filter: Filter,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, AuditError> {
        let dir = self.dir.clone();
        let read = tokio::task::spawn_blocking(move || read(&dir, &filter, limit));
        let read = read
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map_err(|error| AuditError {
            path: self.dir.clone(),
            reason: error.to_string(),
        })
    }
}

/// Files of the log, oldest first.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut full = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(".jsonl") && name != CURRENT) {
            full.push(path);
        }
    }
    full.sort();
    full.push(dir.join(CURRENT));
    Ok(full)
}

fn read(dir: &Path, filter: &Filter, limit: usize) -> io::Result<Vec<AuditEntry>> {
    let mut found = Vec::new();
    for path in files(dir)?.into_iter().rev() {
        let text = match fs::read(&path) {
            Ok(text) => text,
            // The oldest may go meanwhile, and the current one get another name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in text.split(|byte| *byte == b'\n').rev() {
            if found.len() >= limit {
                return Ok(found);
            }
            let entry: Option<AuditEntry> = serde_json::from_slice(line).ok();
            found.extend(entry.filter(|entry| filter.takes(entry)));
        }
    }
    Ok(found)
}

/// The end that writes.
struct Writer {
    dir: PathBuf,
    /// None before the first entry, and after a fault.
    file: Option<File>,
    bytes: u64,
    /// Number of the first entry of the current file.
    first: Option<u64>,
    next: u64,
    /// Bytes after which a file is full.
    limit: u64,
}

impl Writer {
    /// Finds out where an earlier service left off, and cuts off what it left half.
    fn recover(&mut self) -> io::Result<()> {
        let newest = read(&self.dir, &Filter::default(), 1)?;
        self.next = newest.first().map_or(1, |entry| entry.seq + 1);
        self.reopen()
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(self.dir.join(CURRENT))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64)?;
        }
        let first = text[..whole].split(|byte| *byte == b'\n').next();
        let first = first.and_then(|line| serde_json::from_slice::<AuditEntry>(line).ok());
        self.first = first.map(|entry| entry.seq);
        self.bytes = whole as u64;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes what comes in until nobody can send any more.
    fn run(mut self, waiting: &Receiver<Waiting>, sound: &AtomicBool) {
        loop {
            let first = match waiting.recv_timeout(PROBE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // Changes are refused as long as they cannot be told of.
                    if self.file.is_none() && self.ready().is_ok() {
                        sound.store(true, Ordering::Relaxed);
                    }
                    continue;
                }
            };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = waiting.try_recv()
            {
                batch.push(next);
            }
            let done = self.write(batch.iter().filter_map(|(entry, _)| entry.as_ref()));
            let done = done.map_err(|error| {
                tracing::error!(%error, "the audit log cannot be written");
                self.file = None;
                AuditError {
                    path: self.dir.clone(),
                    reason: error.to_string(),
                }
            });
            sound.store(done.is_ok(), Ordering::Relaxed);
            for (_, told) in batch {
                let _ = told.send(done.clone());
            }
        }
    }

    /// Sees to it that there is a file with room.
    fn ready(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
            if let Err(error) = self.reserve() {
                self.file = None;
                return Err(error);
            }
        }
        if self.bytes >= self.limit {
            self.rotate()?;
        }
        Ok(())
    }

    /// Takes room on the disk for the next entries: that the file can be opened says nothing of that.
    fn reserve(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, self.bytes, ROOM) {
            // Not every file system can.
            Err(Errno::OPNOTSUPP) => Ok(()),
            taken => Ok(taken?),
        }
    }

    fn write<'a>(&mut self, entries: impl Iterator<Item = &'a AuditEntry>) -> io::Result<()> {
        self.ready()?;
        let mut text = Vec::new();
        let mut next = self.next;
        for entry in entries {
            let numbered = AuditEntry {
                seq: next,
                ..entry.clone()
            };
            serde_json::to_writer(&mut text, &numbered)?;
            text.push(b'\n');
            next += 1;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the file is not open"));
        };
        file.write_all(&text)?;
        around(Step::AuditSync, || file.sync_data())?;
        self.first.get_or_insert(self.next);
        self.next = next;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Puts the full file aside and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let name = format!("{:016x}.jsonl", self.first.unwrap_or(self.next));
        let (from, to) = (self.dir.join(CURRENT), self.dir.join(name));
        around(Step::StateRename, || fs::rename(from, to))?;
        let full = files(&self.dir)?;
        let too_many = full
            .len()
            .saturating_sub(usize::try_from(FILES).unwrap_or(usize::MAX));
        for path in &full[..too_many] {
            fs::remove_file(path)?;
        }
        self.reopen()
    }
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::AuditOutcome;

    use super::*;

    fn entry(who: &str, action: &str) -> AuditEntry {
        AuditEntry {
            seq: 0,
            time: "2026-01-01T00:00:00Z".into(),
            who: who.into(),
            name: None,
            project: Some("default".into()),
            from: "127.0.0.1".into(),
            action: action.into(),
            target: String::new(),
            made: None,
            outcome: AuditOutcome::Done,
            status: 200,
            request: "1".into(),
        }
    }

    async fn numbers(audit: &Audit, filter: Filter, limit: usize) -> Vec<u64> {
        let found = audit.list(filter, limit).await.unwrap();
        found.into_iter().map(|entry| entry.seq).collect()
    }

    #[tokio::test]
    async fn what_was_told_is_there_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path(), 1 << 20).unwrap();
        for (who, action) in [("admin", "token.create"), ("client:a", "build.start")] {
            audit.append(entry(who, action)).await.unwrap();
        }
        drop(audit);
        // Half a line, as a crash leaves it.
        let current = dir.path().join(CURRENT);
        let mut file = OpenOptions::new().append(true).open(&current).unwrap();
        file.write_all(b"{\"seq\":3,\"ti").unwrap();
        let audit = Audit::open(dir.path(), 1 << 20).unwrap();
        audit
            .append(entry("client:a", "build.cancel"))
            .await
            .unwrap();
        assert_eq!(numbers(&audit, Filter::default(), 10).await, [3, 2, 1]);
        assert_eq!(numbers(&audit, Filter::default(), 1).await, [3]);
        let check = async |filter: Filter, expect: &[u64]| {
            assert_eq!(
                numbers(&audit, filter.clone(), 10).await,
                expect,
                "{filter:?}"
            );
        };
        let of = |who: &str| Filter {
            who: Some(who.into()),
            ..Filter::default()
        };
        check(of("client:a"), &[3, 2]).await;
        check(of("client:b"), &[]).await;
        let action = Filter {
            action: Some("build.".into()),
            before: Some(3),
            ..Filter::default()
        };
        check(action, &[2]).await;
        let project = Filter {
            project: Some("ml".into()),
            ..Filter::default()
        };
        check(project, &[]).await;
        assert!(fs::read_to_string(&current).unwrap().lines().count() == 3);
    }

    #[tokio::test]
    async fn its_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 16 * 1024;
        let audit = Audit::open(dir.path(), limit).unwrap();
        for _ in 0..200 {
            audit.append(entry("admin", "token.create")).await.unwrap();
        }
        let files = files(dir.path()).unwrap();
        let size: u64 = files
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert_eq!(files.len() as u64, FILES);
        assert!(size < 2 * limit, "{size}");
        let kept = numbers(&audit, Filter::default(), 1000).await;
        assert!(kept.len() < 200 && kept[0] == 200);
        assert!(
            kept.windows(2).all(|pair| pair[0] == pair[1] + 1),
            "{kept:?}"
        );
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path(), 1).unwrap();
        audit.append(entry("admin", "a.a")).await.unwrap();
        // The next one needs a new file, whose place is taken.
        let aside = dir.path().join(format!("{:016x}.jsonl", 1));
        fs::create_dir_all(aside.join("x")).unwrap();
        audit.append(entry("admin", "a.b")).await.unwrap_err();
        assert!(!audit.is_sound());
        assert!(!audit.try_again().await);
        fs::remove_dir_all(&aside).unwrap();
        assert!(audit.try_again().await);
        assert!(audit.is_sound());
        audit.append(entry("admin", "a.c")).await.unwrap();
        assert_eq!(numbers(&audit, Filter::default(), 9).await, [2, 1]);
    }
}
