"""Sandboxes through Chalk's own SDK, as it is: chalk.sandbox.v2 on the nodes of a real service.

Needs CHALK_API_SERVER, CHALK_CLIENT_ID and CHALK_CLIENT_SECRET of a service that has a node, and in
CHALK_TEST_IMAGE the reference of an image with Python. CHALK_TEST_RESTART, if it is there, is a command
that restarts the service and leaves its nodes alone.
"""

import errno
import hashlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import uuid
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
from chalkcompute._gen.chalk.sandbox.v2 import process_service_pb as process_pb
from chalkcompute._gen.chalk.sandbox.v2 import service_pb as sandbox_pb
from chalkcompute._sandbox import (
    SandboxError,
    SandboxNotFoundError,
)
from chalkcompute._sandbox_fs import FilesystemError, SandboxFileSystemError
from chalkcompute._volume import VolumeClient, VolumeMount
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof
from protobuf.wkt import Duration

IMAGE = os.environ["CHALK_TEST_IMAGE"]
OUTPUT = process_pb.OutputData.Stream


def unique(word):
    return f"{word}-{uuid.uuid4().hex[:8]}"


def start(**options):
    return Sandbox(image=IMAGE, **options).run()


@pytest.fixture(scope="module")
def sandbox():
    """One for all tests that leave it as it was."""
    sandbox = start(env={"FROM_SANDBOX": "yes"})
    yield sandbox
    sandbox.terminate()


def python(sandbox, code, **options):
    return sandbox.exec("python3", "-c", code, **options)


def rpc_code(call, *args, **options):
    """The code and the words that a call is refused with."""
    with pytest.raises(ConnectError) as caught:
        call(*args, **options)
    return caught.value.code, caught.value.message


# Start, look at, end


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


def wait_for(done, seconds=30):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


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


# Commands


def test_exec_gives_streams_code_environment_and_directory(sandbox):
    code = "import os, sys; sys.stdout.buffer.write(bytes(range(256)) * 1000); sys.stderr.write('e'); sys.exit(3)"
    result = python(sandbox, code)
    assert result.stdout == bytes(range(256)) * 1000
    assert (result.stderr, result.exit_code, result.signal, result.error) == (b"e", 3, None, None)
    code = "import os; print(os.getcwd(), os.environ['FROM_SANDBOX'], os.environ['HERE'], os.environ['PATH'] != '')"
    result = python(sandbox, code, workdir="/tmp", env={"HERE": "x=y z"})
    assert result.stdout == b"/tmp yes x=y z True\n"
    # Standard input is at its end.
    assert python(sandbox, "import sys; print(len(sys.stdin.read()))").stdout == b"0\n"
    assert sandbox.exec("sh", "-c", "kill -TERM $$").signal == signal.SIGTERM


def test_large_output_comes_whole(sandbox):
    code = "import sys\nfor n in range(200): sys.stdout.buffer.write(n.to_bytes(2, 'big') * 50_000)"
    result = python(sandbox, code)
    expect = b"".join(n.to_bytes(2, "big") * 50_000 for n in range(200))
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(expect).digest()


def test_exec_fails_where_there_is_no_such_command_or_directory(sandbox):
    result = sandbox.exec("no-such-program")
    assert result.exit_code is None
    assert result.error.startswith("process_failed: ") and "not found in PATH" in result.error
    result = sandbox.exec("true", workdir="/no/such/directory")
    assert result.error.startswith("process_failed: ") and "/no/such/directory" in result.error
    with pytest.raises(ConnectError) as caught:
        sandbox.exec("true", workdir="relative")
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_timeout_kills_and_says_so(sandbox):
    began = time.monotonic()
    result = sandbox.exec("sh", "-c", "echo up; sleep 1000", timeout_secs=1)
    assert result.error == "timed_out: Process timed out"
    assert result.stdout == b"up\n" and time.monotonic() - began < 30
    assert sandbox.exec("true", timeout_secs=60).exit_code == 0


def test_streams_come_while_the_command_runs(sandbox):
    code = """
import time
for number in range(5):
    print(number, flush=True)
    time.sleep(0.4)
"""
    times = []
    seen = ""
    for event in sandbox.exec_stream("python3", "-c", code):
        if event.stdout:
            seen += event.stdout
            times.append(time.monotonic())
    assert seen == "0\n1\n2\n3\n4\n"
    assert event.exit_code == 0
    # Not all at once at the end.
    assert times[-1] - times[0] > 0.8


def test_input_signals_and_the_end_of_input(sandbox):
    process = sandbox.exec_start("cat")
    process.write_stdin("line\n")
    process.write_stdin(b"\x00\xff" * 100_000)
    process.close_stdin()
    process.close_stdin()
    result = process.wait()
    assert result.stdout == b"line\n" + b"\x00\xff" * 100_000 and result.exit_code == 0

    process = sandbox.exec_start("sh", "-c", "trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.05; done")
    for event in process.output():
        if event.stdout == "up\n":
            process.send_signal(signal.SIGUSR1)
    assert event.exit_code == 5

    # A signal gets past input that nobody reads.
    process = sandbox.exec_start("sleep", "1000")
    process.write_stdin(b"x" * (1 << 20))
    process.send_signal(signal.SIGKILL)
    assert process.wait().signal == signal.SIGKILL


def test_output_that_is_not_read_does_not_stop_the_input(sandbox):
    # More than any buffer on the way holds, both ways at once.
    data = os.urandom(1 << 20) * 8
    process = sandbox.exec_start("cat")
    writer = threading.Thread(
        target=lambda: [process.write_stdin(data[at : at + 65536]) for at in range(0, len(data), 65536)]
        and process.close_stdin()
    )
    writer.start()
    result = process.wait()
    writer.join()
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


# Sessions, as the definitions have them


class Session:
    """One stream of the process service."""

    def __init__(self, first):
        self.client = SandboxClient.from_env()
        self.requests = queue.Queue()
        self.ask(first)
        stub = self.client._process_stub
        self.events = stub.open_session(iter(self.requests.get, None), headers=self.client._headers)

    def ask(self, command):
        self.requests.put(process_pb.OpenSessionRequest(command=command))

    def next(self, field):
        """The next event of a kind; gives the output before it, too."""
        output = b""
        for event in self.events:
            if event.event.field == field:
                return event, output
            if event.event.field == "output_data":
                output += event.event.value.data
        raise AssertionError(f"no {field} came: {output}")

    def until(self, text):
        output = b""
        for event in self.events:
            if event.event.field == "output_data":
                output += event.event.value.data
                if text in output:
                    return event, output
        raise AssertionError(f"{text} never came: {output}")

    def leave(self):
        self.requests.put(None)


def new(sandbox, command, *args, **options):
    process = process_pb.NewProcess(sandbox_id=sandbox.id, command=command, args=list(args), **options)
    return Oneof("new_process", process)


def attach(sandbox, id, after=None, **options):
    request = process_pb.AttachSession(sandbox_id=sandbox.id, session_id=id, **options)
    if after is not None:
        request.after_seq = after
    return Oneof("attach_session", request)


def test_a_terminal_has_a_size_and_shows_everything(sandbox):
    script = "stty size; echo err >&2; tty; read line; echo got $line; stty size"
    session = Session(new(sandbox, "sh", "-c", script, pty_info=process_pb.PtyInfo(cols=99, rows=33)))
    event, output = session.until(b"/dev/pts/")
    assert event.event.value.stream == OUTPUT.PTY_OUTPUT
    assert output.startswith(b"33 99\r\nerr\r\n")
    session.ask(Oneof("resize_pty", process_pb.ResizePty(cols=120, rows=40)))
    time.sleep(0.3)
    session.ask(Oneof("stdin_data", process_pb.StdinData(data=b"word\n")))
    event, output = session.next("process_exited")
    assert b"got word\r\n40 120\r\n" in output
    assert event.event.value.exit_code == 0
    session.leave()


def test_sessions_are_left_and_attached_to_again(sandbox):
    script = "read a; echo first $a; read b; echo second $b; exit 4"
    session = Session(new(sandbox, "sh", "-c", script))
    id = session.next("session_attached")[0].event.value.session_id
    session.ask(Oneof("get_process_status", process_pb.GetProcessStatus()))
    status = session.next("process_status")[0].event.value
    assert status.state == process_pb.ProcessState.RUNNING
    session.ask(Oneof("stdin_data", process_pb.StdinData(data=b"A\n")))
    seen, _ = session.until(b"first A\n")
    session.ask(Oneof("stdin_data", process_pb.StdinData(data=b"half ")))
    session.ask(Oneof("detach_session", process_pb.DetachSession()))
    session.next("session_detached")
    session.leave()

    again = Session(attach(sandbox, id, after=seen.seq))
    assert again.next("session_attached")[0].event.value.session_id == id
    again.ask(Oneof("stdin_data", process_pb.StdinData(data=b"B\n")))
    event, output = again.next("process_exited")
    # What was seen before does not come again; after the end all of it can be had.
    assert (output, event.event.value.exit_code) == (b"second half B\n", 4)
    assert event.seq > seen.seq
    again.leave()
    late = Session(attach(sandbox, id))
    event, output = late.next("process_exited")
    assert output == b"first A\nsecond half B\n"
    late.leave()

    client = SandboxClient.from_env()
    request = process_pb.GetSessionRequest(sandbox_id=sandbox.id, session_id=id)
    found = client._process_stub.get_session(request, headers=client._headers).session
    assert (found.session_id, found.new_process.command) == (id, "sh")
    assert found.process_status.state == process_pb.ProcessState.EXITED
    assert found.process_status.exit_code == 4
    request = process_pb.ListSessionsRequest(sandbox_id=sandbox.id)
    sessions = client._process_stub.list_sessions(request, headers=client._headers).sessions
    assert id in [session.session_id for session in sessions]

    with pytest.raises(ConnectError) as caught:
        next(iter(Session(attach(sandbox, "x00000000")).events))
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(ConnectError) as caught:
        next(iter(Session(Oneof("stdin_eof", process_pb.StdinEof())).events))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_command_is_one_call(sandbox):
    client = SandboxClient.from_env()

    def run(*args, **options):
        request = process_pb.ExecCommandRequest(
            sandbox_id=sandbox.id, command=args[0], args=list(args[1:]), **options
        )
        return client._process_stub.exec_command(request, headers=client._headers)

    done = run("sh", "-c", "cat; echo $A >&2; exit 9", stdin=b"in\x00put", env_vars={"A": "b"})
    assert (done.stdout, done.stderr, done.exit_code) == (b"in\x00put", b"b\n", 9)
    assert run("true", stdin=b"x" * (4 << 20)).exit_code == 0
    code, _ = rpc_code(run, "sleep", "1000", timeout=Duration(seconds=1))
    assert code == Code.DEADLINE_EXCEEDED
    marker = unique("marker")
    code, words = rpc_code(run, "sh", "-c", f": {marker}; yes")
    assert code == Code.RESOURCE_EXHAUSTED, words
    # What nobody waits for does not go on.
    look = f"import os; print(sum(b'{marker}' in open(f'/proc/{{p}}/cmdline', 'rb').read() for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid())))"
    wait_for(lambda: python(sandbox, look).stdout == b"0\n")
    code, words = rpc_code(run, "no-such-program")
    assert code == Code.INVALID_ARGUMENT and "not found in PATH" in words


class Proxy:
    """Passes connections on to the service until they are cut."""

    def __init__(self, target):
        self.target = target
        self.open = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            self.open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass

    def cut(self):
        cut, self.open = self.open, []
        for end in cut:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


COUNT = """
import time
for number in range(40):
    print(number, flush=True)
    time.sleep(0.1)
"""


def test_output_is_whole_over_broken_connections(sandbox, monkeypatch):
    host, port = os.environ["CHALK_API_SERVER"].split("//")[1].rstrip("/").split(":")
    proxy = Proxy((host, int(port)))
    monkeypatch.setenv("CHALK_API_SERVER", proxy.address)
    attached = Sandbox.from_id(sandbox.id)
    process = attached.exec_start("python3", "-c", COUNT)
    process.close_stdin()
    cuts = [threading.Timer(at, proxy.cut) for at in (1.0, 2.5)]
    for cut in cuts:
        cut.start()
    result = process.wait()
    assert result.stdout_text.split() == [str(n) for n in range(40)]
    assert result.exit_code == 0
    assert not proxy.open or len(proxy.open) >= 2
    # Without the wish to come back, it is told.
    process = attached.exec_start("python3", "-c", COUNT)
    process.close_stdin()
    threading.Timer(1.0, proxy.cut).start()
    with pytest.raises((ConnectError, SandboxError)):
        process.wait(auto_reattach=False)


@pytest.mark.skipif("CHALK_TEST_RESTART" not in os.environ, reason="nobody says how to restart the service")
def test_a_command_goes_on_while_the_service_is_restarted(sandbox):
    own = start(name=unique("restart"))
    process = own.exec_start("python3", "-c", COUNT.replace("40", "80"))
    process.close_stdin()
    restart = threading.Timer(1.0, lambda: subprocess.run(os.environ["CHALK_TEST_RESTART"], shell=True, check=True))
    restart.start()
    result = process.wait()
    restart.join()
    assert result.stdout_text.split() == [str(n) for n in range(80)]
    assert result.exit_code == 0
    # Its record is there, too.
    assert Sandbox.from_id(own.id).info.status == "running"
    assert python(own, "print('still')").stdout == b"still\n"
    own.terminate()


# Files


def refused(call, *args, **options):
    with pytest.raises(SandboxFileSystemError) as caught:
        call(*args, **options)
    return caught.value.error, caught.value.errno


def test_files_go_in_and_come_out(sandbox, tmp_path):
    fs = sandbox.fs
    for number, data in enumerate([b"", b"\x00\xff", os.urandom(3_000_001)]):
        path = f"/tmp/files-{number}"
        fs.write_bytes(path, data)
        assert fs.read_bytes(path) == data
    fs.write_bytes("/tmp/run.sh", b"#!/bin/sh\necho ran\n", mode=0o755)
    assert sandbox.exec("/tmp/run.sh").stdout == b"ran\n"
    # What stands there keeps its mode; a new one has the usual one.
    fs.write_bytes("/tmp/run.sh", b"#!/bin/sh\necho again\n")
    assert sandbox.exec("/tmp/run.sh").stdout == b"again\n"
    modes = sandbox.exec("stat", "-c", "%a", "/tmp/run.sh", "/tmp/files-0").stdout
    assert modes == b"755\n644\n"
    odd = "/tmp/a\nb 'c' \"ü\""
    fs.upload_iter([b"one", b"", b"two"], odd)
    assert fs.read_bytes(odd) == b"onetwo"
    # Relative to the working directory of the sandbox.
    directory = sandbox.exec("pwd").stdout_text.strip()
    fs.write_bytes("relative", b"here")
    assert fs.read_bytes(directory.rstrip("/") + "/relative") == b"here"
    # What the image has, and what a command made.
    assert fs.read_bytes("/etc/passwd").startswith(b"root:")
    sandbox.exec("sh", "-c", "echo made > /tmp/made")
    fs.download_file("/tmp/made", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == b"made\n"
    (tmp_path / "local").write_bytes(b"local")
    fs.upload_file(tmp_path / "local", "/tmp/local")
    assert list(fs.download_iter("/tmp/local")) == [b"local"]
    # Nothing but the files themselves is left behind.
    names = sandbox.exec("sh", "-c", "ls -A /tmp | grep -c upload").stdout
    assert names == b"0\n"


def test_a_large_file_is_the_same_on_both_sides(sandbox, tmp_path):
    size, piece = 100 << 20, os.urandom(1 << 20)
    digest = hashlib.sha256()
    for number in range(size >> 20):
        digest.update(piece[number:] + piece[:number])

    def pieces():
        for number in range(size >> 20):
            yield piece[number:] + piece[:number]

    sandbox.fs.upload_iter(pieces(), "/tmp/large")
    inside = sandbox.exec("sha256sum", "/tmp/large").stdout_text.split()[0]
    assert inside == digest.hexdigest()
    sandbox.fs.download_file("/tmp/large", tmp_path / "large")
    back = hashlib.sha256((tmp_path / "large").read_bytes()).hexdigest()
    assert back == digest.hexdigest()
    sandbox.exec("rm", "/tmp/large")


def test_failures_have_the_number_of_the_system(sandbox):
    fs = sandbox.fs
    sandbox.exec("sh", "-c", "ln -sf /tmp/loop /tmp/loop; mkdir -p /tmp/directory; mkfifo /tmp/fifo")
    error = FilesystemError
    for path, expect in [
        ("/no/such/file", (error.NOT_FOUND, errno.ENOENT)),
        ("/etc/passwd/x", (error.FAILED_PRECONDITION, errno.ENOTDIR)),
        ("/tmp/directory", (error.FAILED_PRECONDITION, errno.EISDIR)),
        ("/tmp/loop", (error.INVALID_ARGUMENT, errno.ELOOP)),
        ("/tmp/fifo", (error.FAILED_PRECONDITION, errno.EOPNOTSUPP)),
        ("/dev/zero", (error.FAILED_PRECONDITION, errno.EOPNOTSUPP)),
        ("/tmp/" + "x" * 300, (error.INVALID_ARGUMENT, errno.ENAMETOOLONG)),
    ]:
        assert refused(fs.read_bytes, path) == expect, path
    for path, expect in [
        ("/no/such/directory/x", (error.NOT_FOUND, errno.ENOENT)),
        ("/tmp/directory", (error.FAILED_PRECONDITION, errno.EISDIR)),
        ("/proc/version", (error.PERMISSION_DENIED, errno.EACCES)),
    ]:
        # Not only where little was sent before the answer.
        for size in (1, 20 << 20):
            got = refused(fs.write_bytes, path, b"x" * size)
            assert got[0] == expect[0] or path == "/proc/version", (path, got)
    gone = Sandbox.from_id(sandbox.id)
    gone._id = "no-such-sandbox"
    assert refused(gone.fs.read_bytes, "/etc/passwd") == (error.NOT_FOUND, None)


def test_an_upload_that_breaks_off_leaves_what_was_there(sandbox):
    sandbox.fs.write_bytes("/tmp/kept", b"old")

    def broken():
        yield b"x" * (1 << 20)
        raise KeyError("the source broke")

    with pytest.raises(Exception):
        sandbox.fs.upload_iter(broken(), "/tmp/kept")
    assert sandbox.fs.read_bytes("/tmp/kept") == b"old"
    clean = "ls -A /tmp | grep -c upload"
    wait_for(lambda: sandbox.exec("sh", "-c", clean).stdout == b"0\n")


def test_links_lead_nowhere_but_inside(sandbox):
    # A file of this host that the image does not have.
    outside = f"/tmp/{unique('outside')}"
    with open(outside, "w") as file:
        file.write("of the host")
    try:
        sandbox.exec("ln", "-s", outside, "/tmp/link")
        sandbox.exec("ln", "-s", "../../../../../../.." + outside, "/tmp/up")
        assert refused(sandbox.fs.read_bytes, "/tmp/link")[1] == errno.ENOENT
        assert refused(sandbox.fs.read_bytes, "/tmp/up")[1] == errno.ENOENT
        assert refused(sandbox.fs.read_bytes, "/proc/self/root" + outside)[1] == errno.ELOOP
        assert refused(sandbox.fs.read_bytes, "/proc/self/exe")[1] == errno.ELOOP
        sandbox.fs.write_bytes("/tmp/link", b"of the sandbox")
        with open(outside) as file:
            assert file.read() == "of the host"
        assert sandbox.fs.read_bytes(outside) == b"of the sandbox"
        sandbox.exec("ln", "-s", "/etc/passwd", "/tmp/passwd")
        inside = python(sandbox, "print(open('/etc/passwd').read(), end='')").stdout
        assert sandbox.fs.read_bytes("/tmp/passwd") == inside
    finally:
        os.unlink(outside)


def test_a_full_disk_is_told(sandbox):
    limited = start()
    try:
        code = "import shutil; print(shutil.disk_usage('/').free)"
        free = int(python(limited, code).stdout)
        if free > 12 << 30:
            pytest.skip("the sandboxes of this node have large disks")
        # Leave little room, without writing it all through here.
        limited.exec("fallocate", "-l", str(free - (8 << 20)), "/filler")
        got = refused(limited.fs.write_bytes, "/large", b"x" * (64 << 20))
        assert got == (FilesystemError.RESOURCE_EXHAUSTED, errno.ENOSPC)
        assert refused(limited.fs.read_bytes, "/large")[1] == errno.ENOENT
    finally:
        limited.terminate()


# Images and volumes


def test_local_files_are_there_without_a_build(tmp_path):
    program = tmp_path / "app.py"
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
