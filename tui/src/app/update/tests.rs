//! The update function, key by key and event by event.

use chalk_core::Digest;
use chalk_core::wire::{
    BuildStatus, Event as BuildEvent, EventKind, Stream, WarmEvent, WarmEventKind, WarmStatus,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::app::config::Config;
use crate::app::effect::Source;
use crate::app::event::{Feed, Pointer, PointerKind, Target};
use crate::app::model::View;
use crate::app::samples;

fn now() -> Timestamp {
    "2026-01-01T10:00:00Z".parse().unwrap()
}

fn state() -> State {
    State::new(Config::default(), now(), (80, 24))
}

fn connected() -> State {
    let mut state = state();
    feed(&mut state, Feed::Connected(Box::new(samples::link())));
    state
}

fn feed(state: &mut State, feed: Feed) -> Vec<Effect> {
    update(state, Event::Feed(feed))
}

fn key(state: &mut State, chord: &str) -> Vec<Effect> {
    update(state, Event::Key(samples::key(chord)))
}

fn type_in(state: &mut State, text: &str) {
    for c in text.chars() {
        let key = KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
        update(state, Event::Key(key));
    }
}

#[test]
fn tabs_are_a_key_away() {
    let mut state = connected();
    for (chord, view) in [
        ("2", View::Builds),
        ("3", View::Images),
        ("4", View::Cache),
        ("5", View::Warms),
        ("6", View::Prewarm),
        ("1", View::Spec),
    ] {
        let effects = key(&mut state, chord);
        assert_eq!(*state.view(), view);
        assert!(effects.contains(&Effect::Attend(view)));
    }
}

#[test]
fn a_file_is_read_planned_and_built() {
    let mut state = connected();
    let effects = work_on(&mut state, Source::File("image.toml".into()));
    let generation = state.spec.generation;
    let source = Source::File("image.toml".into());
    assert!(effects.contains(&Effect::ReadSpec { source, generation }));
    let result = Ok(Box::new(samples::declared()));
    let effects = feed(&mut state, Feed::Declared { generation, result });
    assert_eq!(effects, [Effect::Plan { generation }]);
    assert_eq!(
        key(&mut state, "b"),
        [Effect::Build {
            force: false,
            from: None
        }]
    );
    let mut build = samples::build("b1", BuildStatus::Running);
    build.error = None;
    let build = Box::new(build);
    let reused = false;
    let effects = feed(&mut state, Feed::BuildStarted { build, reused });
    assert!(effects.contains(&Effect::FollowBuild("b1".into())));
    assert_eq!(*state.view(), View::Build("b1".into()));
    // Back to where one was.
    key(&mut state, "esc");
    assert_eq!(*state.view(), View::Spec);
}

#[test]
fn what_belongs_to_an_older_reading_is_dropped() {
    let mut state = connected();
    work_on(&mut state, Source::File("a.toml".into()));
    let old = state.spec.generation;
    work_on(&mut state, Source::File("b.toml".into()));
    let result = Ok(Box::new(samples::declared()));
    let effects = feed(
        &mut state,
        Feed::Declared {
            generation: old,
            result,
        },
    );
    assert!(effects.is_empty() && state.spec.declared.is_none());
}

#[test]
fn mistakes_keep_what_was_read_before_and_stop_builds() {
    let mut state = connected();
    work_on(&mut state, Source::File("a.toml".into()));
    let generation = state.spec.generation;
    let result = Ok(Box::new(samples::declared()));
    feed(&mut state, Feed::Declared { generation, result });
    let effects = feed(&mut state, Feed::FilesChanged);
    let generation = state.spec.generation;
    assert!(matches!(effects[..], [Effect::ReadSpec { .. }]));
    let result = Err(crate::app::event::Trouble::new("bad declaration"));
    feed(&mut state, Feed::Declared { generation, result });
    assert!(state.spec.declared.is_some());
    for build in ["b", "F"] {
        state.notice = None;
        assert_eq!(key(&mut state, build), []);
        assert!(state.notice.as_ref().unwrap().is_bad());
    }
}

#[test]
fn the_plan_is_asked_for_again_when_others_change_what_it_tells() {
    let plan = |state: &mut State, millis: i64| {
        let at = now() + jiff::SignedDuration::from_millis(millis);
        let effects = update(state, Event::Tick(at));
        let plans = effects.iter().filter(|e| matches!(e, Effect::Plan { .. }));
        plans.count()
    };
    let warm = |state: &mut State| {
        let id = "w1".to_owned();
        let warm = Box::new(samples::warm(WarmStatus::Ready));
        let kind = WarmEventKind::Finished { warm };
        let event = WarmEvent {
            seq: 9,
            time: String::new(),
            kind,
        };
        let events = vec![event];
        feed(state, Feed::WarmEvents { id, events });
    };
    let mut state = connected();
    work_on(&mut state, Source::File("a.toml".into()));
    let generation = state.spec.generation;
    let result = Ok(Box::new(samples::declared()));
    feed(&mut state, Feed::Declared { generation, result });
    let result = || Ok(Box::new(samples::plan()));
    feed(
        &mut state,
        Feed::Planned {
            generation,
            result: result(),
        },
    );
    assert_eq!(plan(&mut state, 1_000), 0, "nothing changed");
    // A build that nobody here looks at, and a warm: one plan for both, a moment later.
    feed(
        &mut state,
        Feed::Builds(vec![samples::build("b1", BuildStatus::Running)]),
    );
    feed(
        &mut state,
        Feed::Builds(vec![samples::build("b1", BuildStatus::Built)]),
    );
    warm(&mut state);
    assert_eq!(plan(&mut state, 1_100), 0);
    assert_eq!(plan(&mut state, 1_500), 1);
    assert_eq!(plan(&mut state, 3_000), 0);
    // Not again while it is on its way, and only where it is seen.
    warm(&mut state);
    assert_eq!(plan(&mut state, 5_000), 0);
    feed(
        &mut state,
        Feed::Planned {
            generation,
            result: result(),
        },
    );
    key(&mut state, "2");
    assert_eq!(plan(&mut state, 6_000), 0);
    key(&mut state, "1");
    assert_eq!(plan(&mut state, 6_100), 1);
}

#[test]
fn watching_builds_what_changed() {
    let mut state = connected();
    work_on(&mut state, Source::File("a.toml".into()));
    let generation = state.spec.generation;
    let result = Ok(Box::new(samples::declared()));
    feed(&mut state, Feed::Declared { generation, result });
    let build = Effect::Build {
        force: false,
        from: None,
    };
    assert_eq!(key(&mut state, "w"), std::slice::from_ref(&build));
    feed(&mut state, Feed::FilesChanged);
    let generation = state.spec.generation;
    let mut changed = samples::declared();
    changed.spec.workdir = Some("/elsewhere".to_owned());
    let result = Ok(Box::new(changed.clone()));
    let effects = feed(&mut state, Feed::Declared { generation, result });
    assert!(effects.contains(&build));
    // A save that changes nothing builds nothing.
    feed(&mut state, Feed::FilesChanged);
    let generation = state.spec.generation;
    let result = Ok(Box::new(changed));
    let effects = feed(&mut state, Feed::Declared { generation, result });
    assert!(!effects.contains(&build));
}

#[test]
fn a_lost_service_is_seen_and_everything_else_is_kept() {
    let mut state = connected();
    feed(&mut state, Feed::Builds(samples::builds()));
    key(&mut state, "2");
    key(&mut state, "j");
    let chosen = state.builds.list.chosen().map(str::to_owned);
    let trouble = crate::app::event::Trouble::new("cannot reach the service");
    feed(
        &mut state,
        Feed::Disconnected {
            trouble,
            retry: 2.0,
        },
    );
    assert!(!state.connection.is_up());
    assert_eq!(key(&mut state, "b"), []);
    feed(&mut state, Feed::Connected(Box::new(samples::link())));
    assert!(state.connection.is_up());
    assert_eq!(state.builds.list.chosen().map(str::to_owned), chosen);
    assert_eq!(*state.view(), View::Builds);
}

#[test]
fn the_choice_stays_on_its_build_when_new_ones_come() {
    let mut state = connected();
    feed(&mut state, Feed::Builds(samples::builds()));
    key(&mut state, "2");
    key(&mut state, "j");
    let chosen = state.builds.list.chosen().unwrap().to_owned();
    let mut more = samples::builds();
    more.insert(0, samples::build("b9", BuildStatus::Queued));
    feed(&mut state, Feed::Builds(more));
    assert_eq!(state.builds.list.chosen(), Some(chosen.as_str()));
}

#[test]
fn a_filter_shows_as_it_is_typed_and_goes_with_esc() {
    let mut state = connected();
    feed(&mut state, Feed::Images(samples::images()));
    key(&mut state, "3");
    let all = state.images.list.len();
    key(&mut state, "/");
    type_in(&mut state, "web");
    assert_eq!(state.images.list.len(), 1);
    // Esc while typing brings back what was before.
    key(&mut state, "esc");
    assert_eq!(state.images.list.len(), all);
    key(&mut state, "/");
    type_in(&mut state, "web");
    key(&mut state, "enter");
    assert_eq!(state.images.list.len(), 1);
    key(&mut state, "esc");
    assert_eq!(state.images.list.len(), all);
    assert_eq!(*state.view(), View::Images);
}

#[test]
fn deleting_asks_and_takes_only_yes() {
    let mut state = connected();
    feed(&mut state, Feed::Images(samples::images()));
    key(&mut state, "3");
    assert_eq!(key(&mut state, "D"), []);
    assert_eq!(key(&mut state, "enter"), []);
    assert_eq!(key(&mut state, "n"), []);
    assert!(state.overlay.is_none());
    key(&mut state, "space");
    key(&mut state, "space");
    key(&mut state, "D");
    match &key(&mut state, "y")[..] {
        [Effect::DeleteImages(hashes)] => assert_eq!(hashes.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn readonly_changes_nothing() {
    let mut state = connected();
    state.readonly = true;
    feed(&mut state, Feed::Images(samples::images()));
    feed(&mut state, Feed::Builds(samples::builds()));
    work_on(&mut state, Source::File("a.toml".into()));
    let generation = state.spec.generation;
    let result = Ok(Box::new(samples::declared()));
    feed(&mut state, Feed::Declared { generation, result });
    for action in Action::ALL.iter().filter(|action| action.is_change()) {
        for tab in ["1", "2", "3", "4", "5", "6"] {
            key(&mut state, tab);
            assert_eq!(act(&mut state, *action), [], "{action:?} in {tab}");
            assert!(state.overlay.is_none(), "{action:?} in {tab}");
        }
    }
}

fn event(seq: u64, kind: EventKind) -> BuildEvent {
    BuildEvent {
        seq,
        time: "2026-01-01T10:00:00Z".into(),
        kind,
    }
}

fn lines(text: &str) -> EventKind {
    EventKind::Log {
        step: 0,
        stream: Stream::Stdout,
        text: text.into(),
    }
}

#[test]
fn events_that_come_twice_count_once() {
    let mut state = connected();
    feed(&mut state, Feed::Builds(samples::builds()));
    key(&mut state, "2");
    key(&mut state, "enter");
    let View::Build(id) = state.view().clone() else {
        panic!("no build is open")
    };
    let events = vec![
        event(
            1,
            EventKind::Started {
                steps: samples::plan().steps,
            },
        ),
        event(2, EventKind::StepStarted { step: 0 }),
        event(3, lines("one\ntwo\nthr")),
    ];
    feed(
        &mut state,
        Feed::BuildEvents {
            id: id.clone(),
            events: events.clone(),
        },
    );
    let more = [events, vec![event(4, lines("ee\n"))]].concat();
    feed(
        &mut state,
        Feed::BuildEvents {
            id: id.clone(),
            events: more,
        },
    );
    let followed = state.builds.followed.get_mut(&id).unwrap();
    let mut text = Vec::new();
    followed.pane().copy().write(&mut text).unwrap();
    assert_eq!(text, b"one\ntwo\nthree\n");
    assert_eq!(followed.step(), Some(0));
}

#[test]
fn the_failing_step_is_jumped_to_and_told_at_the_end() {
    let mut state = connected();
    let mut build = samples::build("b7", BuildStatus::Running);
    build.steps.clear();
    let reused = false;
    feed(
        &mut state,
        Feed::BuildStarted {
            build: Box::new(build),
            reused,
        },
    );
    let mut failed = samples::build("b7", BuildStatus::Failed);
    failed.seconds = 60.0;
    let events = vec![
        event(
            1,
            EventKind::Started {
                steps: samples::plan().steps,
            },
        ),
        event(2, EventKind::StepStarted { step: 1 }),
        event(
            3,
            EventKind::Log {
                step: 1,
                stream: Stream::Stderr,
                text: "no such package\n".into(),
            },
        ),
        event(
            4,
            EventKind::StepFailed {
                step: 1,
                exit_code: Some(1),
                message: "exit code 1".into(),
                seconds: 2.0,
                tail: vec![],
            },
        ),
        event(
            5,
            EventKind::Finished {
                build: Box::new(failed),
            },
        ),
    ];
    let id = "b7".to_owned();
    let effects = feed(&mut state, Feed::BuildEvents { id, events });
    assert!(matches!(&effects[0], Effect::Notify(text) if text.contains("failed")));
    // The list that was on its way does not bring it back to life, nor tell it twice.
    let late = samples::build("b7", BuildStatus::Running);
    feed(&mut state, Feed::Builds(vec![late]));
    assert_eq!(state.builds.all["b7"].status, BuildStatus::Failed);
    key(&mut state, "2");
    key(&mut state, "J");
    assert_eq!(*state.view(), View::Build("b7".into()));
    assert_eq!(state.builds.followed["b7"].step(), Some(1));
    let farewell = state.farewell().join("\n");
    assert!(farewell.contains("no such package"), "{farewell}");
}

#[test]
fn what_was_cancelled_takes_no_more_time_and_can_be_tried_again() {
    let mut state = connected();
    let mut build = samples::build("b7", BuildStatus::Running);
    build.steps.clear();
    let build = Box::new(build);
    let reused = false;
    feed(&mut state, Feed::BuildStarted { build, reused });
    let mut cancelled = samples::build("b7", BuildStatus::Cancelled);
    cancelled.error = None;
    let steps = samples::plan().steps;
    let ended = EventKind::Finished {
        build: Box::new(cancelled),
    };
    let mut ended = event(3, ended);
    ended.time = "2026-01-01T10:00:07Z".into();
    let events = vec![
        event(1, EventKind::Started { steps }),
        event(2, EventKind::StepStarted { step: 0 }),
        ended,
    ];
    let id = "b7".to_owned();
    feed(&mut state, Feed::BuildEvents { id, events });
    let later = now() + jiff::SignedDuration::from_secs(60);
    let step = &state.builds.followed["b7"].state.steps[0];
    assert!((step.seconds(later) - 7.0).abs() < 0.01);
    assert!(available(&state, Action::JumpToFailure).is_err());

    let mut warm = samples::warm(WarmStatus::Cancelled);
    warm.nodes[0].state = chalk_core::wire::WarmState::Failed;
    feed(&mut state, Feed::Warms(vec![warm]));
    key(&mut state, "5");
    assert!(matches!(key(&mut state, "r")[..], [Effect::RetryWarm(_)]));
}

#[test]
fn the_palette_finds_and_does() {
    let mut state = connected();
    key(&mut state, ":");
    type_in(&mut state, "cache");
    key(&mut state, "enter");
    assert_eq!(*state.view(), View::Cache);
    assert!(state.overlay.is_none());
}

#[test]
fn a_pasted_hash_is_worked_on() {
    let mut state = connected();
    let hash = Digest::of(b"image").to_string();
    let effects = update(&mut state, Event::Paste(format!("  {hash}\n")));
    let expect = Source::Image(hash);
    assert_eq!(state.spec.source, Some(expect));
    assert!(effects.iter().any(|e| matches!(e, Effect::ReadSpec { .. })));
    assert!(update(&mut state, Event::Paste("hello".into())).is_empty());
}

#[test]
fn a_click_chooses_and_a_second_opens() {
    let mut state = connected();
    feed(&mut state, Feed::Builds(samples::builds()));
    key(&mut state, "2");
    let click = |state: &mut State, target| {
        let point = |kind| {
            update(
                state,
                Event::Pointer(Pointer {
                    kind,
                    column: 5,
                    row: 5,
                    target: Some(target),
                }),
            )
        };
        point(PointerKind::Press)
    };
    click(&mut state, Target::Row(1));
    assert_eq!(state.builds.list.at(), 1);
    let chosen = state.builds.list.chosen().unwrap().to_owned();
    click(&mut state, Target::Row(1));
    assert_eq!(*state.view(), View::Build(chosen));
    let release = Pointer {
        kind: PointerKind::Release,
        column: 5,
        row: 5,
        target: None,
    };
    assert_eq!(update(&mut state, Event::Pointer(release)), []);
}

#[test]
fn leaving_with_own_builds_under_way_asks() {
    let mut state = connected();
    assert_eq!(key(&mut state, "q"), [Effect::Quit]);
    feed(
        &mut state,
        Feed::Builds(vec![samples::build("b1", BuildStatus::Running)]),
    );
    assert_eq!(key(&mut state, "q"), []);
    assert_eq!(key(&mut state, "y"), [Effect::Quit]);
}

#[test]
fn notices_go_by_themselves() {
    let mut state = state();
    state.say("hello");
    update(&mut state, Event::Tick(now()));
    assert!(state.notice.is_some());
    update(
        &mut state,
        Event::Tick("2026-01-01T10:01:00Z".parse().unwrap()),
    );
    assert!(state.notice.is_none());
}

#[test]
fn builds_of_others_are_no_news_and_own_ones_wait_their_turn() {
    let mut state = connected();
    let told = |state: &State| state.notice.as_ref().map(|notice| notice.text.clone());
    let at = |seconds: i64| now() + jiff::SignedDuration::from_secs(seconds);
    let tick = |state: &mut State, seconds| update(state, Event::Tick(at(seconds)));
    let end = |state: &mut State, id: &str| {
        let running = samples::build(id, BuildStatus::Running);
        feed(state, Feed::Builds(vec![running]));
        let mut built = samples::build(id, BuildStatus::Built);
        built.seconds = 60.0;
        feed(state, Feed::Builds(vec![built]))
    };
    // Nobody here looks at it.
    let effects = end(&mut state, "b1");
    assert_eq!(told(&state), None);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Notify(_))));

    let build = Box::new(samples::build("b2", BuildStatus::Running));
    let reused = false;
    feed(&mut state, Feed::BuildStarted { build, reused });
    let refused = crate::app::event::Trouble::new("the name is taken");
    feed(&mut state, Feed::Failed(refused));
    let effects = end(&mut state, "b2");
    assert!(effects.iter().any(|e| matches!(e, Effect::Notify(_))));
    let complaint = Some("the name is taken".to_owned());
    assert_eq!(told(&state), complaint);
    tick(&mut state, 6);
    feed(&mut state, Feed::Done("saved 3 lines".to_owned()));
    assert_eq!(told(&state), complaint);
    // It has had its time, and what came meanwhile has its own.
    tick(&mut state, 12);
    assert_eq!(told(&state).as_deref(), Some("saved 3 lines"));
    tick(&mut state, 16);
    assert!(told(&state).is_some());
    tick(&mut state, 17);
    assert_eq!(told(&state), None);
}

#[test]
fn what_to_do_about_a_complaint_is_seen_at_80_columns() {
    let mut state = connected();
    let trouble = crate::app::event::Trouble {
        what: "registry cannot be reached".to_owned(),
        why: "failed to look up the address of registry-1.docker.io".to_owned(),
        hint: "check the network, or bring the image in with `chalk compute image import`"
            .to_owned(),
    };
    feed(&mut state, Feed::Failed(trouble));
    let mut screen = samples::Screen::new(80, 24);
    let buffer = screen.draw(&mut state);
    let row = |y| -> String { (0..80).map(|x| buffer[(x, y)].symbol()).collect() };
    let rows: Vec<String> = (18..23).map(|y| row(y).trim().to_owned()).collect();
    let said = rows.join(" ");
    assert!(said.contains("✗ registry cannot be reached"), "{said}");
    assert!(said.contains("`chalk compute image import`"), "{said}");
    assert!(row(23).contains("q quit"));
}

#[test]
fn a_complaint_goes_with_the_next_key_after_it_was_read() {
    let mut state = connected();
    state.complain("no");
    key(&mut state, "j");
    assert!(state.notice.is_some(), "nobody reads that fast");
    state.mention("built");
    assert_eq!(state.notice.as_ref().unwrap().text, "built");
    state.complain("no");
    update(
        &mut state,
        Event::Tick(now() + jiff::SignedDuration::from_secs(2)),
    );
    key(&mut state, "j");
    assert!(state.notice.is_none());
}

/// What a person may do, and what the service may say, in any order.
fn anything() -> impl Strategy<Value = Step> {
    let chords = prop::sample::select(samples::CHORDS.to_vec());
    let kinds = prop::sample::select(vec![
        PointerKind::Press,
        PointerKind::Drag,
        PointerKind::Release,
        PointerKind::WheelUp,
        PointerKind::WheelDown,
    ]);
    prop_oneof![
        12 => chords.prop_map(Step::Key),
        2 => (1..240_u16, 1..80_u16).prop_map(|(x, y)| Step::Resize(x, y)),
        3 => (kinds, 0..200_u16, 0..60_u16).prop_map(|(k, x, y)| Step::Pointer(k, x, y)),
        2 => (0..samples::FEEDS).prop_map(Step::Feed),
        1 => "[ -~äß漢]{0,12}".prop_map(Step::Paste),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Key(&'static str),
    Resize(u16, u16),
    Pointer(PointerKind, u16, u16),
    Feed(usize),
    Paste(String),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is pressed, clicked and told: nothing panics, a view is shown, and what is drawn
    /// fits the screen.
    #[test]
    fn no_sequence_leaves_an_impossible_state(
        steps in prop::collection::vec(anything(), 1..120)
    ) {
        let mut state = state();
        let mut screen = samples::Screen::new(80, 24);
        for step in steps {
            let event = match step {
                Step::Key(chord) => Event::Key(samples::key(chord)),
                Step::Resize(columns, rows) => {
                    screen = samples::Screen::new(columns, rows);
                    Event::Resize(columns, rows)
                }
                Step::Pointer(kind, column, row) => Event::Pointer(Pointer {
                    kind,
                    column,
                    row,
                    target: screen.hits.at(column, row).cloned(),
                }),
                Step::Feed(at) => Event::Feed(samples::feed(at, &state)),
                Step::Paste(text) => Event::Paste(text),
            };
            update(&mut state, event);
            prop_assert!(!state.views.is_empty());
            screen.draw(&mut state);
            if let Some(list) = state.list() {
                prop_assert!(list.at() < list.len().max(1));
                prop_assert_eq!(list.chosen().is_none(), list.is_empty());
            }
        }
    }
}
