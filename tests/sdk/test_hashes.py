"""The same declaration has the same hash in Chalk's SDK, in image.toml, in Rust and in JavaScript."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import lz4.frame
import pytest
from chalkcompute import Image
from chalkcompute._connect import ConnectClient
from chalkcompute._gen.chalk.sandbox.v1 import service_connect, service_pb as pb
from protobuf import Oneof

HERE = Path(__file__).parent
PROJECT = HERE.parents[1] / "examples/uv-project"
# What `debian_slim("3.12")` means to Chalk's SDK.
BASE = "python:3.12-slim-trixie"
NAMES = ["page", "file", "instructions", "project"]

TOML = {
    "page": """
workdir = "/app"
env = { PROJECT_ROOT = "/app" }
[[step]]
pip_install = ["requests", "pandas>=2.0"]
[[step]]
run_commands = ["apt-get update && apt-get install -y git curl"]
""",
    "file": """
[[step]]
add_local_file = { src = "app.py", dest = "/app/app.py", strategy = "copy" }
[[step]]
add_local_file = { src = "app.py", dest = "/app/run", strategy = "copy", mode = "0755" }
""",
    "instructions": """
entrypoint = ["/bin/echo"]
cmd = ["hello"]
[[step]]
dockerfile_commands = ["EXPOSE 8080", "RUN useradd -m worker", "USER worker"]
""",
    "project": """
[[step]]
uv_pip_install = ["idna==3.7"]
[[step]]
uv_sync = { project = ".", extras = ["shell"], workdir = "/srv" }
""",
}


def declared(folder):
    """The declarations, as the SDK sends them."""
    base = Image.debian_slim("3.12")
    app = str(folder / "app.py")
    images = {
        "page": base.pip_install(["requests", "pandas>=2.0"])
        .run_commands("apt-get update && apt-get install -y git curl")
        .workdir("/app")
        .env({"PROJECT_ROOT": "/app"}),
        "file": base.add_local_file(app, "/app/app.py", strategy="copy").add_local_file(
            app, "/app/run", strategy="copy", mode=0o755
        ),
        "instructions": base.dockerfile_commands(["EXPOSE 8080", "RUN useradd -m worker", "USER worker"])
        .entrypoint(["/bin/echo"])
        .cmd(["hello"]),
        "project": base.uv_pip_install(["idna==3.7"]),
    }
    specs = {name: image.to_proto() for name, image in images.items()}
    pack = lambda name: lz4.frame.compress((PROJECT / name).read_bytes())
    # The SDK has no method for this step, only its message.
    sync = pb.UvSyncStep(
        pyproject_toml=Oneof("pyproject_toml_lz4", pack("pyproject.toml")),
        uv_lock=Oneof("uv_lock_lz4", pack("uv.lock")),
        extras=["shell"],
        workdir="/srv",
    )
    specs["project"].steps.append(pb.BuildStep(step=Oneof("uv_sync", sync)))
    return specs


def printed(words):
    ran = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def hashes(service, shared, tmp_path_factory):
    """By the SDK, by the command, by Rust and by JavaScript."""
    folder = tmp_path_factory.mktemp("declared")
    (folder / "app.py").write_text("print('app')\n")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(PROJECT / name, folder)
    connect = ConnectClient()
    stub = connect.stub(service_connect.CustomImageServiceClientSync)
    found = {"sdk": {}, "toml": {}}
    for name, spec in declared(folder).items():
        request = pb.GetOrBuildCustomImageRequest(image_spec=spec)
        found["sdk"][name] = connect.call(stub.get_or_build_custom_image, request).content_hash
    for name, text in TOML.items():
        file = folder / f"{name}.toml"
        file.write_text(f'[image]\nbase = "{BASE}"{text}')
        found["toml"][name] = service.json("compute", "image", "hash", str(file))["image_hash"]
    base = f"{BASE}@{shared.bases[BASE]}"
    found["rust"] = printed([os.environ["CHALK_TEST_HASHES"], base])
    found["npm"] = printed(["node", HERE / "hashes.mjs", os.environ["CHALK_TEST_PACKAGE"], base])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_declaration_has_one_hash(hashes, name):
    of_name = {way: hashes[way][name] for way in hashes}
    assert len(of_name) == 4 and len(set(of_name.values())) == 1, of_name


def test_different_declarations_have_different_hashes(hashes):
    for way in hashes:
        assert len(set(hashes[way].values())) == len(NAMES), way
