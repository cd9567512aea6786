//! A token service for registries: what the distribution project's token specification has, with
//! tokens that Debian's `docker-registry` takes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::authority::Authority;
use crate::distribution::own_loopback;
use crate::world::unique;

const ISSUER: &str = "test-issuer";
const SERVICE: &str = "test-registry";
/// Seconds that a token is good for. Clients do not use the last ten of them.
const LIFETIME: u64 = 13;

/// A token service with one user, who may do everything. Ends with the process.
#[derive(Debug)]
pub struct TokenService {
    address: SocketAddr,
    bundle: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Known>,
    key: EcdsaKeyPair,
    /// The certificate of the key, as a token carries it.
    chain: String,
}

#[derive(Debug, Default)]
struct Known {
    user: String,
    password: String,
    asked: Vec<Asked>,
}

/// A request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// User, if the right password came with it.
    pub user: Option<String>,
    /// Scopes, sorted.
    pub scopes: Vec<String>,
}

impl TokenService {
    /// Starts one, whose keys lie in `folder`.
    #[track_caller]
    pub fn start(folder: &Path, user: &str, password: &str) -> Self {
        let authority = Authority::new(folder);
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &authority.key());
        let pem = std::fs::read_to_string(authority.file()).expect("just made");
        let chain = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let shared = Arc::new(Shared {
            state: Mutex::new(Known {
                user: user.to_owned(),
                password: password.to_owned(),
                asked: Vec::new(),
            }),
            key: key.expect("a key of openssl"),
            chain,
        });
        let listener = std::net::TcpListener::bind((own_loopback(), 0)).expect("an address");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let router = axum::Router::new()
            .route("/token", get(answer))
            .with_state(Arc::clone(&shared));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                axum::serve(listener, router).await.expect("serve");
            });
        });
        Self {
            address,
            bundle: authority.file(),
            shared,
        }
    }

    /// The `auth` section of a configuration of `docker-registry`.
    pub(crate) fn section(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
            self.address,
            self.bundle.display()
        )
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known()
    }

    /// Takes another password from now on.
    pub fn set_password(&self, password: &str) {
        password.clone_into(&mut self.known().password);
    }

    /// What it was asked for, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.known().asked.clone()
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, user: &str, access: &serde_json::Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
        let now = now.as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.chain]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "jti": unique(),
            "iat": now, "nbf": now - 5, "exp": now + LIFETIME, "access": access,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("sign").as_ref());
        format!("{text}.{signature}")
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let login = headers.get(header::AUTHORIZATION).and_then(|value| {
        let text = value.to_str().ok()?.strip_prefix("Basic ")?;
        let pair = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    });
    let asked = query.iter().filter(|(name, _)| name == "scope");
    let mut scopes: Vec<String> = asked
        .flat_map(|(_, value)| value.split(' ').map(str::to_owned))
        .collect();
    scopes.sort();
    let mut known = shared.known();
    let right = login
        .as_ref()
        .filter(|(user, password)| *user == known.user && *password == known.password);
    let user = right.map(|(user, _)| user.clone());
    known.asked.push(Asked {
        user: user.clone(),
        scopes: scopes.clone(),
    });
    drop(known);
    if login.is_some() && user.is_none() {
        return (StatusCode::UNAUTHORIZED, "wrong user name or password").into_response();
    }
    // Nobody may do anything without a login.
    let access: Vec<_> = scopes
        .iter()
        .filter(|_| user.is_some())
        .filter_map(|scope| {
            let (rest, actions) = scope.rsplit_once(':')?;
            let (kind, name) = rest.split_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let token = shared.sign(user.as_deref().unwrap_or_default(), &access.into());
    axum::Json(json!({"token": token, "expires_in": LIFETIME})).into_response()
}
