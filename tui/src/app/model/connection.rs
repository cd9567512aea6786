//! Whether the service is reached, and as whom.

use jiff::Timestamp;

use crate::app::event::{Link, Trouble};

/// The connection to the service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Connection {
    pub(crate) state: LinkState,
    /// What was last connected to.
    pub(crate) link: Option<Link>,
    /// Since when the state is what it is.
    pub(crate) since: Timestamp,
    /// What the node inside this process is doing; none when there is none.
    pub(crate) own_node: Option<Result<String, Trouble>>,
}

/// State of a [`Connection`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LinkState {
    /// The first try is under way.
    Connecting,
    Connected,
    /// Not reached; the next try is at the given time.
    Lost {
        trouble: Trouble,
        retry: Timestamp,
    },
}

impl Connection {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            state: LinkState::Connecting,
            link: None,
            since: now,
            own_node: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == LinkState::Connected
    }

    pub(crate) fn connected(&mut self, link: Link, now: Timestamp) {
        if !self.is_up() || self.link.as_ref().is_none_or(|old| old.url != link.url) {
            self.since = now;
        }
        self.state = LinkState::Connected;
        self.link = Some(link);
    }

    pub(crate) fn lost(&mut self, trouble: Trouble, retry: f64, now: Timestamp) {
        if self.is_up() || self.state == LinkState::Connecting {
            self.since = now;
        }
        let wait = jiff::SignedDuration::try_from_secs_f64(retry).unwrap_or_default();
        let retry = now.checked_add(wait).unwrap_or(now);
        self.state = LinkState::Lost { trouble, retry };
    }
}
