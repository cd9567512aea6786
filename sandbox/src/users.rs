//! Who `USER name:group` is: looks users and groups up in an image's `/etc/passwd` and
//! `/etc/group`, by the rules of Docker.
//!
//! [`resolve`] is pure and takes the contents of the two files; [`resolve_in_root`] reads them
//! from a directory that may be hostile.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// Greatest `/etc/passwd` or `/etc/group` that is read (8 MiB).
pub const MAX_DATABASE: u64 = 8 << 20;

/// Greatest id that Docker takes (2^31 - 1).
const MAX_ID: u32 = i32::MAX as u32;

/// A user as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first, as Docker sets them: without it a file could
    /// be opened to "others" but closed to a group that the process dropped (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home directory, `/` for a user without an entry.
    pub home: String,
}

/// Why a user cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is in neither form.
    #[error("no user {0:?} in the image's /etc/passwd")]
    NoSuchUser(String),
    /// The group is in neither form.
    #[error("no group {0:?} in the image's /etc/group")]
    NoSuchGroup(String),
    /// A number beyond what Docker and the kernel take.
    #[error("id {0} is out of range, 0 to 2147483647 are possible")]
    OutOfRange(String),
    /// A file cannot be read.
    #[error("cannot read the image's {path}")]
    Read {
        /// The file, inside the image.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Resolves `spec` (`user`, `uid`, `user:group`, ...; empty means `0`) against the contents of
/// `/etc/passwd` and `/etc/group` (empty where the image has none).
///
/// A name is searched first; a number need have no entry. Without a group in `spec`, primary and
/// supplementary groups are those of the entries; with one, it is the only group.
///
/// # Errors
/// [`UserError::NoSuchUser`], [`UserError::NoSuchGroup`], [`UserError::OutOfRange`].
pub fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, UserError> {
    let (user, group_name) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user)?;
    let entry = records(passwd).find_map(|fields| {
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            return None;
        };
        let uid: u32 = uid.parse().ok()?;
        (*name == user || number == Some(uid)).then_some((
            (*name).to_owned(),
            uid,
            gid.parse().unwrap_or(0),
            (*home).to_owned(),
        ))
    });
    let (name, uid, mut gid, home) = match (entry, number) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, home),
        (None, Some(uid)) => (None, uid, 0, "/".to_owned()),
        (None, None) => return Err(UserError::NoSuchUser(user.to_owned())),
    };
    let mut groups = Vec::new();
    if group_name.is_empty() {
        groups.push(gid);
        if let Some(name) = name {
            let member_of = records(group).filter_map(|fields| {
                let [_, _, gid, members, ..] = fields.as_slice() else {
                    return None;
                };
                members
                    .split(',')
                    .any(|member| member == name)
                    .then(|| gid.parse().ok())?
            });
            for gid in member_of {
                if !groups.contains(&gid) {
                    groups.push(gid);
                }
            }
        }
    } else {
        let number = id(group_name)?;
        let entry = records(group).find_map(|fields| {
            let [name, _, gid, ..] = fields.as_slice() else {
                return None;
            };
            let gid: u32 = gid.parse().ok()?;
            (*name == group_name || number == Some(gid)).then_some(gid)
        });
        gid = entry
            .or(number)
            .ok_or_else(|| UserError::NoSuchGroup(group_name.to_owned()))?;
        groups.push(gid);
    }
    Ok(ResolvedUser {
        uid,
        gid,
        groups,
        home: if home.is_empty() {
            "/".to_owned()
        } else {
            home
        },
    })
}

/// [`resolve`] against the files of the directory `root`. Symbolic links in it are followed as if
/// it were `/`; they never lead out.
///
/// # Errors
/// As [`resolve`], and [`UserError::Read`].
pub fn resolve_in_root(spec: &str, root: &Path) -> Result<ResolvedUser, UserError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|errno| UserError::Read {
            path: "/",
            source: errno.into(),
        })?;
    resolve_at(spec, root.as_fd())
}

/// [`resolve`] against the files below an open directory.
pub(crate) fn resolve_at(spec: &str, root: BorrowedFd<'_>) -> Result<ResolvedUser, UserError> {
    let passwd = read_database(root, "/etc/passwd")?;
    let group = read_database(root, "/etc/group")?;
    resolve(spec, &passwd, &group)
}

fn read_database(root: BorrowedFd<'_>, path: &'static str) -> Result<Vec<u8>, UserError> {
    let read = || -> io::Result<Vec<u8>> {
        // A named pipe must not make the open wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::from(file)
            .take(MAX_DATABASE + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_DATABASE {
            return Err(io::Error::other(format!(
                "it is greater than {MAX_DATABASE} bytes"
            )));
        }
        Ok(bytes)
    };
    read().map_err(|source| UserError::Read { path, source })
}

/// The lines of a database, split at colons; comments, blank lines and such that are not UTF-8
/// are no entries.
fn records(database: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    database
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// `Some` if `text` is a number, an error if it is one out of range.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number <= MAX_ID => Ok(Some(number)),
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # a comment\n\
        broken line\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        4242:x:77:78::/n:/bin/sh\n\
        nohome:x:1002:1002:::\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:app,root\napp:x:1001:\nvideo:x:44:other,app\n\
        applike:x:45:apple\nbad:x:nan:app\n";

    #[test]
    fn users_and_groups_as_docker_reads_them() {
        let check = |spec: &str, expect: Result<(u32, u32, &[u32], &str), &str>| {
            let found = resolve(spec, PASSWD, GROUP);
            match (&found, expect) {
                (Ok(user), Ok((uid, gid, groups, home))) => assert_eq!(
                    (
                        user.uid,
                        user.gid,
                        user.groups.as_slice(),
                        user.home.as_str()
                    ),
                    (uid, gid, groups, home),
                    "{spec}"
                ),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{spec}: {error}");
                }
                (found, expect) => panic!("{spec}: expected {expect:?}, found {found:?}"),
            }
        };
        check("", Ok((0, 0, &[0, 4], "/root")));
        check("root", Ok((0, 0, &[0, 4], "/root")));
        check("app", Ok((1000, 1001, &[1001, 4, 44], "/home/app")));
        check("1000", Ok((1000, 1001, &[1001, 4, 44], "/home/app")));
        check("app:video", Ok((1000, 44, &[44], "/home/app")));
        check("app:44", Ok((1000, 44, &[44], "/home/app")));
        check("app:9999", Ok((1000, 9999, &[9999], "/home/app")));
        check("9999", Ok((9999, 0, &[0], "/")));
        check("9999:app", Ok((9999, 1001, &[1001], "/")));
        check(":app", Ok((0, 1001, &[1001], "/root")));
        check("4242", Ok((77, 78, &[78], "/n")));
        check("nohome", Ok((1002, 1002, &[1002], "/")));
        check("ghost", Err("no user \"ghost\""));
        check("app:ghost", Err("no group \"ghost\""));
        check("2147483648", Err("out of range"));
        check("99999999999999999999", Err("out of range"));
        check("-1", Err("no user \"-1\""));
    }

    #[test]
    fn links_of_an_image_stay_inside() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("etc");
        std::fs::create_dir_all(root.join("real")).expect("real");
        std::fs::write(directory.path().join("passwd"), "evil:x:666:666::/:/\n").expect("outside");
        std::fs::write(root.join("real/passwd"), "good:x:5:6::/g:/\n").expect("inside");

        symlink("../../passwd", root.join("etc/passwd")).expect("link");
        assert!(matches!(
            resolve_in_root("evil", &root),
            Err(UserError::NoSuchUser(_))
        ));

        std::fs::remove_file(root.join("etc/passwd")).expect("remove");
        symlink("/real/passwd", root.join("etc/passwd")).expect("link");
        let user = resolve_in_root("good", &root).expect("followed inside");
        assert_eq!((user.uid, user.gid, user.home.as_str()), (5, 6, "/g"));
    }

    #[test]
    fn odd_databases_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let etc = directory.path().join("etc");
        std::fs::create_dir(&etc).expect("etc");
        assert_eq!(
            resolve_in_root("", directory.path())
                .expect("no files at all")
                .uid,
            0
        );
        std::fs::create_dir(etc.join("passwd")).expect("directory");
        let error = resolve_in_root("", directory.path()).expect_err("a directory");
        assert!(
            matches!(
                error,
                UserError::Read {
                    path: "/etc/passwd",
                    ..
                }
            ),
            "{error}"
        );
    }
}
