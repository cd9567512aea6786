//! Whether something that was made of source files is still what they would make.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host;
use crate::run::{Failure, Result, at};

/// Folders that hold no source, wherever they lie.
const MADE: [&str; 2] = ["node_modules", "generated"];

/// What a product was made of: every file below its sources with size and time of change. Unlike a
/// comparison of times alone it notices files that went away.
pub(crate) struct Stamp {
    file: PathBuf,
    sources: String,
}

impl Stamp {
    /// Looks at the sources: files, and folders with all below them, as the workspace names them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn of(
        product: &str,
        sources: impl IntoIterator<Item = &'static str>,
    ) -> Result<Self> {
        let mut listing = String::new();
        for source in sources {
            list(&host::workspace().join(source), &mut listing)?;
        }
        Ok(Self {
            file: host::target().join("stamps").join(product),
            sources: listing,
        })
    }

    /// Whether the product was made of these very files.
    pub(crate) fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|made| made == self.sources)
    }

    /// Notes that the product is made of what the sources were when they were looked at.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub(crate) fn keep(&self) -> Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        fs::write(&self.file, &self.sources).map_err(at(&self.file))
    }
}

fn list(path: &Path, listing: &mut String) -> Result<()> {
    let data = path.metadata().map_err(at(path))?;
    if !data.is_dir() {
        let changed = data.modified().map_err(at(path))?;
        return writeln!(listing, "{} {} {changed:?}", path.display(), data.len())
            .map_err(|error| Failure::Other(error.to_string()));
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(at(path))? {
        paths.push(entry.map_err(at(path))?.path());
    }
    paths.sort();
    for path in paths {
        let made = path
            .file_name()
            .is_some_and(|name| MADE.iter().any(|made| name == *made));
        if !(made && path.is_dir()) {
            list(&path, listing)?;
        }
    }
    Ok(())
}
