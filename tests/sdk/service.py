"""A running `chalk serve`, and a node of its own, on a folder.

Whoever has the folder can stop and restart the service: what it was started with is written down there.
`python service.py restart FOLDER` does so from a shell.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHALK = os.environ.get("CHALK_TEST_BIN", "")

# Longest that a start or a stop may take on a busy machine, in seconds.
PATIENCE = 60


def environment():
    """The variables of a command, without those that name a service to the SDK, or to the command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHALK_")}


def wait_until(what, so):
    """Waits until `so` gives something, and gives it back."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = so()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{what}: waited for {PATIENCE} s")


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def end(pid, by=signal.SIGTERM):
    """Ends a process, which may be a child of another."""
    os.kill(pid, by)
    wait_until(f"process {pid} ends", lambda: not runs(pid))
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


class Service:
    """A service on a folder, started or not."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.state = self.folder / "state"
        self.log = self.folder / "service.log"

    def start(self, settings=None):
        """Starts it on a free port."""
        (self.folder / "settings.json").write_text(json.dumps(settings or {}))
        self._launch("127.0.0.1:0")
        return self

    def start_again(self):
        """Starts it where it was, with what it was started with."""
        self._launch(self.url.removeprefix("http://"))

    def _launch(self, listen):
        words = [CHALK, "--state", str(self.state), "serve", "--listen", listen]
        settings = json.loads((self.folder / "settings.json").read_text())
        for name, value in settings.items():
            words += ["--set", f"{name}={value}"]
        pid = self._spawn(words, self.log)
        (self.folder / "service.pid").write_text(str(pid))

        def found():
            if not runs(pid):
                raise RuntimeError(f"the service did not start:\n{self.log.read_text()}")
            try:
                known = json.loads((self.state / "service.json").read_text())
            except (OSError, ValueError):
                return None
            # A file that a killed service left behind names another process.
            return known if known["pid"] == pid else None

        self.url_file.write_text(wait_until("the service starts", found)["url"])

    @staticmethod
    def _spawn(words, log):
        with open(log, "ab") as output:
            options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            return subprocess.Popen(words, env=environment(), **options).pid

    @property
    def url_file(self):
        return self.folder / "url"

    @property
    def url(self):
        """`http://host:port`"""
        return self.url_file.read_text()

    @property
    def token(self):
        """The token that may do everything."""
        return (self.state / "token").read_text().strip()

    def pid(self, of="service"):
        try:
            return int((self.folder / f"{of}.pid").read_text())
        except OSError:
            return None

    def stop(self, by=signal.SIGTERM):
        """Ends the service by a signal; the node stays."""
        end(self.pid(), by)

    def restart(self, by=signal.SIGTERM):
        """Ends the service and starts it again on the same port."""
        self.stop(by)
        self.start_again()

    def start_node(self):
        """Starts a node of its own, which outlives the service."""
        words = [CHALK, "--state", str(self.folder / "node"), "node", "--server", self.url]
        words += ["--name", "sdk", "--region", "local"]
        words += ["--join-token-file", str(self.state / "token")]
        log = self.folder / "node.log"
        pid = self._spawn(words, log)
        (self.folder / "node.pid").write_text(str(pid))

        def ready():
            if not runs(pid):
                raise RuntimeError(f"the node did not start:\n{log.read_text()}")
            nodes = self.json("compute", "node", "ls")
            nodes = nodes if isinstance(nodes, list) else nodes["nodes"]
            return any(node["state"] == "ready" for node in nodes)

        wait_until("the node is ready", ready)

    def close(self):
        """Ends the node, then the service."""
        for process in ("node", "service"):
            pid = self.pid(process)
            if pid and runs(pid):
                end(pid)

    def chalk(self, *words, **options):
        """What a command prints; raises when it fails."""
        command = [CHALK, "--state", str(self.state), *words]
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, **options)
        assert ran.returncode == 0, f"{words}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def json(self, *words, **options):
        """The JSON document that a command prints."""
        return json.loads(self.chalk(*words, "--json", **options))

    def credentials(self, *words):
        """The variables that a new token is used by."""
        made = self.json("token", "create", "--name", "sdk", *words)
        return {
            "CHALK_API_SERVER": self.url,
            "CHALK_CLIENT_ID": made["client_id"],
            "CHALK_CLIENT_SECRET": made["client_secret"],
        }


if __name__ == "__main__":
    verb, folder = sys.argv[1:]
    if verb != "restart":
        sys.exit(f"`{verb}` is no verb; there is: restart")
    Service(folder).restart()
