"""Print what the package needs with some extras and dependency groups: ``requirements.py train,demo,dev``.

Lets a Makefile install what the package needs before the package itself is built.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

CONTENT: dict[str, Any] = tomllib.loads(
    Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
)
PROJECT, GROUPS = CONTENT["project"], CONTENT["dependency-groups"]


def requirements(name: str) -> Iterator[str]:
    """What an extra or a group needs, with all that it includes."""
    extras = PROJECT["optional-dependencies"]
    for entry in extras[name] if name in extras else GROUPS[name]:
        if isinstance(entry, dict):
            yield from requirements(entry["include-group"])
        elif own := re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", entry):
            for extra in own[1].split(","):
                yield from requirements(extra)
        else:
            yield entry


wanted = [*PROJECT["dependencies"], *(r for name in sys.argv[1].split(",") for r in requirements(name))]
print(*dict.fromkeys(wanted), sep="\n")
