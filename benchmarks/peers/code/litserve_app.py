"""LitServe: one worker behind one API server. Its API is POST, with a JSON object.

Run: python litserve_app.py PORT
"""

import sys
from typing import Any

import litserve


class Noop(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, x: dict[str, Any]) -> dict[str, bool]:
        return {"ok": True}

    def encode_response(self, output: dict[str, bool]) -> dict[str, bool]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Noop(api_path="/"), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
