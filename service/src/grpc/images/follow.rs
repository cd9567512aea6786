//! A build told as it goes on.

use std::time::Duration;

use chalk_core::wire::{Event, EventKind};
use tonic::Status;

use super::super::proto::chalk::sandbox::v1 as proto;
use super::Images;
use crate::builds::Events;
use crate::http::ApiError;

/// Time between two updates of a build in which nothing happens.
const QUIET: Duration = Duration::from_secs(15);

/// A build that is followed.
pub(super) struct Following {
    images: Images,
    id: String,
    /// None once all were told.
    events: Option<Events>,
    /// Messages that are to be told, the next one last.
    waiting: Vec<String>,
}

impl Following {
    /// Follows a build by its events.
    pub(super) fn new(images: Images, id: String, events: Events) -> Self {
        Self {
            images,
            id,
            events: Some(events),
            waiting: Vec::new(),
        }
    }

    /// The next update; nothing after the one that tells the end.
    pub(super) async fn next(
        &mut self,
    ) -> Option<Result<proto::StreamCustomImageBuildUpdatesResponse, Status>> {
        while self.waiting.is_empty() {
            let events = self.events.as_mut()?;
            match tokio::time::timeout(QUIET, events.next(true)).await {
                Err(_) => self.waiting.push(String::new()),
                Ok(Ok(Some(lines))) => {
                    let messages = lines.iter().filter_map(|line| message(&line.json));
                    self.waiting = messages.collect();
                    self.waiting.reverse();
                }
                Ok(Ok(None)) => {
                    self.events = None;
                    return Some(self.end().await);
                }
                Ok(Err(error)) => {
                    self.events = None;
                    let told = ApiError::internal("the events cannot be read", &error);
                    return Some(Err(told.into()));
                }
            }
        }
        Some(Ok(proto::StreamCustomImageBuildUpdatesResponse {
            status: "building".to_owned(),
            message: self.waiting.pop()?,
            ..proto::StreamCustomImageBuildUpdatesResponse::default()
        }))
    }

    async fn end(&self) -> Result<proto::StreamCustomImageBuildUpdatesResponse, Status> {
        let builds = self.images.service.builds();
        loop {
            let build = builds.get(&self.id).await.map_err(ApiError::from)?;
            let (word, image, error) = self.images.standing(&build).await;
            if word != "building" {
                return Ok(proto::StreamCustomImageBuildUpdatesResponse {
                    status: word.to_owned(),
                    image,
                    error,
                    message: String::new(),
                });
            }
            // Its image is on its way to another registry.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// What an event is for people; nothing for those that are not worth a line.
fn message(json: &str) -> Option<String> {
    let event: Event = serde_json::from_str(json).ok()?;
    Some(match event.kind {
        EventKind::Queued { ahead } => format!("waits, {ahead} builds before it"),
        EventKind::Started { steps } => format!("began, {} steps", steps.len()),
        EventKind::StepStarted { step } => format!("step {} runs", step + 1),
        EventKind::Log { text, .. } => text.trim_end_matches('\n').to_owned(),
        EventKind::StepCached { step, source } => {
            format!("step {} is cached ({source})", step + 1)
        }
        EventKind::StepDone { step, seconds, .. } => {
            format!("step {} ended after {seconds:.1} s", step + 1)
        }
        EventKind::StepFailed { step, message, .. } => {
            format!("step {} failed: {message}", step + 1)
        }
        EventKind::Warning { message } => format!("warning: {message}"),
        EventKind::Pulling { .. } | EventKind::Pushed { .. } | EventKind::Finished { .. } => {
            return None;
        }
    })
}
