from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import mesh
from mesh.errors import NotFound
from mesh.testing.target import import_path


@mesh.deployment
def greet(request: object) -> str:
    return "hello"


def named(monkeypatch: pytest.MonkeyPatch, name: str, file: Path, application: mesh.Application) -> None:
    module = ModuleType(name)
    module.__file__ = str(file)
    module.app = application  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("name", "file", "found", "directory"),
    [
        ("shop", "shop.py", "shop:app", ""),
        ("web.shop", "web/shop.py", "web.shop:app", ""),
        ("web", "web/__init__.py", "web:app", ""),
        ("web.shop", "web/shop/__init__.py", "web.shop:app", ""),
        ("tests.web.test_shop", "elsewhere/test_shop.py", "test_shop:app", "elsewhere"),
    ],
)
def test_an_application_is_found_by_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, file: str, found: str, directory: str
) -> None:
    application = greet.bind()
    named(monkeypatch, name, tmp_path / file, application)
    assert import_path(application) == (found, tmp_path / directory)


def test_what_no_module_has_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    application = greet.bind()
    named(monkeypatch, "__main__", tmp_path / "script.py", application)
    with pytest.raises(NotFound, match="'greet' has no name"):
        import_path(application)
