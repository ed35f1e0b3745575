"""Who streams an answer lets others run where it never waits, and is not held up where others have much to say."""

from __future__ import annotations

import pytest

from mesh.pipe.callee import Callee, ServedPipe
from mesh.pipe.codec import JOINED_BYTES
from mesh.pipe.outbox import FRAMES_MAX
from mesh.pipe.served_call import ServedCall
from mesh.v1 import replica_service_pb2 as pb


async def test_only_a_call_that_has_much_waiting_itself_lets_others_run_before_it_writes_more() -> None:
    pipe = ServedPipe(Callee(4, lambda call: lambda: None), context=None)
    for number in range(2, FRAMES_MAX + 2):
        pipe.outbox.put(pb.ResponseFrame(call=number, head=pb.Head(status=200)))
    call = ServedCall(pipe, 1, pb.Open())
    first = call.write(b"x")
    with pytest.raises(StopIteration):
        first.send(None)
    second = call.write(bytes(JOINED_BYTES))
    assert second.send(None) is None
    with pytest.raises(StopIteration):
        second.send(None)
    assert len(pipe.outbox) == FRAMES_MAX + 2
