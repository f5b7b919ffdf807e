"""Print the requirements of this package with some of its extras and groups: ``requirements.py train,demo,docs``.

Lets a Makefile install what the package needs before the package itself is built.
"""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

declared = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))
project = declared["project"]
extras = {**project["optional-dependencies"], **declared["dependency-groups"]}
print(*project["dependencies"], sep="\n")
for extra in sys.argv[1].split(","):
    print(*extras[extra], sep="\n")
