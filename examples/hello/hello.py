"""An asynchronous deployment that reads a query parameter, bound as it is or with arguments.

meshctl run hello:app
meshctl run hello:build greeting=Hallo
"""

from collections.abc import Mapping

from starlette.requests import Request

import mesh


@mesh.deployment
class Hello:
    def __init__(self, greeting: str = "Hello") -> None:
        self._greeting = greeting

    async def __call__(self, request: Request) -> dict[str, str]:
        name = request.query_params.get("name", "world")
        return {"message": f"{self._greeting}, {name}!"}


def build(args: Mapping[str, str]) -> mesh.Application:
    """Bind the deployment with the arguments of the config file or of the command line."""
    return Hello.bind(greeting=args.get("greeting", "Hello"))


app = Hello.bind()
