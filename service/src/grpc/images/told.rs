//! What is told of a build: its status, why it failed, and its steps as a workflow.

use std::collections::BTreeMap;

use chalk_core::wire::{Build, BuildStatus, Event, EventKind, StepState};

use super::super::proto::chalk::argo::v1::{
    ArgoWorkflow, ArgoWorkflowBuild, ArgoWorkflowMetadata, ArgoWorkflowNodeStatus,
    ArgoWorkflowStatus,
};
use super::super::proto::chalk::sandbox::v1::CustomImageBuildSummary;
use super::super::{status, times};
use crate::builds::Events;

/// Last lines of a step's output that the reason of its failure carries.
const TAIL: usize = 20;

/// The word of the SDK for a build.
pub(super) fn word(build: &Build) -> &'static str {
    match build.status {
        BuildStatus::Queued | BuildStatus::Running => "building",
        BuildStatus::Built | BuildStatus::Reused => "succeeded",
        BuildStatus::Failed | BuildStatus::Cancelled => "failed",
    }
}

/// An interrupted build until the service is back and begins it again: told as failed, the SDK would
/// ask no more.
pub(super) fn waiting(build: Build) -> Build {
    Build {
        status: BuildStatus::Queued,
        error: None,
        finished: None,
        ..build
    }
}

/// A build in a list.
pub(super) fn summary(build: &Build, base_image: Option<String>) -> CustomImageBuildSummary {
    CustomImageBuildSummary {
        content_hash: build.image_hash.to_string(),
        image_ref: build.image.clone().unwrap_or_default(),
        created_at: times::of_text(&build.created),
        build_id: Some(build.id.clone()),
        status: Some(word(build).to_owned()),
        base_image,
    }
}

/// Why a build failed: the step, what it said last, and what to do.
pub(super) async fn reason(build: &Build, events: Option<Events>) -> Option<String> {
    let error = build.error.as_ref()?;
    let mut words = status::words(error);
    let Some(mut events) = events else {
        return Some(words);
    };
    let mut last = Vec::new();
    while let Ok(Some(lines)) = events.next(false).await {
        for line in lines {
            // Most lines are output, and need not be read.
            if !line.json.contains("step_failed") {
                continue;
            }
            if let Ok(Event {
                kind: EventKind::StepFailed { tail, .. },
                ..
            }) = serde_json::from_str(&line.json)
            {
                last = tail;
            }
        }
    }
    for line in &last[last.len().saturating_sub(TAIL)..] {
        words.push_str("\n  ");
        words.push_str(line);
    }
    Some(words)
}

/// A build as Argo would tell it: the build is the workflow, its steps are the nodes.
pub(super) fn workflow(build: &Build, base_image: String) -> ArgoWorkflow {
    let image = build.image.clone().into_iter().collect::<Vec<_>>();
    let started = times::of_text(&build.created);
    let finished = build.finished.as_deref().and_then(times::of_text);
    let done = |state: StepState| matches!(state, StepState::Cached | StepState::Ran);
    let progress = format!(
        "{}/{}",
        build.steps.iter().filter(|step| done(step.state)).count(),
        build.steps.len()
    );
    let node_id = |step: usize| format!("{}-{step}", build.id);
    let phase = |state: StepState| match state {
        StepState::Waiting if build.status.is_final() => "Omitted",
        StepState::Waiting => "Pending",
        StepState::Running => "Running",
        StepState::Cached => "Skipped",
        StepState::Ran => "Succeeded",
        StepState::Failed => "Failed",
    };
    let nodes = build.steps.iter().enumerate().map(|(i, step)| {
        let node = ArgoWorkflowNodeStatus {
            id: node_id(i),
            name: format!("{}.{}", build.id, i + 1),
            display_name: step.title.clone(),
            r#type: "Pod".to_owned(),
            phase: phase(step.state).to_owned(),
            message: match step.state {
                StepState::Cached => "taken from the step cache".to_owned(),
                _ => String::new(),
            },
            children: (i + 1 < build.steps.len())
                .then(|| node_id(i + 1))
                .into_iter()
                .collect(),
            template_name: Some(step.kind.clone()),
            ..ArgoWorkflowNodeStatus::default()
        };
        (node.id.clone(), node)
    });
    let phase = match build.status {
        BuildStatus::Queued => "Pending",
        BuildStatus::Running => "Running",
        BuildStatus::Built | BuildStatus::Reused => "Succeeded",
        BuildStatus::Failed => "Failed",
        BuildStatus::Cancelled => "Error",
    };
    let labels = BTreeMap::from([
        ("chalk.ai/image-hash".to_owned(), build.image_hash.hex()),
        ("chalk.ai/recipe-hash".to_owned(), build.recipe_hash.hex()),
    ]);
    ArgoWorkflow {
        metadata: Some(ArgoWorkflowMetadata {
            name: build.id.clone(),
            creation_timestamp: started,
            labels,
            ..ArgoWorkflowMetadata::default()
        }),
        status: Some(ArgoWorkflowStatus {
            phase: phase.to_owned(),
            started_at: started,
            finished_at: finished,
            message: build.error.as_ref().map(status::words).unwrap_or_default(),
            nodes: nodes.collect(),
            progress: Some(progress),
        }),
        image_destinations: image.clone(),
        build: Some(ArgoWorkflowBuild {
            base_image,
            image_destinations: image,
        }),
    }
}
