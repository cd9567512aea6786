"""Builds that fail, that others wait for, and that outlive the service."""

import http.server
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient, ConnectError
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb
from connectrpc.code import Code
from connectrpc.errors import ConnectError as RpcError

BASE = "python:3.12-slim-bookworm"


def unique():
    return uuid.uuid4().hex


def image(*commands):
    return Image.base(BASE).run_commands(*commands)


def builds(hash_of):
    """The builds that there were of an image."""
    connect = ConnectClient()
    stub = connect.stub(service_connect.CustomImageServiceClientSync)
    content_hash = "sha256:" + hash_of.as_image_uri_if_possible().rpartition(":")[2]
    filters = service_pb.ListCustomImageBuildsFilters(content_hash=content_hash)
    request = service_pb.ListCustomImageBuildsRequest(limit=100, filters=filters)
    return connect.call(stub.list_custom_image_builds, request).builds


def test_a_failing_build_says_why():
    word = unique()
    script = f"for i in $(seq 30); do echo line $i of {word}; done; echo gone wrong >&2; exit 7"
    with pytest.raises(ConnectError) as told:
        image("true", script).build()
    text = str(told.value)
    assert "exit code 7" in text, text
    assert "for i in $(seq 30)" in text, "the step is named"
    assert f"line 30 of {word}" in text and "gone wrong" in text, text
    assert f"line 1 of {word}" not in text, "its last lines are enough"


def test_a_failed_build_is_tried_again():
    word = unique()
    failing = image(f"echo {word}", "exit 3")
    for _ in range(2):
        with pytest.raises(ConnectError, match="exit code 3"):
            failing.build()


class EmptyRegistry(http.server.BaseHTTPRequestHandler):
    """A registry that has nothing."""

    def do_GET(self):
        here = self.path == "/v2/"
        body = b"{}" if here else b'{"errors": [{"code": "NAME_UNKNOWN", "message": "nothing here"}]}'
        self.send_response(200 if here else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


def test_a_base_that_is_not_there():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyRegistry) as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{registry.server_port}/nobody/nothing:1"
        with pytest.raises(RpcError) as told:
            Image.base(name).run_commands("true").build()
        registry.shutdown()
    assert told.value.code == Code.NOT_FOUND
    assert name in told.value.message


def test_twenty_at_once():
    same, word = image(f"echo {unique()}; sleep 1"), unique()
    all_of_them = [same if i % 2 else image(f"echo {word} {i}") for i in range(20)]
    gate = threading.Barrier(20)

    def build(one):
        gate.wait()
        return one.build()

    with ThreadPoolExecutor(20) as pool:
        built = list(pool.map(build, all_of_them))
    references = [one.as_image_uri_if_possible() for one in built]
    assert len(set(references[1::2])) == 1
    assert len(set(references[0::2])) == 10
    assert len(builds(built[1])) == 1, "ten of the same were one build"


def build_during(change, commands, delay=1.0):
    """Builds, and carries a change out in the meantime; the result of both."""
    with ThreadPoolExecutor(1) as pool:
        # It gives up at the fifth question that finds no service, and a busy machine starts one slowly.
        building = pool.submit(image(*commands).build, poll_interval=0.5)
        time.sleep(delay)
        change()
        return building.result(timeout=120)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_the_service_restarts_while_the_sdk_polls(another, by):
    # It ends what runs soon, so that the build is cut off.
    service = another(**{"serve.stop_timeout": "500ms"})
    word = unique()
    commands = [f"echo {word}", f"sleep 3; echo {word} > /done"]
    built = build_during(lambda: service.restart(by), commands)
    assert built.as_image_uri_if_possible().startswith(service.url.removeprefix("http://"))
    image(*commands, f"grep {word} /done").build()


def test_an_image_is_built_on_another():
    word = unique()
    built = image(f"echo {word} > /made").build()
    # Both are images of this service's registry: by the handle, and by what is printed.
    again = built.run_commands(f"grep {word} /made")
    assert again.build().as_image_uri_if_possible() != built.as_image_uri_if_possible()
    Image.base(built.as_image_uri_if_possible()).run_commands(f"grep {word} /made && true").build()
    absent = built.as_image_uri_if_possible().rpartition(":")[0] + ":absent"
    with pytest.raises(RpcError) as told:
        Image.base(absent).run_commands("true").build()
    assert told.value.code == Code.NOT_FOUND
    assert "own registry" in told.value.message
