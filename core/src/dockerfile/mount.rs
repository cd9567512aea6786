//! `RUN --mount=…`.

use super::error::Fault;
use super::syntax::{csv_fields, csv_quote};

/// A `--mount` as written: keys in lower case under one name each, values unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFlag {
    fields: Vec<(String, Option<String>)>,
}

/// A `--mount` with its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) from: Option<String>,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Bytes.
    pub(crate) size: Option<u64>,
    pub(crate) id: String,
    pub(crate) sharing: Option<Share>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Shared,
    Private,
    Locked,
}

const KEYS: [&str; 13] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
];

impl MountFlag {
    /// Reads the value of a flag.
    pub(crate) fn parse(value: &str) -> Result<Self, Fault> {
        let mut fields = Vec::new();
        for field in csv_fields(value)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (field.as_str(), None),
            };
            let key = match key.to_ascii_lowercase().as_str() {
                "src" => "source".to_owned(),
                "dst" | "destination" => "target".to_owned(),
                "ro" => "readonly".to_owned(),
                "rw" => "readwrite".to_owned(),
                key => key.to_owned(),
            };
            if key != "env" && !KEYS.contains(&key.as_str()) {
                return Err(
                    Fault::flag(format_args!("--mount has no field `{key}`")).near(&key, &KEYS)
                );
            }
            let switch = matches!(key.as_str(), "readonly" | "readwrite" | "required");
            if value.is_none() && !switch {
                return Err(Fault::flag(format_args!(
                    "the field `{key}` of --mount expects `=` and a value"
                )));
            }
            if key == "from" && value.as_deref().is_some_and(|v| v.contains('$')) {
                return Err(Fault::flag("`from` of --mount cannot have a variable")
                    .hint("name a stage with `FROM … AS name` and use the variable there"));
            }
            fields.push((key, value));
        }
        let flag = Self { fields };
        if flag.constant("type") == Some("ssh") {
            return Err(ssh());
        }
        Ok(flag)
    }

    /// Canonical text of the value.
    pub(crate) fn text(&self) -> String {
        let fields = self.fields.iter().map(|(key, value)| match value {
            Some(value) => csv_quote(&format!("{key}={value}")),
            None => key.clone(),
        });
        fields.collect::<Vec<_>>().join(",")
    }

    /// A value without variables.
    fn constant(&self, key: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().rev().find(|(name, _)| name == key)?;
        value.as_deref().filter(|value| !value.contains('$'))
    }

    /// What the mount reads from: a stage, an image, or nothing (the context).
    pub(crate) fn from(&self) -> Option<&str> {
        self.constant("from").filter(|from| !from.is_empty())
    }

    /// Replaces [`MountFlag::from`].
    pub(crate) fn set_from(&mut self, from: &str) {
        for (key, value) in &mut self.fields {
            if key == "from" {
                *value = Some(from.to_owned());
            }
        }
    }

    /// Expands the values with `expand` and checks them.
    pub(crate) fn read(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, Fault>,
    ) -> Result<Mount, Fault> {
        let mut mount = Mount::default();
        let mut read_only = None;
        // Later fields are read in the light of the type, wherever it stands.
        for (key, value) in &self.fields {
            if key == "type" {
                let value = expand(value.as_deref().unwrap_or_default())?.to_ascii_lowercase();
                mount.kind = match value.as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => return Err(ssh()),
                    other => {
                        let kinds = ["bind", "cache", "tmpfs", "secret"];
                        let fault = format!(
                            "`{other}` is no type of --mount: expected {}",
                            kinds.join(", ")
                        );
                        return Err(Fault::flag(fault).near(other, &kinds));
                    }
                };
            }
        }
        let kind = mount.kind;
        let only = |key: &str, kinds: &[MountKind]| {
            if kinds.contains(&kind) {
                Ok(())
            } else {
                Err(Fault::flag(format_args!(
                    "a --mount of this type has no field `{key}`"
                )))
            }
        };
        for (key, value) in &self.fields {
            let value = match value {
                Some(value) => Some(expand(value)?),
                None => None,
            };
            let text = value.clone().unwrap_or_default();
            let switch = || match value.as_deref() {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
                Some(other) => Err(Fault::flag(format_args!(
                    "the field `{key}` of --mount is `true` or `false`, not `{other}`"
                ))),
            };
            let number = |radix: u32| {
                u32::from_str_radix(&text, radix).map_err(|_| {
                    let digits = if radix == 8 {
                        "octal digits"
                    } else {
                        "a number"
                    };
                    Fault::flag(format_args!(
                        "the field `{key}` of --mount expects {digits}, not `{text}`"
                    ))
                })
            };
            let owned = [MountKind::Cache, MountKind::Secret];
            match key.as_str() {
                "from" => mount.from = Some(text).filter(|from| !from.is_empty()),
                "source" => mount.source = text,
                "target" => mount.target = text,
                "readonly" => read_only = Some(switch()?),
                "readwrite" => read_only = Some(!switch()?),
                "id" => mount.id = text,
                "sharing" => {
                    only(key, &[MountKind::Cache])?;
                    mount.sharing = Some(match text.to_ascii_lowercase().as_str() {
                        "shared" => Share::Shared,
                        "private" => Share::Private,
                        "locked" => Share::Locked,
                        other => {
                            return Err(Fault::flag(format_args!(
                                "`sharing` of --mount is `shared`, `private` or `locked`, not `{other}`"
                            )));
                        }
                    });
                }
                "required" => {
                    only(key, &[MountKind::Secret])?;
                    mount.required = switch()?;
                }
                "size" => {
                    only(key, &[MountKind::Tmpfs])?;
                    mount.size = Some(bytes(&text).ok_or_else(|| {
                        Fault::flag(format_args!(
                            "`size` of --mount expects bytes such as `64m`, not `{text}`"
                        ))
                    })?);
                }
                "env" => {
                    only(key, &[MountKind::Secret])?;
                    mount.env = Some(text);
                }
                "mode" => {
                    only(key, &owned)?;
                    mount.mode = Some(number(8)?);
                }
                "uid" => {
                    only(key, &owned)?;
                    mount.uid = Some(number(10)?);
                }
                "gid" => {
                    only(key, &owned)?;
                    mount.gid = Some(number(10)?);
                }
                _ => {}
            }
        }
        mount.read_only =
            read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }
}

impl Mount {
    fn check(&self) -> Result<(), Fault> {
        if self.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(Fault::flag("`mode` of --mount is at most 7777"));
        }
        if self.kind == MountKind::Secret {
            if self.from.is_some() {
                return Err(Fault::flag("a secret --mount has no field `from`"));
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(Fault::flag("a secret --mount needs `id` or `target`"));
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(Fault::flag(
                    "a secret --mount has `source` or `id`, not both",
                ));
            }
        } else if self.target.is_empty() {
            return Err(Fault::flag("a --mount needs `target`"));
        }
        Ok(())
    }
}

fn ssh() -> Fault {
    Fault::unsupported("RUN --mount=type=ssh is not supported")
        .hint("give the key as a secret: --mount=type=secret,id=…")
}

/// `64m`, `1.5GB`, `100`: the units of Docker, powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let unit = text[digits..]
        .trim()
        .trim_end_matches('b')
        .trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = text[..digits]
        .split_once('.')
        .unwrap_or((&text[..digits], "0"));
    let fraction = &fraction[..fraction.len().min(6)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole = u128::from(whole.parse::<u64>().ok()?) << shift;
    let part = (fraction.parse::<u128>().ok()? << shift) / scale;
    u64::try_from(whole + part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Mount, String> {
        let flag = MountFlag::parse(value).map_err(|f| f.problem().to_string())?;
        let mut same = |text: &str| Ok(text.to_owned());
        flag.read(&mut same).map_err(|f| f.problem().to_string())
    }

    #[test]
    fn reads_mounts() {
        let cache = read("type=cache,target=/c,sharing=locked,uid=5,mode=0700").unwrap();
        assert_eq!(cache.sharing, Some(Share::Locked));
        assert_eq!(
            (cache.uid, cache.mode, cache.read_only),
            (Some(5), Some(0o700), false)
        );
        let bind = read("source=a,dst=/b,from=x").unwrap();
        assert_eq!((bind.kind, bind.read_only), (MountKind::Bind, true));
        assert_eq!(bind.from.as_deref(), Some("x"));
        assert!(!read("target=/b,rw").unwrap().read_only);
        assert!(!read("target=/b,readonly=false").unwrap().read_only);
        assert_eq!(
            read("type=tmpfs,target=/t,size=64m").unwrap().size,
            Some(64 << 20)
        );
        assert_eq!(
            read("type=tmpfs,target=/t,size=1.5GiB").unwrap().size,
            Some(3 << 29)
        );
        assert!(read("type=secret,id=x,required").unwrap().required);
        assert!(read("required=true,type=secret,id=x").unwrap().required);
    }

    #[test]
    fn refuses_bad_mounts() {
        let check = |value: &str, part: &str| {
            let error = read(value).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        };
        check("type=cach,target=/c", "no type");
        check("type=ssh", "not supported");
        check("type=cache", "needs `target`");
        check("target", "expects `=`");
        check("traget=/x", "no field `traget`");
        check("type=bind,target=/x,size=1", "no field `size`");
        check("type=bind,target=/x,uid=1", "no field `uid`");
        check("type=cache,target=/x,mode=9", "octal");
        check("type=cache,target=/x,sharing=x", "sharing");
        check("type=secret", "needs `id`");
        check("type=tmpfs,target=/x,size=lots", "64m");
        check("target=/x,from=$a", "variable");
    }

    #[test]
    fn has_a_canonical_text() {
        let check = |value: &str, expect: &str| {
            let flag = MountFlag::parse(value).unwrap();
            assert_eq!(flag.text(), expect);
            assert_eq!(MountFlag::parse(expect).unwrap(), flag);
        };
        check("TYPE=cache,dst=/c,ro", "type=cache,target=/c,readonly");
        check("\"target=/a,b\",src=x", "\"target=/a,b\",source=x");
    }
}
