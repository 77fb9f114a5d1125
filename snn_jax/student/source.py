"""The Python of a student's script or notebook, without what is no Python."""

import ast
import json
import re

BIGGEST = 5_000_000


class RefusedError(ValueError):
    """A file that cannot be read, in one line."""


def source_of(path: str) -> str:
    """The Python of a script or notebook, without magics.

    Raises:
        RefusedError: it is neither.
    """
    with open(path, "rb") as file:
        content = file.read(BIGGEST + 1)
    if len(content) > BIGGEST:
        raise RefusedError(f"expected at most {BIGGEST} bytes, found more")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if not path.lower().endswith(".ipynb"):
        return text
    try:
        book = json.loads(text)
        cells = book["cells"] if "cells" in book else book["worksheets"][0]["cells"]
        code = [
            "".join(cell.get("source", cell.get("input", "")))
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise RefusedError(
            "expected a notebook (JSON with cells), found none"
        ) from None
    return "\n\n".join(map(_without_magics, code))


# A line of IPython: %magic, !command, names = !command, name?
MAGIC = re.compile(r"^(\s*)(([\w, ]+=\s*)?[%!?].*|.*[^\s=!<>]\?{1,2})$")


def _without_magics(cell: str) -> str:
    """A cell whose first line is %%something is no Python, but %%time and the like."""
    lines = cell.split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%") and not re.match(
        r"%%(time|timeit|capture|prun)\b", first
    ):
        return ""
    plain = [MAGIC.sub(r"\1pass", line) for line in lines]
    code = "\n".join(plain)
    try:
        ast.parse(code)
    except SyntaxError as error:
        if _is_python_2(code):
            raise RefusedError(_python_2(code)) from None
        # A cell that fails is a cell that the student gave up; the others count.
        return f"pass  # a cell left out: {error.msg}"
    return code


def _is_python_2(code: str) -> bool:
    return re.search(r"^\s*print\s+[^\s(=]", code, re.MULTILINE) is not None


def _python_2(code: str) -> str:
    found = re.search(r"^\s*print\s+[^\s(=].*", code, re.MULTILINE)
    line = found.group().strip()[:40] if found else ""
    return f"expected Python 3, found a print statement of Python 2: {line}"


def tree_of(source: str) -> ast.Module:
    """Its syntax; RefusedError with the line if it is no Python."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        if _is_python_2(source):
            raise RefusedError(_python_2(source)) from None
        where = f" in line {error.lineno}" if error.lineno else ""
        raise RefusedError(
            f"expected Python, found a mistake{where}: {error.msg}"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(f"expected Python, found {error}") from None
