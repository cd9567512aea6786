//! The ids that a user may map: `subuid(5)` and `subgid(5)`.

use std::fs;
use std::path::Path;

use super::Barrier;

/// First id that is handed out where nothing was handed out before, and how many one user gets:
/// the defaults of `useradd`, and as many ids as images use.
const FIRST: u64 = 100_000;
const COUNT: u64 = 65_536;

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// User ids.
    Users,
    /// Group ids.
    Groups,
}

impl Kind {
    /// The file that says who may map which.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Users => "/etc/subuid",
            Kind::Groups => "/etc/subgid",
        }
    }

    /// The program that maps them.
    pub fn program(self) -> &'static str {
        match self {
            Kind::Users => "newuidmap",
            Kind::Groups => "newgidmap",
        }
    }

    /// The option of `usermod` that gives a user more of them.
    fn option(self) -> &'static str {
        match self {
            Kind::Users => "--add-subuids",
            Kind::Groups => "--add-subgids",
        }
    }
}

/// The ranges that are a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// First id on the host, and how many.
    ranges: Vec<(u64, u64)>,
    /// First id that is nobody's, of those that are usually handed out.
    free: u64,
}

impl Ids {
    /// Those that the file of this host gives a user.
    pub fn of(kind: Kind, user: &str, uid: u32) -> Ids {
        Ids::read(Path::new(kind.file()), user, uid)
    }

    /// Those that a file gives a user, by name or number. A file that is not there gives none.
    pub fn read(file: &Path, user: &str, uid: u32) -> Ids {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut ids = Ids {
            ranges: Vec::new(),
            free: FIRST,
        };
        for line in text.lines() {
            let mut fields = line.trim().split(':');
            let (Some(owner), Some(first), Some(count)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let (Ok(first), Ok(count)) = (first.parse::<u64>(), count.parse::<u64>()) else {
                continue;
            };
            ids.free = ids.free.max(first.saturating_add(count));
            if count > 0 && (owner == user || owner.parse() == Ok(uid)) {
                ids.ranges.push((first, count));
            }
        }
        ids
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(_, count)| count).sum()
    }

    /// Whether there are as many as images use.
    pub fn suffice(&self) -> bool {
        // With the user itself as 0.
        self.count() + 1 >= COUNT
    }

    /// The command that gives `user` ids that are nobody else's.
    pub fn remedy(&self, kind: Kind, user: &str) -> String {
        let last = self.free + COUNT - 1;
        format!(
            "`sudo usermod {} {}-{last} {user}`",
            kind.option(),
            self.free
        )
    }

    /// The map as `newuidmap` takes it after the process: triples of the first id within, the
    /// first on the host, and how many. The user's own id becomes 0.
    pub(super) fn map(&self, own: u32) -> Vec<String> {
        let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
        let mut within = 1;
        for (first, count) in &self.ranges {
            words.extend([within, *first, *count].map(|number| number.to_string()));
            within += count;
        }
        words
    }
}

/// Name of a user: by `/etc/passwd`, else by whatever `id` asks; the number where nobody knows.
pub fn login(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named
        .or_else(|| {
            let asked = std::process::Command::new("id").arg("-un").output().ok()?;
            let name = String::from_utf8(asked.stdout).ok()?.trim().to_owned();
            (asked.status.success() && !name.is_empty()).then_some(name)
        })
        .unwrap_or_else(|| uid.to_string())
}

/// The ids of a user, of which there must be some.
pub(super) fn demand(kind: Kind, user: &str, uid: u32) -> Result<Ids, Barrier> {
    let ids = Ids::of(kind, user, uid);
    if ids.ranges.is_empty() {
        return Err(Barrier::NoIds {
            file: kind.file(),
            remedy: ids.remedy(kind, user),
            user: user.to_owned(),
        });
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_maps_the_ids_of_a_user() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("subuid");
        let check = |text: &str, count: u64, map: &str, remedy: &str| {
            fs::write(&file, text).unwrap();
            let ids = Ids::read(&file, "ann", 1000);
            assert_eq!(ids.count(), count, "{text}");
            assert_eq!(ids.map(1000).join(" "), map, "{text}");
            let told = ids.remedy(Kind::Users, "ann");
            assert!(told.contains(remedy), "{told}");
        };
        check("", 0, "0 1000 1", "--add-subuids 100000-165535 ann");
        check("bob:100000:65536\n", 0, "0 1000 1", "165536-231071 ann");
        check(
            "ann:100000:65536\n",
            65536,
            "0 1000 1 1 100000 65536",
            "165536-231071",
        );
        check(
            "ann:7:3\n# no line\n1000:50:2\nann:x:y\n10001:1:1\n",
            5,
            "0 1000 1 1 7 3 4 50 2",
            "100000-165535",
        );
        let nowhere = Ids::read(&temp.path().join("absent"), "ann", 1000);
        assert_eq!(nowhere.count(), 0);
        assert!(!nowhere.suffice());
        fs::write(&file, "ann:1:65535\n").unwrap();
        assert!(Ids::read(&file, "ann", 1000).suffice());
    }
}
