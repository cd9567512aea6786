//! The number by which a directory says which layout it has, so that no program takes what a later one
//! wrote for its own.
//!
//! It stands in the file `version`, and is looked at before anything else of the directory is touched. A
//! layout gets another number only when an older program would misread or lose what a newer one wrote; the
//! newer one then brings directories of all numbers before into its own.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::failpoint::{Step, around};

/// Name of the file.
const FILE: &str = "version";

/// Why a directory is not for this program.
#[derive(Debug, thiserror::Error)]
pub enum LayoutVersionError {
    /// A newer program wrote it.
    #[error(
        "{} was written by a newer chalk (layout {found}, this one knows {known}): upgrade, or choose another directory",
        dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Number of its layout.
        found: u32,
        /// Newest layout that this program knows.
        known: u32,
    },
    /// The file holds no number of a layout.
    #[error(
        "{} holds `{found}`, which is no version of a layout: write the number into it that was there, or choose another directory",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// How it begins.
        found: String,
    },
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

/// The number of a directory's layout; `None` where nothing says it. Changes nothing.
///
/// # Errors
/// When it is newer than `known`, or cannot be read.
pub fn read(dir: &Path, known: u32) -> Result<Option<u32>, LayoutVersionError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LayoutVersionError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    match text.trim().parse::<u32>() {
        Ok(found) if (1..=known).contains(&found) => Ok(Some(found)),
        Ok(found) if found > known => Err(LayoutVersionError::Newer {
            dir: dir.to_owned(),
            found,
            known,
        }),
        _ => Err(LayoutVersionError::Unknown {
            path,
            found: text.trim().chars().take(20).collect(),
        }),
    }
}

/// Writes the number of a directory's layout, durably.
///
/// # Errors
/// When the file system refuses.
pub fn write(dir: &Path, version: u32) -> Result<(), LayoutVersionError> {
    let path = dir.join(FILE);
    let put = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        writeln!(file, "{version}")?;
        around(Step::StateSync, || file.as_file().sync_all())?;
        around(Step::StateRename, || file.persist(&path))?;
        around(Step::StateSyncDir, || File::open(dir)?.sync_all())
    };
    put().map_err(|source| LayoutVersionError::Io {
        action: "write",
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_taken() {
        let check = |text: &str, expect: Result<u32, &str>| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let found = read(dir.path(), 2).map_err(|e| e.to_string());
            match expect {
                Ok(number) => assert_eq!(found.unwrap(), Some(number), "{text:?}"),
                Err(words) => {
                    let error = found.unwrap_err();
                    assert!(error.contains(words), "{text:?}: {error}");
                }
            }
            // Reading changes nothing.
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        };
        check("1\n", Ok(1));
        check("2", Ok(2));
        check("3\n", Err("newer chalk (layout 3, this one knows 2)"));
        check("0\n", Err("`0`, which is no version"));
        check("", Err("``, which is no version"));
        check("one", Err("`one`, which is no version"));
        check("99999999999999999999", Err("is no version"));
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), 7).unwrap(), None);
        write(dir.path(), 7).unwrap();
        assert_eq!(read(dir.path(), 7).unwrap(), Some(7));
        write(dir.path(), 8).unwrap();
        assert!(matches!(
            read(dir.path(), 7),
            Err(LayoutVersionError::Newer { found: 8, .. })
        ));
    }
}
