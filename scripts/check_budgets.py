"""Holds the size budgets of the design: function ≤ 50 lines, class ≤ 300, file ≤ 400, parameters ≤ 6."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FUNCTION_LINES, CLASS_LINES, FILE_LINES, PARAMETERS = 50, 300, 400, 6
PACKAGES = ("mesh", "clients/python/mesh_client")
GENERATED = ("mesh/v1/", "mesh/controlplane/etcdrpc/", "mesh/gateway/reflectionrpc/", "clients/python/mesh_client/v1/")
COMMANDS = "mesh/cli/"
"""Commands take one parameter per option: typer's form."""


def main() -> int:
    """Print each place over a budget; 1 if there is one."""
    found: list[str] = []
    for path in sorted(path for package in PACKAGES for path in Path(package).rglob("*.py")):
        if not str(path).startswith(GENERATED):
            found += check(path)
    print("\n".join(found) or "size budgets hold")
    return bool(found)


def check(path: Path) -> list[str]:
    """Return what is over budget in one file."""
    text = path.read_text()
    found = []
    if (lines := text.count("\n")) > FILE_LINES:
        found.append(f"{path}: {lines} lines (at most {FILE_LINES})")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += check_function(path, node)
        elif isinstance(node, ast.ClassDef) and (size := length(node)) > CLASS_LINES:
            found.append(f"{path}:{node.lineno} class {node.name}: {size} lines (at most {CLASS_LINES})")
    return found


def check_function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return what is over budget in one function."""
    if (str(path).startswith(COMMANDS) and node.decorator_list) or any(map(is_overload, node.decorator_list)):
        return []
    found = []
    if (size := length(node)) > FUNCTION_LINES:
        found.append(f"{path}:{node.lineno} {node.name}: {size} lines (at most {FUNCTION_LINES})")
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = sum(argument.arg not in ("self", "cls") for argument in arguments)
    if count > PARAMETERS:
        found.append(f"{path}:{node.lineno} {node.name}: {count} parameters (at most {PARAMETERS})")
    return found


def is_overload(decorator: ast.expr) -> bool:
    """Whether a decorator marks a typing overload."""
    return isinstance(decorator, ast.Name) and decorator.id == "overload"


def length(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Return the number of lines of a definition."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


if __name__ == "__main__":
    sys.exit(main())
