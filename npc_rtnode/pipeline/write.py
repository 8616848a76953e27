"""Write: objects from a prediction, read back and judged; released only if every gate lets them pass, else HELD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from npc_rtnode.domain.gates import (
    RELEASABLE,
    GateResult,
    Outcome,
    before_sending,
    may_send,
    may_show,
    unsaid,
    warnings_of,
)
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.prediction import Answer, BundleStatement, Prediction
from npc_rtnode.domain.profiles import orders_for, orders_of
from npc_rtnode.domain.records import Finding, JobInHand, ResultToCommit, WrittenObject
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.domain.retry import OTHER_ORDER
from npc_rtnode.errors import OutputFault
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.ports import ObjectWriter, PredictionStore, SeriesReader, Spool, WorkPages
from npc_rtnode.settings import NO_QA, ContentSettings, Destination, QaSettings

STAGE = "write"

Stored = tuple[tuple[WrittenObject, str], ...]
"""Objects, each with the SHA-256 of its stored bytes."""


@dataclass(frozen=True)
class Letterhead:
    """What every object of this node says about the node itself."""

    content: ContentSettings
    utc_offset: str
    site: str
    software_version: str


@dataclass(frozen=True)
class Case:
    """One job's material: the stack, its files in order, what the model said, and who said it."""

    stack: Stack
    sources: tuple[Path, ...]
    prediction: Prediction
    bundle: BundleStatement
    phantom: bool
    constancy: bool = False  # the phantom that this node sends itself

    @property
    def enhanced_mr(self) -> bool:
        """Whether the objects name frames of Enhanced MR, not instances of one slice each."""
        return any(header.frame is not None for header in self.stack.slices)


@dataclass(frozen=True)
class Writer:
    """Takes predicted jobs, one at a time."""

    pages: WorkPages
    spool: Spool
    outbox: Spool
    reader: SeriesReader
    store: PredictionStore
    objects: ObjectWriter
    letterhead: Letterhead
    settings_hash: str
    destinations: tuple[Destination, ...]
    barrier: Barrier
    qa: QaSettings = NO_QA

    def run(self, only: int | None = None) -> bool:
        """Do one job, or that very one; False when there is none to begin."""
        job = self.pages.claim_job(JobState.PREDICTED, STAGE, self.barrier.clock(), self.barrier.lease_s, only)
        if job is None:
            return False
        with self.barrier.attempt(job.lease, job.series.study_reference):
            self._write(job)
        return True

    def _write(self, job: JobInHand) -> None:
        answer = self.store.load(job.work_key)
        if answer is None:
            raise OutputFault("the stored prediction is gone or damaged: `npc-rtnode retry` infers it anew")
        if (answer.bundle.sha256, self.settings_hash) != (job.bundle_hash, job.settings_hash):
            self.pages.replace(job.lease, OTHER_ORDER, self.barrier.clock())
            return
        case = self._case(job, answer)
        objects, gates = self._judged(case, self._plan(job, case))
        stored = tuple((item, self.outbox.keep([item.encoded])) for item in objects)
        self.pages.commit_result(job.lease, self._result(case, stored, gates), self.barrier.clock())

    def _judged(self, case: Case, plan: ObjectPlan) -> tuple[tuple[WrittenObject, ...], tuple[GateResult, ...]]:
        """Objects and what the gates say of them. What only the finished objects show (POLYGON_VOLUME) may warn too:
        then they are written once more, and say it."""
        objects = self.objects.write(case.stack, case.sources, case.prediction, plan)
        gates = self.objects.judge(case.stack, case.sources, case.prediction, plan, objects)
        if late := unsaid(gates, plan.findings, case.prediction):
            return self._judged(case, replace(plan, findings=(*plan.findings, *late)))
        return objects, gates

    def _case(self, job: JobInHand, answer: Answer) -> Case:
        by_uid = {sop_uid: self.spool.path(sha256) for sop_uid, sha256 in job.series.inputs}
        stack = stack_of(self.reader.headers(list(by_uid.values())))
        sources = tuple(by_uid[header.sop_uid] for header in stack.slices)
        phantom = self.reader.is_phantom(sources)
        constancy = phantom and self.qa.enabled and job.series.called_ae == self.qa.ae_title
        return Case(stack, sources, answer.prediction, answer.bundle, phantom, constancy)

    def _plan(self, job: JobInHand, case: Case) -> ObjectPlan:
        return ObjectPlan(
            work_key=job.work_key,
            created_at=job.content_at,
            content=self.letterhead.content,
            utc_offset=self.letterhead.utc_offset,
            site=self.letterhead.site,
            bundle=case.bundle,
            software_version=self.letterhead.software_version,
            indication=job.indication,
            findings=self._warnings(case),
            phantom=case.phantom,
            result_revision=job.result_revision,
            orders=orders_for(self.destinations, self.letterhead.content.roi_name),
            supersedes=job.supersedes,
        )

    def _warnings(self, case: Case) -> tuple[Finding, ...]:
        return warnings_of(before_sending(case.stack, case.prediction, self.letterhead.content.uncertain_below))

    def _result(self, case: Case, stored: Stored, gates: Sequence[GateResult]) -> ResultToCommit:
        asking = [d for d in self.destinations if (d.name == self.qa.reserved) is case.constancy]
        wanted = [destination for destination in asking if may_show(case.enhanced_mr, destination.enhanced_mr)]
        failed = [gate.finding for gate in gates if gate.outcome is Outcome.HOLD]
        never = [*(f for f in failed if f.code not in RELEASABLE), *_forbidden(case, wanted)]
        wait = [*(f for f in failed if f.code in RELEASABLE), *_undeclared(asking, wanted)]
        owed = () if never else self._owed(wanted, stored)
        told = _told(case, gates) | {"not_owed": _not_owed(asking, wanted)}
        return ResultToCommit(stored, owed, (*never, *wait), not never, told)

    def _owed(self, wanted: Sequence[Destination], stored: Stored) -> tuple[tuple[str, str], ...]:
        """Each destination's objects in the form that it wants."""
        uids = {(item.kind, item.variant): item.sop_uid for item, _ in stored}
        return tuple(
            (uids[order.kind, order.variant], destination.name)
            for destination in wanted
            for order in orders_of(destination, self.letterhead.content.roi_name)
        )


def _forbidden(case: Case, wanted: Sequence[Destination]) -> list[Finding]:
    """ADR 0006: what phantom-trained weights say of a patient goes nowhere that a patient is treated from."""
    closed = [d.name for d in wanted if not may_send(case.bundle.synthetic, case.phantom, d.test)]
    if not closed:
        return []
    said = f"the bundle was trained on phantoms, this series is no phantom, and {', '.join(closed)} is no test system"
    return [Finding("SYNTHETIC_WEIGHTS", f"{said}: no verb releases this")]


def _undeclared(asking: Sequence[Destination], wanted: Sequence[Destination]) -> list[Finding]:
    """ADR 0009: nobody who wants the objects declares that it can show contours on frames; a setting mends that."""
    if wanted or not asking:
        return []
    names = ", ".join(destination.name for destination in asking)
    said = f"the series is Enhanced MR, and of {names} none declares it in the settings"
    mend = "set enhanced_mr = true for each that holds such images, restart, then `npc-rtnode retry`"
    return [Finding("ENHANCED_MR", f"{said}: {mend}", 0.0, 1.0)]


def _not_owed(asking: Sequence[Destination], wanted: Sequence[Destination]) -> list[str]:
    """Who would get the objects if it declared Enhanced MR, and why it does not, for `why`."""
    return [
        f"{d.name}: the series is Enhanced MR, which its enhanced_mr does not declare"
        for d in asking
        if d not in wanted
    ]


def _told(case: Case, gates: Sequence[GateResult]) -> dict[str, Any]:
    return {
        "synthetic": case.bundle.synthetic,
        "phantom": case.phantom,
        "constancy": case.constancy,
        "enhanced_mr": case.enhanced_mr,
        "gates": [
            {"gate": g.name, "outcome": g.outcome, "message": g.message, "value": g.value, "limit": g.limit}
            for g in gates
        ],
    }
