"""What the tests of sandboxes share."""

import os
import time
import uuid

import pytest
from chalkcompute import Sandbox
from chalkcompute._sandbox_fs import SandboxFileSystemError
from connectrpc.errors import ConnectError

IMAGE = os.environ["CHALK_TEST_IMAGE"]


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


def wait_for(done, seconds=30):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def refused(call, *args, **options):
    with pytest.raises(SandboxFileSystemError) as caught:
        call(*args, **options)
    return caught.value.error, caught.value.errno
