//! How often somebody may ask.
//!
//! Two limits, each of which lets a burst of a second's (or a minute's) worth through and then goes
//! on at its rate (GCRA): of requests of each token, and of requests of each address that carry a
//! wrong token. A good token is taken from any address, however many wrong ones came from there:
//! tokens are too long to be guessed, and nobody shall shut others out.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::settings;

/// Requests between two looks for tokens and addresses that need not be remembered any more.
const SWEEP: u32 = 4096;

/// The limits.
#[derive(Debug)]
pub(crate) struct Rates {
    tokens: Option<DefaultKeyedRateLimiter<Arc<str>>>,
    failures: Option<DefaultKeyedRateLimiter<IpAddr>>,
    clock: DefaultClock,
    asked: AtomicU32,
}

impl Rates {
    /// The limits of the settings; 0 is none.
    pub(crate) fn new(settings: &settings::Limits) -> Self {
        let number = |count: usize| NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX));
        let tokens = number(settings.token_requests).map(Quota::per_second);
        let failures = number(settings.failed_logins).map(Quota::per_minute);
        Self {
            tokens: tokens.map(RateLimiter::keyed),
            failures: failures.map(RateLimiter::keyed),
            clock: DefaultClock::default(),
            asked: AtomicU32::new(0),
        }
    }

    /// One more request of a token.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn token(&self, id: &Arc<str>) -> Result<(), Duration> {
        let Some(limiter) = &self.tokens else {
            return Ok(());
        };
        self.tidy(|| limiter.retain_recent());
        let fits = limiter.check_key(id);
        fits.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// One more request from an address with a wrong token.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn failure(&self, from: IpAddr) -> Result<(), Duration> {
        let Some(limiter) = &self.failures else {
            return Ok(());
        };
        self.tidy(|| limiter.retain_recent());
        // Whoever has one IPv6 address has the 64 bits behind its network.
        let key = match from.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            v4 => v4,
        };
        let fits = limiter.check_key(&key);
        fits.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn tidy(&self, forget: impl Fn()) {
        if self.asked.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(token_requests: usize, failed_logins: usize) -> Rates {
        Rates::new(&settings::Limits {
            token_requests,
            failed_logins,
            ..settings::Limits::default()
        })
    }

    #[test]
    fn each_token_and_address_has_its_own_limit() {
        // So few a minute that none comes back while the test runs.
        let rates = rates(0, 2);
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        let check = |text: &str, expect: bool| {
            assert_eq!(rates.failure(from(text)).is_ok(), expect, "{text}");
        };
        check("10.0.0.1", true);
        check("10.0.0.1", true);
        check("10.0.0.1", false);
        check("::ffff:10.0.0.1", false);
        check("10.0.0.2", true);
        check("fd00::1", true);
        check("fd00::2", true);
        check("fd00::3", false);
        check("fd00:0:0:1::3", true);
        let wait = rates.failure(from("10.0.0.1")).unwrap_err();
        assert!(wait <= Duration::from_secs(30), "{wait:?}");
        // No limit of requests.
        for _ in 0..10_000 {
            rates.token(&"a".into()).unwrap();
        }
    }

    #[test]
    fn requests_of_a_token() {
        let rates = rates(1, 0);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        // However slow the machine is: of many requests that come faster than one a second, some
        // must wait, and those of others need not.
        let refused = (0..10_000).filter(|_| rates.token(&a).is_err()).count();
        assert!(refused > 0);
        rates.token(&b).unwrap();
        for _ in 0..10_000 {
            rates.failure("10.0.0.1".parse().unwrap()).unwrap();
        }
    }
}
