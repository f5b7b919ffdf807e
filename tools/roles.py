"""Cross-references of docstrings (``:func:`~optical_rs.ranking.evaluate` ``) as links of the documentation."""

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc):`(~?)([\w.]+)`")


class Roles(Extension):
    """Turns roles into links to what the site documents, and into plain code where it does not."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(lambda role: self._link(obj, role), obj.docstring.value)

    @staticmethod
    def _link(obj: Object, role: re.Match) -> str:
        short, name = role[1], role[2]
        shown = name.rpartition(".")[2] if short else name.removeprefix(".")
        if not name.startswith("optical_rs"):
            scope = obj if obj.is_module or obj.is_class else obj.parent
            found = scope.resolve(name) if scope is not None and name in scope.members else None
            module = obj.module
            name = found or f"{module.path}.{name.removeprefix('.')}"
        return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'
