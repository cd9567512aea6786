//! `serve`: the build service in the foreground.

use std::io::IsTerminal as _;

use chalk_core::wire::exit;
use chalk_service::Service;
use tokio::signal::unix::{SignalKind, signal};

use super::web::page_address;
use crate::cli;
use crate::connect::start_failure;
use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

pub(crate) async fn serve(loaded: &Loaded, serve: &cli::Serve) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHALK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let _ = if std::io::stderr().is_terminal() {
        logs.try_init()
    } else {
        logs.with_ansi(false).try_init()
    };

    let mut settings = loaded.settings.clone();
    if let Some(listen) = &serve.listen {
        settings.serve.listen = listen
            .parse()
            .map_err(|e| Failure::usage(format!("--listen: `{listen}` is not HOST:PORT")).why(e))?;
    }

    let handler =
        |kind| signal(kind).map_err(|e| Failure::new(exit::FAILED, "cannot handle signals").why(e));
    let (mut terminate, mut interrupt) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    let running = Service::start(settings)
        .await
        .map_err(|e| start_failure(&e))?;
    output::line(&format!("chalk is serving on {}", running.url))?;
    output::line(&format!(
        "  state     {}",
        loaded.settings.state.dir.display()
    ))?;
    output::line(&format!(
        "  token     {}",
        loaded.settings.state.dir.join("token").display()
    ))?;
    // Output that is no terminal may be kept, and a token must not be.
    let page = if std::io::stdout().is_terminal() {
        page_address(&running.url, &running.token)
    } else {
        format!("{}/ (`chalk web` prints it with the token)", running.url)
    };
    output::line(&format!("  page      {page}"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // The second signal of a hurried user ends the process at once; state survives that.
    tokio::select! {
        () = running.shutdown() => Ok(()),
        _ = interrupt.recv() => Err(Failure::interrupted()),
        _ = terminate.recv() => Err(Failure::interrupted()),
    }
}
