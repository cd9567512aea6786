//! An engine whose steps take time and print, and change nothing but the catalogue.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalk_core::wire::{BuildStep, EventKind, PlanState, PlanStep, StepState, Stream};
use chalk_core::{Digest, Platform, Reference, Spec};
use chalk_service::bases::BaseError;
use chalk_service::engine::{Engine, EngineError, EventSink, Job, Outcome};
use chalk_service::resolve::PinBases;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::chance;
use crate::documents::{Layer, layer};
use crate::logs::{Logs, Tool};
use crate::specs;

/// How often a step prints what it has to print.
const TICK: Duration = Duration::from_millis(100);
/// Most lines that one tick of one step prints.
const BURST: f64 = 2000.0;
/// Lines of the tail of a step that failed.
const TAIL: usize = 20;
/// Label of the images whose builds fail now and then. Others do only by `false` and `exit 1`.
pub(crate) const FRAIL: &str = "team";

/// How fast all goes.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Log lines in a second, of all builds together.
    pub(crate) rate: f64,
    /// How many times faster than in earnest builds and pulls go.
    pub(crate) speed: f64,
    /// Steps that print now, which share the rate.
    printing: AtomicUsize,
}

impl Pace {
    pub(crate) fn new(rate: u32, speed: f64) -> Arc<Self> {
        Arc::new(Self {
            rate: f64::from(rate),
            speed,
            printing: AtomicUsize::new(0),
        })
    }

    /// What takes so many seconds in earnest.
    pub(crate) fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds / self.speed)
    }
}

/// The engine.
pub(crate) struct Simulated {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) logs: Logs,
    pub(crate) pace: Arc<Pace>,
}

/// Any base there is; none is looked for anywhere.
pub(crate) struct AnyBase;

#[async_trait]
impl PinBases for AnyBase {
    async fn pin(&self, reference: &Reference, _: &Platform) -> Result<Digest, BaseError> {
        if reference.repository().ends_with("missing") {
            return Err(BaseError::NotFound {
                reference: reference.clone(),
                detail: "the simulator has every base but those called `missing`".to_owned(),
            });
        }
        Ok(specs::base_digest(reference))
    }
}

#[async_trait]
impl Engine for Simulated {
    fn name(&self) -> &str {
        "simulated"
    }

    async fn plan(&self, spec: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        Ok(self.planned(spec, false))
    }

    async fn build(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        tokio::select! {
            built = self.carry_out(job, events) => built,
            () = cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }
}

impl Simulated {
    /// Steps as they would run: cached up to the first that is not.
    fn planned(&self, spec: &Spec, force: bool) -> Vec<PlanStep> {
        let mut runs = force;
        let steps = spec.steps_with_keys().into_iter().map(|step| {
            runs |= !self.catalogue.has_step(&step.key);
            PlanStep {
                kind: step.kind.to_owned(),
                key: step.key,
                title: step.title,
                state: if runs {
                    PlanState::Run
                } else {
                    PlanState::Cached
                },
            }
        });
        steps.collect()
    }

    async fn carry_out(&self, job: &Job, events: &dyn EventSink) -> Result<Outcome, EngineError> {
        let mut rng = chance::of(0, format_args!("build {} {}", job.image_hash, job.id));
        let steps = self.planned(&job.spec, job.force);
        events.emit(EventKind::Started {
            steps: steps.clone(),
        });
        // Only what runs a program can fail.
        let may_fail = |step: &PlanStep| {
            step.state == PlanState::Run && Tool::of(&step.kind, &step.title).is_some()
        };
        let run: Vec<usize> = (0..steps.len())
            .filter(|at| may_fail(&steps[*at]))
            .collect();
        let frail = job.spec.labels.contains_key(FRAIL) && rng.random_bool(0.15);
        let fails = frail
            .then(|| run.get(rng.random_range(0..run.len().max(1))))
            .flatten();
        if !run.is_empty() && rng.random_bool(0.3) {
            self.pull_base(&job.spec, events, &mut rng).await;
        }
        let keyed = job.spec.steps_with_keys();
        let mut done = Vec::new();
        for (at, (step, keyed)) in steps.into_iter().zip(&keyed).enumerate() {
            let layer = layer(&job.spec, at, keyed);
            let began = Instant::now();
            let state = if step.state == PlanState::Cached {
                let source = if rng.random_bool(0.8) {
                    "local"
                } else {
                    "registry"
                };
                tokio::time::sleep(self.pace.seconds(0.02)).await;
                events.emit(EventKind::StepCached {
                    step: at,
                    source: source.to_owned(),
                });
                StepState::Cached
            } else {
                let wants_to_fail = step.title.ends_with("exit 1") || step.title == "RUN false";
                let fails = wants_to_fail || fails == Some(&at);
                self.run(at, &step, fails, events, &mut rng).await?;
                self.catalogue.put_step(step.key);
                events.emit(EventKind::StepDone {
                    step: at,
                    seconds: began.elapsed().as_secs_f64(),
                    layer: layer.as_ref().map(|layer| layer.digest),
                    layer_bytes: layer.as_ref().map_or(0, |layer| layer.size),
                });
                if let Some(Layer {
                    digest,
                    size: bytes,
                    ..
                }) = layer
                {
                    let present = rng.random_bool(0.1);
                    events.emit(EventKind::Pushed {
                        digest,
                        bytes,
                        present,
                    });
                }
                StepState::Ran
            };
            done.push(BuildStep {
                kind: step.kind,
                key: step.key,
                title: step.title,
                state,
                seconds: began.elapsed().as_secs_f64(),
                layer_bytes: layer.map_or(0, |layer| layer.size),
            });
        }
        tokio::time::sleep(self.pace.seconds(0.4)).await;
        let made = self.catalogue.publish(&job.spec).ok_or_else(|| {
            EngineError::Spec("the spec has no image hash: a base is not pinned".to_owned())
        })?;
        Ok(Outcome {
            manifest: made.manifest,
            size: made.size,
            layers: made.layers,
            steps: done,
            verification: None,
        })
    }

    async fn pull_base(&self, spec: &Spec, events: &dyn EventSink, rng: &mut StdRng) {
        let Some(base) = spec.result_base() else {
            return;
        };
        let total = chance::spread(rng, 3e7, 2e9) as u64;
        let pieces = rng.random_range(5..30);
        for piece in 1..=pieces {
            tokio::time::sleep(self.pace.seconds(0.25)).await;
            events.emit(EventKind::Pulling {
                image: base.reference.to_string(),
                done: total * piece / pieces,
                total,
            });
        }
    }

    async fn run(
        &self,
        at: usize,
        step: &PlanStep,
        fails: bool,
        events: &dyn EventSink,
        rng: &mut StdRng,
    ) -> Result<(), EngineError> {
        events.emit(EventKind::StepStarted { step: at });
        let began = Instant::now();
        let tool = Tool::of(&step.kind, &step.title);
        let seconds = match (tool, rng.random_range(0..10)) {
            (None, _) => rng.random_range(0.05..1.0),
            (_, 0..6) => rng.random_range(2.0..12.0),
            (_, 6..9) => rng.random_range(10.0..45.0),
            _ => chance::spread(rng, 45.0, 300.0),
        };
        let seconds = limited(&step.title).unwrap_or(seconds);
        let mut next = rng.random_range(0..100_000);
        if let Some(count) = Count::of(&step.title) {
            count.print(at, events).await;
        } else if let Some(tool) = tool {
            next = self.print(at, tool, next, seconds, events).await;
        } else {
            tokio::time::sleep(self.pace.seconds(seconds)).await;
        }
        if !fails {
            return Ok(());
        }
        let code = *chance::one(rng, &[&1, &1, &2, &100, &127, &137]);
        let text = match tool {
            Some(tool) => self.logs.lines(tool, next, TAIL),
            None => String::new(),
        };
        let why = format!(
            "\x1b[1;31merror\x1b[0m: `{}` ended with exit code {code}\n",
            step.title
        );
        let text = text + &why;
        let tail: Vec<String> = text.lines().map(str::to_owned).collect();
        events.emit(EventKind::Log {
            step: at,
            stream: Stream::Stderr,
            text,
        });
        let message = format!("the process ended with exit code {code}");
        events.emit(EventKind::StepFailed {
            step: at,
            exit_code: Some(code),
            message: message.clone(),
            seconds: began.elapsed().as_secs_f64(),
            tail: tail.clone(),
        });
        Err(EngineError::Step {
            step: at,
            title: step.title.clone(),
            exit_code: Some(code),
            message,
            tail,
        })
    }

    /// Prints the step's share of all lines for so long; gives the number of the next line.
    async fn print(
        &self,
        step: usize,
        tool: Tool,
        from: usize,
        seconds: f64,
        events: &dyn EventSink,
    ) -> usize {
        let until = Instant::now() + self.pace.seconds(seconds);
        let _printing = Printing::begin(&self.pace);
        let (mut next, mut due, mut last) = (from, 1.0, Instant::now());
        while Instant::now() < until {
            let share = self.pace.rate / self.pace.printing.load(Ordering::Relaxed).max(1) as f64;
            due = (due + share * last.elapsed().as_secs_f64()).min(BURST);
            last = Instant::now();
            let count = due as usize;
            if count > 0 {
                due -= count as f64;
                // Warnings go to standard error, in pieces of their own.
                let stream = if next % 7 == 0 {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                let text = self.logs.lines(tool, next, count);
                events.emit(EventKind::Log { step, stream, text });
                next += count;
            }
            tokio::time::sleep(TICK).await;
        }
        next
    }
}

/// The seconds of a step that says them itself, as `RUN timeout 60 make` does.
fn limited(title: &str) -> Option<f64> {
    let words = title.strip_prefix("RUN timeout ")?;
    let seconds: u32 = words.split(' ').next()?.parse().ok()?;
    Some(seconds.into())
}

/// A log of a known size, as fast as it is taken: numbers for `seq 1000`; for `noise 1000 60` numbered
/// lines of 60 bytes, ends included, that hold nothing twice, since what repeats itself is too easily
/// kept.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    last: usize,
    bytes: usize,
}

impl Count {
    /// What a step of this title prints.
    fn of(title: &str) -> Option<Self> {
        let mut words = title.strip_prefix("RUN ")?.split(' ');
        let (program, last) = (words.next()?, words.next()?.parse().ok()?);
        let bytes = match (program, words.next()) {
            ("seq", None) => 0,
            ("noise", Some(bytes)) => bytes.parse().ok()?,
            _ => return None,
        };
        words.next().is_none().then_some(Self { last, bytes })
    }

    async fn print(&self, step: usize, events: &dyn EventSink) {
        const PIECE: usize = 4000;
        let mut rng = chance::of(0, format_args!("noise {}", self.bytes));
        for from in (1..=self.last).step_by(PIECE) {
            let mut text = String::new();
            for number in from..=self.last.min(from + PIECE - 1) {
                let end = text.len() + self.bytes.saturating_sub(1);
                let _ = write!(text, "{number}");
                if text.len() < end {
                    text.push(' ');
                }
                while text.len() < end {
                    let _ = write!(text, "{:016x}", rng.random::<u64>());
                    text.truncate(text.len().min(end));
                }
                text.push('\n');
            }
            let stream = Stream::Stdout;
            events.emit(EventKind::Log { step, stream, text });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A step that prints.
struct Printing<'a>(&'a Pace);

impl<'a> Printing<'a> {
    fn begin(pace: &'a Pace) -> Self {
        pace.printing.fetch_add(1, Ordering::Relaxed);
        Self(pace)
    }
}

impl Drop for Printing<'_> {
    fn drop(&mut self) {
        self.0.printing.fetch_sub(1, Ordering::Relaxed);
    }
}
