//! One builder at work: solves, what they report meanwhile, and how they end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{
    CacheOptions, CacheOptionsEntry, SolveRequest, StatusRequest,
};
use bollard_buildkit_proto::pb;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::connect::in_words;
use super::fleet::Builder;
use super::session::{Answers, Session};
use super::watch::{Failed, OpId, Watch};
use crate::engine::EngineError;

/// How often is looked whether an operation takes too long.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for the last reports of a solve that has ended.
const LAST_REPORTS: Duration = Duration::from_secs(5);
/// Largest message of a builder.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Why a build does not go on with a builder.
#[derive(Debug)]
pub(super) enum Halt {
    /// The builder is gone; another one may do.
    Builder(String),
    /// An operation failed.
    Operation(Failed),
    /// Nothing will do.
    Build(EngineError),
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Build(error)
    }
}

/// Where the result of a solve goes.
#[derive(Debug, Default)]
pub(super) struct Export {
    /// `moby`, `image`, `tar`; empty for nowhere.
    pub(super) kind: &'static str,
    /// Options of the exporter.
    pub(super) attrs: Vec<(&'static str, String)>,
    /// Reference of the registry's cache for steps, where the builder keeps one.
    pub(super) cache: Option<String>,
}

/// A builder with a session.
pub(super) struct Attempt<'a> {
    pub(super) builder: &'a Builder,
    pub(super) answers: Arc<Answers>,
    channel: Channel,
    session: Session,
    cancel: &'a CancellationToken,
    step_timeout: Duration,
    entitlements: Vec<String>,
}

impl<'a> Attempt<'a> {
    /// Begins a session on a builder.
    ///
    /// # Errors
    /// When the builder does not take it.
    pub(super) async fn begin(
        builder: &'a Builder,
        channel: Channel,
        answers: Arc<Answers>,
        cancel: &'a CancellationToken,
        step_timeout: Duration,
        host_network: bool,
    ) -> Result<Self, Halt> {
        let session = Session::begin(channel.clone(), Arc::clone(&answers)).await;
        let session = session.map_err(|status| Halt::Builder(words(&status)))?;
        let entitlements = match host_network {
            true => vec!["network.host".to_owned()],
            false => Vec::new(),
        };
        Ok(Self {
            builder,
            answers,
            channel,
            session,
            cancel,
            step_timeout,
            entitlements,
        })
    }

    /// Name of the session.
    pub(super) fn session(&self) -> &str {
        &self.session.id
    }

    /// Has a definition solved, and gives what the exporter says.
    ///
    /// # Errors
    /// See [`Halt`]. On return nothing of the solve runs any more but what the builder takes to
    /// stop it.
    pub(super) async fn solve(
        &self,
        definition: pb::Definition,
        export: Export,
        watch: &mut Watch<'_>,
    ) -> Result<BTreeMap<String, String>, Halt> {
        let reference = hex::encode(rand::random::<[u8; 16]>());
        let mut control = ControlClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let mut watching = control.clone();
        let attrs = export.attrs.into_iter();
        let request = SolveRequest {
            r#ref: reference.clone(),
            definition: Some(definition),
            exporter_deprecated: export.kind.to_owned(),
            exporter_attrs_deprecated: attrs.map(|(key, v)| (key.to_owned(), v)).collect(),
            session: self.session.id.clone(),
            entitlements: self.entitlements.clone(),
            cache: Some(cache_options(export.cache)),
            ..SolveRequest::default()
        };
        let mut solving = Box::pin(control.solve(request));
        let status = watching.status(StatusRequest { r#ref: reference });
        let mut status = Box::pin(status);
        let mut reports = None;
        let mut reports_open = true;
        let mut ended = None;
        let mut ticks = tokio::time::interval(TICK);
        let mut last_reports = Box::pin(tokio::time::sleep(Duration::MAX / 4));
        loop {
            if ended.is_some() && !reports_open {
                break;
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    return Err(Halt::Build(EngineError::Cancelled));
                }
                answer = &mut solving, if ended.is_none() => {
                    ended = Some(answer);
                    last_reports.as_mut().reset(tokio::time::Instant::now() + LAST_REPORTS);
                }
                opened = &mut status, if reports.is_none() && reports_open => match opened {
                    Ok(opened) => reports = Some(opened.into_inner()),
                    Err(_) => reports_open = false,
                },
                report = next(&mut reports), if reports.is_some() && reports_open => match report {
                    Some(report) => watch.see(&report),
                    None => reports_open = false,
                },
                _ = ticks.tick() => {
                    if let Some(op) = watch.overdue(self.step_timeout) {
                        return Err(Halt::Operation(self.too_late(op, watch)));
                    }
                }
                () = &mut last_reports, if ended.is_some() => break,
            }
        }
        match ended {
            Some(Ok(answer)) => {
                let answer: HashMap<String, String> = answer.into_inner().exporter_response;
                Ok(answer.into_iter().collect())
            }
            Some(Err(status)) => Err(self.why(&status, watch).await),
            None => Err(Halt::Builder("it told nothing".to_owned())),
        }
    }

    fn too_late(&self, op: OpId, watch: &mut Watch<'_>) -> Failed {
        let limit = self.step_timeout.as_secs();
        let failed = watch.fail(op, "");
        Failed {
            message: format!(
                "stopped at the time limit of {limit} s (setting `build.step_timeout`)"
            ),
            ..failed
        }
    }

    /// Whether a failed solve is the builder's end, a step's fault, or neither.
    async fn why(&self, status: &Status, watch: &mut Watch<'_>) -> Halt {
        // A builder that is killed may still tell that its processes were.
        if let Err(why) = self.builder.check().await {
            let words = watch.masked(words(status));
            return Halt::Builder(format!("{words}; {why}"));
        }
        if let Some(failed) = watch.failure() {
            return Halt::Operation(failed);
        }
        let why = watch.other_failure().unwrap_or_else(|| words(status));
        let why = watch.masked(why);
        if is_of_connection(status) {
            return Halt::Builder(why);
        }
        Halt::Build(EngineError::Host(format!(
            "the builder {} cannot do this build: {why}",
            self.builder.address
        )))
    }
}

async fn next<T>(reports: &mut Option<tonic::Streaming<T>>) -> Option<T> {
    match reports {
        Some(reports) => reports.message().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Whether a call failed for its connection, and not for what it asked.
fn is_of_connection(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable
        || std::error::Error::source(status).is_some()
        || status.message().contains("no active session")
}

/// What a call failed for.
pub(super) fn words(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), in_words(source)),
        None => status.message().to_owned(),
    }
}

fn cache_options(reference: Option<String>) -> CacheOptions {
    let Some(reference) = reference else {
        return CacheOptions::default();
    };
    let entry = |attrs: &[(&str, &str)]| CacheOptionsEntry {
        r#type: "registry".to_owned(),
        attrs: attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    CacheOptions {
        // Everything, not the steps of the result alone; a build does not fail for it.
        exports: vec![entry(&[
            ("ref", &reference),
            ("mode", "max"),
            ("oci-mediatypes", "true"),
            ("image-manifest", "true"),
            ("ignore-error", "true"),
        ])],
        imports: vec![entry(&[("ref", &reference)])],
        ..CacheOptions::default()
    }
}
