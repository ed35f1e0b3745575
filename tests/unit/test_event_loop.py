"""The event loop of mesh's processes."""

from __future__ import annotations

import asyncio
import socket

from mesh import lifecycle


def test_what_grpcs_poller_wrote_is_read_in_one_round() -> None:
    factory = lifecycle.loop_factory()
    assert factory is not None
    rounds: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = socket.socketpair()
        with reading, writing:
            reading.setblocking(False)
            seen = loop.create_future()

            def _handle_events(context: str) -> None:
                assert context == "context"
                rounds.append(len(reading.recv(1)))
                if not seen.done():
                    seen.set_result(None)

            loop.add_reader(reading, _handle_events, "context")
            for count in (1, 5, 300):
                seen = loop.create_future()
                writing.send(b"1" * count)
                await seen
                for _ in range(10):
                    await asyncio.sleep(0)
            loop.remove_reader(reading)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert rounds == [1] * 4, "a round for each time the poller wrote, and one more for what one look does not take"
