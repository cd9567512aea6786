"""Files of sandboxes through Chalk's own SDK.

Needs CHALK_API_SERVER, CHALK_CLIENT_ID and CHALK_CLIENT_SECRET of a service that has a node, and in
CHALK_TEST_IMAGE the reference of an image with Python.
"""

import errno
import hashlib
import os

import pytest
from chalkcompute import Sandbox
from chalkcompute._sandbox_fs import FilesystemError
from sandbox_support import (
    python,
    refused,
    sandbox,  # noqa: F401
    start,
    unique,
    wait_for,
)


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
    ]:
        # Not only where little was sent before the answer.
        for size in (1, 20 << 20):
            assert refused(fs.write_bytes, path, b"x" * size) == expect, path
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
        assert free < 12 << 30, "the disk of a sandbox is small enough to be filled"
        # Leave little room, without writing it all through here.
        limited.exec("fallocate", "-l", str(free - (8 << 20)), "/filler")
        got = refused(limited.fs.write_bytes, "/large", b"x" * (64 << 20))
        assert got == (FilesystemError.RESOURCE_EXHAUSTED, errno.ENOSPC)
        assert refused(limited.fs.read_bytes, "/large")[1] == errno.ENOENT
    finally:
        limited.terminate()
