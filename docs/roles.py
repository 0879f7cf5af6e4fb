"""Docstrings as the site wants them: Sphinx's roles, such as :class:`Bins`, become links."""

import re

import griffe

_ROLE = re.compile(r":(class|meth|func|attr|mod|data):`~?([\w.]+)`")


class Roles(griffe.Extension):
    """Changes the docstrings before they are read."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Replace the roles, and ``Example:``, which is a section by the name of ``Examples:`` alone."""
        if obj.docstring is not None:
            scope = obj.path if obj.is_class else obj.path.rpartition(".")[0]
            obj.docstring.value = with_links(obj.docstring.value, scope).replace("Example:\n", "Examples:\n")


def with_links(docstring: str, scope: str) -> str:
    """A docstring with cross-references of the site.

    They are optional: what the reference does not have, as it is no public name, stays code.

    Args:
        docstring: With roles.
        scope: Path of the class that methods and attributes without one are of.
    """

    def replace(role: re.Match[str]) -> str:
        kind, name = role.groups()
        target = name if name.startswith("lightning_as") else f"lightning_as.{name}"
        if kind in {"meth", "attr"} and "." not in name:
            target = f"{scope}.{name}"
        shown = name if kind in {"meth", "attr"} else name.rpartition(".")[2]
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    return _ROLE.sub(replace, docstring)
