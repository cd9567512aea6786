"""Commands and sessions in sandboxes through Chalk's own SDK.

Needs CHALK_API_SERVER, CHALK_CLIENT_ID and CHALK_CLIENT_SECRET of a service that has a node, and in
CHALK_TEST_IMAGE the reference of an image with Python. CHALK_TEST_RESTART is a
command that restarts the service and leaves its nodes alone.
"""

import hashlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time

import pytest
from chalkcompute import Sandbox, SandboxClient
from chalkcompute._gen.chalk.sandbox.v2 import process_service_pb as process_pb
from chalkcompute._sandbox import SandboxError
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof
from protobuf.wkt import Duration
from sandbox_support import (
    python,
    rpc_code,
    sandbox,  # noqa: F401
    start,
    unique,
    wait_for,
)

OUTPUT = process_pb.OutputData.Stream


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
        """Ends the requests, and takes what is left of the answers."""
        self.requests.put(None)
        try:
            for _ in self.events:
                pass
        except ConnectError:
            pass


def first_refusal(command):
    """The code that a session is refused with."""
    session = Session(command)
    with pytest.raises(ConnectError) as caught:
        next(iter(session.events))
    session.requests.put(None)
    return caught.value.code


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

    assert first_refusal(attach(sandbox, "x00000000")) == Code.NOT_FOUND
    assert first_refusal(Oneof("stdin_eof", process_pb.StdinEof())) == Code.INVALID_ARGUMENT


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


def test_a_command_goes_on_while_the_service_is_restarted(sandbox):
    own = start(name=unique("restart"))
    process = own.exec_start("python3", "-c", COUNT.replace("40", "80"))
    process.close_stdin()
    command = os.environ["CHALK_TEST_RESTART"]
    restart = threading.Timer(1.0, lambda: subprocess.run(command, shell=True, check=True))
    restart.start()
    result = process.wait()
    restart.join()
    assert result.stdout_text.split() == [str(n) for n in range(80)]
    assert result.exit_code == 0
    # Its record is there, too.
    assert Sandbox.from_id(own.id).info.status == "running"
    assert python(own, "print('still')").stdout == b"still\n"
    own.terminate()
