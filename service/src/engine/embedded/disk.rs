//! What directories take on the disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes on the disk of all below a path, a file with several names once; as far as it can be read.
/// Links are not followed. Blocks.
pub(super) fn tree_bytes(path: &Path) -> u64 {
    let (mut total, mut seen) = (0, HashSet::new());
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
            total += meta.blocks() * 512;
        }
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let before = tree_bytes(dir.path());
        let file = dir.path().join("below/file");
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let grown = tree_bytes(dir.path()) - before;
        assert!((1 << 20..1 << 21).contains(&grown), "{grown}");
        assert_eq!(tree_bytes(&dir.path().join("none")), 0);
    }
}
