//! How long each frame took, for `cargo xtask bench`: from outside, nobody can tell the drawing of a
//! frame from what the app did before it.

use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The variable that names the file.
const FILE: &str = "CHALK_APP_FRAMES";

/// The frames so far, kept in memory so that writing them down takes no time of any frame.
pub(super) struct Frames {
    file: PathBuf,
    /// When each began, since the epoch, and how long it took.
    frames: Vec<(Duration, Duration)>,
}

impl Frames {
    /// Where they are asked for.
    pub(super) fn wanted() -> Option<Self> {
        let file = std::env::var_os(FILE).filter(|file| !file.is_empty())?;
        Some(Self {
            file: file.into(),
            frames: Vec::new(),
        })
    }

    /// Notes a frame that ends now: model to cells, difference to the last one, and the writing of
    /// it to the terminal.
    pub(super) fn note(&mut self, began: Instant) {
        let took = began.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.frames
            .push((now.unwrap_or_default().saturating_sub(took), took));
    }

    /// Writes them down, one a line: microseconds of the epoch at its begin, and those it took.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut out = BufWriter::new(std::fs::File::create(&self.file)?);
        for (began, took) in &self.frames {
            writeln!(out, "{} {}", began.as_micros(), took.as_micros())?;
        }
        out.flush()
    }
}
