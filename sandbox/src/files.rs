//! Files of a running sandbox, read and written from outside of it.
//!
//! Neither happens by a path of the host: a process of ours enters the sandbox as a further command
//! does, with the same root, user, capabilities and filter, and opens the file there. So no symbolic
//! link leads out, the user may not do more than by a command, and the root needs no program.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::SandboxError;
use crate::exec::ExecSpec;
use crate::input::Input;
use crate::run::{Handle, Running};
use crate::spec::{Stdin, User, absolute, invalid, no_nul};

/// Longest piece of a file on the way in, in bytes.
pub(crate) const MAX_PIECE: usize = 1 << 20;

/// What to do with a file. Paths are those inside; a relative one begins at the working directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileWork {
    /// Reads a regular file; its bytes are the standard output.
    Read {
        /// The file.
        path: String,
    },
    /// Writes a regular file, which stands under its name when it is whole, in place of one that
    /// stood there. The bytes are given through [`FileInput`].
    Write {
        /// The file; its directory must be there. A symbolic link is followed.
        path: String,
        /// Permission bits; those of the file that stands there, else `0644`, when `None`.
        mode: Option<u32>,
    },
}

impl FileWork {
    fn validate(&self) -> Result<(), SandboxError> {
        let (Self::Read { path } | Self::Write { path, .. }) = self;
        if path.is_empty() {
            return Err(invalid("path", "no file is named"));
        }
        no_nul("path", path)?;
        match self {
            Self::Write {
                mode: Some(mode), ..
            } if mode & !0o7777 != 0 => {
                Err(invalid("mode", format!("{mode:o} has bits beyond 7777")))
            }
            _ => Ok(()),
        }
    }
}

/// The bytes of a file on the way in.
#[derive(Debug)]
pub struct FileInput(Input);

impl FileInput {
    /// Writes through the input of a [`FileWork::Write`].
    pub fn new(input: Input) -> FileInput {
        FileInput(input)
    }

    /// Writes the next bytes; done when the kernel has taken them.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when they cannot be written; [`Running::wait`] says why.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_PIECE) {
            let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
            self.0.write(&length.to_le_bytes()).await?;
            self.0.write(piece).await?;
        }
        Ok(())
    }

    /// Says that the file is whole. Without, dropping this leaves the file as it was: the end of a
    /// stream does not tell whether its writer was done, or died.
    ///
    /// # Errors
    /// As [`FileInput::write`].
    pub async fn commit(mut self) -> io::Result<()> {
        self.0.write(&0_u32.to_le_bytes()).await?;
        self.0.close().await
    }
}

impl Handle {
    /// Reads or writes a file in the sandbox as `user` from the working directory `cwd`; waits until
    /// the sandbox's own command has been executed. [`Handle::started`] of what is given tells
    /// whether the file could be opened.
    ///
    /// # Errors
    /// [`SandboxError::Ended`] when the sandbox is over, and those of [`Running::start`];
    /// [`SandboxError::File`] comes from [`Running::wait`].
    pub async fn file(
        &self,
        work: FileWork,
        cwd: &Path,
        user: User,
    ) -> Result<Running, SandboxError> {
        work.validate()?;
        absolute("cwd", cwd)?;
        let mut spec = ExecSpec::new([""; 0]);
        spec.cwd = cwd.to_owned();
        spec.user = user;
        if matches!(work, FileWork::Write { .. }) {
            spec.stdin = Stdin::Stream;
        }
        self.start_inside(&spec, Some(work)).await
    }
}
