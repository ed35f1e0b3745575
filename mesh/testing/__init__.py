"""For tests of what users build: an application served as it will be, on free ports, until the test is over.

    from mesh import testing

    def test_hello():
        with testing.serve("hello:app") as served:
            assert httpx.get(served.http).text == "Hello!"

`serve` runs the whole thing in processes of its own, as `meshctl run` does; nothing of it stays, however the test ends.
`in_process` runs gateway and replicas within the test's event loop. With pytest, `mesh.testing.plugin` has the fixture
`mesh_app`. The names are loaded when they are first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh.testing.in_process import InProcess, in_process
    from mesh.testing.serving import Served, serve

__all__ = ["InProcess", "Served", "in_process", "serve"]

_MODULES = {
    "InProcess": "mesh.testing.in_process",
    "Served": "mesh.testing.serving",
    "in_process": "mesh.testing.in_process",
    "serve": "mesh.testing.serving",
}


def __getattr__(name: str) -> object:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value
