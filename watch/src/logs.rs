//! The log: as text for people, or as JSON, one document a line.
//!
//! A JSON line has `time`, `level` and `message`, then what the line says and what is said of the work
//! that it is about (the spans around it), all on one level: `build` on each line of a build, `node`
//! and `warm` on those of a node's work.

use std::fmt;
use std::io::{self, IsTerminal as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::traces::{TARGET, Traces};

/// Variable that says what is logged, as `EnvFilter` takes it.
pub const FILTER: &str = "CHALK_LOG";

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// What [`FILTER`] says, else `otherwise`.
pub fn filter(otherwise: &str) -> EnvFilter {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(otherwise));
    with_work(filter)
}

/// Lets the spans in that say which work a line is of: a filter that names crates would leave them out.
fn with_work(filter: EnvFilter) -> EnvFilter {
    match format!("{TARGET}=error").parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Begins to log to standard error, and to trace. A second call in a process changes nothing.
pub fn to_stderr(format: Format, filter: EnvFilter, traces: &Traces) {
    let ansi = io::stderr().is_terminal();
    to(io::stderr, format, ansi, filter, traces);
}

/// Begins to log to `writer`, and to trace; `ansi` colours text. A second call in a process changes
/// nothing.
pub fn to<W>(writer: W, format: Format, ansi: bool, filter: EnvFilter, traces: &Traces)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let base = tracing_subscriber::fmt::layer::<Registry>().with_writer(writer);
    let log = match format {
        Format::Text => base
            .with_target(false)
            .with_ansi(ansi)
            .with_filter(filter)
            .boxed(),
        Format::Json => base
            .fmt_fields(JsonFields::new())
            .event_format(Flat)
            .with_filter(filter)
            .boxed(),
    };
    // A list, since an absent layer would have all others off.
    let mut all = vec![log];
    all.extend(traces.layer());
    let _ = tracing_subscriber::registry().with(all).try_init();
}

/// JSON on one level.
struct Flat;

impl<S> FormatEvent<S, JsonFields> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        line.insert("time".to_owned(), jiff::Timestamp::now().to_string().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("message".to_owned(), "".into());
        event.record(&mut Fields(&mut line));
        // What stands further in counts before what stands further out.
        let spans = context.event_scope().into_iter().flatten();
        for span in spans {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else {
                continue;
            };
            let fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
            for (name, value) in fields {
                if !name.starts_with("otel.") {
                    line.entry(name).or_insert(value);
                }
            }
        }
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// Takes the fields of an event.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_carry_what_is_said_of_their_work() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(Flat)
            .with_filter(with_work(EnvFilter::new("chalk_watch=warn")));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let build = tracing::error_span!(
                target: TARGET, "build", build = "b1", step = 1, otel.name = "x"
            );
            let step = tracing::error_span!(parent: &build, "step", step = 2);
            step.in_scope(|| {
                tracing::info!("not wanted");
                tracing::warn!(bytes = 7, ok = true, name = %"a\"b", "line\nbreak");
            });
            tracing::warn!("alone");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        let first = &lines[0];
        assert_eq!(first["message"], "line\nbreak");
        assert_eq!((&first["build"], &first["step"]), (&"b1".into(), &2.into()));
        assert_eq!((&first["bytes"], &first["ok"]), (&7.into(), &true.into()));
        assert_eq!(first["name"], "a\"b");
        assert!(first.get("otel.name").is_none());
        assert_eq!(lines[1]["level"], "WARN");
        assert!(lines[1].get("build").is_none());
        assert!(
            lines[1]["time"]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .is_ok()
        );
    }
}
