"""When a process that was launched ahead can stand for one that is wanted now."""

from __future__ import annotations

import pytest

from mesh.worker.ahead import fits
from mesh.worker.spawn import Image

COMMAND = ("/usr/bin/python3", "-P", "-m", "mesh.worker.build", "--parent", "7")
WAITING = Image(COMMAND, {"PATH": "/bin"})


def test_one_that_would_be_launched_just_so_fits() -> None:
    assert fits(WAITING, Image(COMMAND, {"PATH": "/bin"}), "")
    assert fits(WAITING, WAITING, "/srv/app")


@pytest.mark.parametrize(
    "wanted",
    [
        Image(("/opt/venv/bin/python", *COMMAND[1:]), {"PATH": "/bin"}),
        Image((*COMMAND, "--host", "10.0.0.1"), {"PATH": "/bin"}),
        Image(COMMAND, {"PATH": "/bin", "MODE": "fast"}),
        Image(COMMAND, {"PATH": "/opt/venv/bin:/bin"}),
        Image(COMMAND, {}),
    ],
    ids=["interpreter", "argument", "env_vars", "another value", "one less"],
)
def test_another_command_or_environment_does_not_fit(wanted: Image) -> None:
    assert not fits(WAITING, wanted, "")


@pytest.mark.parametrize(
    ("places", "movable"),
    [("", True), ("/a", True), ("/a:/b", True), ("src", False), ("/a:src", False), ("/a:", False), ("/a::/b", False)],
)
def test_one_that_looked_for_modules_beside_it_stays_where_it_is(places: str, movable: bool) -> None:
    image = Image(COMMAND, {"PYTHONPATH": places})
    assert fits(image, image, "/srv/app") is movable
    assert fits(image, image, "")


def test_a_directory_that_means_another_from_elsewhere_does_not_fit() -> None:
    assert not fits(WAITING, WAITING, "app")
