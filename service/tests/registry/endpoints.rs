//! Insecure registries that have to be asked what they speak, and do not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chalk_core::Reference;
use chalk_store::registry::Client;

use crate::fixture::{Embedded, options};

/// Takes connections and says nothing; counts them.
async fn silent() -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            held.push(connection);
        }
    });
    (port, count)
}

/// `0.0.0.0` reaches this machine, but is no loopback address to the client.
#[tokio::test]
async fn one_that_does_not_answer_keeps_nobody_from_the_others() {
    if ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|v| std::env::var(v).is_ok())
    {
        eprintln!("not tried: a proxy would get the request");
        return;
    }
    let (port, connections) = silent().await;
    let server = Embedded::start().await;
    let mut settings = options();
    settings.insecure.insert("0.0.0.0".into());
    settings.connect_timeout = Duration::from_secs(3);
    settings.idle_timeout = Duration::from_secs(3);
    settings.retry.attempts = 1;
    let client = Client::new(settings).unwrap();
    let dead: Reference = format!("0.0.0.0:{port}/app:v1").parse().unwrap();
    let live: Reference = format!("0.0.0.0:{}/app:v1", server.addr.port())
        .parse()
        .unwrap();
    let (waiting, asked) = (client.clone(), dead.clone());
    let waiting = tokio::spawn(async move { waiting.manifest(&asked).await });
    while connections.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.manifest(&live).await.unwrap(), None);
    assert!(!waiting.is_finished(), "it is being asked all the while");
    assert!(waiting.await.unwrap().is_err());
    // Two questions for the scheme and the request itself; for a while the request alone.
    let before = connections.load(Ordering::SeqCst);
    assert!(client.manifest(&dead).await.is_err());
    let after = connections.load(Ordering::SeqCst);
    assert_eq!(after - before, 1, "{before} before");
}
