//! Declarations on disk: `image.toml`, Dockerfiles and spec JSON, with their lock files.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use chalk_core::declaration::{Content, Declaration, FileKind};
use chalk_core::error::SpecErrors;
use chalk_core::image::DockerfileOptions;
use chalk_core::lock::Lock;
use chalk_core::upload::Contents;
use chalk_core::{Digest, Image, Spec};
use chalk_store::tree::LocalFiles;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::cli::{self, DockerfileFlags};
use crate::commands::images;
use crate::connect::Server;
use crate::error::Failure;

/// Largest declaration that is read.
const LIMIT: u64 = 16 << 20;

/// Files that a directory is looked through for, when it is named as a declaration.
const NAMES: [&str; 4] = ["image.toml", "Dockerfile", "Containerfile", "image.json"];

/// A declaration with every local file hashed.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) spec: Spec,
    pub(crate) uploads: BTreeMap<Digest, Upload>,
    pub(crate) warnings: Vec<String>,
    /// Where the lock file of this declaration lies.
    pub(crate) lock: PathBuf,
}

/// A blob that the service may ask for.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) size: u64,
    pub(crate) from: UploadFrom,
}

/// Where the bytes of an [`Upload`] are.
#[derive(Debug)]
pub(crate) enum UploadFrom {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What a word of the command line means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    File(PathBuf),
    /// Hash prefix or name of an image.
    Image(String),
}

/// A word is a file when there is one, or when it can be nothing else.
pub(crate) fn subject(word: &str) -> Subject {
    let path = Path::new(word);
    let looks_like_path = word == "-"
        || word.starts_with(['.', '/'])
        || [".toml", ".json"].iter().any(|end| word.ends_with(end))
        || word.contains("ockerfile");
    if path.exists() || looks_like_path {
        Subject::File(path.to_owned())
    } else {
        Subject::Image(word.to_owned())
    }
}

/// Reads a declaration, its local files, and its lock file where there is one.
pub(crate) async fn read(file: &cli::File) -> Result<Declared, Failure> {
    let mut declared = read_unlocked(file).await?;
    if let Some(lock) = read_lock(&declared.lock)? {
        lock.apply(&mut declared.spec);
    }
    Ok(declared)
}

/// Reads a declaration and its local files.
pub(crate) async fn read_unlocked(file: &cli::File) -> Result<Declared, Failure> {
    let path = PathBuf::from(&file.file);
    let flags = file.dockerfile.clone();
    // A runtime of one thread has nothing else to do meanwhile.
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return read_now(&path, &flags);
    }
    let task = tokio::task::spawn_blocking(move || read_now(&path, &flags));
    task.await.map_err(|e| {
        Failure::new(
            chalk_core::wire::exit::FAILED,
            "reading the declaration broke off",
        )
        .why(e)
    })?
}

/// The declaration that a word means: of a file, or of an image that the service knows.
pub(crate) async fn read_subject(server: &Server, file: &cli::File) -> Result<Declared, Failure> {
    match subject(&file.file) {
        Subject::File(_) => read(file).await,
        Subject::Image(id) => Ok(Declared {
            spec: images::find(server, &id).await?.spec,
            uploads: BTreeMap::new(),
            warnings: Vec::new(),
            lock: PathBuf::from("image.lock"),
        }),
    }
}

fn read_now(path: &Path, flags: &DockerfileFlags) -> Result<Declared, Failure> {
    let path = &find(path)?;
    let stdin = path == Path::new("-");
    let (name, directory) = if stdin {
        ("-".to_owned(), PathBuf::from("."))
    } else {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Failure::usage(format!("{} is no file name in UTF-8", path.display()))
        })?;
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        (name.to_owned(), directory)
    };
    let bytes = contents(path, stdin)?;
    let shown = if stdin {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let files = LocalFiles::new(&directory);
    let bad = |errors: SpecErrors| bad_declaration(&shown, &name, &directory, errors);
    let resolved = match FileKind::of(&name, &String::from_utf8_lossy(&bytes)) {
        FileKind::Dockerfile => dockerfile(&name, stdin, &bytes, flags)?
            .resolve(&files)
            .map_err(bad)?,
        _ => {
            let declaration = Declaration::read(&name, &bytes).map_err(bad)?;
            for (flag, given) in [
                ("--build-arg", !flags.build_args.is_empty()),
                ("--target", flags.target.is_some()),
                ("--context", flags.context.is_some()),
            ] {
                if given {
                    return Err(Failure::usage(format!("{flag} is for a Dockerfile")).hint(
                        "in image.toml write `dockerfile = { path = …, args = …, target = … }`",
                    ));
                }
            }
            match (&flags.platform, declaration.content()) {
                (None, _) => declaration.resolve(&files).map_err(bad)?,
                (Some(platform), Content::Image(image)) => {
                    image.platform(platform).resolve(&files).map_err(bad)?
                }
                (Some(_), Content::Spec(_)) => {
                    return Err(Failure::usage("--platform cannot change a finished spec")
                        .hint("set the platform in the declaration that the spec was made from"));
                }
            }
        }
    };
    let uploads = resolved.uploads.into_iter().map(|upload| {
        let from = match upload.contents {
            Contents::Bytes(bytes) => UploadFrom::Bytes(bytes),
            Contents::File(path) => UploadFrom::File(files.locate(&path)),
        };
        (
            upload.digest,
            Upload {
                size: upload.size,
                from,
            },
        )
    });
    Ok(Declared {
        spec: resolved.spec,
        uploads: uploads.collect(),
        warnings: resolved.warnings.iter().map(ToString::to_string).collect(),
        lock: directory.join("image.lock"),
    })
}

/// A directory stands for the declaration in it.
pub(crate) fn find(path: &Path) -> Result<PathBuf, Failure> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = NAMES
        .iter()
        .map(|name| path.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::usage(format!("{} holds no declaration", path.display())).hint(format!(
            "name the file, or put one of {} there",
            NAMES.join(", ")
        ))
    })
}

fn contents(path: &Path, stdin: bool) -> Result<Vec<u8>, Failure> {
    let cannot = |e: io::Error| {
        Failure::usage(format!("cannot read {}", path.display()))
            .why(if e.kind() == io::ErrorKind::NotFound {
                "no such file".into()
            } else {
                e.to_string()
            })
            .hint("give an image.toml, a Dockerfile, a spec in JSON, or the hash of an image")
    };
    let mut bytes = Vec::new();
    if stdin {
        io::stdin()
            .lock()
            .take(LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
    }
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::usage(format!(
            "{} is larger than 16 MiB",
            path.display()
        )));
    }
    Ok(bytes)
}

fn dockerfile(
    name: &str,
    stdin: bool,
    bytes: &[u8],
    flags: &DockerfileFlags,
) -> Result<Image, Failure> {
    let mut options = DockerfileOptions::new();
    match &flags.context {
        None => options = options.context("."),
        Some(context) => {
            let absolute =
                std::path::absolute(context).map_err(|e| Failure::usage("bad --context").why(e))?;
            let text = absolute
                .to_str()
                .ok_or_else(|| Failure::usage("--context is not UTF-8"))?;
            options = options.context(text);
        }
    }
    for argument in &flags.build_args {
        // As `docker build` does: a name alone takes its value from the environment, if set.
        options = match argument.split_once('=') {
            Some((name, value)) => options.arg(name, value),
            None => match std::env::var(argument) {
                Ok(value) => options.arg(argument, value),
                Err(_) => options,
            },
        };
    }
    if let Some(target) = &flags.target {
        options = options.target(target);
    }
    let image = if stdin {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Failure::usage("standard input is not UTF-8 text").why(e))?;
        Image::from_dockerfile_with(text, options)
    } else {
        Image::from_dockerfile_path(name, options)
    };
    Ok(match &flags.platform {
        Some(platform) => image.platform(platform),
        None => image,
    })
}

/// The failure for the errors of the declaration `name` in `directory`, shown as `shown`.
fn bad_declaration(shown: &str, name: &str, directory: &Path, mut errors: SpecErrors) -> Failure {
    for error in &mut errors.0 {
        // A file that the declaration names, such as a requirements file, lies relative to it.
        error.file = Some(match error.file.take() {
            Some(file) if file != name => directory.join(file).display().to_string(),
            _ => shown.to_owned(),
        });
    }
    let count = errors.0.len();
    let what = if count == 1 {
        "bad declaration".to_owned()
    } else {
        format!("bad declaration: {count} errors")
    };
    Failure::usage(what).why(errors)
}

/// The lock file beside a declaration, if there is one.
pub(crate) fn read_lock(path: &Path) -> Result<Option<Lock>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::usage(format!("cannot read {}", path.display())).why(e)),
    };
    Lock::parse(&text).map(Some).map_err(|mut error| {
        error.file = Some(path.display().to_string());
        Failure::usage("bad lock file")
            .why(error)
            .hint("write it anew with `chalk compute image lock FILE --update`")
    })
}

/// Writes a lock file whole: a reader sees the old one or the new one.
pub(crate) fn write_lock(path: &Path, lock: &Lock) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(lock.to_string().as_bytes())?;
        file.as_file()
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|e| Failure::usage(format!("cannot write {}", path.display())).why(e))
}

/// Says on standard error what is probably not meant.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_files_or_images() {
        let file = |word: &str| Subject::File(PathBuf::from(word));
        let image = |word: &str| Subject::Image(word.to_owned());
        assert_eq!(subject("/etc/hosts"), file("/etc/hosts"));
        assert_eq!(subject("./absent"), file("./absent"));
        assert_eq!(subject("absent.toml"), file("absent.toml"));
        assert_eq!(subject("web.Dockerfile"), file("web.Dockerfile"));
        assert_eq!(subject("3f2a9c01"), image("3f2a9c01"));
        assert_eq!(subject("team/app:v1"), image("team/app:v1"));
    }
}
