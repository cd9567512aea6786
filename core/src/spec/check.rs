//! The rules for single values of a spec. Every way in (calls, TOML, JSON) goes through these.

use crate::error::{ErrorCode, Fault};
use crate::reference::{is_repository, is_tag};
use crate::spec::BaseImage;
use crate::{Digest, Platform, Reference};

/// Most steps of a spec, and most mounts.
pub const STEP_LIMIT: usize = 10_000;

/// Longest spec JSON without blanks, in bytes.
pub const DOCUMENT_LIMIT: usize = 8 << 20;

/// Longest argument or environment entry that Linux passes to a program (`MAX_ARG_STRLEN`, with
/// its final NUL).
const ARGUMENT_LIMIT: usize = 128 * 1024 - 1;

const PATH_LIMIT: usize = 4095;
const NAME_LIMIT: usize = 255;

fn no_nul(text: &str) -> Result<(), Fault> {
    if text.contains('\0') {
        return Err(Fault::new(ErrorCode::Value, "holds a NUL character").hint("remove it"));
    }
    Ok(())
}

fn argument(text: &str) -> Result<(), Fault> {
    no_nul(text)?;
    if text.len() > ARGUMENT_LIMIT {
        let message = format!(
            "{} bytes long; Linux passes at most {ARGUMENT_LIMIT}",
            text.len()
        );
        let hint = "put the text into a file and copy it in with `add_local_file`";
        return Err(Fault::new(ErrorCode::Limit, message).hint(hint));
    }
    Ok(())
}

/// A shell command.
pub(crate) fn command(text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return Err(Fault::new(ErrorCode::Empty, "the command is empty").hint("remove it"));
    }
    argument(text)
}

/// Name and value of an environment variable.
pub(crate) fn env(name: &str, value: &str) -> Result<(), Fault> {
    let fail = |code, message: String, hint: &str| {
        Err(Fault::new(code, message).hint(hint).in_field(name))
    };
    let mut bytes = name.bytes();
    let begins_well = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !begins_well || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return fail(
            ErrorCode::Name,
            format!("`{name}` cannot name an environment variable"),
            "use letters, digits and `_`, not beginning with a digit",
        );
    }
    if value.contains('\0') {
        return fail(
            ErrorCode::Value,
            "holds a NUL character".into(),
            "remove it",
        );
    }
    let length = name.len() + 1 + value.len();
    if length > ARGUMENT_LIMIT {
        return fail(
            ErrorCode::Limit,
            format!("{length} bytes long with its name; Linux passes at most {ARGUMENT_LIMIT}"),
            "put the text into a file and copy it in with `add_local_file`",
        );
    }
    Ok(())
}

/// Name and value of a label.
pub(crate) fn label(name: &str, value: &str) -> Result<(), Fault> {
    if name.trim().is_empty() {
        return Err(Fault::new(ErrorCode::Name, "a label needs a name"));
    }
    no_nul(name)
        .and_then(|()| no_nul(value))
        .map_err(|fault| fault.in_field(name))
}

/// Name of a secret: it becomes a file name below `/run/secrets`.
pub(crate) fn secret(name: &str) -> Result<(), Fault> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(sound) && name != "." && name != ".." {
        return Ok(());
    }
    let fault = Fault::new(
        ErrorCode::Name,
        format_args!("`{name}` cannot name a secret"),
    );
    Err(fault.hint("use 1 to 128 letters, digits, `_`, `.` and `-`"))
}

/// An absolute path in the image, with `//`, `/./` and a trailing slash removed.
pub(crate) fn image_path(text: &str) -> Result<String, Fault> {
    no_nul(text)?;
    let fail = |message: String, hint: &str| Err(Fault::new(ErrorCode::Path, message).hint(hint));
    if text.is_empty() {
        return Err(
            Fault::new(ErrorCode::Empty, "the path is empty").hint("write an absolute path")
        );
    }
    if !text.starts_with('/') {
        let hint = format!(
            "begin with `/`, such as `/{}`",
            text.trim_start_matches("./")
        );
        return fail(format!("`{text}` is not an absolute path"), &hint);
    }
    if text.len() > PATH_LIMIT || text.split('/').any(|word| word.len() > NAME_LIMIT) {
        let message = format!("a path has at most {PATH_LIMIT} bytes, a name in it {NAME_LIMIT}");
        return Err(Fault::new(ErrorCode::Limit, message));
    }
    let mut path = String::with_capacity(text.len());
    for word in text.split('/') {
        match word {
            "" | "." => {}
            ".." => {
                return fail(
                    format!("`{text}` holds `..`"),
                    "write the path that you mean",
                );
            }
            word => {
                path.push('/');
                path.push_str(word);
            }
        }
    }
    Ok(if path.is_empty() { "/".into() } else { path })
}

/// `user[:group]`.
pub(crate) fn user(text: &str) -> Result<(), Fault> {
    let mut words = text.split(':');
    let sound = |word: &str| {
        !word.is_empty()
            && !word
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || c == '/')
    };
    let user = words.next().is_some_and(sound);
    let group = words.next().is_none_or(sound);
    if user && group && words.next().is_none() {
        return Ok(());
    }
    let fault = Fault::new(ErrorCode::Value, format_args!("`{text}` is not a user"));
    Err(fault.hint("write `user` or `user:group`, by name or number"))
}

/// Entrypoint or command of the image; `instruction` is the Dockerfile's word for it.
pub(crate) fn arguments(words: &[String], instruction: &str) -> Result<(), Fault> {
    if words.is_empty() {
        let fault = Fault::new(ErrorCode::Empty, "the list is empty");
        return Err(fault.hint(format_args!(
            "to clear what the base has, use `dockerfile_commands([\"{instruction} []\"])`"
        )));
    }
    if words[0].is_empty() {
        let fault = Fault::new(ErrorCode::Empty, "the program is empty");
        return Err(fault.hint("the first word names the program").at_index(0));
    }
    crate::error::each(words, |word| argument(word)).map(drop)
}

/// Permission bits as three or four octal digits.
pub(crate) fn mode(text: &str) -> Result<u32, Fault> {
    let octal = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && (3..=4).contains(&text.len()) => Ok(mode),
        _ => {
            let fault = Fault::new(
                ErrorCode::Value,
                format_args!("`{text}` is not a file mode"),
            );
            Err(fault.hint("write three or four octal digits, such as \"0644\""))
        }
    }
}

/// `repository[:tag]`.
pub(crate) fn image_name(text: &str) -> Result<(), Fault> {
    let (repository, tag) = match text.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (text, None),
    };
    if is_repository(repository) && tag.is_none_or(is_tag) {
        return Ok(());
    }
    let fault = Fault::new(
        ErrorCode::Reference,
        format_args!("`{text}` cannot name an image"),
    );
    Err(fault.hint("write `repository` or `repository:tag`, such as `team/app:dev`, in lower case"))
}

/// An image reference, split into its name and its digest.
pub(crate) fn base_image(text: &str) -> Result<BaseImage, Fault> {
    let reference: Reference = text.parse().map_err(|error| {
        let error: crate::reference::InvalidReference = error;
        let fault = Fault::new(ErrorCode::Reference, error.to_string());
        fault.hint("write `[registry/]repository[:tag][@sha256:…]`, such as `node:22-slim`")
    })?;
    Ok(BaseImage {
        digest: reference.digest(),
        reference: reference.without_digest(),
        platform: None,
    })
}

/// A platform.
pub(crate) fn platform(text: &str) -> Result<Platform, Fault> {
    let parse = text.parse::<Platform>();
    parse.map_err(|error| Fault::new(ErrorCode::Value, error.to_string()))
}

/// A digest.
pub(crate) fn digest(text: &str) -> Result<Digest, Fault> {
    let parse = text.parse::<Digest>();
    parse.map_err(|error| Fault::new(ErrorCode::Digest, error.to_string()))
}

/// Debian packages: sorted, each once.
pub(crate) fn apt_packages(mut packages: Vec<String>) -> Result<Vec<String>, Fault> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"+-.:~=/_*".contains(&b);
    if packages.is_empty() {
        return Err(no_packages());
    }
    crate::error::each(&packages, |package| {
        let begins_well = package
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if begins_well && package.bytes().all(sound) {
            return Ok(());
        }
        let message = format!("`{package}` is not a Debian package");
        let hint = "write one `name` or `name=version` per entry; options cannot be given";
        Err(Fault::new(ErrorCode::Package, message).hint(hint))
    })?;
    packages.sort_unstable();
    packages.dedup();
    Ok(packages)
}

/// An install list without entries.
pub(crate) fn no_packages() -> Fault {
    Fault::new(ErrorCode::Empty, "the list is empty").hint("name a package or remove the step")
}

/// The version of `debian_slim`, as it stands in the tag: `3`, `3.12`, `3.12.4`, `3.14rc1`.
pub(crate) fn python_version(text: &str) -> Result<(), Fault> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (release, last) = text.rsplit_once('.').map_or(("0", text), |parts| parts);
    let last_sound = ["rc", "a", "b"]
        .iter()
        .find_map(|mark| last.split_once(mark))
        .map_or(digits(last), |(number, candidate)| {
            digits(number) && digits(candidate)
        });
    if last_sound
        && release.split('.').all(digits)
        && text.split('.').count() <= 3
        && text.len() < 32
    {
        return Ok(());
    }
    let fault = Fault::new(
        ErrorCode::Value,
        format_args!("`{text}` is not a Python version"),
    );
    Err(fault.hint("write `3.12` or `3.12.4`; for another image use `base`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_paths() {
        let check = |text: &str, expect: Result<&str, ErrorCode>| {
            let got = image_path(text).map_err(|fault| fault.code());
            assert_eq!(got.as_deref(), expect.as_ref().map(|p| &**p), "{text}");
        };
        check("/", Ok("/"));
        check("//a/./b//", Ok("/a/b"));
        check("/a/..b", Ok("/a/..b"));
        check("", Err(ErrorCode::Empty));
        check("a/b", Err(ErrorCode::Path));
        check("./a", Err(ErrorCode::Path));
        check("/a/../b", Err(ErrorCode::Path));
        check("/..", Err(ErrorCode::Path));
        check("/a\0", Err(ErrorCode::Value));
        check(&format!("/{}", "x".repeat(256)), Err(ErrorCode::Limit));
        check(&"/x".repeat(2048), Err(ErrorCode::Limit));
    }

    #[test]
    fn accepts_and_refuses_values() {
        let check = |got: Result<(), Fault>, expect: Result<(), ErrorCode>, what: &str| {
            assert_eq!(got.map_err(|fault| fault.code()), expect, "{what}");
        };
        for (name, sound) in [
            ("A", true),
            ("_a1", true),
            ("1A", false),
            ("A=B", false),
            ("", false),
            ("É", false),
        ] {
            let expect = if sound { Ok(()) } else { Err(ErrorCode::Name) };
            check(env(name, "x=\ny"), expect, name);
        }
        check(env("A", "\0"), Err(ErrorCode::Value), "NUL");
        check(env("A", &"x".repeat(131_069)), Ok(()), "longest value");
        check(
            env("A", &"x".repeat(131_070)),
            Err(ErrorCode::Limit),
            "too long a value",
        );
        for (name, sound) in [
            ("TOKEN", true),
            ("a.b-c_d", true),
            ("a/b", false),
            ("..", false),
            (" ", false),
        ] {
            let expect = if sound { Ok(()) } else { Err(ErrorCode::Name) };
            check(secret(name), expect, name);
        }
        for (name, sound) in [
            ("root", true),
            ("1000:1000", true),
            ("", false),
            (":x", false),
            ("a:", false),
            ("a:b:c", false),
            ("a\n", false),
        ] {
            let expect = if sound { Ok(()) } else { Err(ErrorCode::Value) };
            check(user(name), expect, name);
        }
        for (name, sound) in [
            ("app", true),
            ("team/app:v1.2", true),
            ("App", false),
            ("app:", false),
            ("a@b", false),
            ("", false),
        ] {
            let expect = if sound {
                Ok(())
            } else {
                Err(ErrorCode::Reference)
            };
            check(image_name(name), expect, name);
        }
        for (text, sound) in [
            ("3", true),
            ("3.12", true),
            ("3.12.4", true),
            ("3.14rc1", true),
            ("3.14-slim", false),
            ("", false),
            ("3.", false),
            ("3.1.2.3", false),
            ("latest", false),
        ] {
            let expect = if sound { Ok(()) } else { Err(ErrorCode::Value) };
            check(python_version(text), expect, text);
        }
        for (text, sound) in [
            ("644", true),
            ("0644", true),
            ("7777", true),
            ("+644", false),
            ("0o644", false),
            ("64", false),
            ("0888", false),
        ] {
            let expect = if sound { Ok(()) } else { Err(ErrorCode::Value) };
            check(mode(text).map(drop), expect, text);
        }
        for (text, sound) in [
            ("git", true),
            ("libc6:arm64=2.36-9+deb12u4", true),
            ("g++", true),
            ("-o", false),
            ("a b", false),
            ("a;b", false),
            ("", false),
        ] {
            let expect = if sound {
                Ok(())
            } else {
                Err(ErrorCode::Package)
            };
            check(apt_packages(vec![text.into()]).map(drop), expect, text);
        }
        check(command(" \n"), Err(ErrorCode::Empty), "empty command");
        check(
            command(&"x".repeat(131_072)),
            Err(ErrorCode::Limit),
            "too long a command",
        );
        check(arguments(&[], "CMD"), Err(ErrorCode::Empty), "no arguments");
        check(
            arguments(&["a".into(), String::new()], "CMD"),
            Ok(()),
            "empty argument",
        );
    }
}
