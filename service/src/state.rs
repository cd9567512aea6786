//! The state directory: who has it, what version wrote it, and how others find the service.
//!
//! | name | what |
//! |---|---|
//! | `lock` | locked while a service uses the directory |
//! | `version` | number of the layout |
//! | `token` | bearer token, mode 0600, made at the first start |
//! | `signing.key` | 256 random bits, mode 0600, that tokens and addresses of the service are signed with |
//! | `service.json` | address and process of the running service, mode 0600 |
//! | `chalk.redb` | index, can be rebuilt |
//! | `nodes.redb` | nodes, tokens, warms, sandboxes, volumes and the pre-warm list, which nothing else knows |
//! | `builds/<id>/` | record and events of a build |
//! | `imports/` | archives on their way in |
//! | `uses/` | when images of an external registry were last used |
//! | `audit/` | who changed what |
//! | `volumes/` | objects that were uploaded for volumes in the last day |
//!
//! Blobs, uploads and the builder's caches lie beside them in directories of their own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use chalk_store::failpoint::{Step, around};
use chalk_store::layout_version::{self, LayoutVersionError};
use chalk_store::temporary;
use serde::{Deserialize, Serialize};

use crate::signing::{KEY_BYTES, SigningKey};

/// Version of the layout that this program writes. There was no other yet, so nothing is brought forward.
const VERSION: u32 = 1;
/// How long a start waits for a service that is just stopping.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Who owns the files of root in a directory of a file server that trusts no root.
const NOBODY: u32 = 65534;
/// Users whom packages make (Debian Policy, section 9.2.2).
const PACKAGED: Range<u32> = 1..1000;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What can be wrong with a state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another service has it.
    #[error("{} is in use by {holder}: stop that service or choose another state directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who has it: address and process when known.
        holder: String,
    },
    /// A newer program wrote it, or it does not say which did.
    #[error(transparent)]
    Version(#[from] LayoutVersionError),
    /// It is that of another user's service, and we are root: what we wrote there would be closed to that
    /// service.
    #[error(
        "{} belongs to the service of the user with id {owner}: start that service (`systemctl start chalk-service`, where it is the one of the Debian package), choose another state directory, or stop that service for good and give this one to root: `chown -R 0:0 {}`",
        dir.display(),
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Owner of what is in it.
        owner: u32,
    },
    /// The token file holds no token.
    #[error("{} holds no token of at least 32 characters: remove it and a new one is made", .0.display())]
    Token(PathBuf),
    /// The file of the signing key holds none.
    #[error("{} is not of 32 bytes: remove it and a new one is made; access tokens of before then count no more", .0.display())]
    SigningKey(PathBuf),
    /// The file system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How to reach a running service; the contents of `service.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// `http://host:port`.
    pub url: String,
    /// Process of the service.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
}

/// A running service found by its state directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// `http://host:port`.
    pub url: String,
    /// Process of the service.
    pub pid: u32,
    /// The bearer token.
    pub token: String,
}

/// Looks for a service that runs on `dir`; `None` when there is none, or its token is not for us
/// to read. A service that was killed leaves nothing that is found here, since its lock is gone.
///
/// # Errors
/// When the directory cannot be read.
pub fn discover(dir: &Path) -> Result<Option<Found>, StateError> {
    let lock = match File::open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(fault("open", dir.join("lock"), e)),
    };
    // A shared lock that is granted proves that nobody holds the exclusive one. A service that
    // starts in this very moment waits for us (LOCK_PATIENCE).
    if lock.try_lock_shared().is_ok() {
        return Ok(None);
    }
    let Some(discovery) = read_discovery(dir) else {
        return Ok(None);
    };
    match fs::read_to_string(dir.join("token")) {
        Ok(token) => Ok(Some(Found {
            url: discovery.url,
            pid: discovery.pid,
            token: token.trim().to_owned(),
        })),
        Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(fault("read", dir.join("token"), e)),
    }
}

fn read_discovery(dir: &Path) -> Option<Discovery> {
    let bytes = fs::read(dir.join("service.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A state directory that is ours while this lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if needed (mode 0700), takes its lock and checks its version.
    ///
    /// # Errors
    /// When another service has it, a newer program wrote it, or the file system refuses.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        if !dir.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|e| fault("make", dir, e))?;
        }
        let root = dir.canonicalize().map_err(|e| fault("resolve", dir, e))?;
        refuse_foreign(&root)?;
        let lock = lock(&root)?;
        // Before anything is changed: what a newer program wrote is left as it is.
        let version = layout_version::read(&root, VERSION)?;
        let state = Self { root, _lock: lock };
        let sweep = |dir: &Path| temporary::sweep(dir).map_err(|e| fault("tidy", dir, e));
        sweep(state.root())?;
        if version.is_none() {
            layout_version::write(state.root(), VERSION)?;
        }
        for sub in ["builds", "imports"] {
            state.make_dir(sub)?;
        }
        sweep(&state.path("imports"))?;
        state.remove("service.json")?;
        Ok(state)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a directory inside, mode 0700, if it is not there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.path(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| fault("make", &path, e))?;
        Ok(path)
    }

    /// The bearer token; made of 256 random bits when there is none.
    ///
    /// # Errors
    /// When the file holds no token, or the file system refuses.
    pub fn token(&self) -> Result<String, StateError> {
        let path = self.path("token");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let token = text.trim();
                let sound = token.len() >= 32 && token.bytes().all(|b| b.is_ascii_graphic());
                if !sound {
                    return Err(StateError::Token(path));
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                    .map_err(|e| fault("protect", &path, e))?;
                Ok(token.to_owned())
            }
            Err(e) if is_absent(&e) => {
                let random: [u8; TOKEN_BYTES] = rand::random();
                let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
                write_atomic(&path, format!("{token}\n").as_bytes())?;
                Ok(token)
            }
            Err(e) => Err(fault("read", path, e)),
        }
    }

    /// What the service signs with; made when there is none.
    ///
    /// # Errors
    /// When the file holds no key, or the file system refuses.
    pub(crate) fn signing_key(&self) -> Result<SigningKey, StateError> {
        let path = self.path("signing.key");
        match fs::read(&path) {
            Ok(bytes) => match bytes.try_into() {
                Ok(key) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                        .map_err(|e| fault("protect", &path, e))?;
                    Ok(SigningKey::new(key))
                }
                Err(_) => Err(StateError::SigningKey(path)),
            },
            Err(e) if is_absent(&e) => {
                let key: [u8; KEY_BYTES] = rand::random();
                write_atomic(&path, &key)?;
                Ok(SigningKey::new(key))
            }
            Err(e) => Err(fault("read", path, e)),
        }
    }

    /// Tells others where the service is.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn announce(&self, discovery: &Discovery) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(discovery).unwrap_or_default();
        write_atomic(&self.path("service.json"), &bytes)
    }

    /// Takes the announcement back.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn withdraw(&self) -> Result<(), StateError> {
        self.remove("service.json")
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if !is_absent(&e) => Err(fault("remove", path, e)),
            _ => Ok(()),
        }
    }
}

/// Lets root keep off the directory of an ordinary user's service, which is told by what its first start
/// writes; before that, by the directory, where it is that of a user whom a package made.
fn refuse_foreign(root: &Path) -> Result<(), StateError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let refuse = |owner| {
        Err(StateError::Foreign {
            dir: root.to_owned(),
            owner,
        })
    };
    let owner = |path: PathBuf| match fs::metadata(&path) {
        Ok(found) => Ok(Some(found.uid())),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(fault("read", path, e)),
    };
    match owner(root.join("version"))? {
        Some(0 | NOBODY) => Ok(()),
        Some(owner) => refuse(owner),
        None => match owner(root.to_owned())? {
            Some(owner) if PACKAGED.contains(&owner) => refuse(owner),
            _ => Ok(()),
        },
    }
}

fn lock(root: &Path) -> Result<File, StateError> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| fault("open", &path, e))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(fs::TryLockError::WouldBlock) => {
                let holder = match read_discovery(root) {
                    Some(found) => format!("the service at {} (process {})", found.url, found.pid),
                    None => "another service that is starting or stopping".to_owned(),
                };
                return Err(StateError::Locked {
                    dir: root.to_owned(),
                    holder,
                });
            }
            Err(fs::TryLockError::Error(e)) => return Err(fault("lock", path, e)),
        }
    }
}

/// Writes a whole file, mode 0600, so that its name shows the old or the new contents and never a
/// part, whatever happens: temporary file, sync, rename, sync of the directory.
///
/// # Errors
/// When the file system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temp =
        tempfile::NamedTempFile::new_in(dir).map_err(|e| fault("make a file in", dir, e))?;
    temp.write_all(bytes)
        .and_then(|()| around(Step::StateSync, || temp.as_file().sync_all()))
        .map_err(|e| fault("write", path, e))?;
    around(Step::StateRename, || temp.persist(path))
        .map_err(|e| fault("replace", path, e.error))?;
    around(Step::StateSyncDir, || File::open(dir)?.sync_all()).map_err(|e| fault("sync", dir, e))
}

fn fault(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> StateError {
    StateError::Io {
        action,
        path: path.into(),
        source,
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: PathBuf) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn second_service_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(mode(path.clone()), 0o700);
        let discovery = Discovery {
            url: "http://127.0.0.1:1234".into(),
            pid: 77,
            version: "0".into(),
        };
        first.announce(&discovery).unwrap();
        assert_eq!(mode(path.join("service.json")), 0o600);
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("http://127.0.0.1:1234 (process 77)"),
            "{error}"
        );

        let token = first.token().unwrap();
        let found = discover(&path).unwrap().unwrap();
        assert_eq!(
            (found.url, found.pid, found.token),
            (discovery.url, 77, token)
        );
        drop(first);
        assert!(discover(&path).unwrap().is_none());
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn token_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let token = state.token().unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(mode(state.path("token")), 0o600);
        fs::set_permissions(state.path("token"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(state.token().unwrap(), token);
        assert_eq!(mode(state.path("token")), 0o600);
        for bad in ["", "short", &format!("{}\u{e4}", "x".repeat(40))] {
            fs::write(state.path("token"), bad).unwrap();
            assert!(matches!(state.token(), Err(StateError::Token(_))), "{bad}");
        }
    }

    #[test]
    fn what_a_killed_service_was_writing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path()).unwrap());
        // As `write_atomic` makes them, and dies.
        for at in [dir.path().to_owned(), dir.path().join("imports")] {
            let half = tempfile::NamedTempFile::new_in(at).unwrap();
            half.keep().unwrap();
        }
        let state = StateDir::open(dir.path()).unwrap();
        for at in [state.root().to_owned(), state.path("imports")] {
            let names = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name());
            let left: Vec<_> = names
                .filter(|name| name.to_string_lossy().starts_with('.'))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[test]
    fn what_a_newer_chalk_wrote_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "2\n").unwrap();
        let half = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        let (_, half) = half.keep().unwrap();
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(matches!(
            error,
            StateError::Version(LayoutVersionError::Newer { found: 2, .. })
        ));
        assert!(half.exists());
        assert!(!dir.path().join("builds").exists());
    }

    #[test]
    fn a_directory_that_says_nothing_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path()).unwrap());
        let marked = || fs::read_to_string(dir.path().join("version"));
        assert_eq!(marked().unwrap(), "1\n");
        fs::remove_file(dir.path().join("version")).unwrap();
        drop(StateDir::open(dir.path()).unwrap());
        assert_eq!(marked().unwrap(), "1\n");
    }

    #[test]
    fn root_keeps_off_the_directory_of_another_users_service() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path()).unwrap());
        let give = |uid: u32| {
            std::os::unix::fs::chown(dir.path().join("version"), Some(uid), None).unwrap();
        };
        give(1000);
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Foreign { owner: 1000, .. }));
        give(NOBODY);
        StateDir::open(dir.path()).unwrap();

        // Before that service has started for the first time.
        fs::remove_file(dir.path().join("version")).unwrap();
        let give = |uid: u32| std::os::unix::fs::chown(dir.path(), Some(uid), None).unwrap();
        give(999);
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Foreign { owner: 999, .. }));
        // A person's own, by sudo.
        give(1000);
        StateDir::open(dir.path()).unwrap();
    }
}
