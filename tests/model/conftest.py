"""Phantoms and a bundle made once and shared by the model tests."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from model.bundle import Bundle, default_bundle
from model.phantom import Phantom, make_case, small_profile


@lru_cache(maxsize=16)
def _small(index: int, stage: str | None) -> Phantom:
    return make_case("test", index, stage=stage, profile=small_profile())


@pytest.fixture(scope="session")
def small_phantom():
    """Maker of small phantoms of the test cohort, cached: ``small_phantom(index, stage=None)``."""

    def make(index: int, stage: str | None = None) -> Phantom:
        return _small(index, stage)

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small nets are no faster on two threads, and far slower where the machine is shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    """The default bundle, opened once."""
    return Bundle.open(default_bundle())
