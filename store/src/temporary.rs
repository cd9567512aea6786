//! Files on their way in that lie beside their places, and what a process that died left of them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// How their names begin: that of the crate `tempfile`.
const BEGIN: &str = ".tmp";

/// Removes from a directory, not from those below it, what a process that died left of files on
/// their way in. Nobody else may be writing there.
///
/// # Errors
/// When the file system refuses.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(BEGIN.as_bytes()) {
            continue;
        }
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_on_its_way_goes() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        for at in [dir.path(), &below] {
            tempfile::NamedTempFile::new_in(at).unwrap().keep().unwrap();
        }
        let half = tempfile::tempdir_in(dir.path()).unwrap().keep();
        fs::write(half.join("file"), "x").unwrap();
        fs::write(dir.path().join("whole"), "x").unwrap();
        sweep(dir.path()).unwrap();
        let names = |at: &Path| {
            let names = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name());
            let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(dir.path()), ["below", "whole"]);
        assert_eq!(names(&below).len(), 1);
        assert!(sweep(&dir.path().join("none")).is_err());
    }
}
