//! Collections of an external registry.

use chalk_store::uses::Horizon;

use super::*;

/// What a collection of that registry is to do, of all that is older than an hour.
pub(super) fn plan_of(place: &Place, catalog: &Catalog, in_use: &mut InUse) -> (Plan, Horizon) {
    let policy = settings::Gc {
        age: Some(HOUR),
        steps_age: Some(HOUR),
        ..Place::policy()
    };
    let horizon = place.blobs.horizon(policy.grace, None);
    let mut read = Read::new();
    let surveyed = place.wait(external::survey(catalog, in_use, &mut read));
    let (survey, blobs) = surveyed.unwrap();
    let plan = plan::plan(&Input {
        survey: &survey,
        blobs: &blobs,
        in_use,
        policy: &policy,
        horizon: horizon.wall,
        now: SystemTime::now(),
        resolve: &|digest| digest.to_string().parse().ok(),
        files: &|_| Vec::new(),
    });
    (plan, horizon)
}

#[test]
fn an_external_registry_loses_what_the_service_did_not_use() {
    let place = Place::new();
    let (index, _) = Index::open(&place.dir.path().join("index.redb")).unwrap();
    let index = Arc::new(index);
    let catalog = Catalog::new(
        Arc::new(place.registry.clone()),
        "registry.example".to_owned(),
        index.clone(),
        place.blobs.clone(),
    );
    let catalog = catalog.noting_uses(place.dir.path().join("uses")).unwrap();
    let hash = |name: &str| Digest::of(name.as_bytes());
    for name in ["used", "unused", "late"] {
        let digest = place.image(IMAGES, &hash(name).hex(), &[name]);
        let known = Known {
            digest,
            platform: chalk_core::Platform::default(),
            size: 1,
            layers: 1,
            created: "2020-01-01T00:00:00Z".to_owned(),
        };
        index.put_image(&hash(name), &known).unwrap();
    }
    for name in ["mine", "of another builder"] {
        place.image(STEPS, &hash(name).hex(), &[name]);
    }
    let mut in_use = InUse::default();
    let long_ago = SystemTime::now() - 1000 * HOUR;
    in_use.steps.insert(hash("mine"), long_ago);
    // What builders made on the way, and what they cache for each other.
    let passing = [long_ago, SystemTime::now()].map(|made| passing_tag(made, 1));
    for tag in &passing {
        place.image(BUILDS, tag, &[tag]);
    }
    for name in ["shared", "shared by others"] {
        place.image(BUILD_CACHE, &hash(name).hex(), &[name]);
    }
    in_use.steps.insert(hash("shared"), long_ago);
    let find = |name: &str| place.wait(catalog.find(&hash(name))).unwrap();
    assert!(find("used").is_some());

    let (plan, horizon) = plan_of(&place, &catalog, &mut in_use);
    let goes = |name: &str| fate(&plan, &hash(name).hex()).0;
    assert!(
        goes("unused") && goes("late") && goes("mine"),
        "{:#?}",
        plan.items
    );
    assert!(
        !goes("used") && !goes("of another builder"),
        "{:#?}",
        plan.items
    );
    let goes = |repository: &str, tag: &str| fate(&plan, &format!("{repository}:{tag}")).0;
    assert!(goes(BUILDS, &passing[0]) && !goes(BUILDS, &passing[1]));
    assert!(goes(BUILD_CACHE, &hash("shared").hex()));
    assert!(!goes(BUILD_CACHE, &hash("shared by others").hex()));
    // Asked for after it was judged.
    assert!(find("late").is_some());
    let (tags, manifests) = (&plan.tags, &plan.manifests);
    let gone = place.wait(external::drop_tags(&catalog, tags, manifests, &horizon));
    let gone = gone.into_iter().filter(|gone| *gone == Dropped::Gone);
    assert_eq!(gone.count(), 4);
    for repository in [BUILDS, BUILD_CACHE] {
        assert_eq!(place.registry.manifests(repository).unwrap().len(), 1);
        assert_eq!(place.registry.tags(repository).unwrap().len(), 1);
    }
    assert!(find("used").is_some() && find("late").is_some());
    assert!(find("unused").is_none() && index.image(&hash("unused")).is_none());
    for (name, stays) in [("mine", false), ("of another builder", true)] {
        let tag = hash(name).hex();
        let head = place
            .wait(place.registry.head_manifest(STEPS, &tag))
            .unwrap();
        assert_eq!(head.is_some(), stays, "{name}");
    }
    assert_eq!(place.registry.manifests(STEPS).unwrap().len(), 1);
}
