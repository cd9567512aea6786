//! Whose ids the engine's files have.
//!
//! Layer directories and caches hold files of many owners. In a user namespace these are other ids
//! on the disk than root's, and marks of overlayfs have other names; neither could make sense of
//! what the other left, so a directory belongs to the one that used it first.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::OnceLock;

use chalk_sandbox::userns;
use chalk_store::layer::OverlayAttrs;

use crate::engine::EngineError;
use crate::state::write_atomic;

/// Name of the file that says how ids within are ids on the disk.
const FILE: &str = "ids";

/// Where overlays of this process keep their marks.
pub(in crate::engine) fn overlay_attrs() -> OverlayAttrs {
    static ATTRS: OnceLock<OverlayAttrs> = OnceLock::new();
    *ATTRS.get_or_init(|| OverlayAttrs::by_root(userns::inside()))
}

/// Takes an engine's directory for the ids of this process.
///
/// # Errors
/// When it is taken for others, and when it cannot be read or written.
pub(in crate::engine) fn claim(dir: &Path) -> Result<(), EngineError> {
    // Who is no root gives files to nobody.
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let map = userns::map().map_err(|e| failed(dir, e.to_string()))?;
    claim_for(dir, &map)
}

fn claim_for(dir: &Path, map: &str) -> Result<(), EngineError> {
    let file = dir.join(FILE);
    match fs::read_to_string(&file) {
        Ok(found) if found.trim() == map => Ok(()),
        Ok(found) => Err(failed(
            dir,
            format!(
                "its files are those of a service with other user ids ({}; now {map}): one that ran as another user, or before /etc/subuid or /etc/subgid changed. Set `state.dir` (--state) to another directory, or remove this one as root",
                found.trim()
            ),
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write_atomic(&file, format!("{map}\n").as_bytes())
                .map_err(|e| failed(&file, e.to_string()))
        }
        Err(error) => Err(failed(&file, error.to_string())),
    }
}

fn failed(path: &Path, cause: String) -> EngineError {
    EngineError::Storage {
        doing: format!("use {}", path.display()),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_one_map_of_ids() {
        let temp = tempfile::tempdir().unwrap();
        let (root, ann) = ("uids 0 0 4294967295", "uids 0 1000 1 1 100000 65536");
        claim_for(temp.path(), ann).unwrap();
        claim_for(temp.path(), ann).unwrap();
        let error = claim_for(temp.path(), root).unwrap_err().to_string();
        for words in ["100000 65536", "`state.dir`", "/etc/subuid"] {
            assert!(error.contains(words), "{error}");
        }
        claim_for(temp.path(), ann).unwrap();
    }
}
