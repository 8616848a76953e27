"""A gate that fails is no pass: whichever it is and whatever it fails with, the result is held."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest

from npc_rtnode.adapters.dicom import objects as objects_module
from npc_rtnode.adapters.dicom import verify as verify_module
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.domain import gates, plausibility
from npc_rtnode.domain.gates import RELEASABLE, Outcome
from npc_rtnode.domain.plausibility import DISTANCE, GAUGES, REFERENCE
from npc_rtnode.domain.profiles import orders_for
from npc_rtnode.domain.records import ObjectKind
from npc_rtnode.settings import Destination
from tests.builders.mr_series import make_series
from tests.builders.outputs import ball, plan_of, prediction_on, stack_for

EVERYTHING = Destination(name="all", ae_title="ALL", host="127.0.0.1", port=2, objects=tuple(ObjectKind))
FAILURES = (ZeroDivisionError("Zhang^San"), RuntimeError("Zhang^San"), MemoryError(), AssertionError("Zhang^San"))


def judges() -> list[str]:
    """Every function of domain/gates that answers with a gate's result, the small words that make one left out."""
    found = []
    for name, function in inspect.getmembers(gates, inspect.isfunction):
        answer = str(inspect.signature(function).return_annotation)
        if function.__module__ == gates.__name__ and "GateResult" in answer:
            found.append(name)
    return sorted(set(found) - {"before_writing", "before_sending"})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Every kind of object of one answer, unharmed."""
    files, stack = make_series(tmp_path_factory.mktemp("mr")), stack_for()
    prediction = prediction_on(files, ball(stack.grid.shape))
    plan = plan_of(orders=orders_for([EVERYTHING], "GTVp^AI"))
    return stack, files, prediction, plan, DicomObjects().write(stack, files, prediction, plan)


def holds(result: tuple[Any, ...]) -> list[gates.GateResult]:
    """What holds."""
    return [one for one in DicomObjects().judge(*result) if one.outcome is Outcome.HOLD]


def test_unharmed_nothing_holds(result: tuple[Any, ...]) -> None:
    """Otherwise the tests below would prove nothing; and there are many judges."""
    assert holds(result) == []
    assert len(judges()) > 40


PAGES = frozenset({ObjectKind.PREVIEW, ObjectKind.PDF})


def without_pages(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without the drawn pages, which take the most time to judge."""
    *case, plan, written = result
    orders = tuple(order for order in plan.orders if order.kind not in PAGES)
    return (*case, replace(plan, orders=orders), [one for one in written if one.kind not in PAGES])


@pytest.mark.parametrize(("name", "failure"), list(zip(judges(), cycle(FAILURES), strict=False)), ids=str)
def test_a_judge_that_fails_holds(
    result: tuple[Any, ...], name: str, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each judge in turn: it holds, nobody may release it, and the failure's words are nowhere."""

    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    for module in (gates, plausibility, verify_module, objects_module):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, fail)
    held = holds(without_pages(result)) or holds(result)
    assert "GATE_ERROR" in {one.name for one in held}
    assert "GATE_ERROR" not in RELEASABLE
    assert not any("Zhang" in one.message for one in held)


@pytest.mark.parametrize("code", [gauge.code for gauge in (*GAUGES, REFERENCE, DISTANCE)])
def test_a_gauge_that_fails_holds(result: tuple[Any, ...], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that cannot be compared: neither before the objects nor after them is it a pass."""
    stack, files, prediction, plan, written = result

    class Odd:
        def __float__(self) -> float:
            raise ZeroDivisionError

    measured = {**prediction.measured, code: Odd()}
    gauges = tuple(
        replace(g, measure=(lambda *_: Odd()) if g.measure else None) if g.code == code else g for g in GAUGES
    )
    monkeypatch.setattr(plausibility, "GAUGES", gauges)
    odd = replace(prediction, measured=measured)
    assert "GATE_ERROR" in {one.name for one in holds(without_pages((stack, files, odd, plan, written)))}
    assert "GATE_ERROR" in {one.name for one in gates.before_writing(stack, odd.mask, odd)}


@pytest.mark.parametrize("kind", list(ObjectKind))
def test_a_reader_that_fails_holds(result: tuple[Any, ...], kind: ObjectKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that cannot be read back at all, by whatever failure."""
    judges = dict(verify_module.JUDGES)

    def fail(*_: Any) -> Any:
        raise RecursionError("Zhang^San")

    monkeypatch.setattr(verify_module, "JUDGES", {**judges, kind: fail})
    assert {one.name for one in holds(result)} == {"GATE_ERROR"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of pydicom, about values that the planting broke
def test_a_mutilated_object_never_ends_the_judging(result: tuple[Any, ...]) -> None:
    """Bytes overwritten here and there, in every kind: the judging comes to an end, with an answer and no crash."""
    *case, written = result
    for index, item in enumerate(written):
        for at in range(300, len(item.encoded), len(item.encoded) // 3):
            broken = item.encoded[:at] + b"\xff\xfe\x00\xe0" * 4 + item.encoded[at + 16 :]
            others = [*written[:index], replace(item, encoded=broken), *written[index + 1 :]]
            assert DicomObjects().judge(*case, others)
