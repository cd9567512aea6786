//! Plain requests to the embedded registry.

use chalk_core::Digest;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::fixture::{Embedded, OCI_MANIFEST, digest};

impl Embedded {
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = http.request(method, self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Whether an answer breaks off, be it before its head is through.
    pub(crate) async fn breaks_off(&self, path: &str) -> bool {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        match http.get(self.url(path)).send().await {
            Ok(answer) => answer.bytes().await.is_err(),
            Err(_) => true,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    /// Pushes a blob in one request.
    pub(crate) async fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let done = self.send("POST", &path, &[], bytes.to_vec()).await;
        assert_eq!(done.status(), 201);
        assert_eq!(
            header(&done, "location"),
            format!("/v2/{repository}/blobs/{digest}")
        );
        digest
    }

    /// Pushes an image of one layer, with a subject if given.
    pub(crate) async fn image(
        &self,
        repository: &str,
        tag: &str,
        subject: Option<Digest>,
    ) -> Digest {
        let config = self.blob(repository, b"{}").await;
        let descriptor =
            |digest: Digest| json!({"mediaType": "a/config", "digest": digest, "size": 2});
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config),
            "layers": [],
            "annotations": {"tag": tag},
        });
        if let Some(subject) = subject {
            manifest["subject"] = descriptor(subject);
        }
        let bytes = manifest.to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let kind = [("content-type", OCI_MANIFEST)];
        let put = self.send("PUT", &path, &kind, bytes.clone()).await;
        assert_eq!(put.status(), 201);
        let digest = digest(bytes.as_bytes());
        assert_eq!(header(&put, "docker-content-digest"), digest.to_string());
        let subject = subject
            .map(|subject| subject.to_string())
            .unwrap_or_default();
        assert_eq!(header(&put, "oci-subject"), subject);
        digest
    }

    /// Opens an upload.
    pub(crate) async fn upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let opened = self.send("POST", &path, &[], "").await;
        assert_eq!(opened.status(), 202);
        header(&opened, "location")
    }
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

/// First code of an error body.
pub(crate) async fn code(response: Response) -> String {
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    body["errors"][0]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
