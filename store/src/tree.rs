//! Local files, as a declaration sees them: the disk behind [`chalk_core::source::Source`].

mod hash;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use chalk_core::source::{FileFacts, Listed, ListedKind, Source, SourceError};

/// Most bytes of a file that is read as text.
const TEXT: u64 = 16 << 20;

/// Files of this machine. Relative paths start at a base directory, mostly that of the declaring
/// file.
///
/// Listing follows no symbolic link: a link is listed as one, with its target, and never
/// descended into; sockets, fifos and devices are left out. A file that is named directly may be
/// a link, as for `cp`. Contents are read every time: size and time never stand in for them.
#[derive(Debug, Clone)]
pub struct LocalFiles {
    base: PathBuf,
}

impl LocalFiles {
    /// Files whose relative paths start at `base`, hashed by all cores, at least two threads.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// Where a path of a declaration lies.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`Source::facts`].
    pub fn open(&self, path: &str) -> Result<File, SourceError> {
        open_file(&self.locate(path)).map_err(|reason| source_error(path, reason))
    }

    /// Reads those of the files that nobody took yet, and adds what was found.
    fn read_facts(&self, paths: &[String], next: &AtomicUsize, found: &Found) {
        let mut buffer = vec![0; hash::PIECE];
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(i) else { break };
            let facts = facts(&self.locate(path), &mut buffer);
            let failed = facts.is_err();
            mine.push((i, facts.map_err(|reason| source_error(path, reason))));
            if failed {
                // What stands before it is being worked on already, so the first failure in order
                // is always among those found.
                next.fetch_max(paths.len(), Ordering::Relaxed);
            }
        }
        let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut mine);
    }
}

fn source_error(path: &str, reason: impl Into<String>) -> SourceError {
    SourceError {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn open_file(path: &Path) -> Result<File, String> {
    let in_words = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => e.to_string(),
    };
    // Before opening: a fifo would block until somebody writes.
    let meta = fs::metadata(path).map_err(in_words)?;
    if meta.is_dir() {
        return Err("is a directory, not a file".to_owned());
    }
    if !meta.is_file() {
        return Err("is not a regular file".to_owned());
    }
    File::open(path).map_err(in_words)
}

/// Facts of files, each with its place in the list that was asked for.
type Found = Mutex<Vec<(usize, Result<FileFacts, SourceError>)>>;

/// Threads that hash so many files.
fn crew(files: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match files {
        0 | 1 => files,
        _ => cores().max(2).min(files),
    }
}

impl Source for LocalFiles {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let place = self.locate(path);
        match fs::metadata(&place) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            _ => {}
        }
        let file = open_file(&place).map_err(|reason| source_error(path, reason))?;
        let mut bytes = Vec::new();
        file.take(TEXT + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| source_error(path, e.to_string()))?;
        if bytes.len() as u64 > TEXT {
            return Err(source_error(path, "is larger than 16 MiB"));
        }
        Ok(Some(bytes))
    }

    fn facts(&self, paths: &[String]) -> Result<Vec<FileFacts>, SourceError> {
        let (next, found) = (AtomicUsize::new(0), Mutex::default());
        let read = || self.read_facts(paths, &next, &found);
        match crew(paths.len()) {
            // Starting a thread takes longer than reading a small file.
            0 | 1 => read(),
            threads => std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(read);
                }
            }),
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(i, _)| *i);
        found.into_iter().map(|(_, facts)| facts).collect()
    }

    fn list(
        &self,
        path: &str,
        enter: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<Listed>, SourceError> {
        let root = self.locate(path);
        let meta = fs::metadata(&root).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => source_error(path, "no such directory"),
            _ => source_error(path, e.to_string()),
        })?;
        if !meta.is_dir() {
            return Err(source_error(path, "is not a directory"));
        }
        let mut listed = Vec::new();
        // Directories still to be read, so that depth costs no stack.
        let mut ahead = vec![String::new()];
        while let Some(dir) = ahead.pop() {
            let shown = |name: &str| chalk_core::source::join(path, &join(&dir, name));
            let place = root.join(&dir);
            let entries =
                fs::read_dir(&place).map_err(|e| source_error(&shown(""), e.to_string()))?;
            for entry in entries {
                let entry = entry.map_err(|e| source_error(&shown(""), e.to_string()))?;
                let name = entry.file_name().into_string().map_err(|raw| {
                    let escaped = raw.as_encoded_bytes().escape_ascii().to_string();
                    source_error(
                        &shown(&escaped),
                        "its name is not UTF-8: rename it, or exclude its directory",
                    )
                })?;
                let failed = |e: io::Error| source_error(&shown(&name), e.to_string());
                let kind = entry.file_type().map_err(failed)?;
                let below = join(&dir, &name);
                let kind = if kind.is_dir() {
                    if enter(&below) {
                        ahead.push(below.clone());
                    }
                    ListedKind::Dir
                } else if kind.is_symlink() {
                    let target = fs::read_link(entry.path()).map_err(failed)?;
                    let target = target.into_os_string().into_string().map_err(|raw| {
                        let escaped = raw.as_encoded_bytes().escape_ascii();
                        source_error(
                            &shown(&name),
                            format!("links to `{escaped}`, which is not UTF-8"),
                        )
                    })?;
                    ListedKind::Symlink(target)
                } else if kind.is_file() {
                    ListedKind::File
                } else {
                    continue;
                };
                listed.push(Listed { path: below, kind });
            }
        }
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }
}

fn join(dir: &str, name: &str) -> String {
    match (dir, name) {
        ("", name) => name.to_owned(),
        (dir, "") => dir.to_owned(),
        (dir, name) => format!("{dir}/{name}"),
    }
}

fn facts(path: &Path, buffer: &mut [u8]) -> Result<FileFacts, String> {
    let file = open_file(path)?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    let (digest, size) = hash::hash(&file, meta.len(), buffer).map_err(|e| e.to_string())?;
    Ok(FileFacts {
        digest,
        executable: is_executable(&meta),
        size,
    })
}

#[cfg(unix)]
fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

/// Windows keeps no such bit.
#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use chalk_core::Digest;

    use super::*;

    fn files() -> (tempfile::TempDir, LocalFiles) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("src/deep")).unwrap();
        fs::create_dir(dir.path().join("src/skipped")).unwrap();
        fs::write(dir.path().join("src/a.py"), "print()").unwrap();
        fs::write(dir.path().join("src/deep/run"), "#!").unwrap();
        fs::write(dir.path().join("src/skipped/x"), "").unwrap();
        let run = dir.path().join("src/deep/run");
        fs::set_permissions(run, fs::Permissions::from_mode(0o744)).unwrap();
        symlink("/etc", dir.path().join("src/out")).unwrap();
        let _ = std::os::unix::net::UnixListener::bind(dir.path().join("src/socket")).unwrap();
        let files = LocalFiles::new(dir.path());
        (dir, files)
    }

    #[test]
    fn lists_without_following() {
        let (_dir, files) = files();
        let listed = files.list("src", &mut |dir| dir != "skipped").unwrap();
        let entry = |path: &str, kind| Listed {
            path: path.into(),
            kind,
        };
        assert_eq!(
            listed,
            [
                entry("a.py", ListedKind::File),
                entry("deep", ListedKind::Dir),
                entry("deep/run", ListedKind::File),
                entry("out", ListedKind::Symlink("/etc".into())),
                entry("skipped", ListedKind::Dir),
            ]
        );
    }

    #[test]
    fn facts_come_in_order_and_failures_name_the_file() {
        let (_dir, files) = files();
        let paths = ["src/deep/run", "src/a.py"].map(str::to_owned);
        let facts = files.facts(&paths).unwrap();
        assert_eq!(facts[0].digest, Digest::of(b"#!"));
        assert_eq!(facts[1].digest, Digest::of(b"print()"));
        assert_eq!(facts[1].size, 7);
        assert_eq!((facts[0].executable, facts[1].executable), (true, false));
        for (path, reason) in [
            ("src/none", "no such file"),
            ("src", "is a directory, not a file"),
            ("src/socket", "is not a regular file"),
        ] {
            let error = files.facts(&[path.to_owned()]).unwrap_err();
            assert_eq!(error.to_string(), format!("{path}: {reason}"));
        }
        assert_eq!(files.read("src/none").unwrap(), None);
        assert_eq!(files.read("src/a.py/x").unwrap(), None);
        assert_eq!(files.read("src/a.py").unwrap().unwrap(), b"print()");
    }

    #[test]
    fn names_that_are_not_utf8_are_named() {
        let (dir, files) = files();
        let name = OsStr::from_bytes(b"src/deep/caf\xe9");
        fs::write(dir.path().join(name), "").unwrap();
        let error = files.list("src", &mut |_| true).unwrap_err();
        assert_eq!(error.path, "src/deep/caf\\xe9");
        // Where nobody looks, nobody minds.
        files.list("src", &mut |dir| dir != "deep").unwrap();
    }
}
