//! A build as clients see it, kept up to date by its events.

use chalk_core::Spec;
use chalk_core::wire::{Build, BuildStatus, BuildStep, EventKind, PlanState, StepState};

/// Takes an event into the build that it belongs to.
pub(crate) fn apply(build: &mut Build, event: &EventKind) {
    let now = seconds_since(&build.created);
    let mut with_step = |index: usize, change: &dyn Fn(&mut BuildStep)| {
        if let Some(step) = build.steps.get_mut(index) {
            change(step);
        }
    };
    match event {
        EventKind::Started { steps } => {
            let waiting = steps.iter().map(|step| BuildStep {
                kind: step.kind.clone(),
                key: step.key,
                title: step.title.clone(),
                state: match step.state {
                    PlanState::Cached => StepState::Cached,
                    PlanState::Run => StepState::Waiting,
                },
                seconds: 0.0,
                layer_bytes: 0,
            });
            build.steps = waiting.collect();
            build.status = BuildStatus::Running;
        }
        EventKind::StepStarted { step } => with_step(*step, &|s| s.state = StepState::Running),
        EventKind::StepCached { step, .. } => with_step(*step, &|s| s.state = StepState::Cached),
        EventKind::StepDone {
            step,
            seconds,
            layer_bytes,
            ..
        } => with_step(*step, &|s| {
            s.state = StepState::Ran;
            s.seconds = *seconds;
            s.layer_bytes = *layer_bytes;
        }),
        EventKind::StepFailed { step, seconds, .. } => with_step(*step, &|s| {
            s.state = StepState::Failed;
            s.seconds = *seconds;
        }),
        EventKind::Finished { build: finished } => {
            *build = (**finished).clone();
            return;
        }
        EventKind::Queued { .. }
        | EventKind::Pulling { .. }
        | EventKind::Log { .. }
        | EventKind::Pushed { .. }
        | EventKind::Warning { .. } => {}
    }
    build.seconds = now;
}

/// The steps of a spec whose image was there.
pub(crate) fn all_cached(spec: &Spec) -> Vec<BuildStep> {
    let steps = spec.steps_with_keys().into_iter();
    let cached = steps.map(|step| BuildStep {
        kind: step.kind.to_owned(),
        key: step.key,
        title: step.title,
        state: StepState::Cached,
        seconds: 0.0,
        layer_bytes: 0,
    });
    cached.collect()
}

/// Seconds from an RFC 3339 time until now; 0 when it is no time, or lies ahead.
pub(crate) fn seconds_since(time: &str) -> f64 {
    seconds_between(time, &jiff::Timestamp::now().to_string())
}

/// Seconds between two RFC 3339 times; 0 when one is no time, or the end comes first.
pub(crate) fn seconds_between(start: &str, end: &str) -> f64 {
    match (start.parse::<jiff::Timestamp>(), end.parse()) {
        (Ok(start), Ok(end)) => {
            let elapsed = jiff::Timestamp::duration_since(end, start).as_secs_f64();
            elapsed.max(0.0)
        }
        _ => 0.0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use chalk_core::Digest;
    use chalk_core::wire::PlanStep;

    use super::*;

    /// A queued build without steps.
    pub(crate) fn build(id: &str) -> Build {
        Build {
            id: id.into(),
            status: BuildStatus::Queued,
            image_hash: Digest::of(b"image"),
            recipe_hash: Digest::of(b"recipe"),
            name: None,
            project: chalk_core::wire::DEFAULT_PROJECT.to_owned(),
            image: None,
            digest: None,
            created: "2026-01-01T00:00:00Z".into(),
            finished: None,
            seconds: 0.0,
            steps: Vec::new(),
            error: None,
            verification: None,
        }
    }

    #[test]
    fn steps_follow_their_events() {
        let mut record = build("a");
        let step = |state| PlanStep {
            kind: "run".into(),
            key: Digest::of(b""),
            title: "RUN true".into(),
            state,
        };
        let steps = vec![
            step(PlanState::Cached),
            step(PlanState::Run),
            step(PlanState::Run),
        ];
        apply(&mut record, &EventKind::Started { steps });
        assert_eq!(record.status, BuildStatus::Running);
        apply(&mut record, &EventKind::StepStarted { step: 1 });
        let done = EventKind::StepDone {
            step: 1,
            seconds: 1.5,
            layer: None,
            layer_bytes: 7,
        };
        apply(&mut record, &done);
        apply(&mut record, &EventKind::StepStarted { step: 2 });
        let failed = EventKind::StepFailed {
            step: 2,
            exit_code: Some(1),
            message: String::new(),
            seconds: 0.5,
            tail: Vec::new(),
        };
        apply(&mut record, &failed);
        // A step that does not exist changes nothing.
        apply(&mut record, &EventKind::StepStarted { step: 9 });
        let states: Vec<StepState> = record.steps.iter().map(|s| s.state).collect();
        assert_eq!(
            states,
            [StepState::Cached, StepState::Ran, StepState::Failed]
        );
        assert_eq!(
            (record.steps[1].seconds, record.steps[1].layer_bytes),
            (1.5, 7)
        );
        assert_eq!(record.steps[2].seconds, 0.5);
    }
}
