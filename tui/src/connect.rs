//! Which service the command talks to: the one that is named, the one that runs on the state
//! directory, or one that it starts in its own process. All three are spoken to over HTTP.

use std::time::Duration;

use chalk_core::wire::exit;
use chalk_service::state::StateError;
use chalk_service::{Running, Service, StartError};

use crate::client::{self, Client};
use crate::error::Failure;
use crate::settings::Loaded;

/// The service of this command.
pub(crate) struct Server {
    client: Client,
    own: Option<Running>,
}

impl Server {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the service lives in this process and ends with it.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Connects, starting a service in this process where none is named and none runs.
    pub(crate) async fn connect(loaded: &Loaded) -> Result<Self, Failure> {
        if let Some(server) = Self::running(loaded).await? {
            return Ok(server);
        }
        // Another command may be about to start or to end its own service on this state.
        for attempt in 0..100 {
            match Service::start(loaded.embedded()).await {
                Ok(running) => {
                    let client = Client::new(&running.url, &running.token)?;
                    return Ok(Self {
                        client,
                        own: Some(running),
                    });
                }
                Err(StartError::State(StateError::Locked { .. })) if attempt < 99 => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if let Some(server) = Self::running(loaded).await? {
                        return Ok(server);
                    }
                }
                Err(error) => return Err(start_failure(&error)),
            }
        }
        Err(Failure::new(
            exit::UNREACHABLE,
            "the state directory stays locked",
        ))
    }

    /// The service that is named or that runs on the state directory.
    pub(crate) async fn running(loaded: &Loaded) -> Result<Option<Self>, Failure> {
        if let Some((url, _)) = &loaded.server {
            client::address(url)?;
            let token = loaded.token_for_named()?;
            return Ok(Some(Self {
                client: Client::new(url, &token)?,
                own: None,
            }));
        }
        let found = chalk_service::state::discover(&loaded.settings.state.dir).map_err(|e| {
            Failure::new(exit::UNREACHABLE, "cannot look for a running service").why(e)
        })?;
        match found {
            Some(found) => Ok(Some(Self {
                client: Client::new(&found.url, &found.token)?,
                own: None,
            })),
            None => Ok(None),
        }
    }

    /// Ends a service of our own in good order; builds that others started here are waited for.
    pub(crate) async fn close(self) {
        if let Some(running) = self.own {
            running.finish().await;
        }
    }
}

pub(crate) fn start_failure(error: &StartError) -> Failure {
    let mut why = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    Failure::new(
        exit::UNREACHABLE,
        format!("cannot start the service: {error}"),
    )
    .why(why)
}
