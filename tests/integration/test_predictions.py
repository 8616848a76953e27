"""What is stored between infer and write carries all that the gates need, and an older store's answer holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.domain.gates import Outcome, before_writing
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import Answer, Prediction
from npc_rtnode.domain.records import Finding
from npc_rtnode.errors import DiskLow
from tests.builders.outputs import ball, bundle_statement, prediction_of, stack_for

STACK = stack_for()
MASK = ball(STACK.grid.shape)
SAID = replace(
    prediction_of(MASK, findings=(Finding("DOUBT", "a word", 0.1 + 0.2, None),)),
    unusual="edges +4.0 SD",
    sight=np.random.default_rng(1).normal(size=(len(MASK), 3)),
)


def stored(folder: Path, said: Prediction) -> Prediction:
    """Once through the store."""
    store = PredictionFolder(folder)
    store.save("k", Answer(said, bundle_statement()))
    found = store.load("k")
    assert found is not None
    return found.prediction


def test_everything_comes_back(tmp_path: Path) -> None:
    """Numbers to the last bit, bands with their open ends, words, and where each slice was seen."""
    back = stored(tmp_path, SAID)
    arrays = ("probability", "mask", "sight")
    assert all(np.array_equal(getattr(back, name), getattr(SAID, name)) for name in arrays)
    plain = {name: value for name, value in asdict(SAID).items() if name not in arrays}
    assert {name: value for name, value in asdict(back).items() if name not in arrays} == plain


def test_the_same_answer_is_the_same_file(tmp_path: Path) -> None:
    """Measured in another order, stored the same."""
    measured, bands = (dict(reversed([*said.items()])) for said in (SAID.measured, SAID.bands))
    turned = replace(SAID, measured=measured, bands=bands)
    for name, said in (("a", SAID), ("b", turned)):
        PredictionFolder(tmp_path / name).save("k", Answer(said, bundle_statement()))
    assert (tmp_path / "a" / "k.npz").read_bytes() == (tmp_path / "b" / "k.npz").read_bytes()


def test_a_host_that_was_taken_for_dead_does_not_spoil_what_another_stores(tmp_path: Path) -> None:
    """Both write the same work key into a home that both have mounted: each writes a file of its own beside it."""
    zombie, heir = (Interrupted(tmp_path) for _ in range(2))
    answer = Answer(SAID, bundle_statement())
    heir.meanwhile = lambda: zombie.save("k", answer)
    zombie.meanwhile = lambda: None
    heir.save("k", answer)
    assert heir.load("k") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["k.npz"]


def test_nothing_is_laid_into_the_empty_folder_below_a_mount(tmp_path: Path) -> None:
    """A node's home that goes away while a host infers: the answer would lie where no host ever looks for it."""
    store = PredictionFolder(tmp_path / "mount" / "work")
    (tmp_path / "mount").rename(tmp_path / "gone")
    (tmp_path / "mount").mkdir()
    with pytest.raises(DiskLow):
        store.save("k", Answer(SAID, bundle_statement()))
    assert list((tmp_path / "mount").iterdir()) == []


class Interrupted(PredictionFolder):
    """Something happens between what is written and its name."""

    meanwhile: Callable[[], object]

    def _write(self, part: Path, data: bytes) -> None:
        super()._write(part, data)
        self.meanwhile()


def test_an_answer_from_before_these_gates_holds(tmp_path: Path) -> None:
    """A store of an older node names no checks: the answer is read, and every gate that needs one holds."""
    stored(tmp_path, SAID)
    with np.load(io.BytesIO((tmp_path / "k.npz").read_bytes()[64:]), allow_pickle=False) as new:
        old = {name: new[name] for name in new.files if name not in {"checks", "sight"}}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **old)
    (tmp_path / "k.npz").write_bytes(sha256_hex(buffer.getvalue()).encode() + buffer.getvalue())
    found = PredictionFolder(tmp_path).load("k")
    assert found is not None
    held = {g.name for g in before_writing(STACK, found.prediction.mask, found.prediction) if g.outcome is Outcome.HOLD}
    assert held == {"GATE_ERROR"}
