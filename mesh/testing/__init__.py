"""For tests of what users build: an application served as it will be, on free ports, until the test is over.

    from mesh import testing

    def test_hello():
        with testing.serve("hello:app") as served:
            assert httpx.get(served.http).text == "Hello!"

What is served is the whole thing in processes of its own, as `meshctl run` starts it; nothing of it stays, however the
test ends. With pytest, `mesh.testing.plugin` has the fixture `mesh_app`.
"""

from mesh.testing.serving import Served, serve

__all__ = ["Served", "serve"]
