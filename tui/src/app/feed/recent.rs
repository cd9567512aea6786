//! Declarations that were worked on, newest first, in the XDG state directory.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Files that are remembered.
const KEPT: usize = 20;

fn place() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = set("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
        let home = set("HOME")?;
        Some(PathBuf::from(home).join(".local/state"))
    })?;
    Some(directory.join("chalk/recent"))
}

/// What is remembered; nothing where nothing can be read.
pub(crate) fn load() -> Vec<PathBuf> {
    let text = place().and_then(|path| std::fs::read_to_string(path).ok());
    let lines = text.unwrap_or_default();
    lines.lines().map(PathBuf::from).take(KEPT).collect()
}

/// Remembers a file, as a convenience: where that cannot be, nothing is lost.
pub(super) fn remember(path: PathBuf) {
    tokio::task::spawn_blocking(move || {
        let (Ok(path), Some(place)) = (std::path::absolute(path), place()) else {
            return;
        };
        let _ = write(&path, &place);
    });
}

fn write(path: &Path, place: &Path) -> std::io::Result<()> {
    let mut paths = load();
    if paths.first().is_some_and(|first| first == path) {
        return Ok(());
    }
    paths.retain(|other| other != path);
    paths.insert(0, path.to_owned());
    paths.truncate(KEPT);
    let directory = place.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    for path in paths {
        // A name with an end of line in it would be two.
        if let Some(text) = path.to_str().filter(|text| !text.contains('\n')) {
            writeln!(file, "{text}")?;
        }
    }
    file.persist(place).map_err(|e| e.error)?;
    Ok(())
}
