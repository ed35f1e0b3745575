"""What a package leaves out: `.gitignore`, `.meshignore`, and what is never code.

Owns the order in which rules count: those of a deeper directory before those above it; in one directory `.meshignore`
before `.gitignore`; what is left out by default last of all, so that "!.venv/" brings it back. A directory that is left
out is not entered, as in git, so that nothing in it can be brought back. Never reads files. Called by `pack`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

IGNORE_FILES = (".gitignore", ".meshignore")
"""In the order in which they are read: the last rule that matches counts."""
DEFAULTS = (
    "__pycache__/",
    "*.py[cod]",
    ".venv/",
    "venv/",
    "node_modules/",
    ".hg/",
    ".svn/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    ".tox/",
    ".nox/",
    ".idea/",
    ".vscode/",
    "*.egg-info/",
    ".DS_Store",
    # Credentials, which are not to be stored: processes get them by env_vars.
    ".env",
    ".netrc",
    ".ssh/",
    ".aws/",
    # Locks of an editor: links to nothing.
    ".#*",
)
NEVER = (".git", *IGNORE_FILES)
"""No rule brings these. The first is a directory, or the file that stands for it in a work tree: history, and sometimes
credentials. Ignore files say what is code, and are none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: what it matches is left out, or brought back."""

    leaves_out: bool
    regex: re.Pattern[Any]

    def matches(self, path: str, *, directory: bool) -> bool:
        """Whether it names this very path, as in git, and not only a directory that it is in."""
        # The expressions match everything below a directory as well, and then mark it with a group.
        found = self.regex.search(path)
        if found is not None and found.lastgroup is None:
            return True
        marked = (found for found in self.regex.finditer(path + "/") if found.lastgroup is not None)
        return directory and any(found.end() == len(path) + 1 for found in marked)


@dataclass(frozen=True, slots=True)
class Ignored:
    """The rules for the contents of one directory: its own, and those of the directories above it."""

    rules: tuple[tuple[int, tuple[Rule, ...]], ...]
    """Deepest and last first; with each, how many characters of a path lead to the directory that it is of."""

    @classmethod
    def at_top(cls) -> Ignored:
        """Return the rules that hold where nobody wrote any."""
        return cls(()).within("", DEFAULTS)

    def within(self, directory: str, lines: Iterable[str]) -> Ignored:
        """Return the rules for what is in `directory` ("" or a path that ends in "/"), with its own in `lines`.

        Raises ValueError if one of them is no pattern.
        """
        # Not before there is something to pack: it takes 20 ms of each start.
        from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

        patterns = [GitIgnoreSpecPattern(line) for line in lines]
        rules = tuple(
            Rule(pattern.include, pattern.regex)
            for pattern in reversed(patterns)
            if pattern.include is not None and pattern.regex is not None
        )
        return Ignored(((len(directory), rules), *self.rules)) if rules else self

    def leaves_out(self, path: str, *, directory: bool) -> bool:
        """Whether a path, from the top on, is left out."""
        if path.rpartition("/")[2] in NEVER:
            return True
        for cut, rules in self.rules:
            for rule in rules:
                if rule.matches(path[cut:], directory=directory):
                    return rule.leaves_out
        return False
