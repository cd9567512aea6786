"""Base images under the names that the snippets use, since no registry outside need be reached.

All of them are the stand-in of the other suites (Debian's Python as the official images have it). Some
snippets install what is far too large for a test: their bases have, instead of PyPI and Debian's archive,
packages of those names with nothing in them, so that the snippets stay as they are.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Bases with PyPI and Debian's archive.
WITH_NETWORK = ["python:3.12-slim-bookworm", "python:3.12-slim-trixie"]
# Bases with packages that are empty.
WITH_STAND_INS = ["python:3.14-slim-trixie", "nvcr.io/nvidia/pytorch:24.01-py3"]
# Bases that only have a shell.
WITH_A_SHELL = ["node:22-slim", "ghcr.io/org/image:tag", "nvcr.io/nvidia/tensorflow:24.01-tf2-py3"]
WHEELS = {"torch": "2.3.0", "transformers": "4.41.0", "accelerate": "0.30.0"}
DEBS = ["ffmpeg", "libsndfile1"]

PIP_CONF = "[global]\nno-index = true\nfind-links = /opt/stand-ins\n"
SOURCES = "deb [trusted=yes] file:/opt/stand-ins ./\n"


def wheel(name, version):
    """Name and bytes of a wheel with one empty module (PyPA's "Binary distribution format")."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", out.getvalue()


def deb(folder, name):
    """Name and bytes of a Debian package without files, and its entry in the list."""
    control = (
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: tests <tests@localhost>\n"
        "Description: stand-in\n"
    )
    root = Path(folder) / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(control)
    path = Path(folder) / f"{name}.deb"
    build = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(path)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    data = path.read_bytes()
    entry = f"{control}Filename: ./{path.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    return path.name, data, entry


def stand_ins(folder):
    """The layer with the packages, as a tar."""
    files = dict(wheel(name, version) for name, version in WHEELS.items())
    entries = []
    for name in DEBS:
        path, data, entry = deb(folder, name)
        files[path] = data
        entries.append(entry)
    files["Packages"] = "\n".join(entries).encode()
    files = {f"opt/stand-ins/{path}": data for path, data in files.items()}
    files["etc/pip.conf"] = PIP_CONF.encode()
    files["etc/apt/sources.list"] = SOURCES.encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def with_layer(layout, into, tar):
    """A copy of an OCI layout with one layer more."""
    blobs = Path(into) / "blobs/sha256"
    blobs.mkdir(parents=True)
    for blob in (Path(layout) / "blobs/sha256").iterdir():
        os.symlink(blob, blobs / blob.name)

    def blob(digest):
        return json.loads((blobs / digest.removeprefix("sha256:")).read_text())

    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    index = json.loads((Path(layout) / "index.json").read_text())
    manifest = blob(index["manifests"][0]["digest"])
    config = blob(manifest["config"]["digest"])
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(tar).hexdigest())
    config["history"] = config.get("history", []) + [{"created_by": "stand-ins"}]
    manifest["config"] |= put(json.dumps(config).encode())
    layer = put(gzip.compress(tar, mtime=0))
    manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer})
    index["manifests"][0] |= put(json.dumps(manifest).encode())
    (Path(into) / "index.json").write_text(json.dumps(index))
    (Path(into) / "oci-layout").write_text((Path(layout) / "oci-layout").read_text())


def shell(path):
    """A root with busybox, as a tar."""
    with tarfile.open(path, mode="w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "true"):
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(member)
    return path


def bring_in(service, layout, scratch):
    """Imports all bases into the state of a running service; their digests, by name."""
    scratch = Path(scratch)
    scratch.mkdir()
    other = scratch / "layout"
    with_layer(layout, other, stand_ins(scratch))
    sources = {layout: WITH_NETWORK, other: WITH_STAND_INS, shell(scratch / "shell.tar"): WITH_A_SHELL}
    asked = [(str(path), name) for path, names in sources.items() for name in names]

    def bring(path, name):
        return name, service.json("compute", "image", "import", path, "--as", name)["digest"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(lambda both: bring(*both), asked))
