//! Files and directories that a sandbox gets over its image: those that its declaration mounts, and
//! those of `--mount`. They are read by the rules of copies, by `core`'s own code: a mount is what a
//! copy of the same files at the same place would be.

use std::collections::BTreeMap;
use std::path::Path;

use chalk_core::error::SpecErrors;
use chalk_core::image::{LocalOptions, Strategy};
use chalk_core::spec::{Mount, StepKind};
use chalk_core::upload::Contents;
use chalk_core::wire::{MountSource, SandboxMount, exit};
use chalk_core::{Digest, Image};
use chalk_store::tree::LocalFiles;

use crate::declaration::{Declared, Upload, UploadFrom};
use crate::error::Failure;

/// Mounts with their contents by digest.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<SandboxMount>,
    pub(super) uploads: BTreeMap<Digest, Upload>,
}

/// A `--mount` flag.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    src: String,
    dest: String,
    writable: bool,
}

/// Reads what the declaration mounts, and what the flags say.
pub(super) async fn read(declared: Option<&Declared>, flags: &[String]) -> Result<Mounts, Failure> {
    let flags: Vec<Flag> = flags.iter().map(|f| flag(f)).collect::<Result<_, _>>()?;
    let from_declaration = declared.map(|declared| {
        let directory = declared.lock.parent().unwrap_or(Path::new("."));
        (directory.to_owned(), declared.spec.mounts.clone())
    });
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Mounts::default();
        if let Some((directory, mounts)) = &from_declaration {
            let mounts: Vec<(&Mount, bool)> = mounts.iter().map(|mount| (mount, false)).collect();
            all.add(directory, &mounts)?;
        }
        let mounts: Vec<Mount> = flags.iter().map(Flag::mount).collect();
        let with_flags = mounts.iter().zip(flags.iter().map(|flag| flag.writable));
        all.add(Path::new("."), &with_flags.collect::<Vec<_>>())?;
        Ok(all)
    });
    reading
        .await
        .map_err(|e| Failure::new(exit::FAILED, "reading the mounted files broke off").why(e))?
}

impl Mounts {
    fn add(&mut self, directory: &Path, mounts: &[(&Mount, bool)]) -> Result<(), Failure> {
        if mounts.is_empty() {
            return Ok(());
        }
        let files = LocalFiles::new(directory);
        let mut copies = Image::base("scratch");
        for (mount, _) in mounts {
            copies = if mount.dir {
                let options = LocalOptions::from(Strategy::Copy);
                let options = mount.exclude.iter().fold(options, LocalOptions::exclude);
                copies.add_local_dir(&mount.src, &mount.dest, options)
            } else {
                copies.add_local_file(&mount.src, &mount.dest, Strategy::Copy)
            };
        }
        let resolved = copies
            .resolve(&files)
            .map_err(|errors| unreadable(errors, mounts))?;
        for (step, (_, writable)) in resolved.spec.steps.iter().zip(mounts) {
            let (dest, source) = match &step.kind {
                StepKind::AddFile { dest, digest, mode } => {
                    let executable = mode & 0o100 != 0;
                    let digest = *digest;
                    (dest, MountSource::File { digest, executable })
                }
                StepKind::AddDir { dest, digest } => (dest, MountSource::Dir { digest: *digest }),
                other => {
                    let what = format!("a mount became a step `{}`", other.word());
                    return Err(Failure::new(exit::FAILED, what));
                }
            };
            self.mounts.push(SandboxMount {
                dest: dest.clone(),
                source,
                writable: *writable,
            });
        }
        for upload in resolved.uploads {
            let from = match upload.contents {
                Contents::Bytes(bytes) => UploadFrom::Bytes(bytes),
                Contents::File(path) => UploadFrom::File(files.locate(&path)),
            };
            let size = upload.size;
            self.uploads.insert(upload.digest, Upload { size, from });
        }
        Ok(())
    }
}

fn unreadable(mut errors: SpecErrors, mounts: &[(&Mount, bool)]) -> Failure {
    for error in &mut errors.0 {
        error.file = None;
    }
    let list: Vec<String> = mounts
        .iter()
        .map(|(mount, _)| format!("{}:{}", mount.src, mount.dest))
        .collect();
    Failure::usage(format!("cannot mount {}", list.join(", "))).why(errors)
}

impl Flag {
    fn mount(&self) -> Mount {
        Mount {
            src: self.src.clone(),
            dest: self.dest.clone(),
            dir: Path::new(&self.src).is_dir(),
            exclude: Vec::new(),
            after: 0,
        }
    }
}

fn flag(text: &str) -> Result<Flag, Failure> {
    let wrong = |why: &str| {
        Err(Failure::usage(format!("--mount: `{text}` {why}"))
            .hint("write SRC:DEST, or SRC:DEST:rw for a mount that can be changed from inside"))
    };
    let (rest, writable) = if let Some(rest) = text.strip_suffix(":rw") {
        (rest, true)
    } else {
        (text.strip_suffix(":ro").unwrap_or(text), false)
    };
    let Some((src, dest)) = rest.rsplit_once(':') else {
        return wrong("is not SRC:DEST");
    };
    if src.is_empty() || !dest.starts_with('/') {
        return wrong("needs a source and an absolute destination");
    }
    Ok(Flag {
        src: src.to_owned(),
        dest: dest.to_owned(),
        writable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let check = |text: &str, expect: Option<(&str, &str, bool)>| {
            let got = flag(text).ok();
            let got = got.as_ref().map(|f| (&f.src[..], &f.dest[..], f.writable));
            assert_eq!(got, expect, "{text}");
        };
        check("a:/b", Some(("a", "/b", false)));
        check("a:/b:ro", Some(("a", "/b", false)));
        check("a:/b:rw", Some(("a", "/b", true)));
        check("c:d:/b", Some(("c:d", "/b", false)));
        for bad in ["a", ":/b", "a:b", "a:", ":rw", "a:rw"] {
            check(bad, None);
        }
    }

    #[tokio::test]
    async fn contents_are_read_as_copies_are() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let src = dir.path().join("src");
        std::fs::create_dir(&src).unwrap();
        std::fs::write(src.join("run.sh"), "#!/bin/sh\n").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(src.join("run.sh"), mode).unwrap();
        std::fs::write(src.join(".gitignore"), "*.log\n").unwrap();
        std::fs::write(src.join("a.log"), "x").unwrap();
        std::os::unix::fs::symlink("run.sh", src.join("link")).unwrap();
        let flags = [
            format!("{}:/app/src", src.display()),
            format!("{}:/app/:rw", src.join("run.sh").display()),
        ];
        let read = read(None, &flags).await.unwrap();
        let file = Digest::of(b"#!/bin/sh\n");
        assert_eq!(read.mounts[1].dest, "/app/run.sh");
        assert!(read.mounts[1].writable && !read.mounts[0].writable);
        let executable = true;
        let expect = MountSource::File {
            digest: file,
            executable,
        };
        assert_eq!(read.mounts[1].source, expect);
        assert!(!read.uploads.contains_key(&Digest::of(b"x")));
        let MountSource::Dir { digest } = read.mounts[0].source else {
            panic!("a directory");
        };
        let UploadFrom::Bytes(tree) = &read.uploads[&digest].from else {
            panic!("a tree");
        };
        let tree = String::from_utf8_lossy(tree);
        assert!(tree.contains(r#""target":"run.sh""#) && tree.contains(r#""mode":"0755""#));
    }
}
