//! Trees that are offered to builders, and the protocol by which they fetch them (`fsutil`): we list
//! all entries, depth first, then the builder asks for the files that it lacks, by their number in
//! the list.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use chalk_core::Digest;
use chalk_core::lower::Chmod;
use chalk_store::BlobStore;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::engine::embedded::copy::{Contents, MTIME, Virtual};

/// Bytes of a file in one packet.
const PIECE: usize = 32 << 10;

/// Bits of Go's `os.FileMode`, which the protocol has.
mod go_mode {
    pub(super) const DIR: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const STICKY: u32 = 1 << 20;
}

/// A directory for builders.
#[derive(Debug)]
pub(super) struct Offered {
    entries: Vec<Entry>,
    digest: Digest,
}

#[derive(Debug)]
struct Entry {
    path: String,
    /// Go's.
    mode: u32,
    /// In seconds since 1970.
    mtime: i64,
    size: u64,
    link: String,
    /// Of a regular file.
    contents: Option<Contents>,
}

impl Offered {
    /// Lists a directory, with the permission bits changed. Reads sizes of blobs.
    ///
    /// # Errors
    /// When a name is no UTF-8, or a file is not there; in words.
    pub(super) fn new(
        root: &Virtual,
        chmod: Option<&Chmod>,
        blobs: &BlobStore,
    ) -> Result<Self, String> {
        let Virtual::Dir(children) = root else {
            return Err("a file is offered where a directory is meant".to_owned());
        };
        let mut entries = Vec::new();
        let listing = Listing { chmod, blobs };
        listing.list(children, "", &mut entries)?;
        let mut hasher = Sha256::new();
        for entry in &entries {
            let contents = match &entry.contents {
                None => String::new(),
                Some(Contents::Blob(digest)) => digest.to_string(),
                Some(Contents::Bytes(bytes)) => Digest::of(bytes).to_string(),
                Some(Contents::Path(path)) => path.display().to_string(),
            };
            let facts = (&entry.path, entry.mode, entry.mtime, entry.size);
            hasher.update(format!("{facts:?} {:?} {contents}\n", entry.link));
        }
        Ok(Self {
            entries,
            digest: Digest::from_bytes(hasher.finalize().into()),
        })
    }

    /// Names the tree: the same for the same entries.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

struct Listing<'a> {
    chmod: Option<&'a Chmod>,
    blobs: &'a BlobStore,
}

impl Listing<'_> {
    fn mode(&self, mode: u32, is_dir: bool) -> u32 {
        of_unix(self.chmod.map_or(mode, |chmod| chmod.apply(mode, is_dir)))
    }

    fn list(
        &self,
        children: &BTreeMap<Vec<u8>, Virtual>,
        above: &str,
        entries: &mut Vec<Entry>,
    ) -> Result<(), String> {
        for (name, node) in children {
            let name = std::str::from_utf8(name).map_err(|_| {
                format!(
                    "the name `{}` is not UTF-8, which BuildKit needs",
                    name.escape_ascii()
                )
            })?;
            let path = match above {
                "" => name.to_owned(),
                above => format!("{above}/{name}"),
            };
            let entry = |mode, mtime| Entry {
                path: path.clone(),
                mode,
                mtime,
                size: 0,
                link: String::new(),
                contents: None,
            };
            match node {
                Virtual::Dir(children) => {
                    entries.push(entry(go_mode::DIR | self.mode(0o755, true), MTIME));
                    self.list(children, &path, entries)?;
                }
                Virtual::Symlink(target) => {
                    let link = String::from_utf8(target.clone()).map_err(|_| {
                        format!("the link `{path}` leads to a name that is not UTF-8")
                    })?;
                    entries.push(Entry {
                        link,
                        ..entry(go_mode::SYMLINK | 0o777, MTIME)
                    });
                }
                Virtual::File {
                    contents,
                    mode,
                    mtime,
                } => {
                    let size =
                        size(contents, self.blobs).map_err(|why| format!("{path}: {why}"))?;
                    entries.push(Entry {
                        size,
                        contents: Some(contents.clone()),
                        ..entry(self.mode(*mode, false), *mtime)
                    });
                }
            }
        }
        Ok(())
    }
}

fn size(contents: &Contents, blobs: &BlobStore) -> Result<u64, String> {
    match contents {
        Contents::Bytes(bytes) => Ok(bytes.len() as u64),
        Contents::Path(path) => {
            let metadata = std::fs::metadata(path);
            Ok(metadata.map_err(|e| e.to_string())?.len())
        }
        Contents::Blob(digest) => {
            let size = blobs.size(*digest).map_err(|e| e.to_string())?;
            size.ok_or_else(|| format!("{digest} is not in the store"))
        }
    }
}

fn of_unix(mode: u32) -> u32 {
    let mut bits = mode & 0o777;
    for (unix, go) in [
        (0o4000, go_mode::SETUID),
        (0o2000, go_mode::SETGID),
        (0o1000, go_mode::STICKY),
    ] {
        if mode & unix != 0 {
            bits |= go;
        }
    }
    bits
}

/// Carries one transfer out, as the side that has the files.
pub(super) async fn send(
    offered: Arc<Offered>,
    blobs: BlobStore,
    mut asked: Streaming<Packet>,
    answers: mpsc::Sender<Result<Packet, Status>>,
) {
    let listing = {
        let (offered, answers) = (Arc::clone(&offered), answers.clone());
        async move {
            for entry in &offered.entries {
                answers.send(Ok(stat_packet(entry))).await.map_err(drop)?;
            }
            // An empty one ends the list.
            let end = packet(PacketType::PacketStat);
            answers.send(Ok(end)).await.map_err(drop)
        }
    };
    let answering = async {
        while let Ok(Some(packet)) = asked.message().await {
            match packet.r#type() {
                PacketType::PacketReq => {
                    send_file(&offered, packet.id, &blobs, &answers).await?;
                }
                PacketType::PacketFin => {
                    let end = self::packet(PacketType::PacketFin);
                    return answers.send(Ok(end)).await.map_err(drop);
                }
                PacketType::PacketErr => {
                    let why = String::from_utf8_lossy(&packet.data).into_owned();
                    tracing::warn!(%why, "a builder could not take files");
                    return Err(());
                }
                PacketType::PacketStat | PacketType::PacketData => {}
            }
        }
        Err(())
    };
    // Whoever stops has nobody to tell: the builder is gone.
    let _ = tokio::try_join!(listing, answering);
}

async fn send_file(
    offered: &Offered,
    id: u32,
    blobs: &BlobStore,
    answers: &mpsc::Sender<Result<Packet, Status>>,
) -> Result<(), ()> {
    let entry = offered.entries.get(id as usize);
    let contents = entry.and_then(|entry| entry.contents.clone());
    let Some(contents) = contents else {
        let status = Status::invalid_argument(format!("entry {id} is no file"));
        return answers.send(Err(status)).await.map_err(drop);
    };
    let (blobs, sender) = (blobs.clone(), answers.clone());
    let work = move || -> Result<(), String> {
        let mut reader = open(&contents, &blobs)?;
        loop {
            let mut data = vec![0; PIECE];
            let mut filled = 0;
            while filled < PIECE {
                match reader
                    .read(&mut data[filled..])
                    .map_err(|e| e.to_string())?
                {
                    0 => break,
                    read => filled += read,
                }
            }
            data.truncate(filled);
            // An empty one ends the file.
            let last = filled == 0;
            let piece = Packet {
                id,
                data,
                ..packet(PacketType::PacketData)
            };
            if sender.blocking_send(Ok(piece)).is_err() || last {
                return Ok(());
            }
        }
    };
    let done = tokio::task::spawn_blocking(work).await;
    match done.map_err(|e| e.to_string()).and_then(|done| done) {
        Ok(()) => Ok(()),
        Err(why) => {
            let status = Status::data_loss(format!("a file cannot be read: {why}"));
            answers.send(Err(status)).await.map_err(drop)
        }
    }
}

fn open(contents: &Contents, blobs: &BlobStore) -> Result<Box<dyn Read>, String> {
    Ok(match contents {
        Contents::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
        Contents::Path(path) => {
            Box::new(std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?)
        }
        Contents::Blob(digest) => {
            Box::new(blobs.open_verified(*digest).map_err(|e| e.to_string())?)
        }
    })
}

fn packet(kind: PacketType) -> Packet {
    Packet {
        r#type: kind as i32,
        ..Packet::default()
    }
}

fn stat_packet(entry: &Entry) -> Packet {
    Packet {
        stat: Some(Stat {
            path: entry.path.clone(),
            mode: entry.mode,
            size: i64::try_from(entry.size).unwrap_or(i64::MAX),
            mod_time: entry.mtime.saturating_mul(1_000_000_000),
            linkname: entry.link.clone(),
            ..Stat::default()
        }),
        ..packet(PacketType::PacketStat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parents_before_children_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        let mut root = Virtual::empty();
        let file = |text: &str| Virtual::File {
            contents: Contents::Bytes(text.into()),
            mode: 0o4750,
            mtime: 7,
        };
        root.insert("b/z", file("z")).unwrap();
        root.insert("b-c", file("zz")).unwrap();
        root.insert("a", Virtual::Symlink(b"b".to_vec())).unwrap();
        let offered = Offered::new(&root, None, &blobs).unwrap();
        let paths: Vec<&str> = offered.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["a", "b", "b/z", "b-c"]);
        assert_eq!(offered.entries[2].mode, go_mode::SETUID | 0o750);
        assert_eq!(offered.entries[3].size, 2);
        assert_eq!(
            offered.digest(),
            Offered::new(&root, None, &blobs).unwrap().digest()
        );
        root.insert("c", file("")).unwrap();
        assert_ne!(
            offered.digest(),
            Offered::new(&root, None, &blobs).unwrap().digest()
        );
    }
}
