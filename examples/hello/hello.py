"""An asynchronous deployment that reads a query parameter and is configured while it runs."""

from typing import Any

from starlette.requests import Request

import mesh


@mesh.deployment
class Hello:
    def __init__(self, greeting: str = "Hello") -> None:
        self._greeting = greeting
        self._mark = "!"

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take a new user_config, without a restart."""
        self._mark = user_config.get("mark", "!")

    async def __call__(self, request: Request) -> dict[str, str]:
        name = request.query_params.get("name", "world")
        return {"message": f"{self._greeting}, {name}{self._mark}"}


def build(args: dict[str, Any]) -> mesh.Application:
    """Bind the deployment with the arguments of the config file or of the command line."""
    return Hello.bind(greeting=args.get("greeting", "Hello"))


app = Hello.bind()
