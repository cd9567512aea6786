#!/usr/bin/env python3
"""Checks the vectors of hash version 1 (docs/hash-v1.md) with nothing but Python's standard library.

Written from the document and not from the Rust code, so that the two find each other's faults.
"""
import hashlib, json, pathlib, re, sys

BUILDER = "2"
ARCHIVE = re.compile(r"\.(whl|zip|tar|tar\.gz|tgz|tar\.bz2|tbz|tar\.xz|txz|tar\.lz|tlz|tar\.lzma)$")
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
VERSION = re.compile(r"(===|[=!~<>]=|<|>)[ \t]*[A-Za-z0-9._*+!-]+")

def jcs(value):
    """RFC 8785. Documents hold no fractions, so Python's own printing of numbers is enough."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(jcs(name) + ":" + jcs(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(jcs, value)) + "]"
    return json.dumps(value, ensure_ascii=False)

def sha256(data):
    return "sha256:" + hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()

def requirement(text):
    """The normal form of a plain requirement, None for one that is kept, ValueError for neither."""
    stripped = text.strip()
    head, _, marker = stripped.partition(";")
    if (stripped.startswith("-") or re.search(r"[@/\\]| --", head) or head.startswith(".")
            or " --" in marker or "${" in text or ARCHIVE.search(head.split("[")[0].rstrip().lower())):
        return None
    found = re.fullmatch(rf"({NAME})\s*(?:\[([^\]]*)\])?\s*(?:\(([^)]*)\)|([^()]*))\s*", head)
    if not found or "\n" in text:
        raise ValueError(text)
    parts = lambda group: [part.strip() for part in group.split(",")] if (group or "").strip() else []
    extras, versions = parts(found[2]), parts(re.sub(r",\s*$", "", found[3] or found[4] or ""))
    if not all(re.fullmatch(NAME, e) for e in extras) or not all(map(VERSION.fullmatch, versions)):
        raise ValueError(text)
    versions = sorted({re.sub(r"[ \t]+", "", version) for version in versions}, key=lambda v: (v[:3] == "===", v))
    return (re.sub(r"[-_.]+", "-", found[1]).lower() + (f"[{','.join(sorted(set(extras)))}]" if extras else "")
            + ",".join(versions) + (";" + marker.strip() if marker else ""))

def requirements(entries):
    plain = [requirement(entry) for entry in entries]
    return entries if None in plain else sorted(set(plain))

def path(text):
    return "/" + "/".join(word for word in text.split("/") if word not in ("", "."))

def platform(text):
    words = text.split("/")
    words[1] = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(words[1], words[1])
    return "/".join(words[:2] if words[1:] == ["arm64", "v8"] else words)

def image(node, recipe):
    """A base: its digest when pinned, else its normalised reference."""
    name, _, digest = node["ref"].partition("@")
    digest = node.get("digest", digest)
    if digest and not recipe:
        return digest
    host, slash, rest = name.partition("/")
    if not slash or not (re.search(r"[.:A-Z]", host) or host == "localhost"):
        host, rest = "docker.io", name
    host = "docker.io" if host == "index.docker.io" else host
    rest = "library/" + rest if host == "docker.io" and "/" not in rest else rest
    out = {"ref": f"{host}/{rest}" if ":" in rest else f"{host}/{rest}:latest"}
    return {**out, "platform": platform(node["platform"])} if "platform" in node else out

def instruction(node, recipe):
    images = [image(each, recipe) for each in node.get("images", [])]
    return {**{n: v for n, v in node.items() if n not in ("force", "images") and v}, **({"images": images} if images else {})}

def base(node, recipe):
    if node == "scratch" or "stage" in node:
        return node
    if "dockerfile" not in node:
        return image(node, recipe)
    stages = [{"base": base(stage["base"], recipe),
               "instructions": [instruction(each, recipe) for each in stage.get("instructions", [])]}
              for stage in node["dockerfile"]["stages"]]
    return {"dockerfile": {"stages": [{n: v for n, v in stage.items() if v} for stage in stages]}}

def step(node, recipe):
    unique = lambda texts: sorted(set(texts))
    packages = unique if node["kind"] == "apt_install" else requirements
    extras = lambda names: unique(re.sub(r"[-_.]+", "-", name).lower() for name in names)
    normal = {"packages": packages, "dest": path, "workdir": path, "extras": extras, "mode": lambda mode: mode.zfill(4), "secrets": unique}
    return {n: normal[n](v) if n in normal else v for n, v in instruction(node, recipe).items()}

def canonical(spec, recipe=False):
    normal = {"platform": platform, "workdir": path, "base": lambda node: base(node, recipe),
              "steps": lambda steps: [step(each, recipe) for each in steps]}
    return {n: normal[n](v) if n in normal else v for n, v in {"platform": "linux/amd64", **spec}.items()
            if n not in ("name", "mounts") and v}

def keys(document):
    """Step keys of a canonical document: of a Dockerfile base's stages, then of the steps."""
    link = lambda document: sha256(jcs(document))
    first = lambda node: link({"schema": "chalk.step/v1", "builder": BUILDER, "base": node, "platform": document["platform"]})
    out, last, root = [], [], document["base"]
    for stage in root["dockerfile"]["stages"] if "dockerfile" in root else []:
        prev = last[stage["base"]["stage"]] if "stage" in stage["base"] else first(stage["base"])
        for each in stage.get("instructions", []):
            flags = re.match(r"\S+((?: --\S+)*)", each["text"])[1]
            read = re.findall(r" --from=(\d+)(?!\S)|(?<=[=,\"])from=(\d+)(?=[,\" ]|$)", flags)
            stages = list(dict.fromkeys(int(a or b) for a, b in read))
            node = {"prev": prev, "step": {"kind": "dockerfile", **each}}
            prev = link({**node, "from": [last[n] for n in stages]} if stages else node)
            out.append(prev)
        last.append(prev)
    prev = last[-1] if last else first(root)
    for each in document.get("steps", []):
        sees = {"add_file": 0, "add_dir": 0, "run": 3, "dockerfile": 3, "uv_sync": 2 if "workdir" in each else 3}
        sees = ("env", "user", "workdir")[:sees.get(each["kind"], 2)]
        prev = link({"prev": prev, "step": each, **{n: document[n] for n in sees if n in document}})
        out.append(prev)
    return out

def tree(files):
    """Digest of a directory: each file with its contents and whether its owner may execute it."""
    entry = lambda file: ({"type": "symlink", "target": file["symlink"]} if "symlink" in file else {"type": "dir"} if "dir" in file
        else {"type": "file", "digest": sha256(file["text"]), "mode": "0755" if file.get("executable") else "0644"})
    return sha256(jcs([{"path": p, **entry(files[p])} for p in sorted(files, key=str.encode)]))

def check(vector):
    """What is wrong with a vector, as a list of (field, expected, computed)."""
    other = {"value": ("canonical", jcs), "tree": ("digest", tree), "requirements": ("normal", requirements)}
    got = {field: make(vector[name]) for name, (field, make) in other.items() if name in vector}
    if "spec" in vector:
        document, recipe = canonical(vector["spec"]), canonical(vector["spec"], True)
        pinned = '"ref":' not in jcs(document["base"]) + jcs([s.get("images") for s in document.get("steps", [])])
        got = {"canonical": jcs(document), "recipe_hash": sha256(jcs(recipe)),
               "image_hash": sha256(jcs(document)) if pinned else None, "keys": keys(document)}
    return [(name, vector.get(name), value) for name, value in got.items() if vector.get(name) != value]

if __name__ == "__main__":
    count = faults = 0
    for file in sorted(pathlib.Path(__file__).parent.glob("*.json")):
        for group in json.loads(file.read_text("utf-8"))["groups"]:
            vectors = [vector for vector in group["vectors"] if "refused" not in vector]
            wrong = [(v["name"], *w) for v in vectors for w in check(v)]
            hashes = [v.get("image_hash") or v.get("recipe_hash") or v.get("digest") for v in vectors]
            if len(set(hashes)) != {"equal": 1, "differ": len(hashes)}.get(group.get("expect"), len(set(hashes))):
                wrong.append(("hashes", group["expect"], hashes, ""))
            for name, field, expected, computed in wrong:
                print(f"{file.name}: {group['name']}: {name}: {field}\n  file {expected}\n  here {computed}")
            count, faults = count + len(vectors), faults + len(wrong)
    print(f"{count} vectors checked, {faults} faults")
    sys.exit(1 if faults or not count else 0)
