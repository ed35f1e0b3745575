"""BentoML: one worker. Its API methods are POST, with a JSON object of their arguments."""

import bentoml


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Noop:
    @bentoml.api(route="/")
    async def noop(self) -> dict[str, bool]:
        return {"ok": True}
