//! The image that a word means where one is needed that exists: hash, name, reference or
//! declaration.

use chalk_core::wire::exit;

use super::declare;
use crate::cli::{self, DockerfileFlags};
use crate::connect::Server;
use crate::declaration::{self, Declared, Subject};
use crate::error::Failure;

/// An image.
pub(super) struct Chosen {
    /// What the service knows it by.
    pub(super) id: String,
    /// Its declaration, where it was named by that.
    pub(super) declared: Option<Declared>,
}

/// The image of a word. Of a declaration the hash is computed as `build` does, and the image must
/// have been built.
pub(super) async fn image(
    server: &Server,
    word: &str,
    flags: &DockerfileFlags,
) -> Result<Chosen, Failure> {
    let Subject::File(path) = declaration::subject(word) else {
        return Ok(Chosen {
            id: word.to_owned(),
            declared: None,
        });
    };
    let file = cli::File {
        file: path.display().to_string(),
        dockerfile: flags.clone(),
    };
    let mut declared = declaration::read(&file).await?;
    let hash = match declared.spec.image_hash() {
        Some(hash) => hash,
        None => {
            let resolved = declare::resolve(server, &declared.spec).await?;
            declared.spec = resolved.spec;
            resolved.image_hash
        }
    };
    match super::images::find(server, &hash.to_string()).await {
        Ok(_) => {}
        Err(failure) if failure.code == exit::NOT_FOUND => {
            return Err(failure.hint(format!("build it: `chalk compute image build {word}`")));
        }
        Err(failure) => return Err(failure),
    }
    Ok(Chosen {
        id: hash.to_string(),
        declared: Some(declared),
    })
}
