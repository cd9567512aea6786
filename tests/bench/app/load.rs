//! Frames, keys and processor time while fifty builds stream and a thousand nodes report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chalk_core::wire::{Build, Event, EventKind};
use chalk_tests::{Screen, Simulator, World};

use super::keys::{self, KEYS};
use super::{Attached, Span, now};
use crate::process::processor_seconds;
use crate::row::{Aim, Row, Times};

const NODES: [&str; 4] = ["--nodes", "1000", "--images", "10000"];
/// Time until the first builds have given way to others, some of which run and some wait.
const RAMP: Duration = Duration::from_secs(10);
/// Time over which processor time and frames are measured.
const WHILE: Duration = Duration::from_secs(20);
/// A step that prints for as long as anything is measured.
const PRINTS: &str = "timeout 3600 make";
/// Keys to every view that shows what changes, and back to the log.
const VIEWS: [&str; 7] = ["2", "3", "4", "m", "m", "5", "1"];
const LOOK: Duration = Duration::from_millis(700);
/// The most that a frame may take, in milliseconds, and the app of one core, in percent.
const FRAME: f64 = 8.0;
const CORE: f64 = 25.0;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let mut rows = many_builds(world);
    rows.extend(one_build(world));
    rows
}

/// Fifty builds that share the lines, one of them looked at.
fn many_builds(world: &World) -> Vec<Row> {
    let words = [&NODES[..], &["--builds", "50"]].concat();
    let simulator = Simulator::start(&world.folder("simulator"), &words);
    std::thread::sleep(RAMP);
    let delivered = lines_a_second(&simulator);
    let mut attached = Attached::open(world, simulator.chalk(), PRINTS);
    attached.screen.press("b");
    attached.screen.wait_for("log of step 1  ");

    let log = Watched::of(attached.screen.pid(), || std::thread::sleep(WHILE));
    let over_log = keys::help(&mut attached.screen, KEYS);
    let screen = &mut attached.screen;
    screen.press("3");
    screen.wait_for("3 Images 1");
    let filter = keys::filter(screen, "ranking/server", KEYS);
    let pid = screen.pid();
    let views = Watched::of(pid, || turn_over(screen));
    let frames = attached.leave();

    let alone = |name: &str, unit, ours, aim| Row::alone(name, unit, ours, aim);
    vec![
        alone(
            "lines a second that 50 builds of the simulator deliver",
            "lines",
            delivered,
            Aim::None,
        )
        .note("asked for: 10000; 1000 nodes report, 10000 images"),
        frame(
            "p99 frame meanwhile, the log of one build open",
            &frames.within(&log.span),
        ),
        core("processor time of the app meanwhile", &log),
        frame(
            "p99 frame while all views are turned over",
            &frames.within(&views.span),
        ),
        core("processor time of the app meanwhile", &views),
        key("key to screen p99 over the log", &over_log),
        key("key to screen p99, filter of 10000 images", &filter),
    ]
}

/// One build with all lines to itself, looked at; and before it, nothing.
fn one_build(world: &World) -> Vec<Row> {
    let words = [&NODES[..], &["--builds", "0"]].concat();
    let simulator = Simulator::start(&world.folder("simulator"), &words);
    let mut attached = Attached::open(world, simulator.chalk(), PRINTS);
    let idle = keys::help(&mut attached.screen, KEYS);
    attached.screen.press("b");
    // Shown is the step, once it runs.
    attached.screen.wait_for("log of step 1  ");
    let before = lines_shown(&attached.screen);
    let log = Watched::of(attached.screen.pid(), || std::thread::sleep(WHILE));
    let came = lines_shown(&attached.screen) - before;
    let over_log = keys::help(&mut attached.screen, KEYS);
    let frames = attached.leave();
    vec![
        key("key to screen p99 with no build", &idle),
        Row::alone(
            "lines a second that one build of the simulator delivers, its log open",
            "lines",
            came / log.span.seconds(),
            Aim::None,
        ),
        frame("p99 frame meanwhile", &frames.within(&log.span)),
        core("processor time of the app meanwhile", &log),
        key("key to screen p99 over that log", &over_log),
    ]
}

fn frame(name: &str, frames: &Times) -> Row {
    Row::alone(name, "ms", frames.at(0.99), Aim::Most(FRAME)).note(frames.about("frames"))
}

fn core(name: &str, watched: &Watched) -> Row {
    let over = format!("over {:.0} s", watched.span.seconds());
    Row::alone(name, "% of a core", watched.percent(), Aim::Most(CORE)).note(over)
}

fn key(name: &str, times: &Times) -> Row {
    Row::alone(name, "ms", times.at(0.99), Aim::Most(keys::AIM)).note(times.about("keys"))
}

/// Processor time of an app over a span.
struct Watched {
    span: Span,
    seconds: f64,
}

impl Watched {
    fn of(pid: u32, work: impl FnOnce()) -> Self {
        let before = processor_seconds(pid);
        let span = Span::of(work);
        let seconds = processor_seconds(pid) - before;
        Self { span, seconds }
    }

    fn percent(&self) -> f64 {
        self.seconds / self.span.seconds() * 100.0
    }
}

/// Shows one view after the other.
fn turn_over(screen: &mut Screen) {
    let until = Instant::now() + WHILE;
    for key in VIEWS.into_iter().cycle() {
        if Instant::now() > until {
            break;
        }
        screen.press(key);
        std::thread::sleep(LOOK);
    }
}

/// Lines a second that the service hands to whoever follows every build.
fn lines_a_second(simulator: &Simulator) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let counted = Arc::new(Counted {
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            url: simulator.url().to_owned(),
            token: simulator.token().to_owned(),
            from: now(),
            lines: AtomicUsize::new(0),
        });
        let (until, mut known) = (Instant::now() + WHILE, BTreeSet::new());
        while Instant::now() < until {
            let builds: Vec<Build> = counted
                .get("/v1/builds?limit=200")
                .await
                .json()
                .await
                .unwrap();
            for build in builds {
                if !build.status.is_final() && known.insert(build.id.clone()) {
                    tokio::spawn(counted.clone().follow(build.id));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        counted.lines.load(Ordering::Relaxed) as f64 / (now() - counted.from).as_secs_f64()
    })
}

/// Lines of builds that came since some time.
struct Counted {
    client: reqwest::Client,
    url: String,
    token: String,
    from: Duration,
    lines: AtomicUsize,
}

impl Counted {
    async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.client.get(format!("{}{path}", self.url));
        let answer = request.bearer_auth(&self.token).send().await.unwrap();
        answer.error_for_status().unwrap()
    }

    async fn follow(self: Arc<Self>, build: String) {
        let mut stream = self.get(&format!("/v1/builds/{build}/events")).await;
        let mut rest = Vec::new();
        while let Ok(Some(piece)) = stream.chunk().await {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let Some(event) = line.strip_prefix(b"data:") {
                    self.count(&serde_json::from_slice(event).unwrap());
                }
            }
        }
    }

    fn count(&self, event: &Event) {
        let time: jiff::Timestamp = event.time.parse().unwrap();
        let since = Duration::from_millis(time.as_millisecond().try_into().unwrap());
        if let EventKind::Log { text, .. } = &event.kind
            && since >= self.from
        {
            self.lines
                .fetch_add(text.lines().count(), Ordering::Relaxed);
        }
    }
}

/// Lines of the log that is open.
fn lines_shown(screen: &Screen) -> f64 {
    let text = screen.text();
    let (_, rest) = text.split_once("log of step 1  ").unwrap();
    let (count, _) = rest.split_once(" line").unwrap();
    count.rsplit(' ').next().unwrap().parse().unwrap()
}
