//! `chalk node` without a verb: a node in the foreground.

use chalk_core::wire::exit;
use chalk_node::Join;
use chalk_node::agent::AgentEnd;
use chalk_service::settings::default_state_dir;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli;
use crate::client;
use crate::error::Failure;
use crate::output;
use crate::own_node;
use crate::service_manager;
use crate::settings::Loaded;

pub(crate) async fn agent(loaded: &Loaded, args: &cli::Agent) -> Result<(), Failure> {
    let (url, token) = service(loaded)?;
    let join = match (&args.join_token, &loaded.settings.node.join_token_file) {
        (Some(token), _) if !token.trim().is_empty() => Join::Token(token.clone()),
        (_, Some(file)) => Join::File(file.clone()),
        // The service's own token, where it is known here, lets nodes join, too.
        _ => token.map_or(Join::Never, Join::Token),
    };
    let handler =
        |kind| signal(kind).map_err(|e| Failure::new(exit::FAILED, "cannot handle signals").why(e));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;

    let settings = own_node::settings(&loaded.settings, &url, join);
    output::line(&format!("node {} of {url}", settings.name))?;
    output::line(&format!("  state     {}", settings.dir.display()))?;
    let limit = settings.stop_timeout;
    let mut node = own_node::start(settings)
        .await
        .map_err(|error| own_node::failure(&error))?;
    // Before it has joined: a service that cannot be reached keeps no host from coming up.
    service_manager::ready();
    tokio::select! {
        end = node.ended() => {
            return match end {
                Ok(AgentEnd::Removed) => {
                    output::line("the node was removed from the service")
                }
                Ok(AgentEnd::Stopped) => Ok(()),
                Err(error) => Err(own_node::failure(&error)),
            };
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service_manager::stopping(limit);
    // The second signal of a hurried user ends the process at once; state survives that.
    tokio::select! {
        () = node.shutdown() => Ok(()),
        _ = interrupt.recv() => Err(Failure::interrupted()),
        _ = terminate.recv() => Err(Failure::interrupted()),
    }
}

/// Address of the service, and its token where that is known: the one that is named, else the one
/// that runs on the state directory or on the default one.
fn service(loaded: &Loaded) -> Result<(String, Option<String>), Failure> {
    if let Some((url, _)) = &loaded.server {
        let token = loaded.token.as_ref().map(|(token, _)| token.clone());
        return Ok((client::address(url)?, token));
    }
    for dir in [loaded.settings.state.dir.clone(), default_state_dir()] {
        let found = chalk_service::state::discover(&dir);
        if let Ok(Some(found)) = found {
            return Ok((found.url, Some(found.token)));
        }
    }
    Err(
        Failure::new(exit::UNREACHABLE, "no service runs on this host")
            .why(format!(
                "none was found on {}",
                loaded.settings.state.dir.display()
            ))
            .hint("name one with --server, or start one with `chalk serve`"),
    )
}
