//! The builders: which one a build goes to, and which of them live.
//!
//! A build goes to the builder that rendezvous hashing finds for its base and first steps: builds that
//! begin alike meet where their beginning is cached, and a builder that comes or goes moves no build
//! but its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::types::WorkerRecord;
use chalk_core::Digest;
use chalk_core::lower::BuildStage;
use tonic::transport::Channel;

use super::address::Address;
use super::connect::{Tls, channel};
use super::solve::words;

/// First steps by which builds are told apart: further ones would tear apart what shares a beginning.
const FIRST_STEPS: usize = 2;
/// Longest that a builder may take to say that it lives.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a builder that failed is asked last.
const RESTING: Duration = Duration::from_secs(30);

/// One builder.
pub(super) struct Builder {
    /// Where it is.
    pub(super) address: Address,
    tls: Tls,
}

/// All builders.
pub(super) struct Fleet {
    builders: Vec<Builder>,
    /// When a builder failed.
    failed: Mutex<BTreeMap<Address, Instant>>,
}

impl Builder {
    /// Connects, and asks whether it can build.
    ///
    /// # Errors
    /// Why it cannot; in words.
    pub(super) async fn check(&self) -> Result<Channel, String> {
        self.ask().await.map(|(channel, _)| channel)
    }

    /// Connects, and asks for which platforms it builds.
    ///
    /// # Errors
    /// Why it cannot build; in words.
    pub(super) async fn platforms(&self) -> Result<String, String> {
        let (_, workers) = self.ask().await?;
        let platforms = workers.into_iter().flat_map(|worker| worker.platforms);
        let words = platforms.map(|p| match p.variant.as_str() {
            "" => format!("{}/{}", p.os, p.architecture),
            variant => format!("{}/{}/{variant}", p.os, p.architecture),
        });
        Ok(words.collect::<Vec<_>>().join(", "))
    }

    async fn ask(&self) -> Result<(Channel, Vec<WorkerRecord>), String> {
        let asking = async {
            let channel = channel(&self.address, &self.tls).await?;
            let mut control = ControlClient::new(channel.clone());
            let request = ListWorkersRequest::default();
            let workers = control.list_workers(request).await;
            let workers = workers.map_err(|status| words(&status))?.into_inner();
            match workers.record.is_empty() {
                true => Err("it has no worker".to_owned()),
                false => Ok((channel, workers.record)),
            }
        };
        let asked = tokio::time::timeout(ANSWER, asking).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
    }
}

impl Fleet {
    /// Builders by their addresses.
    pub(super) fn new(addresses: Vec<Address>, tls: &Tls) -> Self {
        let builder = |address| Builder {
            address,
            tls: tls.clone(),
        };
        Self {
            builders: addresses.into_iter().map(builder).collect(),
            failed: Mutex::default(),
        }
    }

    /// All builders, in the order of the settings.
    pub(super) fn builders(&self) -> &[Builder] {
        &self.builders
    }

    /// All builders, the one for `place` first; those that failed a moment ago last.
    pub(super) fn ranked(&self, place: &Digest) -> Vec<&Builder> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, at| at.elapsed() < RESTING);
        let mut ranked: Vec<&Builder> = self.builders.iter().collect();
        ranked.sort_by_cached_key(|builder| {
            let rests = failed.contains_key(&builder.address);
            (rests, std::cmp::Reverse(score(place, &builder.address)))
        });
        ranked
    }

    /// Notes that a builder failed.
    pub(super) fn note_failure(&self, builder: &Builder) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.insert(builder.address.clone(), Instant::now());
    }
}

fn score(place: &Digest, address: &Address) -> Digest {
    Digest::of(format!("{place} {address}").as_bytes())
}

/// What a build is placed by: the base of its result and the first steps on it.
pub(super) fn place(stage: &BuildStage) -> Digest {
    let mut text = stage.base_key.to_string();
    for op in stage.ops.iter().take(FIRST_STEPS) {
        text.push_str(&format!(" {}", op.key));
    }
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BuildKit;

    fn fleet(count: u16) -> Fleet {
        let address = |port| Address::Tcp {
            host: "b".into(),
            port,
        };
        let tls = Tls::new(&BuildKit::default()).unwrap();
        Fleet::new((1..=count).map(address).collect(), &tls)
    }

    fn first(fleet: &Fleet, place: u32) -> Address {
        let place = Digest::of(&place.to_le_bytes());
        fleet.ranked(&place)[0].address.clone()
    }

    #[test]
    fn a_further_builder_takes_its_share_and_moves_nothing_else() {
        let (four, five) = (fleet(4), fleet(5));
        let new = Address::Tcp {
            host: "b".into(),
            port: 5,
        };
        let mut taken = 0;
        for place in 0..1000 {
            let (before, after) = (first(&four, place), first(&five, place));
            match after == new {
                true => taken += 1,
                false => assert_eq!(before, after),
            }
        }
        assert!((120..=280).contains(&taken), "{taken} of 1000 moved");
    }

    #[test]
    fn a_builder_that_failed_is_asked_last() {
        let fleet = fleet(3);
        let place = Digest::of(b"place");
        let ranked = fleet.ranked(&place);
        let (best, second) = (ranked[0].address.clone(), ranked[1].address.clone());
        fleet.note_failure(ranked[0]);
        let ranked = fleet.ranked(&place);
        assert_eq!(ranked[0].address, second);
        assert_eq!(ranked[2].address, best);
    }
}
