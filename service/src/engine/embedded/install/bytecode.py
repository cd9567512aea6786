"""Compiles what is installed, as compileall does, to bytecode that is checked by its source's hash (PEP 552).

What was compiled before comes from the directory sys.argv[1]: by the path, which is part of the bytecode, the
bytes of the source and the level of optimisation. Each file there begins with the digest of the rest, since a
power loss may have torn it.
"""
import sys

# Not from the directory that this runs in.
sys.path = [folder for folder in sys.path if folder]

import compileall, hashlib, importlib.util, os, py_compile, sysconfig, warnings
from importlib._bootstrap_external import _calc_mode, _write_atomic

CHECKED = b"\x03\x00\x00\x00"
MAGIC = importlib.util.MAGIC_NUMBER
DIGEST = hashlib.sha256().digest_size


def sources():
    found = set()
    for root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for folder, _, names in os.walk(root):
            found.update(os.path.join(folder, name) for name in names if name.endswith(".py"))
    return sorted(found)


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def compile_file(path, cache):
    source = read(path)
    target = importlib.util.cache_from_source(path)
    head = MAGIC + CHECKED + importlib.util.source_hash(source)
    if read(target)[:16] == head:
        return
    key = b"%d\0%b\0%b" % (sys.flags.optimize, os.fsencode(path), source)
    name = hashlib.sha256(key).hexdigest()
    kept_path = os.path.join(cache, name[:2], name)
    kept = read(kept_path)
    digest, bytecode = kept[:DIGEST], kept[DIGEST:]
    if bytecode[:16] == head and hashlib.sha256(bytecode).digest() == digest:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write_atomic(target, bytecode, _calc_mode(path))
        return
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_file(path, quiet=2, invalidation_mode=mode)
    bytecode = read(target)
    if bytecode[:16] == head:
        os.makedirs(os.path.dirname(kept_path), exist_ok=True)
        _write_atomic(kept_path, hashlib.sha256(bytecode).digest() + bytecode)


def compile_all(paths, cache):
    warnings.simplefilter("ignore")
    for path in paths:
        try:
            compile_file(path, cache)
        # As pip does: what cannot be compiled cannot be imported either, and tells so then.
        except Exception as error:
            print(f"not compiled: {path}: {error}", file=sys.stderr)


def main():
    cache = os.path.join(sys.argv[1], sys.implementation.cache_tag)
    paths, count = sources(), len(os.sched_getaffinity(0))
    workers = []
    for number in range(count):
        worker = os.fork()
        if worker == 0:
            compile_all(paths[number::count], cache)
            sys.stdout.flush()
            os._exit(0)
        workers.append(worker)
    ended = [os.waitpid(worker, 0)[1] for worker in workers]
    sys.exit(any(status != 0 for status in ended))


main()
