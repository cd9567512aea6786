//! The right image of an index.

use chalk_core::Platform;
use oci_spec::image::{Descriptor, ImageIndex};

/// Picks the entry for `wanted`; else gives the platforms that there are.
///
/// Variants follow containerd's rules: `arm` means `arm/v7`, which also runs `v6` and `v5`;
/// `arm64` means `arm64/v8`; `amd64` means `amd64/v1`, and `v3` also runs `v2` and `v1`.
/// Build attestations, which stand in an index under `unknown/unknown`, are no images.
pub(crate) fn choose<'a>(
    index: &'a ImageIndex,
    wanted: &Platform,
) -> Result<&'a Descriptor, Vec<String>> {
    let entries = || {
        let named = index
            .manifests()
            .iter()
            .filter_map(|entry| Some((entry, platform(entry)?)));
        named.filter(|(_, platform)| platform.os != "unknown")
    };
    for acceptable in acceptable(wanted) {
        if let Some((entry, _)) = entries().find(|(_, platform)| *platform == acceptable) {
            return Ok(entry);
        }
    }
    // An index around a single image need not name its platform; the image's config does.
    if let [only] = &index.manifests()[..]
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let mut available = Vec::new();
    for (_, platform) in entries() {
        let text = platform.to_string();
        if !available.contains(&text) {
            available.push(text);
        }
    }
    Err(available)
}

/// Whether an image for `has` is what `wanted` asks for.
pub(crate) fn runs(wanted: &Platform, has: &Platform) -> bool {
    acceptable(wanted).contains(&normal(has.clone()))
}

/// Platform from the words of an index or a config.
pub(crate) fn from_words(os: &str, architecture: &str, variant: Option<&str>) -> Option<Platform> {
    let variant = variant.filter(|v| !v.is_empty());
    let text = match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    };
    text.parse().ok().map(normal)
}

fn platform(entry: &Descriptor) -> Option<Platform> {
    let platform = entry.platform().as_ref()?;
    from_words(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    )
}

/// Drops or adds the variant that the bare architecture stands for.
fn normal(mut platform: Platform) -> Platform {
    platform.variant = match (platform.architecture.as_str(), platform.variant.as_deref()) {
        ("amd64", Some("v1")) | ("arm64", Some("v8" | "8")) => None,
        ("arm", None | Some("7")) => Some("v7".to_owned()),
        ("arm", Some("6")) => Some("v6".to_owned()),
        ("arm", Some("5")) => Some("v5".to_owned()),
        (_, variant) => variant.map(str::to_owned),
    };
    platform
}

/// What `wanted` accepts, best first.
fn acceptable(wanted: &Platform) -> Vec<Platform> {
    let wanted = normal(wanted.clone());
    let lower: &[Option<&str>] = match (wanted.architecture.as_str(), wanted.variant.as_deref()) {
        ("arm", Some("v8")) => &[Some("v7"), Some("v6"), Some("v5")],
        ("arm", Some("v7")) => &[Some("v6"), Some("v5")],
        ("arm", Some("v6")) => &[Some("v5")],
        ("amd64", Some("v4")) => &[Some("v3"), Some("v2"), None],
        ("amd64", Some("v3")) => &[Some("v2"), None],
        ("amd64", Some("v2")) | ("arm64", Some(_)) => &[None],
        _ => &[],
    };
    let lower = lower.iter().map(|variant| Platform {
        variant: variant.map(str::to_owned),
        ..wanted.clone()
    });
    std::iter::once(wanted.clone()).chain(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index whose entries have sizes 0, 1, 2, ... and the platforms given.
    fn index(platforms: &[&str]) -> ImageIndex {
        let entries = platforms.iter().enumerate().map(|(size, text)| {
            let words: Vec<&str> = text.split('/').collect();
            let mut entry = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": chalk_core::Digest::of(text.as_bytes()),
                "size": size,
            });
            if let [os, architecture, rest @ ..] = &words[..] {
                entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                if let [variant] = rest {
                    entry["platform"]["variant"] = (*variant).into();
                }
            }
            entry
        });
        let json =
            serde_json::json!({"schemaVersion": 2, "manifests": entries.collect::<Vec<_>>()});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn chooses() {
        let check = |has: &[&str], wanted: &str, expect: Result<u64, &[&str]>| {
            let index = index(has);
            let got = choose(&index, &wanted.parse().unwrap()).map(Descriptor::size);
            let expect = expect.map_err(|all| all.iter().map(|&p| p.to_owned()).collect());
            assert_eq!(got, expect, "{wanted} of {has:?}");
        };
        let usual = [
            "linux/amd64",
            "unknown/unknown",
            "linux/arm64/v8",
            "linux/arm/v6",
        ];
        check(&usual, "linux/amd64", Ok(0));
        check(&usual, "linux/amd64/v3", Ok(0));
        check(&usual, "linux/arm64", Ok(2));
        check(&usual, "linux/arm64/v8", Ok(2));
        check(&usual, "linux/arm", Ok(3));
        check(
            &usual,
            "linux/s390x",
            Err(&["linux/amd64", "linux/arm64", "linux/arm/v6"]),
        );
        check(
            &usual,
            "linux/arm/v5",
            Err(&["linux/amd64", "linux/arm64", "linux/arm/v6"]),
        );
        check(&["linux/arm/v5", "linux/arm/v7"], "linux/arm", Ok(1));
        check(&["linux/amd64/v2", "linux/amd64/v1"], "linux/amd64", Ok(1));
        check(&["linux/amd64/v3"], "linux/amd64", Err(&["linux/amd64/v3"]));
        check(
            &["windows/amd64", "windows/amd64"],
            "linux/amd64",
            Err(&["windows/amd64"]),
        );
        check(&[""], "linux/amd64", Ok(0));
        check(&["", ""], "linux/amd64", Err(&[]));
        check(&[], "linux/amd64", Err(&[]));
    }
}
