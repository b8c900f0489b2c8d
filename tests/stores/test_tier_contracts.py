"""The contracts of a store, kept by the local tier: with copies, on misses, and without copies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifactproxy.ports import BlobStore
from tests.contracts.harness import Stores
from tests.contracts.harness_tier import FORMS, tier_stores
from tests.contracts.test_blobstore import *  # noqa: F403  the shared suite, with another `box`
from tests.contracts.test_blobstore import read, ref_of


@pytest.fixture(params=FORMS)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    return tier_stores(tmp_path, request.param)


async def test_b13_set_aside_leaves_what_was_put_meanwhile(store: BlobStore) -> None:
    """What is opened is a copy: the blob behind it, which other machines serve, is another file."""
    body = b"its copy is damaged"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    opened = await store.locate(ref)
    await store.put_bytes(ref, body)
    again = await store.locate(ref)
    if opened is not None:
        assert await store.set_aside(ref, opened) is False
    if again is not None:
        assert await store.set_aside(ref, again) is True
    for located in (opened, again):
        if located is not None:
            os.close(located.fd)
    assert await store.locate(ref) is None
    assert await store.size(ref.sha256) == len(body)
    assert await read(store, ref) == body
