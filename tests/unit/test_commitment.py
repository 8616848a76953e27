"""What may be committed: only what is known under that class, whole on the disk, and not in doubt."""

from __future__ import annotations

import pytest

from npc_rtnode.domain.commitment import Failure, report_on
from npc_rtnode.domain.records import Holding

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
NAME = (MR, "1.2.3")
KEPT = Holding("1.2.3", MR, "a")


def whole(sha256: str) -> Failure | None:
    """Digest `gone` is not on the disk, `rotten` has changed, all others are whole."""
    return {"gone": Failure.NO_SUCH_INSTANCE, "rotten": Failure.PROCESSING}.get(sha256)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ((KEPT,), None),
        ((), 0x0112),
        ((Holding("1.2.4", MR, "a"),), 0x0112),
        ((Holding("1.2.3", CT, "a"),), 0x0119),
        ((Holding("1.2.3", MR, "gone"),), 0x0112),
        ((Holding("1.2.3", MR, "rotten"),), 0x0110),
        ((KEPT, Holding("1.2.3", MR, "b", counts=False, in_conflict=True)), 0x0110),
        ((KEPT, Holding("1.2.3", MR, "b", counts=False)), None),
        ((KEPT, Holding("1.2.3", MR, "rotten")), 0x0110),
    ],
    ids=["kept", "unknown", "other-uid", "class", "gone", "damaged", "conflict", "settled", "reencoded-damaged"],
)
def test_one_instance_is_committed_or_told_why_not(held: tuple[Holding, ...], reason: int | None) -> None:
    """The reasons are those of PS3.3 C.14.1.1."""
    report = report_on([NAME], held, whole)
    assert (report.committed, report.refused) == (((NAME,), ()) if reason is None else ((), ((NAME, reason),)))


def test_every_name_is_answered_once_in_the_order_asked() -> None:
    """A name asked for twice is one name."""
    other = (MR, "1.2.9")
    report = report_on([NAME, other, NAME], [KEPT], whole)
    assert report.committed == (NAME,)
    assert report.refused == ((other, 0x0112),)
