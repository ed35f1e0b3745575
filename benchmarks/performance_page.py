"""Makes docs/performance.md and its plots from benchmarks/results/*.json. Run: python -m benchmarks.performance_page

The text is in `page`; what people note by hand is in benchmarks/tried.md (what did not pay) and benchmarks/not_met.md
(why a goal was not reached: `page.reasons` has its form), and becomes part of the page. With `--check` nothing is
written; 1 if the committed page is another.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.page.sections import page, plots
from benchmarks.page.tables import PLOTS

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
NOTES = ("tried", "not_met")


def made() -> dict[Path, str]:
    """Return the files and their text."""
    files = [file for file in sorted((HERE / "results").glob("*.json")) if "." not in file.stem]
    results = {file.stem: json.loads(file.read_text()) for file in files}
    notes = {name: file.read_text() for name in NOTES if (file := HERE / f"{name}.md").exists()}
    drawn = {DOCS / PLOTS / f"{name}.svg": text for name, text in plots(results).items()}
    return {DOCS / "performance.md": page(results, notes), **drawn}


def differing(files: dict[Path, str]) -> list[Path]:
    """Return the files that are not as they are made now."""
    return [file for file, text in files.items() if not file.exists() or file.read_text() != text]


def strange(files: dict[Path, str], directory: Path) -> list[Path]:
    """Return the plots in a directory that are not made any more."""
    return [file for file in sorted(directory.glob("*.svg")) if file not in files]


def write(files: dict[Path, str], plots_in: Path) -> list[Path]:
    """Write the files and remove plots that are not made any more; return what has changed."""
    changed = differing(files)
    for file in changed:
        file.parent.mkdir(exist_ok=True)
        file.write_text(files[file])
    for file in (gone := strange(files, plots_in)):
        file.unlink()
    return changed + gone


def main() -> int:
    """Write them, or see whether they are current."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    check = parser.parse_args().check
    files = made()
    if check:
        for file in (stale := differing(files) + strange(files, DOCS / PLOTS)):
            print(f"{file} is not what benchmarks/results say: run python -m benchmarks.performance_page")
        return int(bool(stale))
    print("\n".join(f"wrote {file}" for file in write(files, DOCS / PLOTS)) or "nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
