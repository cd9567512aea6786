"""What PyPA's own `packaging` says of requirements: one JSON line in, one out.

In: ["text", "normal form" or null]. Out: "refused", "url", or [same, name], where `same` says whether
the normal form means the same as the text.
"""
import json, sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

for line in sys.stdin:
    text, normal = json.loads(line)
    try:
        meant = Requirement(text)
    except ValueError:  # InvalidRequirement, and InvalidSpecifier, which it lets through
        print(json.dumps("refused"))
        continue
    if meant.url:
        print(json.dumps("url"))
        continue
    same = normal is not None and Requirement(normal) == meant
    print(json.dumps([same, canonicalize_name(meant.name)]))
