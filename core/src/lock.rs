//! `image.lock`: which digests the bases of an image were pinned to.
//!
//! ```toml
//! version = 1
//!
//! [[base]]
//! ref = "docker.io/library/python:3.12-slim-bookworm"
//! platform = "linux/amd64"
//! digest = "sha256:…"
//! ```

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{ErrorCode, Fault, SpecError};
use crate::input::Node;
use crate::spec::check;
use crate::{Digest, Platform, Reference, Spec};

/// The digests of tags, per platform.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lock {
    bases: BTreeMap<(Reference, Platform), Digest>,
}

impl Lock {
    /// Every pinned base of a spec.
    pub fn of(spec: &Spec) -> Self {
        let pinned = spec.base_images().into_iter().filter_map(|image| {
            let platform = image.platform.as_ref().unwrap_or(&spec.platform);
            Some(((image.reference.clone(), platform.clone()), image.digest?))
        });
        Self {
            bases: pinned.collect(),
        }
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// When the text is no sound lock file; the error names field, line and column.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let root = Node::from_toml(text)?;
        read(&root).map_err(|fault| root.locate(fault, text))
    }

    /// Pins every base of a spec that is not pinned and that the lock file knows. Says how many it
    /// pinned.
    pub fn apply(&self, spec: &mut Spec) -> usize {
        let whole = spec.platform.clone();
        let mut count = 0;
        for image in spec.base_images_mut() {
            let platform = image.platform.as_ref().unwrap_or(&whole).clone();
            if image.digest.is_none() {
                image.digest = self
                    .bases
                    .get(&(image.reference.clone(), platform))
                    .copied();
                count += usize::from(image.digest.is_some());
            }
        }
        count
    }
}

impl fmt::Display for Lock {
    /// The text of the lock file, sorted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by `chalk compute image lock`.")?;
        writeln!(f, "version = 1")?;
        for ((reference, platform), digest) in &self.bases {
            // None of the three can hold a character that TOML would want escaped.
            writeln!(
                f,
                "\n[[base]]\nref = \"{reference}\"\nplatform = \"{platform}\""
            )?;
            writeln!(f, "digest = \"{digest}\"")?;
        }
        Ok(())
    }
}

fn read(root: &Node) -> Result<Lock, Fault> {
    let fields = root.fields(&["version", "base"])?;
    fields.need("version", |node| match node.number()? {
        1 => Ok(()),
        other => {
            let fault = Fault::new(
                ErrorCode::Value,
                format_args!("version {other} is not known here"),
            );
            Err(fault.hint("lock the image again"))
        }
    })?;
    let mut lock = Lock::default();
    fields.read("base", |node| {
        crate::error::each(node.list()?, |node| {
            let fields = node.fields(&["ref", "platform", "digest"])?;
            let image = fields.need("ref", |node| check::base_image(node.text()?))?;
            let platform = fields.need("platform", |node| check::platform(node.text()?))?;
            let digest = fields.need("digest", |node| check::digest(node.text()?))?;
            let old = lock.bases.insert((image.reference, platform), digest);
            if old.is_some_and(|old| old != digest) {
                let fault = Fault::new(ErrorCode::Conflict, "the same base stands twice");
                return Err(fault.hint("lock the image again").in_field("ref"));
            }
            Ok(())
        })
    })?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::source::MemoryFiles;

    #[test]
    fn pins_prints_and_reads_back() {
        let digest = Digest::of(b"base");
        let mut spec = Image::base("python:3.12")
            .resolve(&MemoryFiles::new())
            .unwrap()
            .spec;
        assert_eq!(Lock::of(&spec), Lock::default());
        let text = format!(
            "version = 1\n[[base]]\nref = \"python:3.12\"\nplatform = \"linux/amd64\"\n\
             digest = \"{digest}\"\n"
        );
        let lock = Lock::parse(&text).unwrap();
        let recipe = spec.recipe_hash();
        assert_eq!(lock.apply(&mut spec), 1);
        assert_eq!(lock.apply(&mut spec), 0);
        assert_eq!(spec.base_images()[0].digest, Some(digest));
        assert_eq!(spec.recipe_hash(), recipe);
        assert!(spec.image_hash().is_some());
        assert_eq!(Lock::of(&spec), lock);
        assert_eq!(Lock::parse(&lock.to_string()), Ok(lock.clone()));
        let mut arm = Image::base("python:3.12").platform("linux/arm64");
        arm = arm.name("x");
        let mut arm = arm.resolve(&MemoryFiles::new()).unwrap().spec;
        assert_eq!(lock.apply(&mut arm), 0);
    }

    #[test]
    fn names_the_place_of_an_error() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Lock::parse(text).unwrap_err().to_string(), expect);
        };
        check(
            "version = 2",
            "1:1: version: version 2 is not known here; lock the image again",
        );
        check("", "1:1: `version` is missing");
        check(
            "version = 1\n[[base]]\nref = \"a\"\nplatform = \"linux/amd64\"\ndigest = \"x\"",
            "5:1: base[0].digest: `x` is not a digest: expected `sha256:` and 64 lower-case hex digits",
        );
    }
}
