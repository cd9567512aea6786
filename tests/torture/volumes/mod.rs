//! Volumes under torture: files that are committed, removed, and gone with their volume.

mod wire;

pub(crate) use wire::Way;

use crate::check::{Check, Wrong};
use crate::client::Fallible;
use crate::clients::Worker;
use crate::facts::Thing;

impl Worker {
    /// The volume of this client, made if it is not there.
    async fn volume(&self) -> Fallible<String> {
        let name = format!("torture-{}", self.number);
        let (facts, thing) = (&self.shared.facts, Thing::Volume(name.clone()));
        if facts.known(&thing).is_none() {
            facts.asked(&thing, Some(String::new()));
            // An earlier call may have made it and not been answered.
            if !self.client.has_volume(&name).await? {
                self.client.create_volume(&name).await?;
            }
            facts.acknowledged(&thing, Some(String::new()));
        }
        Ok(name)
    }

    /// An identifier of a commit that this client did not use yet.
    fn commit(&mut self) -> String {
        self.commits += 1;
        format!("commit-{}-{}", self.number, self.commits)
    }

    /// Puts a file into the volume of this client.
    pub(crate) async fn put_file(&mut self, path: &str, bytes: &[u8], way: Way) -> Fallible<()> {
        let (volume, commit) = (self.volume().await?, self.commit());
        let thing = Thing::File(volume.clone(), path.to_owned());
        let value = Some(wire::hash(bytes));
        let facts = &self.shared.facts;
        facts.asked(&thing, value.clone());
        let done = self.client.commit_file(&volume, path, bytes, way, commit);
        done.await?;
        facts.acknowledged(&thing, value);
        Ok(())
    }

    /// Takes a file out of the volume of this client, if it is there.
    pub(crate) async fn remove_file(&mut self, path: &str) -> Fallible<()> {
        let volume = format!("torture-{}", self.number);
        let thing = Thing::File(volume.clone(), path.to_owned());
        if self.shared.facts.known(&thing).is_none() {
            return Ok(());
        }
        let commit = self.commit();
        self.shared.facts.asked(&thing, None);
        self.client.remove_file(&volume, path, commit).await?;
        self.shared.facts.acknowledged(&thing, None);
        Ok(())
    }

    /// Deletes the volume of this client, if it is there.
    pub(crate) async fn delete_volume(&mut self) -> Fallible<()> {
        let (facts, volume) = (&self.shared.facts, format!("torture-{}", self.number));
        let thing = Thing::Volume(volume.clone());
        if facts.known(&thing).is_none() {
            return Ok(());
        }
        let things: Vec<Thing> = std::iter::once(thing)
            .chain(facts.files_of(&volume))
            .collect();
        for thing in &things {
            facts.asked(thing, None);
        }
        self.client.delete_volume(&volume).await?;
        for thing in &things {
            facts.acknowledged(thing, None);
        }
        Ok(())
    }
}

impl Check<'_> {
    /// Volumes are there with their files, and what they list can be read.
    pub(crate) async fn volumes(&mut self) {
        for (thing, allowed) in self.shared.facts.all() {
            let found = match &thing {
                Thing::Volume(name) => {
                    let found = self.client.has_volume(name).await;
                    found.map(|there| there.then(String::new))
                }
                Thing::File(volume, path) => {
                    let found = self.client.volume_file(volume, path).await;
                    found.map(|found| found.map(|bytes| wire::hash(&bytes)))
                }
                _ => continue,
            };
            self.compare(&thing, &allowed, found);
            if let Thing::Volume(name) = &thing {
                match self.listing(name).await {
                    Ok(()) => {}
                    // Of a rotten blob it may be silent.
                    Err(_) if !self.rotten.is_empty() => {}
                    Err(error) => self.wrong(Wrong::Half, format!("{thing}: {error}")),
                }
            }
        }
    }

    /// All that a volume lists can be read.
    async fn listing(&mut self, volume: &str) -> Fallible<()> {
        for (path, hash) in self.client.volume_files(volume).await?.unwrap_or_default() {
            let found = self.client.volume_file(volume, &path).await?;
            let found = found.map(|bytes| wire::hash(&bytes));
            let what = || format!("{volume} lists {path} with {hash}, and gives {found:?}");
            match &found {
                Some(found) if *found == hash => {}
                Some(_) => self.wrong(Wrong::Bytes, what()),
                None => return Err(what()),
            }
        }
        Ok(())
    }
}
