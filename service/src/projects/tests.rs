use super::*;

struct Place {
    dir: tempfile::TempDir,
    projects: Arc<Projects>,
}

fn load(dir: &std::path::Path) -> Arc<Projects> {
    let ledger = Ledger::open(&dir.join("l")).unwrap();
    let blobs = BlobStore::open(dir.join("store")).unwrap();
    Arc::new(Projects::load(ledger.into(), blobs).unwrap())
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let projects = load(dir.path());
        Self { dir, projects }
    }

    fn again(self) -> Self {
        let Self { dir, projects } = self;
        drop(projects);
        let projects = load(dir.path());
        Self { dir, projects }
    }

    async fn make(&self, name: &str) -> Result<Project, Problem> {
        let request = ProjectRequest {
            name: name.to_owned(),
            quotas: Quotas::default(),
        };
        self.projects.create(request, async { Ok(false) }).await
    }
}

#[tokio::test]
async fn what_was_there_before_is_the_default_projects() {
    let place = Place::new();
    let old = place.projects.blobs.put(b"old").unwrap();
    let hash = Digest::of(b"image");
    assert!(!place.projects.counts());
    // Nothing is counted yet.
    place
        .projects
        .keep_blobs(DEFAULT_PROJECT, [(old.digest, 3)]);
    assert_eq!(
        place
            .projects
            .shown(DEFAULT_PROJECT)
            .unwrap()
            .usage
            .storage_bytes,
        None
    );
    place.make("ml").await.unwrap();
    let place = place.again();
    let projects = &place.projects;
    assert!(projects.counts() && projects.has("ml"));
    assert!(projects.has_blob(DEFAULT_PROJECT, &old.digest));
    assert!(!projects.has_blob("ml", &old.digest));
    assert!(projects.has_image(DEFAULT_PROJECT, &hash) && !projects.has_image("ml", &hash));
    // What a project builds is its own, and what two built is both's.
    projects.keep_image("ml", &hash).await.unwrap();
    assert!(projects.has_image("ml", &hash) && !projects.has_image(DEFAULT_PROJECT, &hash));
    projects.release_image("ml", &hash);
    assert!(!projects.has_image("ml", &hash));
    projects.keep_image("ml", &hash).await.unwrap();
    projects.keep_image(DEFAULT_PROJECT, &hash).await.unwrap();
    assert!(projects.has_image(DEFAULT_PROJECT, &hash));
    let usage = projects.shown(DEFAULT_PROJECT).unwrap().usage;
    assert_eq!((usage.images, usage.storage_bytes), (1, Some(3)));
    projects.keep_blobs("ml", [(old.digest, 3), (Digest::of(b"new"), 5)]);
    let place = place.again();
    let usage = |name: &str| place.projects.shown(name).unwrap().usage.storage_bytes;
    assert_eq!((usage("ml"), usage(DEFAULT_PROJECT)), (Some(8), Some(3)));
    // `new` never was in the store.
    place.projects.forget_gone().unwrap();
    assert_eq!((usage("ml"), usage(DEFAULT_PROJECT)), (Some(3), Some(3)));
}

#[tokio::test]
async fn a_removed_project_leaves_nothing_to_others() {
    let place = Place::new();
    place.make("ml").await.unwrap();
    let hash = Digest::of(b"image");
    place.projects.keep_image("ml", &hash).await.unwrap();
    assert_eq!(
        place
            .projects
            .remove(DEFAULT_PROJECT)
            .await
            .unwrap_err()
            .status,
        409
    );
    assert_eq!(place.projects.remove("none").await.unwrap_err().status, 404);
    place.projects.remove("ml").await.unwrap();
    let place = place.again();
    assert!(!place.projects.has("ml"));
    assert!(!place.projects.has_image(DEFAULT_PROJECT, &hash));
    assert_eq!(place.projects.owner("ml/app"), Owner::Project("ml".into()));
    assert_eq!(place.make("ml").await.unwrap_err().status, 409);
    assert_eq!(place.projects.names(), [Arc::<str>::from(DEFAULT_PROJECT)]);
}

#[tokio::test]
async fn names_of_projects() {
    let place = Place::new();
    for (name, status) in [
        ("", 400),
        ("A", 400),
        ("-a", 400),
        ("a-", 400),
        ("a_b", 400),
        ("a/b", 400),
        ("chalk", 409),
        ("imports", 409),
        ("default", 409),
    ] {
        assert_eq!(place.make(name).await.unwrap_err().status, status, "{name}");
    }
    let request = ProjectRequest {
        name: "team".to_owned(),
        quotas: Quotas::default(),
    };
    let used = place.projects.create(request, async { Ok(true) }).await;
    assert_eq!(used.unwrap_err().kind, problem::NAME_TAKEN);
    place.make("a-1").await.unwrap();
    assert_eq!(place.make("a-1").await.unwrap_err().status, 409);
}

#[tokio::test]
async fn names_in_projects() {
    let place = Place::new();
    place.make("ml").await.unwrap();
    let scope = |project: &str| Scope::of(&place.projects, project.into());
    let check = |project: &str, text: &str, expect: Option<&str>| {
        let name = scope(project).name(text).ok().map(|name| name.to_string());
        assert_eq!(name.as_deref(), expect, "{project} {text}");
    };
    check("ml", "app", Some("ml/app:latest"));
    check("ml", "ml/app:v1", Some("ml/app:v1"));
    check("ml", "team/app", Some("ml/team/app:latest"));
    check("ml", "chalk/images", None);
    check("default", "team/app", Some("team/app:latest"));
    check("default", "ml/app", None);
    let all = Scope::all(&place.projects, DEFAULT_PROJECT.into());
    assert_eq!(all.name("ml/app").unwrap().to_string(), "ml/app:latest");
    for (repository, ml, default) in [
        ("ml/app", true, false),
        ("app", false, true),
        ("imports/docker.io/library/x", true, true),
        ("chalk/images", false, false),
        ("chalk/steps", false, false),
    ] {
        assert_eq!(scope("ml").reads(repository), ml, "{repository}");
        assert_eq!(scope("default").reads(repository), default, "{repository}");
        assert!(all.reads(repository));
    }
}

#[tokio::test]
async fn quotas() {
    let place = Place::new();
    let projects = &place.projects;
    let quotas = Quotas {
        builds: Some(2),
        storage_bytes: Some(10),
    };
    assert_eq!(projects.set("none", quotas).await.unwrap_err().status, 404);
    let project = projects.set(DEFAULT_PROJECT, quotas).await.unwrap();
    assert_eq!(project.quotas, quotas);
    projects.keep_blobs(DEFAULT_PROJECT, [(Digest::of(b"a"), 8)]);
    projects.room(DEFAULT_PROJECT, 2).unwrap();
    let refused = projects.room(DEFAULT_PROJECT, 3).unwrap_err();
    assert_eq!(
        (&*refused.kind, refused.status),
        (problem::QUOTA_EXCEEDED, 507)
    );
    projects.may_build(DEFAULT_PROJECT, 1).unwrap();
    let refused = projects.may_build(DEFAULT_PROJECT, 2).unwrap_err();
    assert_eq!(
        (&*refused.kind, refused.status),
        (problem::QUOTA_EXCEEDED, 429)
    );
    let place = place.again();
    place.projects.room(DEFAULT_PROJECT, 3).unwrap_err();
    place
        .projects
        .set(DEFAULT_PROJECT, Quotas::default())
        .await
        .unwrap();
    place.projects.room(DEFAULT_PROJECT, 3).unwrap();
}
