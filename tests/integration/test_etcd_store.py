"""The store on real etcd servers that die, freeze, forget, ask for certificates and for passwords."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from mesh.clock import SYSTEM
from mesh.controlplane import etcd_connection, etcd_watch, etcdrpc
from mesh.controlplane.etcd_store import EtcdOptions, EtcdStore, open_etcd
from mesh.controlplane.etcdrpc.auth_pb2 import Permission
from mesh.controlplane.store import Batch, Compacted, Compare, OutcomeUnknown, Put
from mesh.errors import Conflict, InvalidConfig, Unreachable
from tests.support.certificates import Authority
from tests.support.etcd import EtcdCluster, EtcdMember, Tls, free_port


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def trio() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


def options(cluster: EtcdCluster, prefix: str = "/mesh/test") -> EtcdOptions:
    return EtcdOptions(cluster.endpoints, prefix)


async def restart(cluster: EtcdCluster, *members: EtcdMember) -> None:
    cluster.launch(*members)
    await asyncio.to_thread(cluster.wait_healthy, *members)


async def put(store: EtcdStore, key: str, value: bytes) -> int:
    """Put until it is there, whatever happens on the way; return the revision of the put that did it."""
    while True:
        try:
            found = await store.get(key)
            if found is not None and found.value == value:
                return found.revision
            compare = Compare(key, found.revision if found else 0)
            return await store.commit((compare,), (Put(key, value),))
        except (Unreachable, OutcomeUnknown, Conflict):
            await asyncio.sleep(0.05)


async def collect(changes: AsyncGenerator[Batch, None], count: int) -> list[tuple[str, bytes | None]]:
    seen: list[tuple[str, bytes | None]] = []
    revisions: list[int] = []
    while len(seen) < count:
        batch = await anext(changes)
        revisions.append(batch.revision)
        seen += [(event.key, event.value) for event in batch.events]
    assert revisions == sorted(set(revisions))
    return seen


async def test_a_watch_goes_on_without_a_gap_when_etcd_was_killed(etcd: EtcdCluster) -> None:
    store = await open_etcd(options(etcd))
    (member,) = etcd.members
    async with aclosing(store.watch("w/", after=0)) as changes:
        await put(store, "w/1", b"1")
        assert await collect(changes, 1) == [("w/1", b"1")]
        await put(store, "w/2", b"2")
        waiting = asyncio.ensure_future(collect(changes, 4))
        for number in (3, 4):
            member.kill()
            await asyncio.gather(restart(etcd, member), put(store, f"w/{number}", str(number).encode()))
        await put(store, "w/5", b"5")
        expected = [(f"w/{number}", str(number).encode()) for number in (2, 3, 4, 5)]
        assert await waiting == expected
    await store.close()


async def test_an_etcd_that_is_not_there_is_named(etcd: EtcdCluster) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=endpoint) as caught:
        await open_etcd(EtcdOptions((endpoint,), "/mesh", timeout_s=0.5))
    assert caught.value.hint
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
        await open_etcd(EtcdOptions(("no-such-host.invalid:2379",), "/mesh", timeout_s=0.5))
    store = await open_etcd(replace(options(etcd), timeout_s=0.5))
    lease = await store.grant(60.0)
    etcd.members[0].kill()
    for call in (store.get("a"), store.list("a"), store.grant(5.0), store.keep_alive(lease), store.revoke(lease)):
        with pytest.raises(Unreachable, match=etcd.endpoints[0]):
            await call
    with pytest.raises((Unreachable, OutcomeUnknown), match=etcd.endpoints[0]):
        await store.commit((), (Put("a", b""),))
    await store.close()


async def test_a_frozen_etcd_answers_in_bounded_time_with_what_may_have_happened(
    etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "_PULSE_S", 0.2)
    monkeypatch.setattr(etcd_watch, "_OPEN_S", 0.5)
    store = await open_etcd(replace(options(etcd), timeout_s=0.5))
    (member,) = etcd.members
    async with aclosing(store.watch("w/", after=0)) as changes:
        waiting = asyncio.ensure_future(collect(changes, 2))
        await put(store, "w/1", b"1")
        member.pause()
        try:
            with pytest.raises(Unreachable):
                await store.get("w/1")
            with pytest.raises(OutcomeUnknown):
                await store.commit((), (Put("other", b""),))
        finally:
            member.resume()
        await put(store, "w/2", b"2")
        assert await waiting == [("w/1", b"1"), ("w/2", b"2")]
    await store.close()


async def test_an_idle_watch_asks_for_progress_and_stays(etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_watch, "_PULSE_S", 0.05)
    opened: list[int] = []
    open_stream = etcd_watch._Stream.open

    async def counting(stream: etcd_watch._Stream, prefix: str, after: int) -> None:
        opened.append(after)
        await open_stream(stream, prefix, after)

    monkeypatch.setattr(etcd_watch._Stream, "open", counting)
    store = await open_etcd(options(etcd))
    async with aclosing(store.watch("w/", after=0)) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        done, _ = await asyncio.wait({waiting}, timeout=1.0)
        assert not done
        revision = await store.commit((), (Put("w/1", b""),))
        assert (await waiting).revision == revision
    assert opened == [0]
    await store.close()


async def test_a_watch_behind_a_compaction_is_told_so_even_after_a_break(etcd: EtcdCluster) -> None:
    store = await open_etcd(options(etcd))
    async with aclosing(store.watch("w/", after=0)) as changes:
        first = await store.commit((), (Put("w/1", b""),))
        assert (await anext(changes)).revision == first
        etcd.members[0].kill()
        etcd.restart()
        for number in range(5):
            last = await put(store, "w/2", str(number).encode())
        with etcd.members[0].channel() as channel:
            etcdrpc.KVStub(channel).Compact(etcdrpc.CompactionRequest(revision=last), timeout=5.0)
        with pytest.raises(Compacted):
            await anext(changes)
    listing = await store.list("w/")
    made = await put(store, "w/3", b"3")
    async with aclosing(store.watch("w/", after=listing.revision)) as changes:
        assert (await anext(changes)).revision == made
    await store.close()


async def test_any_member_may_die(trio: EtcdCluster) -> None:
    store = await open_etcd(options(trio, "/mesh/failover"))
    count = 0
    async with aclosing(store.watch("w/", after=0)) as changes:
        for member in trio.members:
            for _ in range(5):
                count += 1
                await put(store, f"w/{count:03}", b"x")
            member.kill()
            for _ in range(5):
                count += 1
                await put(store, f"w/{count:03}", b"x")
            assert len(await _list(store, "w/")) == count
            await restart(trio, member)
        assert await collect(changes, count) == [(f"w/{number:03}", b"x") for number in range(1, count + 1)]
    await store.close()


async def _list(store: EtcdStore, prefix: str) -> list[str]:
    while True:
        try:
            return [item.key for item in (await store.list(prefix)).items]
        except Unreachable:
            await asyncio.sleep(0.05)


async def test_a_frozen_member_does_not_stop_reads(trio: EtcdCluster) -> None:
    store = await open_etcd(options(trio, "/mesh/frozen"))
    await put(store, "a", b"1")
    for member in trio.members:
        member.pause()
        try:
            # Its share of calls goes to it until the connection is known to be dead; each is asked of another.
            item = await _get(store, "a")
            assert item == b"1"
        finally:
            member.resume()
    await store.close()


async def _get(store: EtcdStore, key: str) -> bytes:
    while True:
        try:
            item = await store.get(key)
        except Unreachable:
            await asyncio.sleep(0.05)
            continue
        assert item is not None
        return item.value


async def test_a_majority_that_is_gone_is_an_unreachable_store(trio: EtcdCluster) -> None:
    store = await open_etcd(options(trio, "/mesh/minority"))
    await put(store, "a", b"1")
    lost = trio.members[:2]
    for member in lost:
        member.kill()
    with pytest.raises(Unreachable):
        await store.get("a")
    with pytest.raises((Unreachable, OutcomeUnknown)):
        await store.commit((), (Put("a", b"2"),))
    await restart(trio, *lost)
    await put(store, "a", b"3")
    await store.close()


async def test_an_endpoint_may_be_a_host_name(etcd: EtcdCluster) -> None:
    port = etcd.members[0].client_port
    store = await open_etcd(EtcdOptions((f"localhost:{port}", f"127.0.0.1:{free_port()}"), "/mesh"))
    await put(store, "a", b"1")
    await store.close()


async def test_names_that_mean_other_addresses_later_are_followed(
    etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_connection, "_LOOKUP_PAUSE_S", 0.0)
    store = await open_etcd(EtcdOptions((f"localhost:{etcd.members[0].client_port}",), "/mesh", timeout_s=0.5))
    connection = store._connection
    await put(store, "a", b"1")
    moved = etcd_connection.EtcdConnection(EtcdOptions((f"127.0.0.1:{free_port()}",), "/mesh"), SYSTEM)
    await connection.links.close()
    connection._links = await moved._open_links(await moved._look_up())
    connection._addresses = await moved._look_up()
    with pytest.raises(Unreachable):
        await store.get("a")
    item = await store.get("a")
    assert item is not None
    await moved.close()
    await store.close()


async def test_keys_stay_under_the_prefix(etcd: EtcdCluster) -> None:
    one, two, bare = [await open_etcd(options(etcd, prefix)) for prefix in ("/mesh/a", "/mesh/a/", "")]
    other = await open_etcd(options(etcd, "/mesh/ab"))
    await put(one, "k", b"1")
    await put(other, "k", b"2")
    assert [(item.key, item.value) for item in (await two.list("")).items] == [("k", b"1")]
    assert [item.key for item in (await bare.list("")).items] == ["/mesh/a/k", "/mesh/ab/k"]
    async with aclosing(one.watch("", after=0)) as changes, aclosing(bare.watch("", after=0)) as everything:
        assert await collect(changes, 1) == [("k", b"1")]
        assert await collect(everything, 2) == [("/mesh/a/k", b"1"), ("/mesh/ab/k", b"2")]
    for store in (one, two, bare, other):
        await store.close()


async def test_tls(tmp_path: Path) -> None:
    authority, stranger = Authority.create(tmp_path / "ours"), Authority.create(tmp_path / "theirs")
    cert, key = authority.issue("etcd", "DNS:etcd.test", "IP:127.0.0.1")
    own_cert, own_key = authority.issue("mesh", "DNS:mesh.test")
    wrong_cert, wrong_key = stranger.issue("mesh", "DNS:mesh.test")
    with EtcdCluster(tls=Tls(authority.cert, cert, key, client=True)) as etcd:
        right = EtcdOptions(
            (*etcd.endpoints, f"localhost:{etcd.members[0].client_port}"),
            "/mesh",
            ca_cert=str(authority.cert),
            cert_cert=str(own_cert),
            cert_key=str(own_key),
            timeout_s=0.7,
        )
        for good in (right, replace(right, server_name="etcd.test")):
            store = await open_etcd(replace(good, timeout_s=5.0))
            made = await put(store, "a", good.server_name.encode())
            async with aclosing(store.watch("a", after=made - 1)) as changes:
                assert await collect(changes, 1) == [("a", good.server_name.encode())]
            assert await store.keep_alive(await store.grant(5.0)) > 0
            await store.close()
        for bad in (
            replace(right, server_name="elsewhere.test"),
            replace(right, ca_cert=str(stranger.cert)),
            replace(right, cert_cert=str(wrong_cert), cert_key=str(wrong_key)),
            EtcdOptions(right.endpoints, "/mesh", ca_cert=right.ca_cert, timeout_s=0.7),
            EtcdOptions(right.endpoints, "/mesh", timeout_s=0.7),
        ):
            with pytest.raises(Unreachable, match=etcd.endpoints[0]):
                await open_etcd(bad)
        for wrong_file in (
            replace(right, ca_cert=str(tmp_path / "missing.pem")),
            replace(right, cert_key=str(wrong_key)),
            replace(right, ca_cert=str(own_key)),
        ):
            with pytest.raises(InvalidConfig, match="TLS"):
                await open_etcd(wrong_file)


def enable_login(member: EtcdMember, password: str) -> None:
    with member.channel() as channel:
        stub = etcdrpc.AuthStub(channel)
        for user, role in (("root", "root"), ("mesh", "mesh")):
            stub.UserAdd(etcdrpc.AuthUserAddRequest(name=user, password=password), timeout=10.0)
            stub.RoleAdd(etcdrpc.AuthRoleAddRequest(name=role), timeout=10.0)
            stub.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user=user, role=role), timeout=10.0)
        allowed = Permission(permType=Permission.READWRITE, key=b"/mesh/", range_end=b"/mesh0")
        stub.RoleGrantPermission(etcdrpc.AuthRoleGrantPermissionRequest(name="mesh", perm=allowed), timeout=10.0)
        stub.AuthEnable(etcdrpc.AuthEnableRequest(), timeout=10.0)


async def test_user_and_password(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    with EtcdCluster() as etcd:
        (member,) = etcd.members
        right = EtcdOptions(etcd.endpoints, "/mesh", user="mesh", password_file=str(password))
        with pytest.raises(InvalidConfig, match="not enabled"):
            await open_etcd(right)
        await asyncio.to_thread(enable_login, member, "s3cret")
        store = await open_etcd(right)
        async with aclosing(store.watch("w/", after=0)) as changes:
            waiting = asyncio.ensure_future(collect(changes, 3))
            await put(store, "w/1", b"1")
            lease = await store.grant(60.0)
            # A restarted etcd has forgotten all logins.
            member.kill()
            await restart(etcd, member)
            await put(store, "w/2", b"2")
            assert await store.keep_alive(lease) > 0
            await put(store, "w/3", b"3")
            assert await waiting == [("w/1", b"1"), ("w/2", b"2"), ("w/3", b"3")]
        await store.close()
        for bad in (
            replace(right, password_file=str(wrong)),
            replace(right, password_file=str(tmp_path / "missing")),
            replace(right, user="nobody"),
            replace(right, user="", password_file=""),
            replace(right, prefix="/other"),
        ):
            with pytest.raises(InvalidConfig) as caught:
                await open_etcd(bad)
            assert "s3cret" not in str(caught.value)
            assert "guess" not in str(caught.value)


async def test_a_full_etcd_says_how_to_mend_it() -> None:
    with EtcdCluster(arguments=("--quota-backend-bytes=2097152",)) as etcd:
        store = await open_etcd(options(etcd))

        async def fill() -> None:
            for _ in range(100):
                await store.commit((), (Put("a", b"x" * 1_000_000),))

        with pytest.raises(OutcomeUnknown) as caught:
            await fill()
        assert "disarm" in caught.value.hint
        assert await store.get("a") is not None
        await store.close()


def test_the_code_of_etcd3_runs_on_our_stubs() -> None:
    assert etcd_connection._etcd3().etcdrpc is etcdrpc
    assert issubclass(grpc.aio.AioRpcError, grpc.RpcError)
