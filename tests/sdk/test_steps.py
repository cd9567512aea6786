"""Every kind of build step, every field of a declaration, and every call of the image service."""

import json
import subprocess
import time
import uuid
from pathlib import Path

import lz4.frame
import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb as pb
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof

PROJECT = Path(__file__).parents[2] / "examples/uv-project"
BASE = "python:3.12-slim-bookworm"


class Images:
    """The calls of the image service, by their names."""

    def __init__(self):
        self.connect = ConnectClient()
        self.stub = self.connect.stub(service_connect.CustomImageServiceClientSync)

    def __getattr__(self, name):
        method = getattr(self.stub, name)
        return lambda request: self.connect.call(method, request)

    def build(self, spec):
        """Builds a declaration; the end of the build."""
        begun = self.get_or_build_custom_image(pb.GetOrBuildCustomImageRequest(image_spec=spec))
        status = begun.status
        until = time.monotonic() + 120
        while status == "building" and time.monotonic() < until:
            time.sleep(0.1)
            end = self.get_custom_image(pb.GetCustomImageRequest(build_id=begun.build_id))
            status = end.status
            assert status != "failed", end.error
        assert status in ("exists", "succeeded"), begun.error
        return begun


@pytest.fixture(scope="module")
def images():
    return Images()


def step(field, value):
    return pb.BuildStep(step=Oneof(field, value))


def unique():
    return f"echo {uuid.uuid4().hex}"


def uv_sync(**options):
    pack = lambda name: lz4.frame.compress((PROJECT / name).read_bytes())
    return step(
        "uv_sync",
        pb.UvSyncStep(
            pyproject_toml=Oneof("pyproject_toml_lz4", pack("pyproject.toml")),
            uv_lock=Oneof("uv_lock_lz4", pack("uv.lock")),
            **options,
        ),
    )


def run(*commands):
    return step("run_commands", pb.RunCommandsStep(commands=list(commands)))


def test_every_kind_of_step(images):
    steps = [
        run("echo 1 > /one", "test $(cat /one) = 1"),
        step("pip_install", pb.PipInstallStep(packages=["six==1.16.0"])),
        step("uv_pip_install", pb.UvPipInstallStep(packages=["idna==3.7"])),
        step("add_file", pb.AddFileStep(destination="/opt/run", content=b"#!/bin/sh\necho ran\n", mode=0o755)),
        run('test "$(/opt/run)" = ran', "python3 -c 'import six, idna'"),
        step("dockerfile_commands", pb.DockerfileCommandsStep(commands=["ENV KIND=yes", "RUN test $KIND = yes"])),
        uv_sync(extras=["shell"], workdir="/srv"),
        run(
            "test \"$(command -v python3)\" = /srv/.venv/bin/python3",
            "python3 -c 'import rich, click'",
            "test -f /srv/pyproject.toml -a -f /srv/uv.lock",
        ),
    ]
    images.build(pb.ImageSpec(base_image=BASE, steps=steps))


def test_a_project_where_the_image_works(images):
    steps = [uv_sync(), run("python3 -c 'import rich' && ! python3 -c 'import click'", "test -d /project/.venv")]
    images.build(pb.ImageSpec(base_image=BASE, steps=steps, workdir="/project"))


def test_a_project_that_is_none(images):
    def refused(project, words):
        spec = pb.ImageSpec(base_image=BASE, steps=[step("uv_sync", project)])
        with pytest.raises(ConnectError) as told:
            images.get_or_build_custom_image(pb.GetOrBuildCustomImageRequest(image_spec=spec))
        assert told.value.code == Code.INVALID_ARGUMENT
        assert words in told.value.message

    frame = Oneof("pyproject_toml_lz4", lz4.frame.compress(b"[project]\n"))
    refused(pb.UvSyncStep(pyproject_toml=frame), "uv_lock_lz4: is missing")
    plain = Oneof("uv_lock_lz4", b"version = 1")
    refused(pb.UvSyncStep(pyproject_toml=frame, uv_lock=plain), "uv_lock_lz4: expected an LZ4 frame")


def test_fields_of_the_image(service, images):
    image = (
        Image.base(BASE)
        .run_commands('test "$A" = "b c" && test $(pwd) = /home/made', unique())
        .workdir("/home/made")
        .env({"A": "b c"})
        .entrypoint(["/bin/echo", "-n"])
        .cmd(["hello", "you"])
    )
    place = image.build().as_image_uri_if_possible()
    show = service.json("compute", "image", "show", place.rpartition(":")[2])
    assert show["image_hash"].removeprefix("sha256:") == place.rpartition(":")[2]
    words = ["skopeo", "inspect", "--config", "--tls-verify=false", f"--creds=chalk:{service.token}"]
    printed = subprocess.run([*words, f"docker://{place}"], capture_output=True, text=True, check=True)
    config = json.loads(printed.stdout)["config"]
    assert config["Entrypoint"] == ["/bin/echo", "-n"] and config["Cmd"] == ["hello", "you"]
    assert config["WorkingDir"] == "/home/made" and "A=b c" in config["Env"]


def test_a_declaration_that_cannot_be_built(images):
    def refused(words, spec):
        with pytest.raises(ConnectError) as told:
            images.get_or_build_custom_image(pb.GetOrBuildCustomImageRequest(image_spec=spec))
        assert words in told.value.message
        return told.value.code

    relative = step("add_file", pb.AddFileStep(destination="a", content=b""))
    wrong = pb.ImageSpec(base_image=BASE, steps=[run("true"), relative])
    assert refused("steps[1].add_file.dest", wrong) == Code.INVALID_ARGUMENT
    copies = step("dockerfile_commands", pb.DockerfileCommandsStep(commands=["COPY app.py /app/"]))
    assert refused("the files beside it", pb.ImageSpec(base_image=BASE, steps=[copies])) == Code.INVALID_ARGUMENT
    assert refused("expected the reference", pb.ImageSpec(base_image="")) == Code.INVALID_ARGUMENT


def test_a_build_and_what_is_told_of_it(images):
    words = uuid.uuid4().hex
    spec = pb.ImageSpec(base_image=BASE, steps=[run(f"echo said {words}", f"sleep 1; echo then {words}")])
    begun = images.build_custom_image(pb.BuildCustomImageRequest(image_spec=spec, tag=f"team/app:{words}"))
    updates = images.stub.stream_custom_image_build_updates(
        pb.StreamCustomImageBuildUpdatesRequest(build_id=begun.build_id),
        headers=dict(images.connect._rpc_metadata()),
    )
    told = [(update.status, update.message, update.image) for update in updates]
    assert told[-1][0] == "succeeded" and told[-1][2], told
    assert any(status == "building" for status, _, _ in told)

    by_id = pb.GetCustomImageBuildRequest(identifier=Oneof("build_id", begun.build_id))
    build = images.get_custom_image_build(by_id)
    content_hash = build.build.content_hash
    assert build.build.status == "succeeded" and build.build.base_image.endswith(BASE)
    assert len(build.image_spec.steps) == 1
    by_hash = pb.GetCustomImageBuildRequest(identifier=Oneof("content_hash", content_hash))
    assert images.get_custom_image_build(by_hash).build.build_id == begun.build_id

    filters = pb.ListCustomImageBuildsFilters(content_hash=content_hash)
    listed = images.list_custom_image_builds(pb.ListCustomImageBuildsRequest(limit=10, filters=filters))
    assert [found.build_id for found in listed.builds] == [begun.build_id]
    first = images.list_custom_image_builds(pb.ListCustomImageBuildsRequest(limit=1))
    second = images.list_custom_image_builds(pb.ListCustomImageBuildsRequest(limit=1, cursor=first.next_cursor))
    assert first.builds[0].build_id != second.builds[0].build_id

    lines, token = [], None
    while True:
        request = pb.GetCustomImageBuildLogsRequest(
            identifier=Oneof("build_id", begun.build_id), limit=1, page_token=token
        )
        page = images.get_custom_image_build_logs(request)
        lines += [entry.message for entry in page.logs]
        token = page.next_page_token
        if not token:
            break
    text = "\n".join(lines)
    assert text.index(f"said {words}") < text.index(f"then {words}")

    workflow = images.get_custom_image_build_workflow(
        pb.GetCustomImageBuildWorkflowRequest(identifier=Oneof("build_id", begun.build_id))
    ).workflow
    assert workflow.status.phase == "Succeeded" and len(workflow.status.nodes) == 2
    usage = images.get_custom_image_build_usage(
        pb.GetCustomImageBuildUsageRequest(identifier=Oneof("content_hash", content_hash))
    )
    assert not usage.sandboxes


def test_the_content_hash_names_the_image(images):
    begun = images.build(pb.ImageSpec(base_image=BASE, steps=[run(unique())]))
    assert begun.content_hash.startswith("sha256:") and len(begun.content_hash) == 71
    done = images.get_custom_image(pb.GetCustomImageRequest(build_id=begun.build_id))
    assert done.image.endswith(begun.content_hash.removeprefix("sha256:"))
