//! The clients of a trial at work. Each has repositories and names of its own, so that what it may
//! expect follows from its own calls; steps, blobs and layers it shares with the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, Fallible};
use crate::facts::{Facts, Thing};
use crate::payload::{Pushed, digest};
use crate::plan::Act;
use crate::recipe::Recipe;

/// How often a build is asked how far it is.
const POLL: Duration = Duration::from_millis(8);
/// How many of these questions may fail in a row: the network tears.
const DEAF: usize = 20;

/// A build that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) recipe: Recipe,
    /// Leading steps that were told as done.
    pub(crate) steps: usize,
    /// Whether its end was told.
    pub(crate) ended: bool,
}

/// What clients of a trial share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) facts: Facts,
    builds: Mutex<BTreeMap<String, Begun>>,
}

impl Shared {
    /// Builds that were accepted, by image hash.
    pub(crate) fn builds(&self) -> MutexGuard<'_, BTreeMap<String, Begun>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: usize,
    image: Option<String>,
    token: Option<String>,
    /// Commits to its volume so far.
    pub(crate) commits: usize,
}

impl Worker {
    pub(crate) fn new(client: Client, shared: Arc<Shared>, number: usize) -> Self {
        Self {
            client,
            shared,
            number,
            image: None,
            token: None,
            commits: 0,
        }
    }

    fn repository(&self) -> String {
        format!("torture/client-{}", self.number)
    }

    /// Does one thing. An error says that nothing, or no success, was answered.
    pub(crate) async fn act(&mut self, act: &Act) -> Fallible<()> {
        let facts = &self.shared.facts;
        match act {
            Act::Push { tag, layers, piece } => self.push(tag, &Pushed::of(layers), *piece).await,
            Act::Blob { noise, piece } => {
                let bytes = noise.bytes();
                self.push_blob(&bytes, *piece).await
            }
            Act::Cancel { noise } => self.cancel(&noise.bytes()).await,
            Act::Pull { tag } => self.pull(tag).await,
            Act::DeleteManifest { tag } => self.delete_manifest(tag).await,
            Act::DeleteTag { tag } => {
                let repository = self.repository();
                let thing = Thing::Tag(repository.clone(), tag.clone());
                if facts.known(&thing).is_none() {
                    return Ok(());
                }
                facts.asked(&thing, None);
                let path = format!("/v2/{repository}/manifests/{tag}");
                self.client.delete(&path).await?;
                facts.acknowledged(&thing, None);
                Ok(())
            }
            Act::DeleteBlob { noise } => {
                let (repository, digest) = (self.repository(), digest(&noise.bytes()));
                let thing = Thing::Blob(repository.clone(), digest.clone());
                if facts.known(&thing).is_none() {
                    return Ok(());
                }
                facts.asked(&thing, None);
                let path = format!("/v2/{repository}/blobs/{digest}");
                self.client.delete(&path).await?;
                facts.acknowledged(&thing, None);
                Ok(())
            }
            Act::Build { recipe, name } => self.build(recipe, name.as_deref()).await.map(drop),
            Act::Name { name } => {
                let Some(hash) = self.image.clone() else {
                    return Ok(());
                };
                let thing = Thing::Name(name.clone());
                facts.asked(&thing, Some(hash.clone()));
                let path = format!("/v1/images/{hash}/names/{}", encoded(name));
                self.client.call(Method::PUT, &path, &Value::Null).await?;
                facts.acknowledged(&thing, Some(hash));
                Ok(())
            }
            Act::Unname { name } => {
                let thing = Thing::Name(name.clone());
                if facts.known(&thing).is_none() {
                    return Ok(());
                }
                facts.asked(&thing, None);
                let path = format!("/v1/images/{}", encoded(name));
                self.client.delete(&path).await?;
                facts.acknowledged(&thing, None);
                Ok(())
            }
            Act::DeleteImage => {
                let Some(hash) = self.image.take() else {
                    return Ok(());
                };
                let things: Vec<Thing> = std::iter::once(Thing::Image(hash.clone()))
                    .chain(facts.names_of(&hash))
                    .collect();
                for thing in &things {
                    facts.asked(thing, None);
                }
                self.client.delete(&format!("/v1/images/{hash}")).await?;
                for thing in &things {
                    facts.acknowledged(thing, None);
                }
                self.shared.builds().remove(&hash);
                Ok(())
            }
            Act::Collect => self.client.collect().await,
            Act::Token { name } => {
                let body = json!({"name": name, "roles": ["build"]});
                let made = self.client.call(Method::POST, "/v1/tokens", &body).await?;
                let id = made["client_id"].as_str().unwrap_or_default().to_owned();
                facts.acknowledged(&Thing::Token(id.clone()), Some(String::new()));
                self.token = Some(id);
                Ok(())
            }
            Act::Revoke => {
                let Some(id) = self.token.take() else {
                    return Ok(());
                };
                let thing = Thing::Token(id.clone());
                facts.asked(&thing, None);
                self.client.delete(&format!("/v1/tokens/{id}")).await?;
                facts.acknowledged(&thing, None);
                Ok(())
            }
            Act::JoinToken => {
                let path = "/v1/join-tokens";
                let made = self.client.call(Method::POST, path, &json!({})).await?;
                let id = made["id"].as_str().unwrap_or_default().to_owned();
                facts.acknowledged(&Thing::JoinToken(id), Some(String::new()));
                Ok(())
            }
            Act::Prewarm { images } => {
                // One client alone, since nobody could say whose list came last.
                if self.number != 0 {
                    return Ok(());
                }
                let value = Some(images.join(" "));
                facts.asked(&Thing::Prewarm, value.clone());
                let body = json!({"images": images});
                self.client.call(Method::PUT, "/v1/prewarm", &body).await?;
                facts.acknowledged(&Thing::Prewarm, value);
                Ok(())
            }
            Act::PutFile { path, noise, way } => self.put_file(path, &noise.bytes(), *way).await,
            Act::RemoveFile { path } => self.remove_file(path).await,
            Act::DeleteVolume => self.delete_volume().await,
        }
    }

    async fn push_blob(&self, bytes: &[u8], piece: usize) -> Fallible<()> {
        let (facts, repository) = (&self.shared.facts, self.repository());
        let thing = Thing::Blob(repository.clone(), digest(bytes));
        facts.asked(&thing, Some(String::new()));
        self.client.push_blob(&repository, bytes, piece).await?;
        facts.acknowledged(&thing, Some(String::new()));
        Ok(())
    }

    /// Begins an upload, sends its bytes, and takes it back.
    async fn cancel(&self, bytes: &[u8]) -> Fallible<()> {
        let upload = self.client.begin_upload(&self.repository(), bytes).await?;
        let (facts, thing) = (&self.shared.facts, Thing::Upload(upload.clone()));
        facts.asked(&thing, Some(String::new()));
        self.client.delete(&upload).await?;
        facts.acknowledged(&thing, None);
        Ok(())
    }

    /// Pushes an image as clients do: what it is made of, then the manifest.
    pub(crate) async fn push(&self, tag: &str, image: &Pushed, piece: usize) -> Fallible<()> {
        for blob in &image.blobs {
            self.push_blob(blob, piece).await?;
        }
        let (facts, repository) = (&self.shared.facts, self.repository());
        let digest = digest(&image.manifest);
        let manifest = Thing::Manifest(repository.clone(), digest.clone());
        let tagged = Thing::Tag(repository.clone(), tag.to_owned());
        facts.asked(&manifest, Some(String::new()));
        facts.asked(&tagged, Some(digest.clone()));
        let bytes = image.manifest.clone();
        self.client.push_manifest(&repository, tag, bytes).await?;
        facts.acknowledged(&manifest, Some(String::new()));
        facts.acknowledged(&tagged, Some(digest));
        Ok(())
    }

    /// Pulls all of an image; its bytes are checked after the restart.
    async fn pull(&self, tag: &str) -> Fallible<()> {
        let repository = self.repository();
        let Some((_, bytes)) = self.client.manifest(&repository, tag).await? else {
            return Ok(());
        };
        let manifest: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for part in layers.chain([&manifest["config"]]) {
            let digest = part["digest"].as_str().unwrap_or_default();
            self.client.blob(&repository, digest).await?;
        }
        Ok(())
    }

    async fn delete_manifest(&self, tag: &str) -> Fallible<()> {
        let (facts, repository) = (&self.shared.facts, self.repository());
        let tagged = Thing::Tag(repository.clone(), tag.to_owned());
        let Some(digest) = facts.known(&tagged) else {
            return Ok(());
        };
        let manifest = Thing::Manifest(repository.clone(), digest.clone());
        let things: Vec<Thing> = std::iter::once(manifest)
            .chain(facts.tags_of(&repository, &digest))
            .collect();
        for thing in &things {
            facts.asked(thing, None);
        }
        let path = format!("/v2/{repository}/manifests/{digest}");
        self.client.delete(&path).await?;
        for thing in &things {
            facts.acknowledged(thing, None);
        }
        Ok(())
    }

    /// Builds an image and follows it to its end; gives the build.
    pub(crate) async fn build(&mut self, recipe: &Recipe, name: Option<&str>) -> Fallible<Value> {
        let mut body = json!({"spec": recipe.spec()});
        if let Some(name) = name {
            body["name"] = name.into();
        }
        for text in recipe.contents() {
            self.client.put_file(text).await?;
        }
        let reply = self.client.call(Method::POST, "/v1/builds", &body).await?;
        let word = reply["reply"].as_str().unwrap_or_default();
        if word == "needs_blobs" {
            return Err(format!("files that were acknowledged are gone: {reply}"));
        }
        let hash = reply["image_hash"].as_str().unwrap_or_default().to_owned();
        let facts = &self.shared.facts;
        let image = Thing::Image(hash.clone());
        facts.asked(&image, Some(String::new()));
        let named = name.map(|name| Thing::Name(name.to_owned()));
        if let Some(named) = &named {
            facts.asked(named, Some(hash.clone()));
        }
        self.shared.builds().insert(
            hash.clone(),
            Begun {
                recipe: recipe.clone(),
                steps: 0,
                ended: false,
            },
        );
        let build = match word {
            "reused" => reply,
            _ => {
                self.follow(&hash, reply["id"].as_str().unwrap_or_default())
                    .await?
            }
        };
        match build["status"].as_str() {
            Some("built" | "reused") => {}
            _ => return Err(format!("the build failed: {}", build["error"])),
        }
        facts.acknowledged(&image, Some(String::new()));
        if let Some(named) = &named {
            facts.acknowledged(named, Some(hash.clone()));
        }
        if let Some(begun) = self.shared.builds().get_mut(&hash) {
            begun.ended = true;
            begun.steps = begun.recipe.steps.len();
        }
        self.image = Some(hash);
        Ok(build)
    }

    async fn follow(&self, hash: &str, id: &str) -> Fallible<Value> {
        let path = format!("/v1/builds/{id}");
        let mut deaf = 0;
        loop {
            match self.client.get(&path).await {
                Ok(Some(build)) => {
                    deaf = 0;
                    let steps = build["steps"].as_array().cloned().unwrap_or_default();
                    let done =
                        |step: &Value| matches!(step["state"].as_str(), Some("ran" | "cached"));
                    let count = steps.iter().take_while(|step| done(step)).count();
                    if let Some(begun) = self.shared.builds().get_mut(hash) {
                        begun.steps = begun.steps.max(count);
                    }
                    if !matches!(build["status"].as_str(), Some("queued" | "running")) {
                        return Ok(build);
                    }
                }
                Ok(None) => return Err(format!("build {id} is not known any more")),
                Err(error) if deaf >= DEAF => return Err(error),
                Err(_) => deaf += 1,
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A name as one part of a path.
fn encoded(name: &str) -> String {
    name.replace('/', "%2F")
}
