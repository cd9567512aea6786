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
use crate::own_node;
use crate::service_manager;
use crate::settings::Loaded;

pub(crate) async fn serve(loaded: &Loaded, serve: &cli::Serve) -> Result<(), Failure> {
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
    let with_node = serve.node || settings.serve.node;
    let running = Service::start(settings)
        .await
        .map_err(|e| start_failure(&e))?;
    let mut node = None;
    if with_node {
        let local = own_node::local(&loaded.settings, &running.local_url, &running.token);
        match own_node::start(local).await {
            Ok(started) => node = Some(started),
            Err(error) => {
                running.shutdown().await;
                return Err(own_node::failure(&error));
            }
        }
    }
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
    if let Some(node) = &node {
        output::line(&format!("  node      {}", node.name()))?;
    }
    service_manager::ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let settings = &loaded.settings;
    service_manager::stopping(settings.serve.stop_timeout + settings.node.stop_timeout);
    // The second signal of a hurried user ends the process at once; state survives that.
    let end = async {
        // The node first: what becomes of its sandboxes is still to be told.
        if let Some(node) = node {
            node.shutdown().await;
        }
        running.shutdown().await;
    };
    tokio::select! {
        () = end => Ok(()),
        _ = interrupt.recv() => Err(Failure::interrupted()),
        _ = terminate.recv() => Err(Failure::interrupted()),
    }
}
