"""Credentials: wrong ones, those that may not build, and those that end while the SDK waits."""

import os
import time
import uuid

import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient, build_image
from chalkcompute._connect import ConnectError as SdkError
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb
from chalkcompute._gen.chalk.server.v1 import auth_connect, auth_pb
from connectrpc.code import Code
from connectrpc.errors import ConnectError

BASE = "python:3.12-slim-bookworm"


def image(command="true"):
    return Image.base(BASE).run_commands(f"echo {uuid.uuid4().hex}", command)


@pytest.mark.parametrize(
    "name, value",
    [
        ("CHALK_CLIENT_SECRET", "chs_wrong"),
        ("CHALK_CLIENT_SECRET", "é" * 1000),
        ("CHALK_CLIENT_ID", "chc_0123456789abcdef"),
        ("CHALK_CLIENT_ID", "../token"),
    ],
)
def test_wrong_credentials(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConnectError) as told:
        image().build()
    assert told.value.code == Code.UNAUTHENTICATED
    assert "chalk token create" in told.value.message
    assert value not in str(told.value)


def test_no_credentials(monkeypatch):
    monkeypatch.delenv("CHALK_CLIENT_SECRET")
    with pytest.raises(SdkError, match="No Chalk credentials"):
        image().build()


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("CHALK_API_SERVER", "http://127.0.0.1:1")
    with pytest.raises(Exception):
        image().build()


def test_a_slash_at_the_end_of_the_address(monkeypatch, service):
    monkeypatch.setenv("CHALK_API_SERVER", service.url + "/")
    image().build()


def test_an_environment_by_name(monkeypatch):
    monkeypatch.setenv("CHALK_ENVIRONMENT", "production")
    image().build()


def test_who_may_only_read(monkeypatch, service):
    for name, value in service.credentials("--role", "read").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectError) as told:
        image().build()
    assert told.value.code == Code.PERMISSION_DENIED
    assert "`build`" in told.value.message


def test_a_token_that_was_revoked(monkeypatch, service):
    made = service.json("token", "create", "--name", "short")
    monkeypatch.setenv("CHALK_CLIENT_ID", made["client_id"])
    monkeypatch.setenv("CHALK_CLIENT_SECRET", made["client_secret"])
    connect = ConnectClient()
    connect._ensure_auth()
    service.chalk("token", "revoke", made["client_id"])
    with pytest.raises(ConnectError) as told:
        image().build()
    assert told.value.code == Code.UNAUTHENTICATED
    # Access tokens that were made for it end with it.
    with pytest.raises((ConnectError, SdkError)) as told:
        build_image(connect, image())
    assert "log in again" in str(told.value)


def test_an_access_token_has_the_time_that_was_asked_for():
    connect = ConnectClient()
    stub = connect.stub(auth_connect.AuthServiceClientSync)
    request = auth_pb.GetTokenRequest(
        client_id=os.environ["CHALK_CLIENT_ID"],
        client_secret=os.environ["CHALK_CLIENT_SECRET"],
        grant_type="client_credentials",
    )
    answer = stub.get_token(request)
    assert answer.token_type == "Bearer"
    assert 0 < answer.expires_in <= 24 * 3600
    assert answer.primary_environment in answer.environment_id_to_name
    assert answer.engines[answer.primary_environment] == os.environ["CHALK_API_SERVER"]


def test_a_token_that_ends_in_the_middle_of_a_wait(another):
    another(**{"serve.access_ttl": "3s"})
    declared = image("sleep 6; echo slept > /slept")
    began = time.monotonic()
    # The SDK never renews its token. It gives up, and says why.
    with pytest.raises(SdkError) as told:
        declared.build(poll_interval=0.3)
    assert "log in again" in str(told.value)
    assert 2 < time.monotonic() - began < 30
    # The build went on; whoever asks anew joins it or finds it done.
    while True:
        try:
            built = declared.build(poll_interval=0.3)
            break
        except SdkError as error:
            assert "log in again" in str(error)
            assert time.monotonic() - began < 60
    listed = ConnectClient()
    stub = listed.stub(service_connect.CustomImageServiceClientSync)
    content_hash = "sha256:" + built.as_image_uri_if_possible().rpartition(":")[2]
    filters = service_pb.ListCustomImageBuildsFilters(content_hash=content_hash)
    found = listed.call(stub.list_custom_image_builds, service_pb.ListCustomImageBuildsRequest(filters=filters))
    assert len(found.builds) == 1
