"""Sandboxes through Chalk's own SDK: their life, what they may use, and what is mounted into them.

Needs CHALK_API_SERVER, CHALK_CLIENT_ID and CHALK_CLIENT_SECRET of a service that has a node, and in
CHALK_TEST_IMAGE the reference of an image with Python.
"""

import errno
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chalkcompute import (
    Image,
    NetworkPolicy,
    RestartPolicy,
    Sandbox,
    SandboxClient,
    Secret,
    Volume,
)
from chalkcompute._gen.chalk.container.v1 import service_pb as container_pb
from chalkcompute._gen.chalk.sandbox.v2 import service_pb as sandbox_pb
from chalkcompute._sandbox import SandboxError, SandboxNotFoundError
from chalkcompute._volume import VolumeClient, VolumeMount
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof
from sandbox_support import (
    IMAGE,
    python,
    refused,
    rpc_code,
    sandbox,  # noqa: F401
    start,
    unique,
    wait_for,
)


def test_a_plain_image_stays_alive_until_it_is_terminated():
    sandbox = start()
    assert sandbox.info.status == "running"
    time.sleep(1)
    assert sandbox.refresh().status == "running"
    id = sandbox.id
    sandbox.terminate()
    # Once more does nothing, through this handle and through another one.
    sandbox.terminate()
    attached = Sandbox.from_id(id)
    assert attached.info.status == "terminated"
    assert attached.info.status_message == "it was terminated"
    attached.terminate()
    result = pytest.raises(ConnectError, attached.exec, "true")
    assert result.value.code == Code.FAILED_PRECONDITION


def test_names_find_sandboxes_and_belong_to_one_living_one():
    name = unique("box")
    sandbox = start(name=name, tags={"kind": name})
    try:
        assert Sandbox.from_name(name).id == sandbox.id
        assert Sandbox.from_id(sandbox.id).info.name == name
        [listed] = [info for info in Sandbox.list_all() if info.name == name]
        assert (listed.id, listed.status) == (sandbox.id, "running")
        code, words = rpc_code(start, name=name)
        assert code == Code.ALREADY_EXISTS and sandbox.id in words

        client = SandboxClient.from_env()

        def ids(**filters):
            request = sandbox_pb.ListSandboxesRequest(
                filters=sandbox_pb.ListSandboxesFilters(**filters)
            )
            found = client._stub.list_sandboxes(request, headers=client._headers)
            return [info.id for info in found.sandboxes]

        assert ids(tags={"kind": name}) == [sandbox.id]
        assert ids(tags={"kind": "other"}) == []
        assert ids(names=[name], statuses=[sandbox_pb.SandboxStatus.RUNNING]) == [sandbox.id]
        assert ids(names=[name], statuses=[sandbox_pb.SandboxStatus.TERMINATED]) == []
    finally:
        sandbox.terminate()
    # Free again; what has ended is still found by its name.
    again = start(name=name)
    again.terminate()
    with pytest.raises(SandboxNotFoundError):
        Sandbox.from_name(unique("nobody"))


def test_what_is_not_there_is_not_found():
    with pytest.raises(SandboxNotFoundError):
        Sandbox.from_id("no-such-sandbox")
    code, _ = rpc_code(start_image, "example.invalid/no/such:image")
    assert code == Code.NOT_FOUND


def start_image(image):
    return Sandbox(image=image).run()


def test_pages_of_a_listing():
    client = SandboxClient.from_env()
    name = unique("page")
    started = [start(tags={"page": name}) for _ in range(3)]
    try:
        def page(**options):
            request = sandbox_pb.ListSandboxesRequest(
                filters=sandbox_pb.ListSandboxesFilters(tags={"page": name}), **options
            )
            return client._stub.list_sandboxes(request, headers=client._headers)

        newest_first = [s.id for s in reversed(started)]
        first = page(limit=2)
        assert [s.id for s in first.sandboxes] == newest_first[:2]
        second = page(limit=2, cursor=first.next_cursor)
        assert [s.id for s in second.sandboxes] == newest_first[2:]
        assert not second.has_field("next_cursor")
        ascending = page(sort_order=sandbox_pb.SandboxSortOrder.ASC)
        assert [s.id for s in ascending.sandboxes] == newest_first[::-1]
    finally:
        for sandbox in started:
            sandbox.terminate()


def test_an_entrypoint_of_its_own_decides_how_it_ends():
    sandbox = Sandbox(image=IMAGE, entrypoint=["python3", "-c", "import time; time.sleep(0.5)"])
    sandbox.run()
    wait_for(lambda: sandbox.refresh().status == "succeeded")
    failed = Sandbox(image=IMAGE, entrypoint=["python3", "-c", "import time; time.sleep(0.5); exit(3)"])
    failed.run()
    wait_for(lambda: failed.refresh().status == "failed")
    assert "code 3" in failed.info.status_message
    with pytest.raises(SandboxError, match="not found in PATH"):
        Sandbox(image=IMAGE, entrypoint=["no-such-program"]).run()


def test_a_lifetime_ends_it():
    sandbox = start(lifetime="1s")
    wait_for(lambda: sandbox.refresh().status == "terminated")
    assert sandbox.info.status_message == "its lifetime was over"


def test_processes_have_the_grace_to_shut_down():
    sandbox = start()
    code = """
import os, signal, time
def bye(*_):
    os.write(1, b"bye\\n")
    os._exit(7)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
time.sleep(1000)
"""
    process = sandbox.exec_start("python3", "-c", code)
    events = process.output()
    assert any("up" in (event.stdout or "") for event in events)
    sandbox.terminate(grace_period_seconds=20)
    rest = list(process.output())
    assert "".join(event.stdout or "" for event in rest) == "bye\n"
    assert rest[-1].exit_code == 7


def test_limits_hold():
    sandbox = start(cpu="500m", memory="256Mi")
    try:
        result = python(sandbox, "x = bytearray(1 << 30); print(len(x))")
        assert result.signal == signal.SIGKILL and not result.stdout
        assert python(sandbox, "print(1)").stdout == b"1\n"
    finally:
        sandbox.terminate()


def test_ten_at_once():
    def one(number):
        sandbox = start(name=unique("many"))
        try:
            return python(sandbox, f"print({number})").stdout_text
        finally:
            sandbox.terminate()

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(10))) == [f"{n}\n" for n in range(10)]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"port": 8080}, "spec.port"),
        ({"gpu": "nvidia-l4"}, "spec.resources.gpu"),
        ({"restart_policy": RestartPolicy.ALWAYS}, "spec.restart_policy"),
        ({"network_policy": NetworkPolicy(allowed_hosts=["example.com"])}, "spec.network_policy"),
        ({"secrets": [Secret.from_chalk_env("TOKEN")]}, "spec.secret_refs"),
        ({"chalk_identity": True}, "spec.chalk_workload_identity"),
        ({"host_pool_id": "pool"}, "spec.host_placement.host_pool_id"),
    ],
)
def test_what_is_not_served_is_refused_by_name(options, field):
    before = {info.id for info in Sandbox.list_all()}
    code, words = rpc_code(start, **options)
    assert code == Code.UNIMPLEMENTED and field in words
    assert {info.id for info in Sandbox.list_all()} == before


def test_other_members_say_that_they_are_not_served(sandbox):
    client = SandboxClient.from_env()
    suspend = sandbox_pb.SuspendSandboxRequest(id=sandbox.id)
    code, words = rpc_code(client._stub.suspend_sandbox, suspend, headers=client._headers)
    assert code == Code.UNIMPLEMENTED and "SuspendSandbox" in words
    code, words = rpc_code(sandbox.execute_python, "print(1)")
    assert code == Code.UNIMPLEMENTED and "ExecutePython" in words
    spec = container_pb.ChalkContainerSpec(image=IMAGE, restore_from_snapshot_id="s")
    request = sandbox_pb.CreateSandboxRequest(source=Oneof("spec", spec))
    code, words = rpc_code(client._stub.create_sandbox, request, headers=client._headers)
    assert code == Code.UNIMPLEMENTED and "restore_from_snapshot_id" in words


def test_local_files_are_there_without_a_build(tmp_path):
    program = tmp_path / "app.py"
    program.touch()
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "deep" / "data.txt").write_text("deep\n")
    image = (
        Image.base(IMAGE)
        .workdir("/app")
        .env({"PROJECT_ROOT": "/app"})
        .add_local_file(str(program), "/app/app.py")
        .add_local_dir(str(tmp_path / "src"), "/srv/src")
    )
    uris = set()
    for text in ("first", "second"):
        program.write_text(f"import os; print('{text}', os.environ['PROJECT_ROOT'], os.getcwd())")
        sandbox = Sandbox(image=image).run()
        try:
            uris.add(sandbox.image_uri)
            assert sandbox.exec("python3", "app.py").stdout_text == f"{text} /app /app\n"
            assert sandbox.fs.read_bytes("/srv/src/deep/data.txt") == b"deep\n"
            # They are this sandbox's own.
            assert sandbox.exec("sh", "-c", "echo x >> /app/app.py").exit_code == 0
        finally:
            sandbox.terminate()
    # An edit builds nothing.
    assert len(uris) == 1


def test_versions_of_volumes_are_mounted():
    name = unique("volume")
    client = VolumeClient.from_env()
    try:
        with Volume(name) as volume:
            volume.put_file("dir/data.txt", b"one")
            version = volume.version.id
            volume.put_file("dir/data.txt", b"two")
        mounts = [(name, "/newest"), VolumeMount(name, "/pinned", version_id=version)]
        sandbox = start(volumes=mounts)
        try:
            assert sandbox.fs.read_bytes("/newest/dir/data.txt") == b"two"
            assert sandbox.fs.read_bytes("/pinned/dir/data.txt") == b"one"
            # A version does not change: what is written goes with the sandbox, or is refused where
            # one could believe that it is kept.
            sandbox.fs.write_bytes("/pinned/dir/data.txt", b"three")
            assert sandbox.fs.read_bytes("/pinned/dir/data.txt") == b"three"
            assert refused(sandbox.fs.write_bytes, "/newest/x", b"x")[1] == errno.EROFS
        finally:
            sandbox.terminate()
        again = start(volumes=mounts)
        try:
            assert again.fs.read_bytes("/pinned/dir/data.txt") == b"one"
        finally:
            again.terminate()
    finally:
        client.delete_volume(name)
