"""Prices of a shop: what the production guide deploys, changes, breaks and rolls back."""

import logging

from starlette.requests import Request

import mesh

log = logging.getLogger("shop")
PRICES = {"apple": 0.5, "pear": 0.7}


@mesh.deployment(max_ongoing_requests=20, user_config={"currency": "EUR"})
class Prices:
    def __init__(self) -> None:
        self.currency = ""

    def reconfigure(self, user_config: dict[str, str]) -> None:
        """Called at the start, and again whenever user_config changes, without a restart."""
        if len(user_config["currency"]) != 3:
            raise ValueError(f"{user_config['currency']!r} is not a currency")
        self.currency = user_config["currency"]
        log.info("prices are in %s", self.currency)

    def check_health(self) -> None:
        """Called every `health_check_period_s`; raising says that this replica is to be replaced."""
        if not PRICES:
            raise RuntimeError("there are no prices")

    async def __call__(self, request: Request) -> dict[str, object]:
        name = request.query_params.get("of", "apple")
        return {"of": name, "price": PRICES[name], "currency": self.currency}


app = Prices.bind()
