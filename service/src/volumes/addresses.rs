//! Signed addresses of uploads and downloads: who has one may use it until it expires.

use std::sync::Arc;

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chalk_core::Digest;
use jiff::{SignedDuration, Timestamp};

use super::hash::ContentHash;
use crate::signing::SigningKey;

/// What all addresses begin with, behind the host.
pub(crate) const PREFIX: &str = "/v1/volume-objects/";
/// How long an address is good.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// What the signatures are for.
const PURPOSE: &str = "volume-object";

/// Whether that looks like one of our addresses; whether it is one, only its handler can tell.
pub(crate) fn is_signed(uri: &Uri) -> bool {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    uri.path().starts_with(PREFIX) && parameters.any(|word| word.starts_with("signature="))
}

/// What somebody may do by an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Upload an object.
    Upload {
        /// What it must hash to.
        hash: ContentHash,
        /// Its bytes.
        size: u64,
        /// Project that it is for; none for the default one.
        project: Option<Arc<str>>,
    },
    /// Read a part of a blob.
    Download {
        /// The blob.
        digest: Digest,
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

impl Permit {
    fn message(&self, expires: i64) -> String {
        match self {
            Self::Upload {
                hash,
                size,
                project: None,
            } => format!("PUT {hash} {size} {expires}"),
            Self::Upload {
                hash,
                size,
                project: Some(project),
            } => format!("PUT {hash} {size} {expires} {project}"),
            Self::Download {
                digest,
                offset,
                size,
            } => format!("GET {digest} {offset} {size} {expires}"),
        }
    }

    /// When an address that is made at `now` expires.
    pub(crate) fn expiry(now: Timestamp) -> Timestamp {
        now.checked_add(TTL).unwrap_or(Timestamp::MAX)
    }

    /// An address below `base`, `http[s]://host[:port]`.
    pub(crate) fn address(&self, key: &SigningKey, base: &str, expires: Timestamp) -> String {
        let expires = expires.as_second();
        let signature = key.sign(PURPOSE, self.message(expires).as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature);
        let rest = match self {
            Self::Upload {
                hash,
                size,
                project: None,
            } => format!("{hash}?size={size}"),
            Self::Upload {
                hash,
                size,
                project: Some(project),
            } => format!("{hash}?size={size}&project={project}"),
            Self::Download {
                digest,
                offset,
                size,
            } => format!("{digest}?offset={offset}&size={size}"),
        };
        format!("{base}{PREFIX}{rest}&expires={expires}&signature={signature}")
    }

    /// Whether an address was signed by us for this, and is still good.
    pub(crate) fn is_good(
        &self,
        key: &SigningKey,
        expires: i64,
        signature: &str,
        now: Timestamp,
    ) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        key.verifies(PURPOSE, self.message(expires).as_bytes(), &signature)
            && now.as_second() < expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signed_addresses_pass_without_a_token() {
        let check = |uri: &'static str, expect: bool| {
            assert_eq!(is_signed(&Uri::from_static(uri)), expect, "{uri}");
        };
        check("/v1/volume-objects/x?size=1&signature=", true);
        check("http://h/v1/volume-objects/x?signature=a&size=1", true);
        check("/v1/volume-objects/x?size=1", false);
        check("/v1/volume-objects/x", false);
        check("/v1/volume-objects/x?not_signature=a", false);
        check("/v1/builds?signature=a", false);
    }

    #[test]
    fn an_address_is_good_for_one_thing_and_one_hour() {
        let key = SigningKey::new([1; 32]);
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let expires = Permit::expiry(now);
        let hash = ContentHash::of(b"x");
        let digest = Digest::of(b"x");
        let upload = |size| Permit::Upload {
            hash,
            size,
            project: None,
        };
        let download = |offset, size| Permit::Download {
            digest,
            offset,
            size,
        };
        let address = upload(7).address(&key, "http://h:1", expires);
        let signature = address.rsplit_once("signature=").unwrap().1;
        let expect = format!(
            "http://h:1/v1/volume-objects/{hash}?size=7&expires={}&signature={signature}",
            expires.as_second()
        );
        assert_eq!(address, expect);
        let good =
            |permit: Permit, expires: i64, now| permit.is_good(&key, expires, signature, now);
        let end = expires.as_second();
        assert!(good(upload(7), end, now));
        assert!(!good(upload(8), end, now));
        assert!(!good(upload(7), end + 1, now));
        assert!(!good(upload(7), end, expires));
        assert!(!good(download(0, 7), end, now));
        let other = SigningKey::new([2; 32]);
        assert!(!upload(7).is_good(&other, end, signature, now));
        assert!(!upload(7).is_good(&key, end, "", now));
        assert!(!upload(7).is_good(&key, end, "ä", now));

        let of = |project: &str| Permit::Upload {
            hash,
            size: 7,
            project: Some(project.into()),
        };
        let address = of("a").address(&key, "", expires);
        assert!(address.contains("&project=a&"), "{address}");
        let signature = address.rsplit_once("signature=").unwrap().1;
        assert!(of("a").is_good(&key, end, signature, now));
        assert!(!of("b").is_good(&key, end, signature, now));
        assert!(!upload(7).is_good(&key, end, signature, now));

        let address = download(3, 4).address(&key, "", expires);
        let signature = address.rsplit_once("signature=").unwrap().1;
        assert!(download(3, 4).is_good(&key, end, signature, now));
        assert!(!download(2, 4).is_good(&key, end, signature, now));
        assert!(!download(3, 5).is_good(&key, end, signature, now));
    }
}
