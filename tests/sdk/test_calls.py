"""Every call of the services that the SDK's definitions hold: served, or refused by name, as docs/chalk-sdk.md says."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import chalkcompute
import pytest
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.server.v1 import team_connect, team_pb
from connectrpc.code import Code
from connectrpc.errors import ConnectError

DEFINITIONS = Path(chalkcompute.__file__).parent / "_gen/chalk"
DOCUMENT = Path(__file__).parents[2] / "docs/chalk-sdk.md"

# What there is, by service. Everything else is refused.
SERVED = {
    "chalk.server.v1.AuthService": {"GetToken"},
    "chalk.sandbox.v1.CustomImageService": None,
    "chalk.sandbox.v2.SandboxService": None,
    "chalk.sandbox.v2.SandboxProcessService": None,
    "chalk.sandbox.v2.SandboxFilesystemService": None,
    "chalk.volume.v2.VolumeService": None,
}
REFUSED = {
    "chalk.sandbox.v2.SandboxService": {"SuspendSandbox", "ResumeSandbox"},
    "chalk.volume.v2.VolumeService": {"GetVolumeCredentials", "AllocateInodeRange", "ListMountFiles"},
}


def defined():
    """All members of all services that the SDK knows, as (service, member)."""
    found = set()
    for file in DEFINITIONS.rglob("*_connect.py"):
        pairs = re.findall(r'name="(\w+)",\s+service_name="([\w.]+)"', file.read_text())
        found |= {(service, member) for member, service in pairs}
    return sorted(found)


def is_served(service, member):
    if member in REFUSED.get(service, ()):
        return False
    members = SERVED.get(service, ())
    return members is None or member in members


def code(service, member):
    """What a call with an empty message is answered, by the Connect protocol."""
    connect = ConnectClient()
    connect._ensure_auth()
    request = urllib.request.Request(f"{connect._api_server}/{service}/{member}", data=b"", method="POST")
    request.add_header("Content-Type", "application/proto")
    request.add_header("Content-Length", "0")
    request.add_header("Authorization", f"Bearer {connect._access_token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return "ok", answer.read()
    except urllib.error.HTTPError as error:
        body = json.loads(error.read())
        return body["code"], body.get("message", "")


def test_there_are_definitions():
    services = {service for service, _ in defined()}
    assert set(SERVED) <= services and len(defined()) > 60


def test_what_is_not_served_is_refused_by_name():
    wrong = []
    for service, member in defined():
        if is_served(service, member):
            continue
        answer, words = code(service, member)
        if answer != "unimplemented" or member not in words:
            wrong.append((service, member, answer, words))
    assert not wrong


def test_what_is_served_is_there():
    missing = []
    for service, member in defined():
        # Streams are no calls of that protocol's simple form.
        if is_served(service, member) and not re.match("Stream|OpenSession|UploadFile|DownloadFile", member):
            answer, words = code(service, member)
            if answer == "unimplemented":
                missing.append((service, member, words))
    assert not missing


def test_the_document_tells_of_every_call():
    text = DOCUMENT.read_text()
    for service, member in defined():
        package, _, name = service.rpartition(".")
        if is_served(service, member) or member in REFUSED.get(service, ()):
            assert f"`{member}`" in text or f"{name}/{member}`" in text, (service, member)
        elif package in ("chalk.sandbox.v1", "chalk.sandbox.v2"):
            assert f"`{name}`" in text or f"`{service}`" in text, service


def test_refusals_by_grpc():
    connect = ConnectClient()
    stub = connect.stub(team_connect.TeamServiceClientSync)
    with pytest.raises(ConnectError) as told:
        connect.call(stub.get_env, team_pb.GetEnvRequest())
    assert told.value.code == Code.UNIMPLEMENTED
    assert "TeamService/GetEnv is not served here" in told.value.message
