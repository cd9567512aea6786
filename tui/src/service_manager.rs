//! What a service manager is told that started us and waits for that (systemd's `Type=notify`).

use std::time::Duration;

use sd_notify::NotifyState;

/// What the end may take besides what the settings allow.
const MARGIN: Duration = Duration::from_secs(60);

/// Says that what was started serves from now on.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the end has begun, which may take so long by the settings.
pub(crate) fn stopping(limit: Duration) {
    let micros = limit.saturating_add(MARGIN).as_micros();
    let micros = u32::try_from(micros).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Does nothing where nobody waits for it.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
