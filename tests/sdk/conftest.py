"""One service with a node for the whole session, in the variables that Chalk's SDK reads.

`cargo xtask test --only sdk` sets CHALK_TEST_BIN (the `chalk` command) and CHALK_TEST_BASE (an OCI
layout); see there for the others. Other services are made by tests that need settings of their own.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bases import bring_in
from service import Service

# Gzip, since Debian's Docker reads no zstd layers; and nothing of what the SDK logs matters here.
SETTINGS = {"build.compression": "gzip", "prewarm.images": ""}

HERE = Path(__file__).parent
SHARED = pytest.StashKey()


class Shared:
    """The service of the session, and a state directory to start others from."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.bases = {}
        self.service = None
        self.started = []

    def open(self):
        seed = Service(self.make("seed")).start(SETTINGS)
        try:
            self.bases = bring_in(seed, os.environ["CHALK_TEST_BASE"], self.folder / "bases")
        finally:
            seed.close()
        self.service = self.start("shared")
        self.service.start_node()

    def make(self, name):
        """A new folder, gone with the session."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def start(self, name, **settings):
        """A service that has all bases."""
        folder = self.make(name)
        seed = next(self.folder.glob("seed-*")) / "state"
        shutil.copytree(seed, folder / "state", symlinks=True)
        # A copy with the same token would hide a mix-up of services.
        (folder / "state/token").unlink()
        service = Service(folder).start({**SETTINGS, **settings})
        self.started.append(service)
        return service

    def close(self):
        for service in reversed(self.started):
            service.close()
        # Hundreds of thousands of files, unpacked bases among them.
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)


def pytest_configure(config):
    # Some modules read the variables as they are imported.
    folder = os.environ.get("CHALK_TEST_SCRATCH")
    shared = Shared(tempfile.mkdtemp(prefix="chalk-sdk-", dir=folder))
    config.stash[SHARED] = shared
    config.add_cleanup(shared.close)
    # Asked to end, the suite takes its services down as after an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shared.open()
    service = shared.service
    for name in [name for name in os.environ if name.startswith("CHALK_") and "_TEST_" not in name]:
        del os.environ[name]
    os.environ |= service.credentials()
    # No file of the user's own counts.
    os.environ["XDG_CONFIG_HOME"] = str(shared.folder)
    os.environ["HOME"] = str(shared.folder)
    restart = [sys.executable, str(HERE / "service.py"), "restart", str(service.folder)]
    os.environ["CHALK_TEST_RESTART"] = shlex.join(restart)

    from chalkcompute import Image

    built = Image.base("python:3.12-slim-bookworm").run_commands("true").build()
    os.environ["CHALK_TEST_IMAGE"] = built.as_image_uri_if_possible()


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    shared = config.stash.get(SHARED, None)
    if exitstatus and shared and shared.service:
        terminalreporter.section("log of the service")
        lines = shared.service.log.read_text(errors="replace").splitlines()
        terminalreporter.write("\n".join(lines[-60:]) + "\n")


@pytest.fixture(scope="session")
def shared(request):
    return request.config.stash[SHARED]


@pytest.fixture(scope="session")
def service(shared):
    """The service that the variables name."""
    return shared.service


@pytest.fixture
def another(shared, monkeypatch):
    """Starts a service with settings of its own, and makes it the one that the variables name."""
    started = []

    def start(words=(), **settings):
        service = shared.start("another", **settings)
        started.append(service)
        for name, value in service.credentials(*words).items():
            monkeypatch.setenv(name, value)
        return service

    yield start
    for service in started:
        service.close()
