"""What `print(img.build())` prints is pulled by docker, with credentials that the SDK's service gives."""

import base64
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb
from service import end, wait_until

BASE = "python:3.12-slim-bookworm"


class Docker:
    """A daemon of the suite's own."""

    def __init__(self, folder):
        # Sockets have short paths.
        self.runtime = Path(tempfile.mkdtemp(prefix="cd-"))
        self.config = folder / "config"
        self.config.mkdir()
        self.log = folder / "dockerd.log"
        words = ["dockerd", "--iptables=false", "--bridge=none"]
        words += ["--data-root", str(folder / "data"), "--exec-root", str(self.runtime / "exec")]
        words += ["--pidfile", str(self.runtime / "pid"), "--host", f"unix://{self.runtime}/sock"]
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        def answers():
            assert self.process.poll() is None, self.log.read_text()
            return self.run("version", check=False).returncode == 0

        wait_until("dockerd answers", answers)

    def run(self, *words, check=True, **options):
        variables = {"DOCKER_HOST": f"unix://{self.runtime}/sock", "DOCKER_CONFIG": str(self.config)}
        command = ["/usr/bin/docker", *words]
        ran = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, **options)
        assert not check or ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran

    def close(self):
        end(self.process.pid)
        # It leaves the name of its network namespace mounted.
        for line in Path("/proc/self/mounts").read_text().splitlines():
            point = line.split(" ")[1]
            if point.startswith(f"{self.runtime}/"):
                subprocess.run(["umount", point], check=False)


@pytest.fixture(scope="module")
def docker(shared):
    daemon = Docker(shared.make("docker"))
    yield daemon
    daemon.close()


def test_docker_pulls_what_is_printed(docker, service):
    word = uuid.uuid4().hex
    built = Image.base(BASE).run_commands(f"echo {word} > /made").cmd(["cat", "/made"]).build()
    place = built.as_image_uri_if_possible()
    assert place.startswith(service.url.removeprefix("http://") + "/")

    connect = ConnectClient()
    stub = connect.stub(service_connect.CustomImageServiceClientSync)
    request = service_pb.GetImagePullCredentialsRequest(image=place)
    given = connect.call(stub.get_image_pull_credentials, request)
    assert given.server_address == place.split("/")[0]
    assert given.expires_at is not None

    refused = docker.run("pull", "--quiet", place, check=False)
    assert refused.returncode != 0, "nothing is pulled without a login"
    login = ["login", "--username", given.username, "--password-stdin", given.server_address]
    docker.run(*login, input=given.password)
    docker.run("pull", "--quiet", place)
    ran = docker.run("run", "--rm", "--network", "host", place)
    assert ran.stdout.strip() == word

    # They are good for pulling and for nothing else.
    docker.run("tag", place, f"{given.server_address}/team/copy:1")
    assert docker.run("push", f"{given.server_address}/team/copy:1", check=False).returncode != 0
    request = urllib.request.Request(f"{service.url}/v1/builds")
    request.add_header("Authorization", f"Bearer {given.password}")
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(request)
    assert told.value.code in (401, 403)
    pair = base64.b64encode(f"{given.username}:{given.password}".encode()).decode()
    request = urllib.request.Request(f"{service.url}/v2/other/image/manifests/latest")
    request.add_header("Authorization", f"Basic {pair}")
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(request)
    assert told.value.code in (401, 403, 404)
