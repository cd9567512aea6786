//! One image on its way into containerd.
//!
//! Blobs that are missing come in several at once, and layers are unpacked as soon as those below
//! them are; the records come last. All of it belongs to a lease until then. After a failure that may
//! pass the lease stays, so that the next try goes on where this one stopped, also that of a node that
//! was started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chalk_core::Digest;
use chalk_core::wire::Receipt;
use chalk_store::Blob;
use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesUnordered;
use oci_spec::image::{ImageManifest, MediaType};
use tokio::sync::{Semaphore, mpsc, watch};

use super::api::containerd::types::Descriptor;
use super::client::Containerd;
use super::content::{Committed, Ingest, Labels, Opened, PIECE, wait};
use super::leases::Lease;
use super::records::{Wanted, names};
use super::snapshots::{Unpack, Unpacked, chain_ids};
use super::turns::Turns;
use crate::agent::{PullCost, PullProgress};
use crate::cache::{CacheError, ImageSource, LayerRef, Result};
use crate::pull::{
    Counts, Part, PassedOver, Patience, Plan, Senders, Servers, Stage, Tally, fetch_config,
    fetch_manifest, read_manifest, total_size,
};

/// Chunks between network and containerd.
const QUEUE: usize = 64;
/// Longest that a layer is waited for which somebody else is writing.
const OTHERS: Duration = Duration::from_secs(600);

/// How the garbage collector of containerd sees what belongs together (its
/// docs/garbage-collection.md).
const CONTENT_REFERENCE: &str = "containerd.io/gc.ref.content";
const SNAPSHOT_REFERENCE: &str = "containerd.io/gc.ref.snapshot";
/// Where a blob came from, for pushes and for mirrors that serve from containerd.
const SOURCE: &str = "containerd.io/distribution.source";
/// Digest of a layer's uncompressed form.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What all pulls share.
pub(super) struct Pulls {
    pub(super) containerd: Containerd,
    turns: Turns,
    parallel: Semaphore,
    passed_over: PassedOver,
    patience: Patience,
}

impl Pulls {
    pub(super) fn new(containerd: Containerd, parallel: usize, patience: Patience) -> Self {
        Self {
            containerd,
            turns: Turns::default(),
            parallel: Semaphore::new(parallel.max(1)),
            passed_over: PassedOver::default(),
            patience,
        }
    }

    /// Waits until nobody else pulls an image.
    pub(super) async fn turn(&self, image: &Digest) -> impl Drop + use<> {
        self.turns.take(format!("image {image}")).await
    }

    /// Brings an image in, whatever of it is missing. `room` is asked for the bytes to fetch.
    pub(super) async fn bring(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
        room: impl AsyncFnOnce(u64) -> Result<()>,
    ) -> Result<Receipt> {
        let lease = Lease::of(&self.containerd, &source.digest).await?;
        let pull = Pull {
            shared: self,
            containerd: self.containerd.within(lease.id()),
            lease: &lease,
            source,
        };
        let done = pull.run(pin, progress, room).await;
        match &done {
            Ok(_) => lease.end().await?,
            Err(error) if error.is_transient() => lease.leave(),
            // Its makings go with it.
            Err(_) => drop(lease),
        }
        done
    }
}

struct Pull<'a> {
    shared: &'a Pulls,
    /// Its makings belong to the lease.
    containerd: Containerd,
    lease: &'a Lease,
    source: &'a ImageSource,
}

/// What is to be done for an image.
struct Work {
    plan: Plan,
    manifest: ImageManifest,
    chains: Vec<Digest>,
    /// How many of the layers, from below, are unpacked.
    unpacked: usize,
    /// Layers to fetch.
    missing: Vec<LayerRef>,
}

impl Pull<'_> {
    async fn run(
        &self,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
        room: impl AsyncFnOnce(u64) -> Result<()>,
    ) -> Result<Receipt> {
        let begin = Instant::now();
        let (plan, first) = self.plan().await?;
        let work = self.work(plan).await?;
        room(total_size(&work.missing)).await?;
        let tally = Tally::new(&work.missing, first);
        let whole: BTreeMap<Digest, watch::Sender<bool>> = work
            .missing
            .iter()
            .map(|layer| (layer.digest, watch::Sender::new(false)))
            .collect();
        let fetch = async {
            let layers: FuturesUnordered<_> = work
                .missing
                .iter()
                .map(|layer| self.fetch(*layer, &tally, &whole))
                .collect();
            layers.try_collect::<()>().await
        };
        let both = async {
            let unpack = self.unpack(&work, &whole);
            tokio::try_join!(fetch, unpack).map(drop)
        };
        let cost = tally.follow(both, progress).await?;
        let target = self.put_documents(&work).await?;
        self.containerd
            .publish(&Wanted {
                names: names(self.source),
                target,
                config: work.plan.config_digest,
                digest: self.source.digest,
                image_hash: self.source.image_hash,
                pin: pin.map(str::to_owned),
            })
            .await?;
        let small = work.plan.small_bytes().saturating_sub(first.fetched);
        let layers = total_size(&work.plan.unique()).saturating_sub(cost.layers);
        Ok(Receipt {
            digest: self.source.digest,
            bytes_fetched: cost.fetched,
            bytes_from_mirrors: cost.from_mirrors,
            bytes_present: layers + small,
            digests_verified: cost.verified,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Manifest and config, from containerd where they are there; and what they cost.
    async fn plan(&self) -> Result<(Plan, PullCost)> {
        let image = self.source.digest;
        let mut cost = PullCost::default();
        let mut count = |text: &str| {
            cost.fetched += text.len() as u64;
            cost.verified += 1;
        };
        let manifest = match self.containerd.text(&image).await? {
            Some(text) => text,
            None => {
                let text = fetch_manifest(self.source).await?;
                count(&text);
                text
            }
        };
        let (_, config) = read_manifest(image, &manifest)?;
        let config = match self.containerd.text(&config).await? {
            Some(text) => text,
            None => {
                let text = fetch_config(self.source, &config).await?;
                count(&text);
                text
            }
        };
        Ok((Plan::read(image, manifest, config)?, cost))
    }

    /// Finds out what is missing. What is there is kept by the lease.
    async fn work(&self, plan: Plan) -> Result<Work> {
        let (manifest, _) = read_manifest(self.source.digest, &plan.manifest)?;
        let chains = chain_ids(plan.layers.iter().map(|layer| layer.diff_id));
        let mut unpacked = 0;
        for (below, chain) in chains.iter().enumerate().rev() {
            if self.containerd.keep_snapshot(chain, self.lease).await? {
                unpacked = below + 1;
                break;
            }
        }
        let mut missing: Vec<LayerRef> = Vec::new();
        let mut seen = BTreeSet::new();
        for layer in &plan.layers[unpacked..] {
            if seen.insert(layer.digest) && !self.keep_layer(layer).await? {
                missing.push(*layer);
            }
        }
        Ok(Work {
            plan,
            manifest,
            chains,
            unpacked,
            missing,
        })
    }

    /// Whether a layer's blob is there; then the lease keeps it.
    async fn keep_layer(&self, layer: &LayerRef) -> Result<bool> {
        if self.containerd.size_of(&layer.digest).await?.is_none() {
            return Ok(false);
        }
        self.lease.add("content", &layer.digest.to_string()).await?;
        // It may have been collected before the lease had it.
        let Some(size) = self.containerd.size_of(&layer.digest).await? else {
            return Ok(false);
        };
        if size != layer.size {
            return Err(CacheError::Image {
                image: self.source.digest,
                detail: format!(
                    "it says of layer {} that it has {} bytes, but it has {size}",
                    layer.digest, layer.size
                ),
            });
        }
        Ok(true)
    }

    /// Brings a layer's blob in.
    async fn fetch(
        &self,
        layer: LayerRef,
        tally: &Tally<'_>,
        whole: &BTreeMap<Digest, watch::Sender<bool>>,
    ) -> Result<()> {
        let _turn = self
            .shared
            .turns
            .take(format!("blob {}", layer.digest))
            .await;
        let permit = self.shared.parallel.acquire().await;
        let _permit = permit.map_err(|_| CacheError::Cancelled)?;
        let counts: Arc<Counts> = Arc::default();
        if self.keep_layer(&layer).await? {
            tally.note(layer.digest, Stage::Whole);
        } else {
            tally.note(layer.digest, Stage::Ours(Arc::clone(&counts), false));
            self.download(&layer, &counts).await?;
            match counts.fetched() {
                // Others brought it meanwhile, or another namespace had it.
                0 => tally.note(layer.digest, Stage::Whole),
                _ => tally.finished(&layer.digest),
            }
        }
        if let Some(whole) = whole.get(&layer.digest) {
            whole.send_replace(true);
        }
        Ok(())
    }

    async fn download(&self, layer: &LayerRef, counts: &Counts) -> Result<()> {
        let blob = Blob {
            digest: layer.digest,
            size: layer.size,
        };
        let shared = self.shared;
        let mut servers = Servers::new(
            self.source,
            blob,
            shared.patience,
            &shared.passed_over,
            counts,
        );
        // The name by which containerd's own clients write it: two who pull it share the work.
        let name = format!("layer-{}", layer.digest);
        let until = Instant::now() + OTHERS;
        let mut repeated = false;
        loop {
            let ingest = match self.containerd.open(&name, &blob).await? {
                Opened::Ingest(ingest) => ingest,
                Opened::There if self.keep_layer(layer).await? => return Ok(()),
                Opened::There | Opened::Busy if Instant::now() < until => {
                    wait().await;
                    continue;
                }
                Opened::There | Opened::Busy => {
                    return Err(CacheError::Containerd {
                        address: self.containerd.settings().address.display().to_string(),
                        doing: format!("write layer {}", layer.digest),
                        detail: "another client has been writing it for too long".to_owned(),
                        transient: true,
                        disk_full: false,
                    });
                }
            };
            let resumed = ingest.offset() > 0;
            let mut senders = Senders::default();
            if self
                .fill(ingest, &blob, &mut servers, counts, &mut senders)
                .await?
                == Committed::There
            {
                return Ok(());
            }
            self.containerd.abort(&name).await?;
            // What was left from before may be what is wrong.
            if resumed {
                continue;
            }
            if senders.hosts.is_empty() {
                return Err(CacheError::Damaged {
                    layer: layer.digest,
                    hosts: "a manifest that gives it no bytes".to_owned(),
                });
            }
            servers.sent_wrong_bytes(&senders, &mut repeated)?;
        }
    }

    /// Streams what is missing of a blob into its ingest, and commits it.
    async fn fill(
        &self,
        mut ingest: Box<Ingest>,
        blob: &Blob,
        servers: &mut Servers<'_>,
        counts: &Counts,
        senders: &mut Senders,
    ) -> Result<Committed> {
        // More than there is cannot be right.
        let mut restart = ingest.offset() > blob.size;
        let from = if restart { 0 } else { ingest.offset() };
        counts.begin(from);
        let (parts, mut queue) = mpsc::channel(QUEUE);
        let receive = async move {
            let received = servers.receive(from, &parts, senders).await;
            if received.is_ok() {
                // The writer may have ended by itself; then it says why.
                let _ = parts.send(Part::End).await;
            }
            received
        };
        let write = async {
            let mut buffer = BytesMut::new();
            loop {
                let part = queue.recv().await;
                if let Some(Part::Data(bytes)) = &part {
                    buffer.extend_from_slice(bytes);
                    if buffer.len() < PIECE {
                        continue;
                    }
                }
                // What came before a connection broke is kept, too.
                let piece = buffer.split().freeze();
                match (piece.is_empty(), std::mem::take(&mut restart)) {
                    (true, _) => {}
                    (false, true) => ingest.restart(piece).await?,
                    (false, false) => ingest.write(piece).await?,
                }
                if !matches!(part, Some(Part::Data(_))) {
                    return Ok(());
                }
            }
        };
        let (received, written): (Result<()>, Result<()>) = tokio::join!(receive, write);
        written?;
        received?;
        let labels = Labels::from([self.source_label()]);
        ingest.commit(blob, labels).await
    }

    /// Unpacks the layers that are not, from below, each as soon as its blob is there.
    async fn unpack(
        &self,
        work: &Work,
        whole: &BTreeMap<Digest, watch::Sender<bool>>,
    ) -> Result<()> {
        let descriptors = work.manifest.layers();
        let layers = work.plan.layers.iter().zip(descriptors).zip(&work.chains);
        for (at, ((layer, descriptor), chain)) in layers.enumerate().skip(work.unpacked) {
            if let Some(whole) = whole.get(&layer.digest) {
                // The sender is there as long as we are.
                let _ = whole.subscribe().wait_for(|whole| *whole).await;
            }
            let _turn = self.shared.turns.take(format!("chain {chain}")).await;
            if self.containerd.keep_snapshot(chain, self.lease).await? {
                continue;
            }
            let unpack = Unpack {
                layer: Descriptor {
                    media_type: descriptor.media_type().to_string(),
                    digest: layer.digest.to_string(),
                    size: layer.size.cast_signed(),
                    annotations: BTreeMap::new(),
                },
                diff_id: layer.diff_id,
                parent: at.checked_sub(1).map(|below| work.chains[below]),
                chain: *chain,
            };
            let error = match self.containerd.unpack(&unpack).await? {
                Unpacked::There => {
                    let labels =
                        Labels::from([(UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
                    self.containerd.label(&layer.digest, &labels).await?;
                    continue;
                }
                Unpacked::Refused(detail) => CacheError::Containerd {
                    address: self.containerd.settings().address.display().to_string(),
                    doing: format!("unpack layer {}", layer.digest),
                    detail,
                    transient: false,
                    disk_full: false,
                },
                Unpacked::Other(actual) => CacheError::Image {
                    image: self.source.digest,
                    detail: format!(
                        "the diff_id of layer {} is {actual}, but its config says {}",
                        layer.digest, layer.diff_id
                    ),
                },
            };
            if whole.contains_key(&layer.digest) {
                return Err(error);
            }
            // It was there before, and may have been damaged since it was verified.
            tracing::warn!(%error, layer = %layer.digest, "fetching it anew");
            self.containerd.remove_blob(&layer.digest).await?;
            return Err(CacheError::Stale {
                layer: layer.digest,
                why: error.to_string(),
            });
        }
        Ok(())
    }

    /// Config and manifest, with the labels that keep what they name; gives what names the image.
    async fn put_documents(&self, work: &Work) -> Result<Descriptor> {
        let settings = self.containerd.settings();
        let mut config = Labels::from([self.source_label()]);
        if let Some(top) = work.chains.last() {
            let key = format!("{SNAPSHOT_REFERENCE}.{}", settings.snapshotter);
            config.insert(key, top.to_string());
        }
        self.containerd
            .put("config", &work.plan.config, &config)
            .await?;
        let mut manifest = Labels::from([
            self.source_label(),
            (
                format!("{CONTENT_REFERENCE}.config"),
                work.plan.config_digest.to_string(),
            ),
        ]);
        for (number, layer) in work.plan.layers.iter().enumerate() {
            let key = format!("{CONTENT_REFERENCE}.l.{number}");
            manifest.insert(key, layer.digest.to_string());
        }
        self.containerd
            .put("manifest", &work.plan.manifest, &manifest)
            .await?;
        let media_type = work.manifest.media_type().clone();
        Ok(Descriptor {
            media_type: media_type.unwrap_or(MediaType::ImageManifest).to_string(),
            digest: self.source.digest.to_string(),
            size: work.plan.manifest.len() as i64,
            annotations: BTreeMap::new(),
        })
    }

    fn source_label(&self) -> (String, String) {
        let repository = &self.source.repository;
        let key = format!("{SOURCE}.{}", repository.registry());
        (key, repository.repository().to_owned())
    }
}
