import ast
import re
from pathlib import Path

import lightning_as

PACKAGE = Path(lightning_as.__file__).parent
TABLE = PACKAGE.parent / "docs" / "errors.md"


def beginning(message: ast.expr) -> str:
    """The first words of a message, with … for what varies."""
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
    return re.split(r"[:.;?](?: |$)", text)[0]


def test_every_wiring_error_of_the_plugin_is_in_the_table_and_nothing_else():
    words = {
        beginning(node.args[0])
        for package in ("plugin", "report")
        for path in (PACKAGE / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MisconfigurationException"
    }
    rows = [row.removeprefix("| ").split(" | ") for row in TABLE.read_text().splitlines() if row.startswith("| ")]
    assert all(len(row) == 3 for row in rows)
    assert sorted(words) == sorted({message for message, *_ in rows} - {"message"})
