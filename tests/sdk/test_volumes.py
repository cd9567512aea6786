"""Volumes by Chalk's own SDK, unmodified.

Needs a running service: CHALK_API_SERVER, CHALK_CLIENT_ID and CHALK_CLIENT_SECRET as
`chalk token create` prints them. Each test makes volumes of its own and deletes them.
"""

import os
import random
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from chalkcompute import Image, Volume
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.volume.v2 import volume_connect, volume_pb
from chalkcompute._volume import (
    VolumeClient,
    VolumeError,
    VolumeFileNotFoundError,
    VolumeNotFoundError,
)


@pytest.fixture
def name():
    """Name of a volume that is deleted afterwards."""
    chosen = f"test-{uuid.uuid4().hex[:12]}"
    yield chosen
    try:
        VolumeClient.from_env().delete_volume(chosen)
    except VolumeNotFoundError:
        pass


@pytest.fixture
def volume(name):
    with Volume(name) as handle:
        yield handle


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def stub():
    connect = ConnectClient()
    return connect, connect.stub(volume_connect.VolumeServiceClientSync)


def files_below(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def test_the_first_write_makes_the_volume(volume):
    volume.put_file("config.yaml", b"lr: 0.01\n")
    assert volume.read_file("config.yaml") == b"lr: 0.01\n"
    assert volume.info.name == volume.name
    assert volume.info.ref == "main"
    assert volume.info.access_mode == "read_write"
    assert volume.info.volume_id
    assert volume.version.id == 1
    assert volume.version.parent_id is None
    assert volume.latest_version().commit_id == volume.version.commit_id


def test_a_volume_that_nobody_made_is_not_found(name):
    client = VolumeClient.from_env()
    assert not client.exists(name)
    with pytest.raises(VolumeNotFoundError, match=name):
        client.lookup(name)
    with pytest.raises(VolumeNotFoundError):
        client.from_name(name).read_file("x")
    with pytest.raises(VolumeNotFoundError):
        client.delete_volume(name)


def test_a_volume_without_a_commit_is_empty(name):
    volume = VolumeClient.from_env().create(name)
    assert volume.listdir() == []
    assert volume.versions() == []
    with pytest.raises(VolumeError, match="has no version"):
        volume.version
    with pytest.raises(VolumeFileNotFoundError):
        volume.read_file("x")
    with pytest.raises(VolumeError) as taken:
        VolumeClient.from_env().create(name)
    assert taken.value.code == "already_exists"


@pytest.mark.parametrize("bad", ["", "a/b", "../a", "-a", "a b", "ä", "a" * 129])
def test_names_are_checked(bad):
    with pytest.raises(VolumeError) as refused:
        VolumeClient.from_env().create(bad)
    assert refused.value.code == "invalid_argument"


def test_a_directory_keeps_modes_and_times(volume, tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    os.chmod(tmp_path / "run.sh", 0o755)
    (tmp_path / "sub" / "data.bin").write_bytes(noise(100_000))
    (tmp_path / "sub" / "deep" / "empty").write_bytes(b"")
    os.utime(tmp_path / "run.sh", (1_000_000_000, 1_000_000_000))
    volume.put_dir(tmp_path, "dir")
    found = {file.path: file for file in volume.listdir()}
    assert sorted(found) == [
        "dir",
        "dir/run.sh",
        "dir/sub",
        "dir/sub/data.bin",
        "dir/sub/deep",
        "dir/sub/deep/empty",
    ]
    script = found["dir/run.sh"]
    assert (script.kind, script.mode, script.size) == ("file", 0o755, 10)
    assert script.updated_at.timestamp() == 1_000_000_000
    assert len(script.hash) == 64
    assert found["dir/sub"].kind == "directory"
    assert found["dir/sub/deep/empty"].size == 0
    assert [file.path for file in volume.listdir("dir/sub", recursive=False)] == [
        "dir/sub/data.bin",
        "dir/sub/deep",
    ]
    out = tmp_path / "out"
    volume.download_to_directory(out)
    assert files_below(out / "dir") == {
        "run.sh": b"#!/bin/sh\n",
        "sub/data.bin": noise(100_000),
        "sub/deep/empty": b"",
    }
    assert os.access(out / "dir" / "run.sh", os.X_OK)
    assert not os.access(out / "dir" / "sub" / "data.bin", os.X_OK)


def test_a_batch_is_one_version(volume):
    with volume.batch_upload() as batch:
        for number in range(150):
            batch.put(f"files/{number:03}", f"contents of {number}")
        # The same contents under another path, and one path twice: the last one counts.
        batch.put("again", "contents of 7")
        batch.put("twice", "first")
        batch.put("twice", "second")
    assert len(volume.versions()) == 1
    assert len(volume.listdir("files")) == 150
    assert volume.read_file("files/149") == b"contents of 149"
    assert volume.read_file("again") == b"contents of 7"
    assert volume.read_file("twice") == b"second"


def test_versions_stay_as_they_are(volume):
    volume.put_file("a", b"one").put_file("a", b"two").put_file("b", b"three")
    versions = volume.versions()
    assert [version.id for version in versions] == [1, 2, 3]
    assert [version.parent_id for version in versions] == [None, 1, 2]
    assert all(version.ref == "main" and version.commit_id for version in versions)
    assert versions == volume.versions(limit=1)
    first = volume.at_version(versions[0].id)
    assert first.read_file("a") == b"one"
    assert [file.path for file in first.listdir()] == ["a"]
    with pytest.raises(VolumeFileNotFoundError):
        first.read_file("b")
    with pytest.raises(VolumeError, match="read-only"):
        first.put_file("a", b"x")
    assert volume.read_file("a") == b"two"
    with pytest.raises(VolumeError) as missing:
        volume.at_version(99).listdir()
    assert missing.value.code == "not_found"


def test_a_fork_goes_its_own_way(volume):
    volume.put_file("shared", b"before")
    fork = volume.fork("experiment")
    fork.put_file("shared", b"forked").put_file("only", b"here")
    volume.put_file("shared", b"main")
    assert fork.read_file("shared") == b"forked"
    assert volume.read_file("shared") == b"main"
    assert volume.at_ref("experiment").read_file("only") == b"here"
    assert [file.path for file in fork.listdir()] == ["only", "shared"]
    (info,) = volume.forks()
    assert (info.name, info.version_id) == ("experiment", fork.version.id)
    assert info.updated_at is not None
    ids = [version.id for version in fork.versions()]
    assert ids[0] == 1 and ids[-1] == fork.version.id
    old = volume.at_version(1).fork("old")
    assert old.read_file("shared") == b"before"
    with pytest.raises(VolumeError) as taken:
        volume.fork("experiment")
    assert taken.value.code == "already_exists"
    pinned = volume.at_version(fork.version.id)
    fork.delete_fork()
    assert [info.name for info in volume.forks()] == ["old"]
    with pytest.raises(VolumeError):
        volume.at_ref("experiment").listdir()
    assert pinned.read_file("only") == b"here"


def test_files_are_removed(volume):
    volume.put_file("dir/a", b"a").put_file("dir/b", b"b")
    volume.remove_file("dir/a")
    assert [file.path for file in volume.listdir("dir")] == ["dir/b"]
    with pytest.raises(VolumeFileNotFoundError):
        volume.read_file("dir/a")
    for wrong in ("dir/a", "dir"):
        with pytest.raises(VolumeError) as refused:
            volume.remove_file(wrong)
        assert refused.value.code == "failed_precondition"
    assert volume.at_version(1).listdir("dir")[0].path == "dir/a"


def test_paths_stay_inside(volume):
    volume.put_file("/abs", b"1").put_file("./here//there/", b"2")
    assert [file.path for file in volume.listdir()] == ["abs", "here", "here/there"]
    assert volume.read_file("/here/there") == b"2"
    for bad in ("../out", "a/../../out", "", "/", ".", "n" * 256):
        with pytest.raises(VolumeError) as refused:
            volume.put_file(bad, b"x")
        assert refused.value.code == "invalid_argument", bad
    # Neither a file below a file, nor a file in the place of a directory.
    for bad in ("abs/below", "here"):
        with pytest.raises(VolumeError) as refused:
            volume.put_file(bad, b"x")
        assert refused.value.code == "failed_precondition", bad
    assert len(volume.versions()) == 2


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 8 << 20, (64 << 20) + 1])
def test_sizes_at_the_borders(volume, size):
    data = noise(size, seed=size)
    volume.put_file("data", data)
    assert volume.read_file("data") == data
    assert volume.listdir()[0].size == size


def test_a_big_file_goes_up_in_chunks(volume, tmp_path):
    source = tmp_path / "big"
    source.write_bytes(noise(130 << 20))
    volume.put_file_from_path("models/big", source)
    target = tmp_path / "copy"
    volume.download_to_file("models/big", target)
    assert target.read_bytes() == source.read_bytes()
    # A changed tail sends only the last chunk; the rest is known.
    with source.open("ab") as file:
        file.write(b"tail")
    volume.put_file_from_path("models/big", source)
    assert volume.read_file("models/big") == source.read_bytes()
    assert volume.at_version(1).listdir("models")[0].size == 130 << 20


def test_so_many_files_that_the_changes_are_an_object(volume):
    count = 25_000
    statuses = volume._client._upload(
        volume.info.name,
        [(f"dir{n % 50:02}/{n:05}", b"%d" % n) for n in range(count)],
    )
    assert [status.result for status in statuses] == ["committed"]
    assert volume.read_file("dir49/24999") == b"24999"
    assert len(volume.listdir("dir07")) == count // 50
    connect, service = stub()
    stats = connect.call(
        service.get_volume_stats,
        volume_pb.GetVolumeStatsRequest(volume=volume_pb.VolumeRef(name=volume.name)),
    ).stats
    assert (stats.file_count, stats.directory_count) == (count, 50)
    assert stats.logical_bytes == sum(len(b"%d" % n) for n in range(count))


def test_writers_at_once_lose_nothing(name):
    Volume(name).put_file("start", b"")
    failed = []

    def write(number):
        try:
            mine = Volume(name)
            for turn in range(3):
                mine.put_file(f"{number}/{turn}", f"{number} {turn}")
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    volume = Volume(name)
    assert [version.id for version in volume.versions()] == list(range(1, 26))
    files = [file.path for file in volume.listdir() if file.kind == "file"]
    assert len(files) == 25
    assert volume.read_file("7/2") == b"7 2"


def test_deletion_frees_the_name(name):
    volume = Volume(name)
    volume.put_file("a", b"old")
    volume.delete()
    with pytest.raises(VolumeNotFoundError):
        VolumeClient.from_env().lookup(name)
    again = Volume(name)
    assert again.listdir() == []
    again.put_file("b", b"new")
    assert [file.path for file in again.listdir()] == ["b"]


def test_all_volumes_are_listed_whatever_the_page(name):
    client = VolumeClient.from_env()
    others = [f"{name}-{number}" for number in range(3)]
    for other in others:
        client.create(other)
    try:
        for limit in (1, 2, 100):
            names = [info.name for info in client.list(limit=limit)]
            assert [found for found in names if found.startswith(name)] == others
            assert len(names) == len(set(names))
        assert all(info.created_at for info in client.list())
    finally:
        for other in others:
            client.delete_volume(other)


def image_of(root):
    # The empty image needs no registry, and only its files are looked at here.
    return (
        Image.base("scratch")
        .add_local_dir(str(root), "/app")
        .add_local_file(str(root / "main.py"), "/opt/tool/main.py")
    )


def test_files_of_an_image_become_pinned_versions(name, tmp_path):
    (tmp_path / "main.py").write_text("print(1)")
    (tmp_path / "old.py").write_text("")
    client = VolumeClient.from_env()

    def build():
        volumes = image_of(tmp_path).build(name=name).volumes
        return {mount.mount_path: mount for mount in volumes}

    first = build()
    try:
        assert sorted(first) == ["/app", "/opt/tool"]
        assert first["/app"].name == name
        assert first == build()
        # Contents count, times do not.
        os.utime(tmp_path / "main.py", (1, 1))
        assert first == build()
        (tmp_path / "main.py").write_text("print(2)")
        (tmp_path / "old.py").unlink()
        second = build()
        assert second["/app"].version_id > first["/app"].version_id
        volume = client.lookup(name)
        before = volume.at_version(first["/app"].version_id)
        after = volume.at_version(second["/app"].version_id)
        assert [file.path for file in before.listdir()] == ["main.py", "old.py"]
        assert [file.path for file in after.listdir()] == ["main.py"]
        assert after.read_file("main.py") == b"print(2)"
    finally:
        client.delete_volume(first["/opt/tool"].name)


def test_files_of_a_sandbox_become_volumes(tmp_path):
    (tmp_path / "main.py").write_text("print(1)")
    client = VolumeClient.from_env()
    mounts = client.upload_lazy_files(image_of(tmp_path), volume_prefix="sandbox-files")
    try:
        found = {mount.mount_path: client.lookup(mount.name) for mount in mounts}
        assert found["/app"].read_file("main.py") == b"print(1)"
        assert found["/opt/tool"].read_file("main.py") == b"print(1)"
    finally:
        for mount in mounts:
            client.delete_volume(mount.name)


def test_staged_files_are_committed_by_whoever_has_the_intent(name, tmp_path):
    (tmp_path / "main.py").write_text("print(1)")
    client = VolumeClient.from_env()
    image = Image.base("scratch").add_local_dir(str(tmp_path), "/app")
    versions = []
    for turn in (1, 2):
        (tmp_path / "main.py").write_text(f"print({turn})")
        (mount,), (intent,) = client.stage_lazy_files(image, volume_name=name)
        connect, service = stub()
        request = volume_pb.CommitVersionRequest(intent=intent)
        status = connect.call(service.commit_version, request).status
        assert status.result == volume_pb.CommitResult.COMMITTED
        # Once more is the same version.
        again = connect.call(service.commit_version, request).status
        assert again.version == status.version
        versions.append(status.version.version_id)
        volume = client.lookup(mount.name)
        assert volume.read_file("main.py") == b"print(%d)" % turn
    assert versions == [1, 2]
    volume.delete()


def send(url, data=None, method="GET", headers=None):
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_addresses_are_good_for_what_they_were_signed_for(volume):
    volume.put_file("big", noise(200_000))
    connect, service = stub()
    ref = volume_pb.VolumeRef(name=volume.name)
    wanted = volume_pb.UploadedObjectReference(
        object_key="ea/hello",
        hash="ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f",
        content_size=5,
        kind=volume_pb.UploadedObjectKind.CHUNK,
    )
    request = volume_pb.RequestUploadURLsRequest(volume=ref, objects=[wanted, wanted])
    items = connect.call(service.request_upload_ur_ls, request).urls
    assert [item.object_key for item in items] == ["ea/hello"] * 2
    url = items[0].signed_upload_uri
    assert url.startswith(os.environ["CHALK_API_SERVER"].rstrip("/") + "/")
    assert items[0].expires_at.to_datetime().timestamp() > time.time() + 600
    for body in (b"hellx", b"hell", b"hello!", b""):
        status, _ = send(url, body, "PUT")
        assert status in (400, 413), body
    for forged in (
        url.replace("size=5", "size=6"),
        url.replace("expires=", "expires=9"),
        url[:-1] + ("A" if url[-1] != "A" else "B"),
        url.split("&signature=")[0],
    ):
        status, _ = send(forged, b"hello", "PUT")
        assert status in (400, 401, 403), forged
    assert send(url)[0] in (400, 403)
    if not items[0].already_exists:
        again = connect.call(service.request_upload_ur_ls, request).urls
        assert not again[0].already_exists
    assert send(url, b"hello", "PUT")[0] == 200
    assert connect.call(service.request_upload_ur_ls, request).urls[0].already_exists

    answer = connect.call(
        service.get_file, volume_pb.GetFileRequest(volume=ref, path="big")
    )
    down = answer.content.value.pack.signed_download_uri
    assert send(down) == (200, noise(200_000))
    part = send(down, headers={"Range": "bytes=10-19"})
    assert part == (206, noise(200_000)[10:20])
    assert send(down, headers={"Range": "bytes=200000-"})[0] == 416
    assert send(down.replace("offset=0", "offset=1"))[0] == 403
    assert send(down, b"", "PUT")[0] in (400, 403)
    known = volume_pb.GetFileRequest(
        volume=ref, path="big", if_none_match=answer.file.hash
    )
    assert connect.call(service.get_file, known).not_modified


def test_a_wrong_token_is_refused(volume):
    volume.put_file("a", b"1")
    server = os.environ["CHALK_API_SERVER"]
    stranger = VolumeClient(server, token="wrong")
    for call in (
        lambda: stranger._download_bytes(volume.name, "a", version_id=None),
        lambda: stranger._upload(volume.name, [("b", b"2")]),
        lambda: stranger._get_volume(volume.name),
    ):
        with pytest.raises(VolumeError) as refused:
            call()
        assert refused.value.code == "unauthenticated"
