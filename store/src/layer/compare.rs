//! What two layers hold that is not the same.

use std::collections::BTreeMap;

use chalk_core::Digest;
use sha2::{Digest as _, Sha256};

use super::stream::with_stream;
use super::unpack::verified;
use super::{EntryHeader, Kind, LayerReader, Limits, Result, Tally};
use crate::blobs::BlobStore;

/// What is known of the entries of a layer, by path: everything but the bytes of files, of which
/// only the digest is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<Vec<u8>, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    header: EntryHeader,
    content: Option<Digest>,
}

/// What of an entry can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only the first layer has it.
    OnlyFirst,
    /// Only the second layer has it.
    OnlySecond,
    /// File, directory, link, device.
    Kind,
    /// Bytes, target of a link, or number of a device.
    Content,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Modification time.
    Time,
    /// Extended attributes.
    Xattr,
}

/// Reads a stored layer to its end. Memory grows with the number of its entries, which `limits`
/// bound, not with their size.
///
/// # Errors
/// When the blob is missing or damaged, is no sound layer, or exceeds `limits`.
pub fn facts(store: &BlobStore, digest: &Digest, limits: Limits) -> Result<Facts> {
    let layer = digest.to_string();
    let read = |blob: &mut crate::verify::VerifiedBlob| {
        with_stream(blob, &layer, limits, |stream| {
            let mut reader = LayerReader::new(stream, &layer);
            let mut tally = Tally::new(limits);
            let mut entries = BTreeMap::new();
            let mut buffer = vec![0; 256 * 1024];
            while let Some(header) = reader.next_entry()? {
                tally.count(&reader, &header)?;
                let content = match header.kind {
                    Kind::File => {
                        let mut hasher = Sha256::new();
                        loop {
                            let n = reader.read_content(&mut buffer)?;
                            if n == 0 {
                                break;
                            }
                            hasher.update(&buffer[..n]);
                        }
                        Some(Digest::from_bytes(hasher.finalize().into()))
                    }
                    _ => None,
                };
                entries.insert(header.path.clone(), Entry { header, content });
            }
            reader.finish()?;
            Ok(entries)
        })
    };
    let (entries, _) = verified(store, digest, read)?;
    Ok(Facts(entries))
}

/// The paths whose entries differ, sorted, each with all that differs.
pub fn differences(first: &Facts, second: &Facts) -> Vec<(Vec<u8>, Vec<Difference>)> {
    let mut found = Vec::new();
    for (path, one) in &first.0 {
        let differs = match second.0.get(path) {
            None => vec![Difference::OnlyFirst],
            Some(other) => between(one, other),
        };
        if !differs.is_empty() {
            found.push((path.clone(), differs));
        }
    }
    let new = second.0.keys().filter(|path| !first.0.contains_key(*path));
    found.extend(new.map(|path| (path.clone(), vec![Difference::OnlySecond])));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn between(one: &Entry, other: &Entry) -> Vec<Difference> {
    let (a, b) = (&one.header, &other.header);
    if a.kind != b.kind {
        return vec![Difference::Kind];
    }
    let content = one.content == other.content && a.link == b.link && a.device == b.device;
    let same = [
        (Difference::Content, content),
        (Difference::Mode, a.mode == b.mode),
        (Difference::Owner, (a.uid, a.gid) == (b.uid, b.gid)),
        (Difference::Time, a.mtime == b.mtime),
        (Difference::Xattr, a.xattrs == b.xattrs),
    ];
    let differs = same.into_iter().filter(|(_, same)| !same);
    differs.map(|(difference, _)| difference).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use super::*;
    use crate::layer::{PackOptions, pack};

    #[test]
    fn names_what_differs() {
        let temp = tempfile::tempdir().unwrap();
        let store = BlobStore::open(temp.path().join("store")).unwrap();
        let make = |name: &str, change: &dyn Fn(&Path)| {
            let root = temp.path().join(name);
            fs::create_dir_all(root.join("dir")).unwrap();
            fs::write(root.join("dir/file"), "one").unwrap();
            fs::write(root.join("same"), vec![7; 600_000]).unwrap();
            symlink("same", root.join("link")).unwrap();
            change(&root);
            let options = PackOptions {
                clamp_mtime: Some(0),
                ..PackOptions::default()
            };
            let packed = pack(&root, &store, &options, &mut |_| false).unwrap();
            facts(&store, &packed.digest, Limits::default()).unwrap()
        };
        let plain = make("plain", &|_| {});
        let check = |name: &str, change: &dyn Fn(&Path), expect: &[(&str, &[Difference])]| {
            let found = differences(&plain, &make(name, change));
            let found: Vec<(&str, &[Difference])> = found
                .iter()
                .map(|(path, differs)| (std::str::from_utf8(path).unwrap(), differs.as_slice()))
                .collect();
            assert_eq!(found, expect, "{name}");
        };
        check("nothing", &|_| {}, &[]);
        check(
            "content",
            &|root| fs::write(root.join("dir/file"), "two").unwrap(),
            &[("dir/file", &[Difference::Content])],
        );
        check(
            "mode",
            &|root| {
                fs::set_permissions(root.join("same"), fs::Permissions::from_mode(0o600)).unwrap();
            },
            &[("same", &[Difference::Mode])],
        );
        check(
            "target",
            &|root| {
                fs::remove_file(root.join("link")).unwrap();
                symlink("other", root.join("link")).unwrap();
            },
            &[("link", &[Difference::Content])],
        );
        check(
            "kind and presence",
            &|root| {
                fs::remove_file(root.join("link")).unwrap();
                fs::create_dir(root.join("link")).unwrap();
                fs::write(root.join("link/new"), "").unwrap();
                fs::remove_file(root.join("dir/file")).unwrap();
            },
            &[
                ("dir/file", &[Difference::OnlyFirst]),
                ("link", &[Difference::Kind]),
                ("link/new", &[Difference::OnlySecond]),
            ],
        );
    }
}
