"""Watching a cluster through what networks and API servers do. Each test of a numbered row is named after it.

The faults are those of a proxy before the real API server: whatever is not the fault comes from the server itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import yaml

from faas_resources import ConditionReport, Image, StatusPatch, StoreFailed, Truth
from faas_resources.crds import DIRECTORY
from faas_resources.store import Event, EventType
from faas_resources.store.kubernetes import KubernetesStore, watching
from faas_resources.store.kubernetes.reading import Latest
from tests.resources.conftest import PACE, Watcher
from tests.resources.conftest import watching as watchers
from tests.support.cluster import Cluster
from tests.support.faulty import Fault, Proxy, Request, event, proxied, status
from tests.support.registry import free_port

Make = Callable[..., Image]
Watch = Callable[[], Watcher]

LINE = b'{"type":'  # the beginning of an event


def is_watch(request: Request) -> bool:
    return request.watch


def is_list(request: Request) -> bool:
    return request.method == "GET" and not request.watch and "/namespaces/" not in request.target


def is_get(request: Request) -> bool:
    return request.method == "GET" and request.target.endswith("/hello")


def raw(cluster: Cluster, place: str) -> Any:
    return cluster.objects("get", "image", "hello", "-n", place)


class Story:
    """A watch behind the proxy that has told what there was, and a hand that changes things past the proxy."""

    def __init__(self, cluster: Cluster, place: str, proxy: Proxy, watch: Watcher, hand: KubernetesStore, image: Make) -> None:
        self.cluster = cluster
        self.place = place
        self.proxy = proxy
        self.watch = watch
        self.hand = hand
        self._image = image

    async def apply(self, **spec: Any) -> Image:
        """Applies `hello`."""
        applied, _ = await self.hand.apply(self._image(namespace=self.place, **spec))
        return applied

    def fault(self, **what: Any) -> Fault:
        """A fault of the watch that begins next."""
        return self.proxy.fault(is_watch, **what)


@pytest.fixture
async def story(cluster: Cluster, place: str, proxy: Proxy, behind_watcher: Watch, on_cluster: KubernetesStore, image: Make) -> Story:
    watch = behind_watcher()
    assert await watch.synced() == []
    return Story(cluster, place, proxy, watch, on_cluster, image)


async def test_row_01_reset_within_a_line(story: Story) -> None:
    fault = story.fault(cut_after=LINE)
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert fault.hit == 1
    assert (len(story.proxy.watches()), len(story.proxy.lists())) == (2, 1)


async def test_row_02_very_long_line(story: Story) -> None:
    applied = await story.apply(args=["x" * 32768] * 30)
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert len(story.proxy.watches()) == 1


async def test_row_02_line_without_an_end_is_given_up(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faas_resources.store.kubernetes.connecting.LINE_MAX", 1 << 16)
    fault = story.fault(first=b"x" * (1 << 17))
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert fault.hit == 1
    assert len(story.proxy.watches()) == 2


async def test_row_03_lines_in_split_chunks(story: Story) -> None:
    fault = story.fault(piece=7)
    for pool in range(3):
        applied = await story.apply(pool=pool)
        told = await story.watch.next()
        assert told.resource == applied
    assert fault.hit == 1
    assert len(story.proxy.watches()) == 1


async def test_row_04_watch_error_410(story: Story) -> None:
    fault = story.fault(first=event("ERROR", status(410, "Expired")))
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert fault.hit == 1
    assert len(story.proxy.lists()) == 2
    assert (await story.apply(pool=1)) == (await story.watch.next()).resource


async def test_row_04_watch_refused_with_410(story: Story) -> None:
    story.fault(status=410, body=json.dumps(status(410, "Expired")).encode())
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert len(story.proxy.lists()) == 2


async def test_row_05_list_expired(proxy: Proxy, behind_watcher: Watch) -> None:
    fault = proxy.fault(is_list, status=410, body=json.dumps(status(410, "Expired")).encode())
    assert await behind_watcher().synced() == []
    assert fault.hit == 1
    assert len(proxy.lists()) == 2


async def test_row_06_second_page_expired(
    proxy: Proxy, behind_watcher: Watch, on_cluster: KubernetesStore, image: Make, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAGE", 2)
    for number in range(5):
        await on_cluster.apply(image(f"n{number}", place))
    fault = proxy.fault(lambda request: "continue=" in request.target, status=410, body=json.dumps(status(410, "Expired")).encode())
    assert [each.name for each in await behind_watcher().synced()] == [f"n{number}" for number in range(5)]
    assert fault.hit == 1
    assert "limit=" not in proxy.requests[-1].target


async def test_pages_are_put_together(
    behind: KubernetesStore, proxy: Proxy, image: Make, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAGE", 2)
    for number in range(5):
        await behind.apply(image(f"n{number}", place))
    assert [each.name for each in await behind.list(Image, place)] == [f"n{number}" for number in range(5)]
    assert sum("continue=" in request.target for request in proxy.requests) == 2


async def test_row_07_bookmark_moves_the_version_and_tells_nothing(story: Story) -> None:
    moved = story.cluster.objects("get", "namespace", story.cluster.namespace())["metadata"]["resourceVersion"]
    story.fault(first=event("BOOKMARK", {"kind": "Image", "metadata": {"resourceVersion": moved}}), cut_after=LINE)
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    first, second = story.proxy.watches()
    assert f"resourceVersion={moved}" not in first.target
    assert f"resourceVersion={moved}&" in second.target + "&"


async def test_row_08_silent_stall(cluster: Cluster, proxy: Proxy, place: str, on_cluster: KubernetesStore, image: Make) -> None:
    pace = type(PACE)(**{**PACE.__dict__, "stall": 1.0})
    async with (
        KubernetesStore(kubeconfig=str(cluster.kubeconfig(server=proxy.url)), pace=pace) as store,
        watchers(store, place) as begin,
    ):
        watch = begin()
        assert await watch.synced() == []
        fault = proxy.fault(is_watch, stall_after=LINE)
        applied, _ = await on_cluster.apply(image(namespace=place))
        assert await watch.next() == Event(EventType.ADDED, applied)
        assert fault.hit == 1


async def test_row_09_unknown_event(story: Story) -> None:
    fault = story.fault(first=event("FROBNICATED", {"metadata": {"resourceVersion": "1"}}))
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert fault.hit == 1
    assert len(story.proxy.watches()) == 1


async def test_row_09_what_is_no_event(story: Story) -> None:
    story.fault(first=b"<html>\n")
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert len(story.proxy.watches()) == 2


async def test_row_10_too_many_requests_are_put_off_as_asked(story: Story, behind: KubernetesStore) -> None:
    story.fault(status=429, headers={"Retry-After": "1"})
    applied = await story.apply()
    began = time.monotonic()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert time.monotonic() - began >= 1
    story.proxy.fault(is_get, status=429, headers={"Retry-After": "1"})
    assert await behind.get(Image, story.place, "hello") == applied
    assert time.monotonic() - began >= 2


async def test_row_11_internal_errors(story: Story, behind: KubernetesStore) -> None:
    fault = story.fault(status=500, times=3, body=b"not even a status")
    applied = await story.apply()
    assert await story.watch.next() == Event(EventType.ADDED, applied)
    assert fault.hit == 3
    story.proxy.fault(is_get, status=500, times=3)
    assert await behind.get(Image, story.place, "hello") == applied
    assert len(story.proxy.lists()) == 1


async def test_row_12_api_down_at_the_start(cluster: Cluster, place: str, on_cluster: KubernetesStore, image: Make) -> None:
    applied, _ = await on_cluster.apply(image(namespace=place))
    port = free_port()
    config = cluster.kubeconfig(server=f"http://127.0.0.1:{port}")
    async with KubernetesStore(kubeconfig=str(config), pace=PACE) as store, watchers(store, place) as begin:
        waiting = asyncio.create_task(begin().synced())
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
        async with proxied(cluster, port):
            assert await waiting == [applied]


async def test_row_13_duplicate_event(story: Story) -> None:
    first = await story.apply()
    assert (await story.watch.next()).resource == first
    again = event("MODIFIED", raw(story.cluster, story.place))
    story.fault(first=again + event("ADDED", raw(story.cluster, story.place)))
    await story.proxy.end()  # the next watch has the fault
    second = await story.apply(pool=1)
    assert await story.watch.next() == Event(EventType.MODIFIED, second)


async def test_row_14_stale_event(story: Story) -> None:
    await story.apply()
    await story.watch.next()
    stale = raw(story.cluster, story.place)
    second = await story.apply(pool=1)
    assert (await story.watch.next()).resource == second
    story.fault(first=event("MODIFIED", stale) + event("DELETED", stale))
    await story.proxy.end()
    third = await story.apply(pool=2)
    assert await story.watch.next() == Event(EventType.MODIFIED, third)


async def test_row_15_delete_that_nobody_saw(story: Story) -> None:
    applied = await story.apply()
    await story.watch.next()
    story.fault(first=event("ERROR", status(410, "Expired")))
    await story.proxy.end()
    await story.hand.delete(Image, story.place, "hello")
    told = await story.watch.until(lambda event: event.type is EventType.DELETED)
    assert told == Event(EventType.DELETED, applied)


async def test_row_16_recreated_with_a_new_uid(story: Story) -> None:
    first = await story.apply()
    await story.watch.next()
    story.fault(first=event("ERROR", status(410, "Expired")))
    await story.proxy.end()
    await story.hand.delete(Image, story.place, "hello")
    second = await story.apply()
    assert await story.watch.next() == Event(EventType.DELETED, first)
    assert await story.watch.next() == Event(EventType.ADDED, second)
    assert first.metadata.uid != second.metadata.uid


async def test_row_17_finalizer_of_somebody_keeps_the_object_and_can_be_taken_off(story: Story) -> None:
    """We set none, so nothing of ours ever has to be taken off; what somebody else set is visible as a deletion that waits."""
    applied = await story.apply()
    assert applied.metadata.finalizers == ()
    await story.watch.next()
    story.cluster.kubectl(
        "patch", "image", "hello", "-n", story.place, "--type=merge", "-p", '{"metadata":{"finalizers":["some.body/else"]}}'
    )
    await story.watch.next()
    await story.hand.delete(Image, story.place, "hello")
    going = (await story.watch.next()).resource
    assert going is not None
    assert going.metadata.deletion_timestamp is not None
    story.cluster.kubectl("patch", "image", "hello", "-n", story.place, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert (await story.watch.next()).type is EventType.DELETED


class Gadget(Image):
    """A kind whose CRD the cluster has not, until the test brings it."""

    KIND: ClassVar[str] = "Gadget"
    PLURAL: ClassVar[str] = "gadgets"


async def test_row_19_crd_absent(cluster: Cluster, on_cluster: KubernetesStore) -> None:
    with pytest.raises(StoreFailed, match=r"does not know gadgets\.build\.kontain\.app: kubectl apply -k crds/"):
        await on_cluster.list(Gadget)
    events = on_cluster.watch(Gadget)
    synced = asyncio.ensure_future(anext(events))
    try:
        crd = yaml.safe_load((DIRECTORY / "images.build.kontain.app.yaml").read_text())
        crd["metadata"]["name"] = "gadgets.build.kontain.app"
        crd["spec"]["names"] = {"kind": "Gadget", "listKind": "GadgetList", "plural": "gadgets", "singular": "gadget"}
        cluster.apply(crd)
        assert await asyncio.wait_for(synced, 60) == Event(EventType.SYNCED)
    finally:
        synced.cancel()
        await events.aclose()  # type: ignore[attr-defined]  # every generator has it, the port's iterator need not
        cluster.kubectl("delete", "crd", "gadgets.build.kontain.app", "--wait=false", "--ignore-not-found")


async def test_row_20_forbidden_until_the_role_is_there(cluster: Cluster, place: str, on_cluster: KubernetesStore, image: Make) -> None:
    applied, _ = await on_cluster.apply(image(namespace=place))
    config = cluster.kubeconfig(cluster.token(place, "nobody"))
    async with KubernetesStore(kubeconfig=str(config), pace=PACE) as store, watchers(store, place) as begin:
        with pytest.raises(StoreFailed, match="403"):
            await store.list(Image)
        waiting = asyncio.create_task(begin().synced())
        cluster.kubectl("create", "clusterrole", place, "--verb=get,list,watch", "--resource=images.build.kontain.app")
        cluster.kubectl("create", "clusterrolebinding", place, f"--clusterrole={place}", f"--serviceaccount={place}:nobody")
        assert await asyncio.wait_for(waiting, 60) == [applied]
        with pytest.raises(StoreFailed, match="403"):
            await store.delete(Image, place, "hello")


async def test_row_20_token_that_ran_out_is_read_anew(cluster: Cluster) -> None:
    good, bad = cluster.kubeconfig(), cluster.kubeconfig("no-token-of-yours")
    async with KubernetesStore(kubeconfig=str(bad), pace=PACE) as store:
        with pytest.raises(StoreFailed, match="401"):
            await store.list(Image)
        bad.write_text(good.read_text())
        await store.list(Image)


async def test_row_21_status_conflict_is_tried_again(story: Story, behind: KubernetesStore) -> None:
    await story.apply()
    conflict = json.dumps(status(409, "Conflict")).encode()
    fault = story.proxy.fault(lambda request: request.method == "PATCH", status=409, body=conflict, times=3)
    report = ConditionReport(type="Ready", status=Truth.TRUE, reason="Any")
    said = await behind.patch_status(Image, story.place, "hello", StatusPatch(conditions=(report,)))
    assert fault.hit == 3
    assert said.status.condition("Ready") is not None


async def test_a_report_that_says_nothing_new_asks_for_nothing(story: Story, behind: KubernetesStore) -> None:
    """A node looks at each of its tags every minute, and says the same each time."""
    applied = await story.apply()
    await story.watch.next()

    async def say(message: str) -> Image:
        report = StatusPatch(message=message)
        return await behind.patch_status(Image, story.place, "hello", report, uid=applied.metadata.uid)

    await say("one")
    asked = len(story.proxy.requests)
    assert (await say("one")).status.message == "one"
    assert len(story.proxy.requests) == asked
    assert (await say("two")).status.message == "two"
    assert (await say("one")).status.message == "one"  # not what the watch may tell late
    assert [request.method for request in story.proxy.requests[asked:]] == ["PATCH", "PATCH"]


def test_what_is_known_last_is_the_newest() -> None:
    def version(number: int) -> dict[str, Any]:
        return {"metadata": {"namespace": "a", "name": "b", "resourceVersion": str(number)}}

    latest = Latest()
    latest.written(version(1))
    assert latest.get("a", "b") is None  # nobody would say when it goes
    latest.told(version(1))
    latest.written(version(3))
    latest.told(version(2))
    assert latest.get("a", "b") == version(3)
    latest.gone(version(4))
    assert latest.get("a", "b") is None


async def test_api_server_that_stays_away_fails_an_operation_in_time(cluster: Cluster) -> None:
    config = cluster.kubeconfig(server=f"http://127.0.0.1:{free_port()}")
    pace = type(PACE)(**{**PACE.__dict__, "patience": 0.5})
    async with KubernetesStore(kubeconfig=str(config), pace=pace) as store:
        with pytest.raises(StoreFailed, match="the API server does not answer"):
            await store.list(Image)


async def test_objects_that_came_past_the_rules_are_problems_and_harm_nobody(story: Story, cluster: Cluster) -> None:
    """As an older CRD would let them: here the rule of labels, which only the model has for namespaces."""
    cluster.kubectl("create", "namespace", "system")
    try:
        wrong = {
            "apiVersion": Image.API_VERSION,
            "kind": "Image",
            "metadata": {"name": "hello", "namespace": "system"},
            "spec": {"image": "a"},
        }
        cluster.apply(wrong)
        applied = await story.apply()
        assert (await story.watch.next()).resource == applied
        assert "is reserved" in (await story.hand.problems(Image))["system", "hello"]
    finally:
        cluster.kubectl("delete", "image", "hello", "-n", "system", "--ignore-not-found")
