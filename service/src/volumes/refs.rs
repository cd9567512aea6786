//! Refs beside the default one, and the versions that lie behind a ref.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{Result, VolumeError};
use super::records::{RefRecord, VersionRecord, key};
use super::{DEFAULT_REF, Page, Selector, Volume, Volumes, blocking, names, version};
use crate::ledger::{Changes, Table};

/// Most refs of a volume.
const REF_LIMIT: usize = 10_000;

impl Volumes {
    /// Makes a ref that points to a version.
    ///
    /// # Errors
    /// When the name is no good or taken, or there is no such version.
    pub(crate) async fn create_ref(
        &self,
        volume: &Arc<Volume>,
        name: &str,
        number: u64,
    ) -> Result<RefRecord> {
        names::check_name("name of a ref", name)?;
        let _changing = volume.changing.lock().await;
        volume.check_there()?;
        let refs = volume.refs();
        if name == DEFAULT_REF || refs.iter().any(|known| known.name == name) {
            return Err(VolumeError::Exists {
                kind: "ref",
                name: name.to_owned(),
            });
        }
        if refs.len() >= REF_LIMIT {
            return Err(VolumeError::TooMany {
                what: "refs of a volume",
                found: refs.len() as u64 + 1,
                limit: REF_LIMIT as u64,
            });
        }
        self.version(volume, &Selector::Version(number)).await?;
        let made = RefRecord {
            name: name.to_owned(),
            version: number,
            updated: jiff::Timestamp::now(),
        };
        let changes = Changes::new().put(Table::VolumeRefs, &key(&volume.id, name), &made);
        self.ledger.commit(changes).await?;
        volume.write(|state| state.refs.insert(name.to_owned(), made.clone()));
        Ok(made)
    }

    /// Forgets a ref; its versions stay.
    ///
    /// # Errors
    /// When there is none, or it is the default one.
    pub(crate) async fn delete_ref(&self, volume: &Arc<Volume>, name: &str) -> Result<()> {
        if name == DEFAULT_REF {
            return Err(VolumeError::Invalid(format!(
                "the ref `{DEFAULT_REF}` cannot be deleted; delete the volume instead"
            )));
        }
        let _changing = volume.changing.lock().await;
        volume.check_there()?;
        if !volume.refs().iter().any(|known| known.name == name) {
            return Err(VolumeError::NoRef {
                volume: volume.name.clone(),
                name: name.chars().take(200).collect(),
            });
        }
        let changes = Changes::new().remove(Table::VolumeRefs, &key(&volume.id, name));
        self.ledger.commit(changes).await?;
        volume.write(|state| state.refs.remove(name));
        Ok(())
    }

    /// The versions from the first one to that of a ref, by parents, at most `limit` after the
    /// sequence number `after`.
    ///
    /// # Errors
    /// When there is no such ref.
    pub(crate) async fn versions(
        &self,
        volume: &Arc<Volume>,
        selector: &Selector,
        after: u64,
        limit: usize,
    ) -> Result<Page<VersionRecord>> {
        let Some(head) = volume.number(selector)? else {
            return Ok(Page {
                items: Vec::new(),
                next: None,
            });
        };
        let (ledger, volume) = (self.ledger.clone(), volume.clone());
        blocking(move || {
            let prefix = key(&volume.id, "");
            let all = ledger.all::<VersionRecord>(Table::VolumeVersions, &prefix)?;
            let mut all: BTreeMap<u64, VersionRecord> = all
                .into_iter()
                .map(|(_, found)| (found.number, found))
                .collect();
            // A version whose record cannot be read must not cut the list short silently.
            let mut take = |number| match all.remove(&number) {
                Some(found) => Ok(found),
                None => version(&ledger, &volume, number),
            };
            let mut lineage = Vec::new();
            let mut next = Some(head);
            while let Some(number) = next {
                let found = take(number)?;
                next = found.parent;
                if found.sequence <= after {
                    break;
                }
                lineage.push(found);
            }
            lineage.reverse();
            let more = lineage.len() > limit;
            lineage.truncate(limit);
            let last = lineage.last().map(|found| found.sequence.to_string());
            Ok(Page {
                next: last.filter(|_| more),
                items: lineage,
            })
        })
        .await
    }
}
