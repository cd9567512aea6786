"""The snippets of the page that Chalk's SDK and this service come from, one by one and as they stand there."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The local files that the snippets name, in the working directory."""
    (tmp_path / "requirements.txt").write_text("# both\ntorch==2.3.0\n\ntransformers\n")
    (tmp_path / "Dockerfile").write_text(
        "# syntax=docker/dockerfile:1\nFROM python:3.12-slim-bookworm\n\nRUN mkdir /made && \\\n"
        "    echo yes > /made/by\nENV MADE=1\n"
    )
    (tmp_path / "app.py").write_text("print('app')\n")
    source = tmp_path / "src"
    (source / "deep").mkdir(parents=True)
    (source / "main.py").write_text("print('main')\n")
    (source / "deep/data.txt").write_text("data\n")
    (source / "left-out.log").write_text("log\n")
    (source / ".gitignore").write_text("*.log\n")
    monkeypatch.chdir(tmp_path)


def config(service, built):
    """The config of a built image."""
    place = built.as_image_uri_if_possible()
    words = ["skopeo", "inspect", "--config", "--tls-verify=false", f"--creds=chalk:{service.token}"]
    ran = subprocess.run([*words, f"docker://{place}"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def check(image, *commands):
    """Builds an image and what runs in it, step after step; gives the image without them."""
    built = image.build()
    if commands:
        image.run_commands(*commands).build()
    return built


def build_count(service):
    return len(service.json("compute", "image", "builds"))


def declared():
    # The page's first snippet.
    return (
        Image.debian_slim("3.12")
        .pip_install(["requests", "pandas>=2.0"])
        .run_commands("apt-get update && apt-get install -y git curl")
        .workdir("/app")
        .env({"PROJECT_ROOT": "/app"})
    )


def test_the_first_snippet_is_built_once(service):
    image = check(
        declared(),
        "python3 -c 'import pandas, requests, os; print(os.getcwd(), os.environ[\"PROJECT_ROOT\"])' | grep '^/app /app$'",
        "git --version && curl --version",
    )
    found = config(service, image)["config"]
    assert found["WorkingDir"] == "/app"
    assert "PROJECT_ROOT=/app" in found["Env"]

    # A second run, in a process of its own as a user's: nothing is built.
    before = build_count(service)
    script = (
        "import time\nfrom chalkcompute import Image\nbegan = time.monotonic()\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_page import declared\nbegan = time.monotonic()\nbuilt = declared().build()\n"
        "print(built.as_image_uri_if_possible(), time.monotonic() - began)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    reference, seconds = ran.stdout.split()
    assert reference == image.as_image_uri_if_possible()
    print(f"the second build took {float(seconds):.3f} s")
    assert build_count(service) == before
    connect = ConnectClient()
    stub = connect.stub(service_connect.CustomImageServiceClientSync)
    request = service_pb.GetOrBuildCustomImageRequest(image_spec=declared().to_proto())
    began = time.monotonic()
    assert connect.call(stub.get_or_build_custom_image, request).status == "exists"
    print(f"one call took {time.monotonic() - began:.4f} s")


def test_python_packages(service):
    img = Image.debian_slim().pip_install(["torch==2.3.0", "transformers"])
    check(img, "python3 -c 'import torch, transformers; assert torch.__version__ == \"2.3.0\"'")
    before = build_count(service)
    # Or from a requirements file:
    img = Image.debian_slim().pip_install_from_requirements("requirements.txt")
    check(img)
    assert build_count(service) == before, "the same packages are the same image"


def test_system_packages():
    img = Image.debian_slim().run_commands(
        "apt-get update && apt-get install -y ffmpeg libsndfile1",
    )
    check(img, "dpkg --status ffmpeg libsndfile1")


def test_raw_dockerfile_instructions(service):
    img = Image.debian_slim().dockerfile_commands([
        "EXPOSE 8080",
        "RUN useradd -m worker",
        "USER worker",
    ])
    built = check(img, "test $(id -un) = worker")
    found = config(service, built)["config"]
    assert found["ExposedPorts"] == {"8080/tcp": {}}
    assert found["User"] == "worker"


def test_an_existing_dockerfile(service):
    img = Image.from_dockerfile("Dockerfile").pip_install(["six"])
    built = check(img, 'test "$(cat /made/by) $MADE" = "yes 1" && python3 -c "import six"')
    assert "MADE=1" in config(service, built)["config"]["Env"]


def test_a_base_of_any_name():
    for name in ("node:22-slim", "ghcr.io/org/image:tag"):
        check(Image.base(name).run_commands("true"))


def test_a_file_that_is_copied(service):
    img = Image.debian_slim().add_local_file(
        "app.py", "/app/app.py", strategy="copy"
    )
    check(img, "test \"$(python3 /app/app.py)\" = app && test $(stat -c %a /app/app.py) = 644")


def test_a_directory_that_is_copied():
    img = Image.debian_slim().add_local_dir("./src", "/app/src", strategy="copy")
    check(
        img,
        'test "$(python3 /app/src/main.py)" = main && test "$(cat /app/src/deep/data.txt)" = data',
        "! test -e /app/src/left-out.log",
    )


def test_a_file_that_is_mounted():
    # Volume mount (default) — the file is uploaded, and is no part of the image.
    img = Image.debian_slim().add_local_file("app.py", "/app/app.py")
    built = img.build()
    [volume] = built.volumes
    assert volume.mount_path == "/app" and volume.version_id is not None
    assert Image.from_json(built.to_json()).volumes == built.volumes


def test_a_directory_that_is_mounted():
    # Entire directories work the same way
    img = Image.debian_slim().add_local_dir("./src", "/app/src")
    [volume] = img.build().volumes
    assert volume.mount_path == "/app/src"


def test_gpu_bases():
    # PyTorch with CUDA — starts from NVIDIA's pre-built image
    img = (
        Image.base("nvcr.io/nvidia/pytorch:24.01-py3")
        .pip_install(["transformers", "accelerate"])
    )
    check(img, "python3 -c 'import transformers, accelerate'")
    # TensorFlow
    img = Image.base("nvcr.io/nvidia/tensorflow:24.01-tf2-py3")
    # Without a step there is nothing to build, and the SDK asks nobody.
    assert img.build().as_image_uri_if_possible() == "nvcr.io/nvidia/tensorflow:24.01-tf2-py3"
    check(img.run_commands("true"))


def test_images_are_shared_and_extended():
    trunk = Image.debian_slim().run_commands("echo trunk > /trunk")
    one = trunk.run_commands("echo one > /one")
    two = trunk.run_commands("test ! -e /one && echo two > /two")
    references = {image.build().as_image_uri_if_possible() for image in (trunk, one, two)}
    assert len(references) == 3
