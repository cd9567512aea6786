//! A registry that deletes nothing, which `docker-registry` does not unless it is told to: whatever is
//! to go there stays as it is.

use chalk_tests::{Distribution, Service, Terms, World, unique};

use crate::Test;
use crate::failures::busybox;
use crate::gc::{freed, gc};
use crate::registries::{hash_of, import};

pub(crate) const TESTS: &[Test] = &[("images_and_steps_stay_whole", stay_whole)];

fn stay_whole(world: &World) {
    let terms = Terms {
        keeps: true,
        ..Terms::default()
    };
    let registry = Distribution::start_with(&world.folder("keeps"), &terms);
    let url = format!("http://{}", registry.address());
    let settings = [
        ("registry.url", url.as_str()),
        ("prewarm.images", ""),
        ("gc.interval", ""),
        ("gc.grace", "0s"),
        ("gc.age", "0s"),
        ("gc.steps_age", "0s"),
    ];
    let service = Service::start(&world.folder("keeps"), &settings);
    import(world, &service).ok();
    let project = busybox(&["echo one > /one", &format!("echo {}", unique())]);
    let file = project.arg("image.toml");
    let built = service.image(&["build", &file, "--name", "kept/app:v1", "--json"]);
    let hash = hash_of(&built.ok().result());

    let refused = service.image(&["rm", &hash]);
    assert!(!refused.status.success(), "{refused}");
    refused.says(&["does not allow deletes", "REGISTRY_STORAGE_DELETE_ENABLED"]);
    assert_eq!(service.build(&file)["status"], "reused");

    // Collection goes on past what it cannot remove, and says so.
    let report = gc(&service, &[]);
    let remote = |name: &&String| name.starts_with("steps ") || name.starts_with("images ");
    let gone: Vec<_> = freed(&report).into_keys().collect();
    assert!(!gone.iter().any(|name| remote(&name)), "{report:#}");
    assert!(
        report.to_string().contains("does not allow deletes"),
        "{report:#}"
    );

    // Another service finds all of it whole.
    let other = Service::start(&world.folder("keeps-other"), &settings);
    assert_eq!(other.build(&file)["status"], "reused");
    let changed = busybox(&["echo one > /one", &format!("echo other {}", unique())]);
    let again = other.build(&changed.arg("image.toml"));
    assert_eq!(
        crate::failures::states(&again),
        ["cached", "ran"],
        "{again:#}"
    );
}
