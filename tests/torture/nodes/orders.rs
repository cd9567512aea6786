//! A client of a service with a node: it warms, evicts, and runs sandboxes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chalk_core::Digest;
use chalk_core::tree::{Tree, TreeEntry, TreeNode};
use reqwest::Method;
use serde_json::{Value, json};

use super::plan::Order;
use crate::client::{Client, Fallible};
use crate::facts::{Facts, Thing};
use crate::recipe::Recipe;

/// Name of the node.
pub(super) const NODE: &str = "torture";
/// How often something is asked how far it is.
const POLL: Duration = Duration::from_millis(8);
/// Longest that a warm or the start of a sandbox may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// Contents of what is mounted into sandboxes.
const MOUNTED: &str = "mounted by the torture\n";

/// Images that were built before the node began, by their number.
pub(super) type Images = Arc<Vec<(String, Recipe)>>;

/// One client.
pub(super) struct Orders {
    pub(super) client: Client,
    pub(super) facts: Arc<Facts>,
    pub(super) images: Images,
    /// What marks the processes of sandboxes.
    pub(super) mark: String,
    /// Sandboxes that live, with the number of their image.
    sandboxes: Vec<(usize, String)>,
}

impl Orders {
    pub(super) fn new(client: Client, facts: Arc<Facts>, images: Images, mark: &str) -> Self {
        Self {
            client,
            facts,
            images,
            mark: mark.to_owned(),
            sandboxes: Vec::new(),
        }
    }

    fn hash(&self, image: usize) -> String {
        self.images[image].0.clone()
    }

    /// Does one thing. An error says that nothing, or no success, was answered.
    pub(super) async fn give(&mut self, order: &Order) -> Fallible<()> {
        match order {
            Order::Warm { image, pin } => self.warm(*image, *pin).await,
            Order::Evict { image } => self.evict(*image).await,
            Order::Start { image, mounts } => self.start(*image, *mounts).await.map(drop),
            Order::Stop => match self.sandboxes.pop() {
                Some((_, id)) => self.remove(&id).await,
                None => Ok(()),
            },
        }
    }

    /// Brings an image to the node.
    pub(super) async fn warm(&self, image: usize, pin: bool) -> Fallible<()> {
        let hash = self.hash(image);
        let thing = Thing::Cached(hash.clone());
        self.facts.asked(&thing, Some(String::new()));
        let body = json!({"images": [hash], "nodes": [NODE], "pin": pin});
        let warm = self.client.call(Method::POST, "/v1/warms", &body).await?;
        let warm = until_done(&self.client, "/v1/warms", &warm, "status", "running").await?;
        if warm["status"] != "ready" {
            return Err(format!("the warm ended as {warm}"));
        }
        self.facts.acknowledged(&thing, Some(String::new()));
        Ok(())
    }

    /// Removes an image from the node, after the sandboxes that hold it.
    pub(super) async fn evict(&mut self, image: usize) -> Fallible<()> {
        let sandboxes = std::mem::take(&mut self.sandboxes);
        for (of, id) in sandboxes {
            if of == image {
                self.remove(&id).await?;
            } else {
                self.sandboxes.push((of, id));
            }
        }
        let hash = self.hash(image);
        let thing = Thing::Cached(hash.clone());
        self.facts.asked(&thing, None);
        let path = format!("/v1/nodes/{NODE}/cache/{hash}");
        self.client.delete(&path).await?;
        self.facts.acknowledged(&thing, None);
        Ok(())
    }

    /// Starts a sandbox that waits; gives its identifier.
    pub(super) async fn start(&mut self, image: usize, mounts: bool) -> Fallible<String> {
        let hash = self.hash(image);
        let thing = Thing::Cached(hash.clone());
        self.facts.asked(&thing, Some(String::new()));
        let wait = format!("sleep 1000; : {}-sandbox", self.mark);
        let mut body = json!({"image": hash, "node": NODE, "args": ["sh", "-c", wait]});
        body["limits"] = json!({"memory": 64 << 20, "pids": 50});
        if mounts {
            body["mounts"] = self.mounts().await?;
        }
        let path = "/v1/sandboxes";
        let begun = self.client.call(Method::POST, path, &body).await?;
        let id = begun["id"].as_str().unwrap_or_default().to_owned();
        let sandbox = until_done(&self.client, path, &begun, "state", "starting").await?;
        if sandbox["state"] != "running" {
            return Err(format!("the sandbox is {sandbox}"));
        }
        self.facts.acknowledged(&thing, Some(String::new()));
        self.sandboxes.push((image, id.clone()));
        Ok(id)
    }

    /// A file and a directory, uploaded.
    async fn mounts(&self) -> Fallible<Value> {
        let digest = Digest::of(MOUNTED.as_bytes());
        let entry = TreeEntry {
            path: "below/file".to_owned(),
            node: TreeNode::File {
                digest,
                mode: "0644".to_owned(),
            },
        };
        let tree = Tree::new(vec![entry]).map_err(|error| error.to_string())?;
        self.client.put_file(MOUNTED).await?;
        let of_tree = tree.digest().to_string();
        self.client.put_file(&tree.json()).await?;
        Ok(json!([
            {"dest": "/mounted", "source": {"type": "file", "digest": digest}},
            {"dest": "/mounts", "source": {"type": "dir", "digest": of_tree}},
        ]))
    }

    /// Ends a sandbox, and has it forgotten.
    async fn remove(&self, id: &str) -> Fallible<()> {
        let path = format!("/v1/sandboxes/{id}?force=true");
        self.client.delete(&path).await.map(drop)
    }

    /// Runs an image and reads what it holds: the files of its steps, and what is mounted.
    pub(super) async fn look_into(&mut self, image: usize) -> Fallible<()> {
        let id = self.start(image, true).await?;
        let mut files = self.images[image].1.files();
        files.insert("mounted".to_owned(), MOUNTED.to_owned());
        files.insert("mounts/below/file".to_owned(), MOUNTED.to_owned());
        for (file, expected) in files {
            let path = format!("/v1/sandboxes/{id}/files?path=/{file}");
            let answer = self.client.send(Method::GET, &path, &[], Vec::new());
            let found = answer.await?.ok()?.body;
            if found != expected.as_bytes() {
                let found = String::from_utf8_lossy(&found);
                return Err(format!("/{file} holds {found:?} instead of {expected:?}"));
            }
        }
        self.sandboxes.pop();
        self.remove(&id).await
    }
}

/// Asks for a thing until a field of it has another value.
pub(super) async fn until_done(
    client: &Client,
    folder: &str,
    begun: &Value,
    field: &str,
    under_way: &str,
) -> Fallible<Value> {
    let id = begun["id"].as_str().unwrap_or_default();
    let path = format!("{folder}/{id}");
    let until = Instant::now() + PATIENCE;
    loop {
        let found = client.get(&path).await?;
        let found = found.ok_or_else(|| format!("{path} is not known any more"))?;
        if found[field] != under_way {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(format!("{path} stays {under_way}: {found}"));
        }
        tokio::time::sleep(POLL).await;
    }
}
