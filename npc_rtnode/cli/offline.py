"""What `run` does: the pipeline's own steps on a folder, without ledger and network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from npc_rtnode import __version__
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.predictor import BundlePredictor
from npc_rtnode.adapters.rules import load_rule_file
from npc_rtnode.app import utc_now
from npc_rtnode.cli.rules import judge_folder
from npc_rtnode.domain.gates import GateResult, Outcome, before_sending, before_writing, may_send, unsaid, warnings_of
from npc_rtnode.domain.identifiers import digest_of, input_digest, work_key
from npc_rtnode.domain.prediction import Answer
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WorkIdentity, WrittenObject
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.errors import NothingEligible
from npc_rtnode.settings import Settings, content_hash

NOT_FOR_PATIENTS = "HELD-synthetic-weights-not-for-clinical-use"
View = dict[str, Any]


def process(folder: Path, output: Path, settings: Settings, rules: str | None) -> list[View]:
    """The preferred series of every study below `folder`, all of them where they tie; NothingEligible if there is none.

    Objects go to `output`, one folder a series. Those of which a gate holds are reported and not written: on disk
    nothing tells them from good ones.
    """
    reader, judged = DicomSeriesReader(), judge_folder(folder, load_rule_file(rules or settings.select.rules))
    meant = [one for one in judged if one.choice in {"chosen", "tied"}]
    if not meant:
        raise NothingEligible(f"{len(judged)} series below {folder}: `npc-rtnode rules test {folder}` tells why")
    predictor = BundlePredictor(settings.infer)
    try:
        return [_Offline(settings, reader, predictor).do(one.uid, list(one.files), output) for one in meant]
    finally:
        predictor.close()


class _Offline:
    """One series, from files to objects on disk."""

    def __init__(self, settings: Settings, reader: DicomSeriesReader, predictor: BundlePredictor) -> None:
        self._settings = settings
        self._reader = reader
        self._predictor = predictor

    def do(self, series_uid: str, files: list[Path], output: Path) -> View:
        volume = self._reader.volume(files)
        bundle = self._predictor.statement()
        prediction = self._predictor.predict(volume, bundle)
        by_uid = {header.sop_uid: path for path in files for header in self._reader.headers([path])}
        sources = [by_uid[header.sop_uid] for header in volume.stack.slices]
        gates = before_writing(volume.stack, prediction.mask, prediction)
        written: tuple[WrittenObject, ...] = ()
        phantom = self._reader.is_phantom(sources)
        if _passes(gates):
            inputs = list(dict.fromkeys((h.sop_uid, h.sha256) for h in volume.stack.slices))
            plan = self._plan(series_uid, inputs, Answer(prediction, bundle), phantom)
            warnings = warnings_of(before_sending(volume.stack, prediction, plan.content.uncertain_below))
            plan = replace(plan, findings=warnings)
            written = DicomObjects().write(volume.stack, sources, prediction, plan)
            gates = DicomObjects().judge(volume.stack, sources, prediction, plan, written)
            if late := unsaid(gates, plan.findings, prediction):  # as in pipeline/write: what only the objects show
                plan = replace(plan, findings=(*plan.findings, *late))
                written = DicomObjects().write(volume.stack, sources, prediction, plan)
                gates = DicomObjects().judge(volume.stack, sources, prediction, plan, written)
        open_to_all = may_send(bundle.synthetic, phantom, destination_is_test=False)
        name = input_digest(list(dict.fromkeys((series_uid, h.sha256) for h in volume.stack.slices)))[:12]
        target = output / name if open_to_all else output / NOT_FOR_PATIENTS / name
        if _passes(gates):
            _save(target, written)
        return {
            "series_uid": series_uid,
            "stage": prediction.stage,
            "stage_probabilities": list(prediction.stage_probabilities),
            "volume_cc": round(float(prediction.mask.sum()) * volume.stack.grid.voxel_cc, 3),
            "released": _passes(gates) and open_to_all,
            "failed": not _passes(gates),
            "gates": [{"gate": g.name, "outcome": g.outcome, "message": g.message} for g in gates],
            "folder": str(target) if _passes(gates) else None,
        }

    def _plan(self, series_uid: str, inputs: list[tuple[str, str]], answer: Answer, phantom: bool) -> ObjectPlan:
        settings, bundle, now = self._settings, answer.bundle, utc_now()
        # Without a ledger no earlier run is known, so the time is part of the key: every run makes objects of its own.
        moment = digest_of([content_hash(settings), "run", now.isoformat()])
        work = WorkIdentity(series_uid, input_digest(inputs), bundle.sha256, moment)
        return ObjectPlan(
            work_key=work_key(work),
            created_at=now,
            content=settings.content,
            utc_offset=settings.node.utc_offset,
            site=settings.node.site,
            bundle=bundle,
            software_version=__version__,
            indication="not judged: run without the network, on the word of whoever ran it",
            findings=answer.prediction.findings,
            phantom=phantom,
            result_revision=1,
            orders=_orders(settings),
        )


def _orders(settings: Settings) -> tuple[ObjectOrder, ...]:
    """What the destinations want, and at least a structure set and a report."""
    wanted = settings.orders
    report = () if any(order.kind is ObjectKind.SR for order in wanted) else (ObjectOrder(ObjectKind.SR),)
    plain = (ObjectOrder(ObjectKind.RTSTRUCT),) if report else ()
    return tuple(dict.fromkeys((*wanted, *plain, *report)))


def _passes(gates: tuple[GateResult, ...]) -> bool:
    return all(gate.outcome is not Outcome.HOLD for gate in gates)


def _save(folder: Path, written: tuple[WrittenObject, ...]) -> None:
    for item in written:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{item.kind}-{item.variant}" if item.variant else str(item.kind)
        (folder / f"{name}.dcm").write_bytes(item.encoded)
