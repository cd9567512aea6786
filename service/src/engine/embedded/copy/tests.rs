use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use chalk_core::Digest;
use chalk_store::layer::OverlayAttrs;
use chalk_store::stack::{Stack, StackEntry};

use super::*;

/// A tree from lines: `path=text`, `path/`, `path@target`; `*` in front makes a file executable.
fn tree(lines: &[&str]) -> Virtual {
    let mut root = Virtual::empty();
    for line in lines {
        let (mode, line) = match line.strip_prefix('*') {
            Some(rest) => (0o755, rest),
            None => (0o644, *line),
        };
        let (path, node) = if let Some((path, text)) = line.split_once('=') {
            let contents = Contents::Bytes(text.as_bytes().to_vec());
            let mtime = MTIME;
            (
                path,
                Virtual::File {
                    contents,
                    mode,
                    mtime,
                },
            )
        } else if let Some((path, target)) = line.split_once('@') {
            (path, Virtual::Symlink(target.as_bytes().to_vec()))
        } else {
            (line.trim_end_matches('/'), Virtual::empty())
        };
        root.insert(path, node).unwrap();
    }
    root
}

fn job(source: Virtual, sources: &[&str], dest: &str) -> Job {
    Job {
        source: Source::Virtual(source),
        sources: sources.iter().map(ToString::to_string).collect(),
        dest: dest.to_owned(),
        owner: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: false,
    }
}

struct World {
    temp: tempfile::TempDir,
    lower: PathBuf,
    store: BlobStore,
}

impl World {
    /// An image with these files.
    fn new(lines: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (lower, store) = (temp.path().join("lower"), temp.path().join("store"));
        std::fs::create_dir(&lower).unwrap();
        let store = BlobStore::open(store).unwrap();
        let root = job(tree(lines), &["."], "/");
        let none = || Err("no scratch".to_owned());
        write(&lower, &[], &[Write::Copy(root)], &store, &none).unwrap();
        Self { temp, lower, store }
    }

    fn write(&self, writes: &[Write]) -> Result<PathBuf, String> {
        let upper = tempfile::tempdir_in(self.temp.path()).unwrap().keep();
        let scratch = || Ok(tempfile::tempdir_in(self.temp.path()).unwrap().keep());
        let lower = std::slice::from_ref(&self.lower);
        write(&upper, lower, writes, &self.store, &scratch)?;
        Ok(upper)
    }

    /// What the image shows afterwards.
    fn show(&self, upper: &Path) -> Vec<String> {
        let stack = Stack::open([upper, &self.lower], OverlayAttrs::Trusted).unwrap();
        let mut lines = Vec::new();
        walk(&stack.get("").unwrap(), &mut lines);
        lines
    }

    fn check(&self, jobs: Vec<Job>, expect: Result<&[&str], &str>) {
        let writes: Vec<Write> = jobs.into_iter().map(Write::Copy).collect();
        match (self.write(&writes), expect) {
            (Ok(upper), Ok(lines)) => assert_eq!(self.show(&upper), lines),
            (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }
}

fn walk(dir: &StackEntry, lines: &mut Vec<String>) {
    for (_, entry) in dir.read_dir().unwrap() {
        let path = String::from_utf8(entry.path().to_vec()).unwrap();
        match entry.kind() {
            EntryKind::Dir => {
                let before = lines.len();
                walk(&entry, lines);
                if lines.len() == before {
                    lines.push(format!("{path}/"));
                }
            }
            EntryKind::Symlink => {
                let target = String::from_utf8(entry.read_link().unwrap()).unwrap();
                lines.push(format!("{path}@{target}"));
            }
            _ => {
                use std::io::Read as _;
                let mut text = String::new();
                entry
                    .open_file()
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
                let star = if entry.mode() & 0o100 != 0 { "*" } else { "" };
                lines.push(format!("{star}{path}={text}"));
            }
        }
    }
}

#[test]
fn destinations() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(&["etc/passwd=p", "link@etc", "file=f"]);
    let context = || tree(&["a=1", "*b=2", "dir/c=3", "dir/sub/d=4", "dir/l@../../x"]);
    let check = |sources: &[&str], dest: &str, expect: Result<&[&str], &str>| {
        world.check(vec![job(context(), sources, dest)], expect);
    };
    let old = ["etc/passwd=p", "file=f", "link@etc"];
    check(
        &["a"],
        "/app",
        Ok(&["app=1", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(
        &["a"],
        "/app/",
        Ok(&["app/a=1", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(
        &["a"],
        "/x/y/z",
        Ok(&["etc/passwd=p", "file=f", "link@etc", "x/y/z=1"]),
    );
    check(
        &["a"],
        "/etc",
        Ok(&["etc/a=1", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(
        &["a"],
        "/link",
        Ok(&["etc/a=1", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(
        &["a"],
        "/link/deep/",
        Ok(&["etc/deep/a=1", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(&["a"], "/file", Ok(&["etc/passwd=p", "file=1", "link@etc"]));
    check(
        &["*"],
        "/n/",
        Ok(&[
            "etc/passwd=p",
            "file=f",
            "link@etc",
            "n/a=1",
            "*n/b=2",
            "n/c=3",
            "n/l@../../x",
            "n/sub/d=4",
        ][..]),
    );
    check(
        &["dir"],
        "/n",
        Ok(&[
            "etc/passwd=p",
            "file=f",
            "link@etc",
            "n/c=3",
            "n/l@../../x",
            "n/sub/d=4",
        ]),
    );
    check(
        &["dir"],
        "/etc",
        Ok(&[
            "etc/c=3",
            "etc/l@../../x",
            "etc/passwd=p",
            "etc/sub/d=4",
            "file=f",
            "link@etc",
        ]),
    );
    check(
        &["dir/sub"],
        "/",
        Ok(&["d=4", "etc/passwd=p", "file=f", "link@etc"]),
    );
    check(&["nothing*"], "/n/", Ok(&old));
    check(&["missing"], "/n/", Err("`missing` is not there"));
    check(&["dir"], "/file", Err("cannot copy to non-directory"));
    check(&["a", "b"], "/n", Err("end it with `/`"));
    check(&["dir/l"], "/n", Err("leads nowhere"));
    check(
        &["../../a"],
        "/../../n",
        Ok(&["etc/passwd=p", "file=f", "link@etc", "n=1"]),
    );
}

#[test]
fn existing_directories_keep_what_they_are() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let world = World::new(&["tmp/old=1", "srv/"]);
    let tmp = world.lower.join("tmp");
    chown(&tmp, Some(3), Some(4)).unwrap();
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777)).unwrap();
    xattr::set(&tmp, "user.note", b"kept").unwrap();
    let upper = world
        .write(&[Write::Copy(job(tree(&["tmp/new=2"]), &["."], "/"))])
        .unwrap();
    let meta = std::fs::metadata(upper.join("tmp")).unwrap();
    let below = std::fs::metadata(&tmp).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o1777, 3, 4)
    );
    assert_eq!(meta.mtime(), below.mtime());
    assert_eq!(
        xattr::get(upper.join("tmp"), "user.note").unwrap().unwrap(),
        b"kept"
    );
    assert_eq!(
        xattr::get(upper.join("tmp"), "trusted.overlay.opaque").unwrap(),
        None
    );
    assert_eq!(world.show(&upper), ["srv/", "tmp/new=2", "tmp/old=1"]);
    // What is there is no change.
    let made = |path: &str| Write::MakeDir {
        path: path.to_owned(),
        owner: (7, 7),
    };
    let upper = world.write(&[made("/srv"), made("/tmp/old/..")]).unwrap();
    assert_eq!(std::fs::read_dir(&upper).unwrap().count(), 0);
    let upper = world.write(&[made("/srv/a/b")]).unwrap();
    let meta = std::fs::metadata(upper.join("srv/a/b")).unwrap();
    assert_eq!((meta.uid(), meta.mtime()), (7, MTIME));
    assert_eq!(std::fs::metadata(upper.join("srv")).unwrap().uid(), 0);
}

#[test]
fn options() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(&["old=0"]);
    let context = || {
        tree(&[
            "src/a.py=1",
            "src/b.md=2",
            "src/deep/c.py=3",
            "src/deep/d.md=4",
        ])
    };
    let with = |change: &dyn Fn(&mut Job), sources: &[&str], dest: &str| {
        let mut job = job(context(), sources, dest);
        change(&mut job);
        vec![job]
    };
    let exclude = with(&|job| job.exclude = vec!["**/*.md".into()], &["src"], "/n");
    world.check(exclude, Ok(&["n/a.py=1", "n/deep/c.py=3", "old=0"]));
    let exclude = with(&|job| job.exclude = vec!["deep".into()], &["src"], "/n");
    world.check(exclude, Ok(&["n/a.py=1", "n/b.md=2", "old=0"]));
    let parents = with(
        &|job| job.parents = true,
        &["src/*.py", "src/deep/c.py"],
        "/n/",
    );
    world.check(parents, Ok(&["n/src/a.py=1", "n/src/deep/c.py=3", "old=0"]));
    let pivot = with(&|job| job.parents = true, &["src/./deep/c.py"], "/n/");
    world.check(pivot, Ok(&["n/deep/c.py=3", "old=0"]));
    let owned = with(&|job| job.owner = Some((5, 6)), &["src"], "/n/m");
    let upper = world
        .write(&owned.into_iter().map(Write::Copy).collect::<Vec<_>>())
        .unwrap();
    for path in ["n", "n/m", "n/m/deep", "n/m/deep/c.py"] {
        let meta = std::fs::metadata(upper.join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (5, 6), "{path}");
    }
    let chmod = with(
        &|job| job.chmod = Some(Chmod::Bits(0o4711)),
        &["src/a.py"],
        "/n",
    );
    let upper = world
        .write(&chmod.into_iter().map(Write::Copy).collect::<Vec<_>>())
        .unwrap();
    let meta = std::fs::metadata(upper.join("n")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o4711, MTIME));
}

#[test]
fn from_layers_everything_is_kept() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let stage = World::new(&["out/bin=x", "out/lib/l=y", "up@out"]);
    let bin = stage.lower.join("out/bin");
    chown(&bin, Some(8), Some(9)).unwrap();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o4755)).unwrap();
    xattr::set(&bin, "user.k", b"v").unwrap();
    std::fs::hard_link(&bin, stage.lower.join("out/bin2")).unwrap();
    let world = World::new(&["old=0"]);
    let source = || Source::Layers(Stack::open([&stage.lower], OverlayAttrs::Trusted).unwrap());
    let job = Job {
        source: source(),
        ..job(Virtual::empty(), &["up"], "/n")
    };
    let upper = world.write(&[Write::Copy(job)]).unwrap();
    let (one, two) = (upper.join("n/bin"), upper.join("n/bin2"));
    let meta = std::fs::metadata(&one).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o4755, 8, 9)
    );
    assert_eq!(meta.ino(), std::fs::metadata(two).unwrap().ino());
    assert_eq!(xattr::get(&one, "user.k").unwrap().unwrap(), b"v");
    assert_eq!(
        world.show(&upper),
        ["*n/bin=x", "*n/bin2=x", "n/lib/l=y", "old=0"]
    );
}

#[test]
fn archives() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, uid) in [("bin/tool", 5), ("etc/new", 0)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o755);
        header.set_uid(uid);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_cksum();
        tar.append_data(&mut header, path, &b"t"[..]).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let mut root = BTreeMap::new();
    let archive = |bytes: Vec<u8>| Virtual::File {
        contents: Contents::Bytes(bytes),
        mode: 0o644,
        mtime: MTIME,
    };
    root.insert(b"a.tar".to_vec(), archive(bytes.clone()));
    root.insert(b"b.txt".to_vec(), archive(b"text".to_vec()));
    let root = Virtual::Dir(root);
    let world = World::new(&["bin@usr/bin", "usr/bin/sh=s", "etc/old=o"]);
    let add = |dest: &str, unpack: bool| Job {
        unpack,
        ..job(root.clone(), &["a.tar", "b.txt"], dest)
    };
    world.check(
        vec![add("/x/", true)],
        Ok(&[
            "bin@usr/bin",
            "etc/old=o",
            "usr/bin/sh=s",
            "x/b.txt=text",
            "*x/bin/tool=t",
            "*x/etc/new=t",
        ]),
    );
    // As with docker, a directory of the archive takes the place of a link.
    let upper = world.write(&[Write::Copy(add("/", true))]).unwrap();
    assert_eq!(
        world.show(&upper),
        [
            "b.txt=text",
            "*bin/tool=t",
            "*etc/new=t",
            "etc/old=o",
            "usr/bin/sh=s"
        ]
    );
    let meta = std::fs::metadata(upper.join("bin/tool")).unwrap();
    assert_eq!((meta.uid(), meta.mtime()), (5, 1000));
    let plain = String::from_utf8_lossy(&bytes).into_owned();
    let kept = format!("a.tar={plain}");
    world.check(
        vec![add("/", false)],
        Ok(&[
            &kept,
            "b.txt=text",
            "bin@usr/bin",
            "etc/old=o",
            "usr/bin/sh=s",
        ]),
    );
}

/// More files than are written together, in several directories.
#[test]
fn many_files_are_all_there_and_the_first_failure_is_told() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(&[]);
    let mut source = Virtual::empty();
    let path = |number: usize| format!("{}/{number:04}", number % 7);
    let put = |source: &mut Virtual, number: usize, contents| {
        let file = Virtual::File {
            contents,
            mode: 0o640,
            mtime: MTIME,
        };
        source.insert(&path(number), file).unwrap();
    };
    for number in 0..1000 {
        let contents = Contents::Bytes(number.to_string().into_bytes());
        put(&mut source, number, contents);
    }
    let writes = [Write::Copy(job(source.clone(), &["."], "/d"))];
    let upper = world.write(&writes).unwrap();
    for number in 0..1000 {
        let file = upper.join("d").join(path(number));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), number.to_string());
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, MTIME));
    }

    let absent = |text: &str| Contents::Blob(Digest::of(text.as_bytes()));
    for number in [3, 10, 17] {
        put(&mut source, number, absent("none"));
    }
    let writes = [Write::Copy(job(source, &["."], "/d"))];
    let error = world.write(&writes).unwrap_err();
    assert!(error.contains("`/d/3/0003`"), "{error}");
    assert!(error.contains("is not in the store"), "{error}");
}
