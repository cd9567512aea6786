//! Names of volumes and refs, identifiers of commits, and paths inside of volumes.

use super::error::{Result, VolumeError};

/// Name of the ref that every volume has.
pub(crate) const DEFAULT_REF: &str = "main";
/// Longest name of a volume or ref, and longest identifier of a commit.
const NAME_LIMIT: usize = 128;
/// Longest path, and longest name of one file or directory, in bytes; those of Linux.
const PATH_LIMIT: usize = 4095;
const WORD_LIMIT: usize = 255;

/// Checks the name of a volume or ref, or the identifier of a commit (`what`).
///
/// # Errors
/// When it is empty, longer than 128 bytes, has other characters than letters, digits, `.`, `_` and
/// `-`, or begins with a dot or dash.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next();
    let sound = first.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= NAME_LIMIT
        && name.bytes().all(fits);
    if sound {
        return Ok(());
    }
    let name: String = name.chars().take(NAME_LIMIT).collect();
    Err(VolumeError::Invalid(format!(
        "`{name}` cannot be the {what}: expected 1 to {NAME_LIMIT} letters, digits, `.`, `_` or `-`, a letter or digit first"
    )))
}

/// A path as a version lists it: relative, without empty and `.` words. Empty for the root.
///
/// # Errors
/// When it has a `..` word or a NUL, or is too long.
pub(crate) fn clean_path(path: &str) -> Result<String> {
    let refuse = |why: &str| {
        let path: String = path.chars().take(WORD_LIMIT).collect();
        Err(VolumeError::Invalid(format!("path `{path}` {why}")))
    };
    if path.len() > PATH_LIMIT {
        return refuse("is longer than 4095 bytes");
    }
    let mut clean = String::with_capacity(path.len());
    for word in path.split('/') {
        match word {
            "" | "." => continue,
            ".." => return refuse("leads out of the volume by `..`"),
            _ if word.contains('\0') => return refuse("has a NUL"),
            _ if word.len() > WORD_LIMIT => return refuse("has a name longer than 255 bytes"),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push('/');
        }
        clean.push_str(word);
    }
    Ok(clean)
}

/// As [`clean_path`], of something other than the root.
///
/// # Errors
/// As [`clean_path`], and when nothing is left.
pub(crate) fn entry_path(path: &str) -> Result<String> {
    let clean = clean_path(path)?;
    if clean.is_empty() {
        return Err(VolumeError::Invalid(format!(
            "path `{path}` names the volume itself, not something in it"
        )));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(clean_path(path).ok().as_deref(), expect, "{path:?}");
        };
        check("", Some(""));
        check("/", Some(""));
        check(".", Some(""));
        check("a", Some("a"));
        check("/a", Some("a"));
        check("a//b/", Some("a/b"));
        check("./a/./b", Some("a/b"));
        check("a\\b", Some("a\\b"));
        check("sp ace/ü", Some("sp ace/ü"));
        check("..", None);
        check("a/../b", None);
        check("a/..", None);
        check("a\0b", None);
        check(&"a".repeat(256), None);
        check(&"a/".repeat(2048), None);
        assert!(entry_path("/.").is_err());
        assert!(entry_path("x").is_ok());
    }

    #[test]
    fn names_are_plain_words() {
        for name in [
            "a",
            "my-data",
            "files-0123456789ab",
            "A.b_c",
            "_x",
            &"a".repeat(128),
        ] {
            assert!(check_name("volume", name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"a".repeat(129),
        ] {
            assert!(check_name("volume", name).is_err(), "{name:?}");
        }
    }
}
