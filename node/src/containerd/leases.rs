//! Leases: what keeps the parts of an image from containerd's garbage collector until its record
//! stands.

use std::collections::BTreeMap;
use std::time::Duration;

use chalk_core::Digest;

use super::api::containerd::services::leases::v1 as api;
use super::client::Containerd;
use super::snapshots::EXTRACT;
use crate::cache::Result;

/// What a lease that nobody ends keeps is collected after this time: a warm lasts a day at most.
const LASTS: Duration = Duration::from_secs(25 * 3600);
/// containerd's label for the end of a lease (its docs/garbage-collection.md).
const EXPIRES: &str = "containerd.io/gc.expire";
/// Our label on leases: digest of the image that is on its way.
const IMAGE: &str = "chalkcompute.image";

/// A lease of one pull. Dropped, it is ended in the background; what nothing else names is then
/// collected.
pub(super) struct Lease {
    containerd: Containerd,
    id: String,
    ended: bool,
}

impl Lease {
    /// Makes one for an image, and takes over what earlier pulls of it left.
    pub(super) async fn of(containerd: &Containerd, image: &Digest) -> Result<Self> {
        let id = format!("chalk-{:016x}", rand::random::<u64>());
        let expires = jiff::Timestamp::now() + LASTS;
        let expires = expires.round(jiff::Unit::Second).unwrap_or(expires);
        let labels = BTreeMap::from([
            (EXPIRES.to_owned(), expires.to_string()),
            (IMAGE.to_owned(), image.to_string()),
        ]);
        let earlier = of_image(containerd, image).await?;
        let create = api::CreateRequest {
            id: id.clone(),
            labels,
        };
        containerd
            .call("make a lease", containerd.leases().create(create))
            .await?;
        let lease = Self {
            containerd: containerd.clone(),
            id,
            ended: false,
        };
        for old in earlier {
            lease.take_over(&old).await?;
        }
        Ok(lease)
    }

    /// Ends all that were made for an image, which needs none any more.
    pub(super) async fn end_all(containerd: &Containerd, image: &Digest) -> Result<()> {
        for lease in of_image(containerd, image).await? {
            end(containerd, &lease).await?;
        }
        Ok(())
    }

    /// What another lease has is this one's, and the other ends. Snapshots that it was unpacking into
    /// are of no use to anybody.
    async fn take_over(&self, other: &str) -> Result<()> {
        let containerd = &self.containerd;
        let mut leases = containerd.leases();
        let list = api::ListResourcesRequest {
            id: other.to_owned(),
        };
        let doing = "read a lease";
        let resources = containerd.watched(leases.list_resources(list)).await?;
        // It may just have run out.
        let resources = super::client::found(resources);
        let resources = resources.map_err(|status| containerd.failure(doing, &status))?;
        let resources = resources.map(|answer| answer.into_inner().resources);
        for resource in resources.unwrap_or_default() {
            if resource.id.starts_with(EXTRACT) {
                continue;
            }
            self.add(&resource.r#type, &resource.id).await?;
        }
        self.end_other(other).await
    }

    /// Id, for calls whose makings are to belong to it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Keeps what is there already: `content`, `ingests` or `snapshots/SNAPSHOTTER` by name.
    pub(super) async fn add(&self, kind: &str, name: &str) -> Result<()> {
        let add = api::AddResourceRequest {
            id: self.id.clone(),
            resource: Some(api::Resource {
                id: name.to_owned(),
                r#type: kind.to_owned(),
            }),
        };
        let mut leases = self.containerd.leases();
        let added = self
            .containerd
            .call("keep by a lease", leases.add_resource(add));
        added.await.map(drop)
    }

    /// Ends it.
    pub(super) async fn end(mut self) -> Result<()> {
        self.ended = true;
        self.end_other(&self.id).await
    }

    /// Leaves it as it is, for the next try.
    pub(super) fn leave(mut self) {
        self.ended = true;
    }

    async fn end_other(&self, id: &str) -> Result<()> {
        end(&self.containerd, id).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (containerd, id) = (self.containerd.clone(), self.id.clone());
        tokio::spawn(async move {
            if let Err(error) = end(&containerd, &id).await {
                tracing::warn!(%error, lease = id, "a lease stays until it runs out");
            }
        });
    }
}

/// Ids of the leases that were made for an image.
async fn of_image(containerd: &Containerd, image: &Digest) -> Result<Vec<String>> {
    let request = api::ListRequest {
        filters: vec![format!("labels.\"{IMAGE}\"==\"{image}\"")],
    };
    let mut leases = containerd.leases();
    let answer = containerd.call("list leases", leases.list(request)).await?;
    let leases = answer.into_inner().leases.into_iter();
    Ok(leases.map(|lease| lease.id).collect())
}

async fn end(containerd: &Containerd, id: &str) -> Result<()> {
    let delete = api::DeleteRequest {
        id: id.to_owned(),
        sync: false,
    };
    let ended = containerd
        .watched(containerd.leases().delete(delete))
        .await?;
    let ended = super::client::found(ended);
    ended
        .map(drop)
        .map_err(|status| containerd.failure("end a lease", &status))
}
