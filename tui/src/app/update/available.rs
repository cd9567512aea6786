//! Which actions do something now: footer, palette and keys all ask here, so that what is offered
//! works and what does not work says why.

use chalk_core::wire::{BuildStatus, Warm, WarmState, WarmStatus};

use super::subject;
use crate::app::action::Action;
use crate::app::keymap::{Chord, Place};
use crate::app::model::builds::Followed;
use crate::app::model::{State, View};

/// Whether an action does something now, and if not why.
///
/// # Errors
/// With the reason, for the person.
pub(crate) fn available(state: &State, action: Action) -> Result<(), &'static str> {
    if action.is_change() && state.readonly {
        return Err("the app runs with --readonly");
    }
    let needs = |met: bool, why: &'static str| if met { Ok(()) } else { Err(why) };
    if action.is_change() && !state.connection.is_up() {
        return Err("the service is not reached");
    }
    let view = state.view();
    match action {
        Action::Build | Action::BuildForced | Action::Watch => needs(
            state.spec.declared.is_some() && state.spec.trouble.is_none(),
            "there is no declaration without mistakes; `o` opens one",
        ),
        Action::BuildFrom => match view {
            View::Spec => needs(
                state.spec.declared.is_some()
                    && state.spec.trouble.is_none()
                    && state.spec.steps.chosen().is_some(),
                "no step of a declaration without mistakes is chosen",
            ),
            View::Build(id) => needs(
                state
                    .builds
                    .followed
                    .get(id)
                    .and_then(Followed::step)
                    .is_some()
                    && state
                        .builds
                        .all
                        .get(id)
                        .is_some_and(|b| b.status.is_final()),
                "choose a step of a build that has ended",
            ),
            _ => Err("no step is chosen"),
        },
        Action::Edit | Action::Lock => {
            needs(state.spec.file().is_some(), "what is worked on is no file")
        }
        Action::Cancel => match view {
            View::Warms | View::Warm(_) => needs(
                subject::warm(state).is_some_and(|w| w.status == WarmStatus::Running),
                "the warm has ended",
            ),
            _ => needs(
                subject::build(state).is_some_and(|b| !b.status.is_final()),
                "the build has ended",
            ),
        },
        Action::Retry => match view {
            View::Warms | View::Warm(_) => needs(
                subject::warm(state).is_some_and(can_be_retried),
                "nothing of the warm has failed",
            ),
            _ => needs(
                subject::build(state).is_some_and(|b| b.status.is_final()),
                "the build has not ended",
            ),
        },
        Action::JumpToFailure => needs(
            subject::build(state).is_some_and(|b| b.status == BuildStatus::Failed)
                || matches!(view, View::Build(id) if state
                    .builds
                    .followed
                    .get(id)
                    .is_some_and(|f| f.state.failed().is_some())),
            "no step failed",
        ),
        Action::Open | Action::Details => needs(
            subject::opened(state, action).is_some()
                || matches!(view, View::Build(_) | View::Matrix),
            "there is nothing to open",
        ),
        Action::Warm => needs(
            !subject::images(state).is_empty()
                || matches!(view, View::Cache | View::Warms | View::Node(_)),
            "no image is chosen",
        ),
        Action::Manifest | Action::Tag => {
            needs(subject::images(state).len() == 1, "no image is chosen")
        }
        Action::CopyReference => needs(
            subject::reference(state).is_some(),
            "there is no reference to copy",
        ),
        Action::CopyHash => needs(subject::copied(state).is_some(), "there is nothing to copy"),
        Action::Delete => needs(
            match view {
                View::Images => !state.images.list.is_empty(),
                View::Node(_) => state.fleet.contents.chosen().is_some(),
                View::Prewarm => state.warms.prewarm_list.chosen().is_some(),
                _ => false,
            },
            "nothing is chosen",
        ),
        Action::Diff => needs(
            match view {
                View::Images => {
                    let marked = state.images.list.marked().len();
                    marked == 2
                        || (marked < 2
                            && state.images.list.chosen().is_some()
                            && state.spec.declared.is_some())
                }
                View::Image(_) => state.spec.declared.is_some(),
                _ => false,
            },
            "mark two images with space, or open a declaration to compare with",
        ),
        Action::Why => needs(
            match view {
                View::Spec => state.spec.declared.is_some(),
                _ => subject::images(state).len() == 1,
            },
            "no image is chosen",
        ),
        Action::Drain | Action::Collect => {
            needs(subject::node(state).is_some(), "no single node is chosen")
        }
        Action::Mark => needs(
            !(matches!(view, View::Cache) && state.fleet.grouped),
            "regions cannot be marked; `r` shows the nodes",
        ),
        Action::ClearMarks => needs(
            match view {
                View::Images => !state.images.list.marked().is_empty(),
                View::Cache => !state.fleet.list.marked().is_empty(),
                View::Matrix => !state.matrix.list.marked().is_empty(),
                _ => false,
            },
            "nothing is marked",
        ),
        Action::NextMatch | Action::PreviousMatch => {
            needs(!state.searched.is_empty(), "nothing was searched for")
        }
        Action::Back => needs(
            state.views.len() > 1 || subject::filter(state).is_some_and(|f| !f.is_empty()),
            "this is the first view; `q` leaves the app",
        ),
        _ => Ok(()),
    }
}

/// Actions with their keys.
type Keys = Vec<(Chord, Action)>;

/// Actions of the footer with their keys: those of the view that do something now, most wanted first,
/// and those of every view.
pub(crate) fn footer(state: &State) -> (Keys, Keys) {
    let place = state.place();
    let keys = &state.config.keys;
    let general = [Action::Back, Action::Palette, Action::Help, Action::Quit];
    let own = keys
        .of_place(place)
        .into_iter()
        .filter(|(action, _)| !action.is_movement() && !general.contains(action))
        .filter(|(action, _)| own_key(state, place, *action))
        .filter(|(action, _)| available(state, *action).is_ok())
        .filter_map(|(action, chords)| Some((*chords.first()?, action)))
        .collect();
    let general = general
        .into_iter()
        .filter(|action| available(state, *action).is_ok())
        .filter_map(|action| Some((keys.chord(place, action)?, action)))
        .collect();
    (own, general)
}

/// Whether an action belongs to the place itself, so that the footer names it.
fn own_key(state: &State, place: Place, action: Action) -> bool {
    let tabs = View::TABS.iter().any(|(_, tab, _)| *tab == action);
    let quiet = matches!(
        action,
        Action::ToggleMouse
            | Action::ToggleTheme
            | Action::Refresh
            | Action::Suspend
            | Action::ShowPrewarm
    );
    let wanted = action == Action::ShowPrewarm && place == Place::Warms;
    wanted || (!tabs && !quiet && state.config.keys.chord(place, action).is_some())
}

/// Whether something of a warm can be tried again: what failed, and what a cancel cut off.
fn can_be_retried(warm: &Warm) -> bool {
    let failed = warm.nodes.iter().any(|t| t.state == WarmState::Failed);
    warm.status != WarmStatus::Running && failed
}
