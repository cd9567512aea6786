//! Documents that are kept with a build, in its directory.

use std::io;
use std::sync::Arc;

use super::{Builds, BuildsError, blocking};
use crate::state::write_atomic;

impl Builds {
    /// Keeps a document with a build, until the build is forgotten; the first one stays.
    ///
    /// # Errors
    /// When the build has no directory, or the disk fails.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        id: &str,
        name: &'static str,
        bytes: Vec<u8>,
    ) -> Result<(), BuildsError> {
        let path = self.build_dir(id).join(name);
        blocking(move || {
            if path.exists() {
                return Ok(());
            }
            Ok(write_atomic(&path, &bytes)?)
        })
        .await
    }

    /// A document that was kept with a build.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn attached(
        self: &Arc<Self>,
        id: &str,
        name: &'static str,
    ) -> Result<Option<Vec<u8>>, BuildsError> {
        let path = self.build_dir(id).join(name);
        blocking(move || match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BuildsError::Io {
                action: "read",
                path,
                source,
            }),
        })
        .await
    }
}
