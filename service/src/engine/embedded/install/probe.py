import json, os, sys, sysconfig

def config():
    """pip's configuration files (pip's documentation, "Configuration"), weakest first."""
    from configparser import RawConfigParser
    home = os.path.expanduser("~")
    dirs = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    files = [os.path.join(d, "pip", "pip.conf") for d in dirs.split(":") if d]
    files += ["/etc/pip.conf", os.path.join(home, ".pip", "pip.conf")]
    user = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files += [os.path.join(user, "pip", "pip.conf"), os.path.join(sys.prefix, "pip.conf")]
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        files = []
    elif named:
        files.append(named)
    found = {}
    for file in files:
        parser = RawConfigParser()
        try:
            with open(file, encoding="utf-8") as f:
                parser.read_file(f)
        except (OSError, UnicodeError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.setdefault(section, {}).update(parser.items(section))
    merged = dict(found.get("global", {}))
    merged.update(found.get("install", {}))
    return {k.replace("_", "-"): " ".join(v.split()) for k, v in merged.items()}

def writable(path):
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK)

def has_pip():
    import importlib.util
    return importlib.util.find_spec("pip") is not None

print(json.dumps({
    "version": list(sys.version_info[:2]),
    "executable": sys.executable,
    "implementation": sys.implementation.name,
    "writable": writable(sysconfig.get_path("purelib")),
    "pip": has_pip(),
    "config": config(),
}))
