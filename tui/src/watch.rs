//! The log of this process, and its traces.

use chalk_core::wire::exit;
use chalk_service::settings::LogFormat;
use chalk_watch::logs::{self, Format};
use chalk_watch::traces::{self, Traces};
use tracing::{Span, field};

use crate::cli::{Command, Compute, Deferred, Image, NodeCommand};
use crate::error::Failure;
use crate::settings::Loaded;

/// Variable by which whoever runs the command has it be a part of a trace.
const PARENT: &str = "TRACEPARENT";

/// Begins to log and to trace as `command` wants it; the app has none. Starts threads where traces
/// are sent.
///
/// # Errors
/// When traces are to be sent and cannot be.
pub(crate) fn begin(command: Option<&Command>, loaded: &Loaded) -> Result<Traces, Failure> {
    let settings = &loaded.settings;
    let format = match settings.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let (name, verbose) = match command {
        None => {
            log_to_file(loaded);
            return Ok(Traces::default());
        }
        Some(Command::Serve(_)) => ("chalk-service", true),
        Some(Command::Node(Deferred(NodeCommand { verb: None, .. }))) => ("chalk-node", true),
        Some(Command::Web | Command::Config(_) | Command::Completions { .. }) => {
            return Ok(Traces::default());
        }
        Some(_) => ("chalk", false),
    };
    let endpoint = settings.trace.endpoint.as_deref();
    let traces = Traces::start(name, endpoint).map_err(|error| {
        Failure::new(exit::USAGE, error.to_string())
            .hint("the setting `trace.endpoint` and OTEL_EXPORTER_OTLP_ENDPOINT name the collector")
    })?;
    // What goes wrong in a service inside a one-shot command reaches the user as its answer; its log
    // is shown on demand.
    if !verbose && !traces.are_on() && std::env::var_os(logs::FILTER).is_none() {
        return Ok(traces);
    }
    let filter = logs::filter(if verbose { "info" } else { "off" });
    logs::to_stderr(format, filter, &traces);
    Ok(traces)
}

/// The log of a service inside the app must not write over the screen: where it is asked for, it goes
/// to a file of the state directory.
fn log_to_file(loaded: &Loaded) {
    if std::env::var_os(logs::FILTER).is_none() {
        return;
    }
    let path = loaded.settings.state.dir.join("app.log");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    if let Ok(file) = file {
        let file = std::sync::Mutex::new(file);
        let filter = logs::filter("off");
        logs::to(file, Format::Text, false, filter, &Traces::default());
    }
}

/// The span of a whole command that asks a service for something.
pub(crate) fn span(command: Option<&Command>, traces: &Traces) -> Span {
    let Some(name) = command.and_then(name).filter(|_| traces.are_on()) else {
        return Span::none();
    };
    let span = tracing::info_span!(
        target: traces::TARGET,
        "command",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
    );
    if let Ok(parent) = std::env::var(PARENT) {
        traces::follow(&span, &parent);
    }
    span
}

/// The words of a command that is traced.
fn name(command: &Command) -> Option<&'static str> {
    let image = |image: &Image| match image {
        Image::Build(_) => Some("chalk image build"),
        Image::Verify(_) => Some("chalk image verify"),
        Image::Plan(_) => Some("chalk image plan"),
        Image::Why(_) => Some("chalk image why"),
        Image::Warm(_) => Some("chalk image warm"),
        Image::Import { .. } => Some("chalk image import"),
        _ => None,
    };
    match command {
        Command::Compute(Deferred(Compute::Image(Deferred(command))))
        | Command::Image(Deferred(command)) => image(command),
        Command::Compute(Deferred(Compute::Sandbox(_))) | Command::Sandbox(_) => {
            Some("chalk sandbox")
        }
        _ => None,
    }
}
