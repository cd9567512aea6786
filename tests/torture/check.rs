//! What must hold after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use chalk_core::Digest;
use serde_json::Value as Json;

use crate::client::{Client, Fallible};
use crate::clients::Shared;
use crate::disk;
use crate::facts::{Thing, Value};
use crate::recipe::Recipe;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// Something that was acknowledged is not there, or otherwise.
    Lost,
    /// Something is visible that is not whole.
    Half,
    /// Bytes that are not what their digest or hash says.
    Bytes,
    /// Work that was done is done again, or cannot be done.
    Resume,
    /// Something is left behind.
    Leak,
    /// The service does not start, stop or answer as it should.
    Service,
}

impl Wrong {
    pub(crate) const ALL: [Self; 6] = [
        Self::Lost,
        Self::Half,
        Self::Bytes,
        Self::Resume,
        Self::Leak,
        Self::Service,
    ];

    /// For the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Half => "half visible",
            Self::Bytes => "wrong bytes",
            Self::Resume => "not resumed",
            Self::Leak => "leaked",
            Self::Service => "no service",
        }
    }
}

/// Something wrong.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) wrong: Wrong,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.wrong.words(), self.what)
    }
}

/// Checks of one restart.
pub(crate) struct Check<'a> {
    pub(crate) client: &'a Client,
    pub(crate) shared: &'a Shared,
    /// Digests whose bytes flipped: they may be missing, but not wrong.
    pub(crate) rotten: &'a BTreeSet<String>,
    /// Whether a tag may be listed whose manifest was deleted.
    pub(crate) tags_stay: bool,
    /// Blobs that were read and are whole.
    whole: BTreeSet<String>,
    pub(crate) violations: Vec<Violation>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(
        client: &'a Client,
        shared: &'a Shared,
        rotten: &'a BTreeSet<String>,
    ) -> Self {
        Self {
            client,
            shared,
            rotten,
            tags_stay: false,
            whole: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    pub(crate) fn wrong(&mut self, wrong: Wrong, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { wrong, what });
    }

    /// Everything that was acknowledged, and all that is visible in the registry.
    pub(crate) async fn registry(&mut self) {
        for (thing, allowed) in self.shared.facts.all() {
            let found = match &thing {
                Thing::Blob(repository, digest) => self.blob(repository, digest).await,
                Thing::Manifest(repository, digest) => {
                    let found = self.client.manifest(repository, digest).await;
                    self.same_digest(&thing, digest, found)
                }
                Thing::Tag(repository, tag) => {
                    let found = self.client.manifest(repository, tag).await;
                    found.map(|found| found.map(|(digest, _)| digest))
                }
                Thing::Upload(path) => {
                    let found = self.client.has_upload(path).await;
                    found.map(|there| there.then(String::new))
                }
                _ => continue,
            };
            self.compare(&thing, &allowed, found);
        }
        if let Err(error) = self.walk().await {
            self.wrong(
                Wrong::Service,
                format!("the registry cannot be walked: {error}"),
            );
        }
    }

    fn same_digest(
        &mut self,
        thing: &Thing,
        digest: &str,
        found: Fallible<Option<(String, Vec<u8>)>>,
    ) -> Fallible<Value> {
        Ok(found?.map(|(actual, _)| {
            if actual != digest {
                self.wrong(Wrong::Bytes, format!("{thing} has the bytes of {actual}"));
            }
            String::new()
        }))
    }

    async fn blob(&mut self, repository: &str, digest: &str) -> Fallible<Value> {
        let Some(bytes) = self.client.blob(repository, digest).await? else {
            return Ok(None);
        };
        let actual = Digest::of(&bytes).to_string();
        if actual == digest {
            self.whole.insert(digest.to_owned());
        } else {
            let what = format!(
                "blob {repository}@{digest} has {} bytes of {actual}",
                bytes.len()
            );
            self.wrong(Wrong::Bytes, what);
        }
        Ok(Some(String::new()))
    }

    /// Holds what was found against what may be.
    pub(crate) fn compare(
        &mut self,
        thing: &Thing,
        allowed: &BTreeSet<Value>,
        found: Fallible<Value>,
    ) {
        let may_be_rotten = !self.rotten.is_empty();
        match found {
            Ok(found) if allowed.contains(&found) => self.shared.facts.found(thing, found),
            // What hangs on a rotten blob may be gone, breaks off, or is refused; until it is mended.
            Ok(None) | Err(_) if may_be_rotten => self.shared.facts.asked(thing, None),
            Ok(found) => {
                let what = format!("{thing}: found {found:?}, expected one of {allowed:?}");
                self.wrong(Wrong::Lost, what);
                self.shared.facts.found(thing, found);
            }
            Err(error) => self.wrong(Wrong::Lost, format!("{thing}: {error}")),
        }
    }

    /// Every tag has its manifest, every manifest its blobs.
    async fn walk(&mut self) -> Fallible<()> {
        for repository in self.client.repositories().await? {
            for tag in self.client.tags(&repository).await? {
                let found = self.client.manifest(&repository, &tag).await?;
                let Some((digest, bytes)) = found else {
                    let thing = Thing::Tag(repository.clone(), tag.clone());
                    let may_stay = self.tags_stay && self.shared.facts.known(&thing).is_none();
                    if self.rotten.is_empty() && !may_stay {
                        self.wrong(Wrong::Half, format!("{repository}:{tag} has no manifest"));
                    }
                    continue;
                };
                let manifest: Json = serde_json::from_slice(&bytes).unwrap_or_default();
                if manifest.is_null() {
                    self.wrong(
                        Wrong::Bytes,
                        format!("{repository}@{digest} is no manifest"),
                    );
                }
                let layers = manifest["layers"].as_array().into_iter().flatten();
                for part in layers.chain([&manifest["config"]]) {
                    let part = part["digest"].as_str().unwrap_or_default();
                    if self.whole.contains(part) {
                        continue;
                    }
                    match self.blob(&repository, part).await {
                        Ok(Some(_)) => {}
                        _ if !self.rotten.is_empty() => {}
                        Ok(None) => {
                            let what = format!("{repository}:{tag} lacks its blob {part}");
                            self.wrong(Wrong::Half, what);
                        }
                        Err(error) => {
                            let what = format!("{repository}:{tag}, blob {part}: {error}");
                            self.wrong(Wrong::Half, what);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Images, names, tokens and lists.
    pub(crate) async fn service(&mut self) {
        let tokens = self.listed("/v1/tokens", "client_id").await;
        let joins = self.listed("/v1/join-tokens", "id").await;
        for (thing, allowed) in self.shared.facts.all() {
            let there = |list: &Fallible<Vec<String>>, id: &str| {
                let list = list.clone()?;
                Ok(list.iter().any(|one| one == id).then(String::new))
            };
            let found = match &thing {
                Thing::Image(hash) => {
                    let found = self.client.get(&format!("/v1/images/{hash}")).await;
                    found.map(|found| found.map(|_| String::new()))
                }
                Thing::Name(name) => {
                    let path = format!("/v1/images/{}", name.replace('/', "%2F"));
                    let found = self.client.get(&path).await;
                    found.map(|found| {
                        found.and_then(|image| image["image_hash"].as_str().map(str::to_owned))
                    })
                }
                Thing::Token(id) => there(&tokens, id),
                Thing::JoinToken(id) => there(&joins, id),
                Thing::Prewarm => match self.client.get("/v1/prewarm").await {
                    Ok(list) => {
                        let list = list.unwrap_or_default();
                        let images = list["images"].as_array().into_iter().flatten();
                        let images: Vec<&str> = images.filter_map(Json::as_str).collect();
                        let images = images.join(" ");
                        // A service that was told nothing has a list of its own.
                        Ok(images.contains("/prewarm-").then_some(images))
                    }
                    Err(error) => Err(error),
                },
                _ => continue,
            };
            let is_there = matches!(&found, Ok(Some(_)));
            self.compare(&thing, &allowed, found);
            if let (Thing::Image(hash), true) = (&thing, is_there) {
                let begun = self.shared.builds().get(hash).cloned();
                if let Some(begun) = begun {
                    self.contents(hash, &begun.recipe).await;
                }
            }
        }
    }

    async fn listed(&self, path: &str, key: &str) -> Fallible<Vec<String>> {
        let list = self.client.get(path).await?.unwrap_or_default();
        let list = list.as_array().into_iter().flatten();
        Ok(list
            .filter_map(|one| one[key].as_str().map(str::to_owned))
            .collect())
    }

    /// An image holds what its declaration says, and nothing else.
    pub(crate) async fn contents(&mut self, hash: &str, recipe: &Recipe) {
        match self.files(hash).await {
            Ok(files) if files == recipe.files() => {}
            Ok(files) => {
                let what = format!(
                    "image {hash} holds {files:?} instead of {:?}",
                    recipe.files()
                );
                self.wrong(Wrong::Bytes, what);
            }
            Err(_) if !self.rotten.is_empty() => {}
            Err(error) => self.wrong(
                Wrong::Half,
                format!("image {hash} cannot be pulled: {error}"),
            ),
        }
    }

    /// Reads all that belongs to an image.
    pub(crate) async fn all_of(&self, hash: &str) -> Fallible<()> {
        self.client.get(&format!("/v1/images/{hash}")).await?;
        self.files(hash).await.map(drop)
    }

    async fn files(&self, hash: &str) -> Fallible<BTreeMap<String, String>> {
        let tag = hash.trim_start_matches("sha256:");
        let found = self.client.manifest("chalk/images", tag).await?;
        let (_, bytes) = found.ok_or("it has no manifest")?;
        let manifest: Json = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let mut files = BTreeMap::new();
        // The first is the base's.
        for layer in layers.iter().skip(1) {
            let digest = layer["digest"].as_str().unwrap_or_default();
            let bytes = self.client.blob("chalk/images", digest).await?;
            let bytes = bytes.ok_or_else(|| format!("it lacks {digest}"))?;
            add(&mut files, &bytes).map_err(|error| format!("layer {digest}: {error}"))?;
        }
        Ok(files)
    }

    /// No build of before the restart is still on its way.
    pub(crate) async fn builds_ended(&mut self) {
        match self.client.get("/v1/builds?limit=1000").await {
            Ok(builds) => {
                let builds = builds.unwrap_or_default();
                for build in builds.as_array().into_iter().flatten() {
                    if matches!(build["status"].as_str(), Some("queued" | "running")) {
                        let what = format!(
                            "build {} is {} and nobody runs it",
                            build["id"], build["status"]
                        );
                        self.wrong(Wrong::Half, what);
                    }
                }
            }
            Err(error) => self.wrong(Wrong::Service, format!("builds: {error}")),
        }
    }

    /// What lies in the store under a digest has it.
    pub(crate) fn store(&mut self, state: &Path) {
        for path in disk::blobs(state) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let digest = format!("sha256:{name}");
            // Removed while we looked, by nobody else than the service itself.
            let Ok(bytes) = std::fs::read(&path) else {
                continue;
            };
            if name.len() == 64
                && Digest::of(&bytes).to_string() != digest
                && !self.rotten.contains(&digest)
            {
                self.wrong(
                    Wrong::Half,
                    format!("{} has {} other bytes", path.display(), bytes.len()),
                );
            }
        }
    }
}

/// Adds the files of a layer that are of the steps.
fn add(files: &mut BTreeMap<String, String>, bytes: &[u8]) -> Result<(), String> {
    let mut plain = Vec::new();
    let read = match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut plain))
        }
        _ => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain),
    };
    read.map_err(|error| error.to_string())?;
    let mut archive = tar::Archive::new(&*plain);
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        if entry.header().entry_type().is_file() && Recipe::is_ours(&path) {
            let mut text = String::new();
            entry
                .read_to_string(&mut text)
                .map_err(|error| error.to_string())?;
            files.insert(path, text);
        }
    }
    Ok(())
}
