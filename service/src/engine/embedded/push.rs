//! Blobs into the repositories of the regional registry.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use chalk_core::wire::EventKind;
use chalk_store::Blob;
use chalk_store::registry::Progress;

use super::{Shared, storage};
use crate::bases::{Base, Origin};
use crate::engine::{EngineError, EventSink};
use crate::places::{IMAGES, STEPS};

/// Pushes the blobs of one build; tells of each once.
pub(in crate::engine) struct Pusher<'a> {
    shared: &'a Shared,
    events: &'a dyn EventSink,
    /// Bases whose layers may have to be fetched.
    bases: Vec<Arc<Base>>,
    /// Repository and blob that are known to be there.
    there: Mutex<BTreeSet<(&'static str, Blob)>>,
    told: Mutex<BTreeSet<Blob>>,
}

impl<'a> Pusher<'a> {
    pub(in crate::engine) fn new(
        shared: &'a Shared,
        events: &'a dyn EventSink,
        bases: Vec<Arc<Base>>,
    ) -> Self {
        Self {
            shared,
            events,
            bases,
            there: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Makes a blob part of a repository, from wherever it is.
    ///
    /// # Errors
    /// When it is nowhere, or the registry fails.
    pub(in crate::engine) async fn push(
        &self,
        repository: &'static str,
        blob: &Blob,
    ) -> Result<(), EngineError> {
        {
            let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            if there.contains(&(repository, *blob)) {
                return Ok(());
            }
        }
        let regional = &self.shared.regional;
        let doing = "push a layer";
        let present = regional.has_blob(repository, &blob.digest).await;
        let present = present.map_err(|e| storage(doing, &e))?;
        if !present && !self.mount(repository, blob).await? {
            self.fetch(blob).await?;
            let none = Progress::none();
            let pushed = regional
                .push_blob(repository, blob, &self.shared.blobs, &none)
                .await;
            pushed.map_err(|e| storage(doing, &e))?;
        }
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        there.insert((repository, *blob));
        drop(there);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(*blob) {
            self.events.emit(EventKind::Pushed {
                digest: blob.digest,
                bytes: blob.size,
                present,
            });
        }
        Ok(())
    }

    /// Lets the registry take a blob over from another of its repositories, where this build or the
    /// step cache has put it, or a base of it lies there.
    async fn mount(&self, repository: &str, blob: &Blob) -> Result<bool, EngineError> {
        let regional = &self.shared.regional;
        let of_base = self.bases.iter().find_map(|base| {
            let mut layers = base.layers.iter();
            match &base.origin {
                Origin::Regional(from) if layers.any(|layer| layer.digest == blob.digest) => {
                    Some(from.as_str())
                }
                _ => None,
            }
        });
        let cached = (repository != STEPS).then_some(STEPS);
        for from in of_base.into_iter().chain(cached) {
            let mounted = regional.mount_blob(repository, &blob.digest, from).await;
            if mounted.map_err(|e| storage("push a layer", &e))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings a blob into the store: from the registry, or from the base that it is of.
    ///
    /// # Errors
    /// When it is nowhere.
    pub(in crate::engine) async fn fetch(&self, blob: &Blob) -> Result<(), EngineError> {
        let shared = self.shared;
        let (digest, doing) = (blob.digest, "fetch a layer");
        let there = shared.blobs.run(move |blobs| blobs.size(digest)).await;
        if there.map_err(|e| storage(doing, &e))? == Some(blob.size) {
            return Ok(());
        }
        let none = Progress::none();
        for base in &self.bases {
            if base.layers.iter().any(|layer| layer.digest == digest) {
                shared.bases.fetch_layer(base, blob, &none, None).await?;
                return Ok(());
            }
        }
        let mut last = None;
        for repository in [STEPS, IMAGES] {
            match shared
                .regional
                .pull_blob(repository, blob, &shared.blobs, &none)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let nowhere = || EngineError::MissingBlobs(vec![digest]);
        Err(last.map_or_else(nowhere, |error| storage(doing, &error)))
    }
}
