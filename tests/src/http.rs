//! Plain HTTP by curl, so that no code of ours stands between the test and the service.

use serde_json::Value;

use crate::command::{run, tool};
use crate::network::Host;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
    /// Value of `Content-Type`.
    pub content_type: String,
}

impl Response {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }
}

/// Sends a request with further arguments of curl.
#[track_caller]
pub fn request(url: &str, token: Option<&str>, arguments: &[&str]) -> Response {
    request_at(None, url, token, arguments)
}

/// As [`request`], from a host of a made-up network.
#[track_caller]
pub(crate) fn request_at(
    host: Option<&Host>,
    url: &str,
    token: Option<&str>,
    arguments: &[&str],
) -> Response {
    let mut curl = match host {
        Some(host) => host.command("curl"),
        None => tool("curl", [""; 0]),
    };
    curl.args(["--silent", "--show-error", "--noproxy", "*"]);
    curl.args(["--write-out", "\n%{http_code} %{content_type}"]);
    if let Some(token) = token {
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let ran = run(curl.args(arguments).arg(url)).ok();
    let (body, last) = ran
        .stdout
        .rsplit_once('\n')
        .expect("written by --write-out");
    let (status, content_type) = last.split_once(' ').expect("written by --write-out");
    Response {
        status: status.parse().expect("a status"),
        body: body.to_owned(),
        content_type: content_type.to_owned(),
    }
}

/// Gets a document.
#[track_caller]
pub fn get(url: &str, token: &str) -> Response {
    request(url, Some(token), &[])
}

/// Events after number `after`, by `Last-Event-ID`: pairs of the `id:` line and the data. They must
/// come to an end, since this reads the whole stream.
#[track_caller]
pub fn events(host: Option<&Host>, url: &str, token: &str, after: u64) -> Vec<(u64, Value)> {
    let header = format!("Last-Event-ID: {after}");
    let response = request_at(
        host,
        url,
        Some(token),
        &["--no-buffer", "--header", &header, "--max-time", "300"],
    );
    assert_eq!(response.status, 200, "{response:?}");
    assert!(
        response.content_type.starts_with("text/event-stream"),
        "{response:?}"
    );
    let mut found = Vec::new();
    for block in response.body.split("\n\n") {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
            let id = id.trim().parse().expect("a number");
            found.push((id, serde_json::from_str(data).expect("JSON")));
        }
    }
    found
}
