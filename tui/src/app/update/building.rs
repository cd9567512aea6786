//! Building, watching, cancelling, trying again.

use super::open::open;
use super::subject;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::model::builds::{ALL_STEPS, Followed};
use crate::app::model::{State, View};

/// Does one of these actions.
pub(super) fn building(state: &mut State, action: Action) -> Vec<Effect> {
    match action {
        Action::Build => vec![Effect::Build {
            force: false,
            from: None,
        }],
        Action::BuildForced => vec![Effect::Build {
            force: true,
            from: None,
        }],
        Action::BuildFrom => match state.view().clone() {
            View::Spec => {
                let from = state.spec.steps.chosen().and_then(|key| key.parse().ok());
                vec![Effect::Build { force: false, from }]
            }
            View::Build(id) => {
                let from = state.builds.followed.get(&id).and_then(Followed::step);
                rebuild(state, from)
            }
            _ => Vec::new(),
        },
        Action::Watch => {
            state.spec.watch = !state.spec.watch;
            if state.spec.watch {
                state.say("watching: every change of a declared file is built");
                return vec![Effect::Build {
                    force: false,
                    from: None,
                }];
            }
            state.say("no longer watching");
            Vec::new()
        }
        Action::Cancel => match state.view() {
            View::Warms | View::Warm(_) => subject::warm(state)
                .map(|warm| Effect::CancelWarm(warm.id.clone()))
                .into_iter()
                .collect(),
            _ => subject::build(state)
                .map(|build| Effect::CancelBuild(build.id.clone()))
                .into_iter()
                .collect(),
        },
        Action::Retry => match state.view() {
            View::Warms | View::Warm(_) => subject::warm(state)
                .map(|warm| Effect::RetryWarm(warm.id.clone()))
                .into_iter()
                .collect(),
            _ => rebuild(state, None),
        },
        _ => {
            let Some(id) = subject::build(state).map(|build| build.id.clone()) else {
                return Vec::new();
            };
            let effects = open(state, View::Build(id.clone()));
            if let Some(followed) = state.builds.followed.get_mut(&id) {
                match followed.state.failed() {
                    Some(step) => followed.tree.choose(&step.to_string()),
                    None => followed.tree.choose(ALL_STEPS),
                }
                followed.pane().to_bottom();
            }
            effects
        }
    }
}

/// Builds again what the shown build was of.
fn rebuild(state: &State, from: Option<usize>) -> Vec<Effect> {
    let Some(build) = subject::build(state) else {
        return Vec::new();
    };
    // What failed left no image to take the spec from; the declaration still has it.
    let declared = state.spec.declared.as_ref();
    if declared.is_some_and(|d| d.local.recipe_hash == build.recipe_hash) {
        return vec![Effect::Build { force: false, from }];
    }
    vec![Effect::Rebuild {
        image: build.image_hash.to_string(),
        name: build.name.clone(),
        from,
        force: false,
    }]
}
