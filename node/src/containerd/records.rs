//! Image records: the names of an image, and what the node keeps in their labels.
//!
//! | label | what |
//! |---|---|
//! | `chalkcompute.image` | digest of the manifest; only records of the node's own have it |
//! | `chalkcompute.hash` | the image hash, where it was built by chalk |
//! | `chalkcompute.used` | when it was last warmed |
//! | `chalkcompute.pin.LABEL` | a pin |

use std::collections::BTreeMap;
use std::time::SystemTime;

use chalk_core::{Digest, Reference};
use prost_types::FieldMask;
use tonic::Code;

use super::api::containerd::services::images::v1 as api;
use super::api::containerd::types::Descriptor;
use super::client::{Containerd, found};
use super::content::Labels;
use crate::cache::{ImageSource, Result};

const IMAGE: &str = "chalkcompute.image";
const HASH: &str = "chalkcompute.hash";
const USED: &str = "chalkcompute.used";
const PIN: &str = "chalkcompute.pin.";
/// What the CRI plugin marks the images with that the kubelet is to see (its `pkg/cri/server`).
const CRI_MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// What keeps the kubelet's collection of images off one (containerd from 1.7 on).
const CRI_PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// The kubelet's namespace.
const KUBELET: &str = "k8s.io";

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) target: Descriptor,
    labels: Labels,
}

impl Record {
    /// One of the node's own.
    #[cfg(test)]
    pub(super) fn made_up(name: &str, digest: Digest) -> Self {
        Self {
            name: name.to_owned(),
            target: Descriptor {
                digest: digest.to_string(),
                ..Descriptor::default()
            },
            labels: Labels::from([(IMAGE.to_owned(), digest.to_string())]),
        }
    }

    /// Whether this node made it, or took it over.
    pub(super) fn is_ours(&self) -> bool {
        self.labels.contains_key(IMAGE)
    }

    /// Digest of what it names.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.target.digest.parse().ok()
    }

    /// Image hash.
    pub(super) fn image_hash(&self) -> Option<Digest> {
        self.labels.get(HASH)?.parse().ok()
    }

    /// When it was last warmed.
    pub(super) fn used(&self) -> Option<SystemTime> {
        let time: jiff::Timestamp = self.labels.get(USED)?.parse().ok()?;
        Some(time.into())
    }

    /// Labels of its pins.
    pub(super) fn pins(&self) -> impl Iterator<Item = &str> {
        let pins = self.labels.keys().filter_map(|key| key.strip_prefix(PIN));
        pins.filter(|pin| !pin.is_empty())
    }

    /// Whether it is the kubelet's name for an image's config, not one to pull by.
    pub(super) fn is_id(&self) -> bool {
        self.name.starts_with("sha256:")
    }
}

/// What an image is to be known as.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Names to pull it by, the one by digest first.
    pub(super) names: Vec<String>,
    pub(super) target: Descriptor,
    pub(super) config: Digest,
    pub(super) digest: Digest,
    pub(super) image_hash: Option<Digest>,
    pub(super) pin: Option<String>,
}

/// The names by which clients pull an image.
pub(super) fn names(source: &ImageSource) -> Vec<String> {
    let repository = &source.repository;
    let (host, path) = (repository.registry(), repository.repository());
    let mut names = vec![format!("{host}/{path}@{}", source.digest)];
    // `places::pullable` of the service.
    if let Some(hash) = source.image_hash
        && (path == "chalk/images" || path.ends_with("/chalk/images"))
    {
        names.push(format!("{host}/{path}:{}", hash.hex()));
    }
    // A name that leaves out its registry or tag is for people, not for clients.
    if let Ok(reference) = source.name.parse::<Reference>()
        && reference.to_string() == source.name
        && (reference.tag().is_some() || reference.digest() == Some(source.digest))
        && !names.contains(&source.name)
    {
        names.push(source.name.clone());
    }
    names
}

impl Containerd {
    /// All records of the namespace.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        let request = api::ListImagesRequest::default();
        let answer = self
            .call("list images", self.images().list(request))
            .await?;
        let images = answer.into_inner().images.into_iter();
        Ok(images
            .map(|image| Record {
                name: image.name,
                target: image.target.unwrap_or_default(),
                labels: image.labels,
            })
            .collect())
    }

    /// Makes an image known by its names. What they named before, they name no more.
    pub(super) async fn publish(&self, wanted: &Wanted) -> Result<()> {
        let now = jiff::Timestamp::now();
        let mut labels = Labels::from([
            (IMAGE.to_owned(), wanted.digest.to_string()),
            (USED.to_owned(), now.to_string()),
        ]);
        if let Some(hash) = wanted.image_hash {
            labels.insert(HASH.to_owned(), hash.to_string());
        }
        if let Some(pin) = &wanted.pin {
            labels.insert(format!("{PIN}{pin}"), "true".to_owned());
        }
        let mut names = wanted.names.clone();
        if self.settings().namespace == KUBELET {
            let put = |labels: &mut Labels, (key, value): (&str, &str)| {
                labels.insert(key.to_owned(), value.to_owned());
            };
            put(&mut labels, CRI_MANAGED);
            if wanted.pin.is_some() {
                put(&mut labels, CRI_PINNED);
            }
            // The CRI plugin takes a record that is marked for complete, so this one comes first.
            names.insert(0, wanted.config.to_string());
        }
        for name in names {
            self.put_record(&name, &wanted.target, &labels).await?;
        }
        Ok(())
    }

    async fn put_record(&self, name: &str, target: &Descriptor, labels: &Labels) -> Result<()> {
        const DOING: &str = "name an image";
        let image = api::Image {
            name: name.to_owned(),
            labels: labels.clone(),
            target: Some(target.clone()),
        };
        let create = api::CreateImageRequest {
            image: Some(image.clone()),
        };
        match self.watched(self.images().create(create)).await? {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(self.failure(DOING, &status)),
        }
        let paths = labels.keys().map(|key| format!("labels.{key}"));
        let update = api::UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask {
                paths: std::iter::once("target".to_owned()).chain(paths).collect(),
            }),
        };
        let mut images = self.images();
        self.call(DOING, images.update(update)).await.map(drop)
    }

    /// Takes a pin off records. (containerd keeps no label with an empty value.)
    pub(super) async fn take_pin(&self, records: &[&Record], label: &str) -> Result<()> {
        let pin = format!("{PIN}{label}");
        let pinned = records.iter().filter(|r| r.labels.contains_key(&pin));
        for record in pinned {
            let mut gone = vec![pin.clone()];
            if record.pins().all(|other| other == label) {
                gone.push(CRI_PINNED.0.to_owned());
            }
            let labels: BTreeMap<String, String> =
                gone.into_iter().map(|key| (key, String::new())).collect();
            let update = api::UpdateImageRequest {
                update_mask: Some(FieldMask {
                    paths: labels.keys().map(|key| format!("labels.{key}")).collect(),
                }),
                image: Some(api::Image {
                    name: record.name.clone(),
                    labels,
                    target: None,
                }),
            };
            let updated = found(self.watched(self.images().update(update)).await?);
            updated.map_err(|status| self.failure("take a pin away", &status))?;
        }
        Ok(())
    }

    /// Removes records; with the last, containerd collects what nothing names any more.
    pub(super) async fn remove_records(&self, records: &[&Record]) -> Result<()> {
        for (number, record) in records.iter().enumerate() {
            let delete = api::DeleteImageRequest {
                name: record.name.clone(),
                sync: number + 1 == records.len(),
            };
            let deleted = found(self.watched(self.images().delete(delete)).await?);
            deleted.map_err(|status| self.failure("remove an image", &status))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chalk_store::registry::{Client, Options};
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn names_are_those_that_clients_pull_by() {
        let digest = Digest::of(b"manifest");
        let check = |repository: &str, hash: Option<Digest>, name: &str, expect: &[String]| {
            let source = ImageSource {
                digest,
                image_hash: hash,
                name: name.to_owned(),
                repository: repository.parse().unwrap(),
                client: Client::new(Options::default()).unwrap(),
                peers: watch::channel(Vec::new()).1,
                access: watch::channel(None).1,
            };
            assert_eq!(names(&source), expect, "{repository} {name}");
        };
        let hash = Digest::of(b"spec");
        let at = |repository: &str| format!("{repository}@{digest}");
        let tagged = format!("h:1/chalk/images:{}", hash.hex());
        check(
            "h:1/chalk/images",
            Some(hash),
            &tagged,
            &[at("h:1/chalk/images"), tagged.clone()],
        );
        let prefixed = format!("h:1/p/chalk/images:{}", hash.hex());
        check(
            "h:1/p/chalk/images",
            Some(hash),
            "team/app:v1",
            &[at("h:1/p/chalk/images"), prefixed],
        );
        let base = "docker.io/library/python:3.12-slim-bookworm";
        check(
            "h:1/imports/docker.io/library/python",
            None,
            base,
            &[at("h:1/imports/docker.io/library/python"), base.to_owned()],
        );
        check("h:1/a", None, "python", &[at("h:1/a")]);
    }
}
