"""The table of functions follows the links on disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from bundles.revisions import RevisionStore
from faas_server.routing import Table, tables
from tests.support.nodes import deploy, unpublish


async def until(found: AsyncIterator[Table], expected: dict[str, str]) -> None:
    """The table that says this, which must come soon."""
    async with asyncio.timeout(10):
        async for table in found:
            if {name: bundle.spec.revision for (_, name), bundle in table.items()} == expected:
                return


async def test_functions_come_change_and_go(tmp_path: Path) -> None:
    one = deploy(tmp_path, "one")
    found = tables(RevisionStore(tmp_path / "bundles"))
    await until(found, {"one": one})
    two = deploy(tmp_path, "two")
    await until(found, {"one": one, "two": two})
    new = deploy(tmp_path, "one")
    await until(found, {"one": new, "two": two})
    unpublish(tmp_path, "two")
    await until(found, {"one": new})
    await found.aclose()  # type: ignore[attr-defined]


async def test_a_change_without_a_notice_is_seen_too(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path / "bundles")
    found = tables(store, rescan=0.2)
    await until(found, {})
    await until(found, {})  # nothing changed, and yet it has looked
    await found.aclose()  # type: ignore[attr-defined]


async def test_a_damaged_bundle_does_not_take_the_others_along(tmp_path: Path) -> None:
    good = deploy(tmp_path, "good")
    bad = deploy(tmp_path, "bad")
    (tmp_path / "bundles/revisions/default/bad" / bad / "function.json").write_text("{")
    found = tables(RevisionStore(tmp_path / "bundles"))
    await until(found, {"good": good})
    await found.aclose()  # type: ignore[attr-defined]


async def test_a_directory_that_vanishes_is_watched_again_when_it_is_back(tmp_path: Path) -> None:
    deploy(tmp_path, "one")
    store = RevisionStore(tmp_path / "bundles")
    found = tables(store, rescan=0.5)
    await anext(found)
    shutil.rmtree(store.revisions)
    await until(found, {})
    one = deploy(tmp_path, "one")
    await until(found, {"one": one})
    await found.aclose()  # type: ignore[attr-defined]
