"""The ledger's tables (SQLAlchemy 2.1, typed). The schema is made by alembic alone; `alembic check` compares the two.

No patient identity stands here: UIDs and digests only. Every time is UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from npc_rtnode.domain.priority import CLINICAL


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC time, stored as naive UTC so that SQLite and PostgreSQL agree; naive times are refused."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without its zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return value.replace(tzinfo=UTC) if value is not None else None


class Table(DeclarativeBase):
    """All tables share one naming convention, so that migrations can name what they drop."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


_BIG = BigInteger().with_variant(Integer, "sqlite")


class AssociationRow(Table):
    """One association that a peer opened, accepted or not; `refused` are SOP Instance UIDs of images not taken."""

    __tablename__ = "associations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(64))
    called_ae: Mapped[str] = mapped_column(String(64))
    peer_ip: Mapped[str] = mapped_column(String(45))
    opened_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    how: Mapped[str | None] = mapped_column(String(200))
    last_series_id: Mapped[int | None]
    refused: Mapped[list[Any]] = mapped_column(default=list)


class StudyRow(Table):
    """One study, with the short reference that people use for it; `hold` is who keeps it back, and why."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(String(64), unique=True)
    reference: Mapped[str] = mapped_column(String(16), unique=True)
    first_received_at: Mapped[datetime]
    hold: Mapped[str | None] = mapped_column(Text)

    series: Mapped[list[SeriesRow]] = relationship(back_populates="study", order_by="SeriesRow.id")


class SeriesRow(Table):
    """One revision of one series: revision 2 exists because slices came after revision 1 was closed."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("series_uid", "revision"),
        Index("ix_series_open", "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_uid: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int]
    modality: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    operators_word: Mapped[str | None] = mapped_column(Text)
    waived: Mapped[list[Any]] = mapped_column(default=list)
    troubles: Mapped[int] = mapped_column(default=0)
    last_association_id: Mapped[str] = mapped_column(ForeignKey("associations.id"))
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    closed_because: Mapped[str | None] = mapped_column(Text)
    input_digest: Mapped[str | None] = mapped_column(String(64))
    rules_hash: Mapped[str | None] = mapped_column(String(64))
    asked: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))

    study: Mapped[StudyRow] = relationship(back_populates="series")
    verdicts: Mapped[list[VerdictRow]] = relationship(order_by="VerdictRow.id")
    jobs: Mapped[list[JobRow]] = relationship(back_populates="series", order_by="JobRow.id")


class CommitmentState(StrEnum):
    """Where one request for storage commitment stands."""

    PENDING = "PENDING"  # the report is owed
    REPORTED = "REPORTED"  # the requester has it
    FAILED = "FAILED"  # it could not be told for too long


class CommitmentRow(Table):
    """One Storage Commitment transaction (PS3.4 J): what a peer asked for, and what it was told."""

    __tablename__ = "commitments"
    __table_args__ = (
        UniqueConstraint("calling_ae", "transaction_uid"),
        Index("ix_commitments_due", "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(64))
    transaction_uid: Mapped[str] = mapped_column(String(64))
    wanted: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(String(16))
    requested_at: Mapped[datetime]
    due_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None]
    committed: Mapped[int | None]
    refused: Mapped[list[Any]] = mapped_column(default=list)
    last_error: Mapped[str | None] = mapped_column(Text)


class InstanceState(StrEnum):
    """What a kept content is to its series."""

    KEPT = "KEPT"  # an input
    REENCODED = "REENCODED"  # the elements of another one in other bytes: acknowledged, kept, no input
    CONFLICTING = "CONFLICTING"  # another content under a SOP Instance UID that has one: the series is quarantined
    REPLACED = "REPLACED"  # a person has said that another content counts


class InstanceRow(Table):
    """One instance whose bytes are in the spool. The same UID with other bytes is another row."""

    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("sop_uid", "sha256"),)

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    association_id: Mapped[str] = mapped_column(ForeignKey("associations.id"))
    sop_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(_BIG)
    state: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime]


class IntakePositionRow(Table):
    """How far the intake journal has come: one row. Records up to `applied` stand in the ledger; the files of those up
    to `secured` are durable by themselves."""

    __tablename__ = "intake_position"

    id: Mapped[int] = mapped_column(primary_key=True)
    applied: Mapped[int] = mapped_column(_BIG)
    secured: Mapped[int] = mapped_column(_BIG)


class VerdictRow(Table):
    """One rule's answer on one series revision; answers of one judgement share their time, none is replaced."""

    __tablename__ = "verdicts"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    rule: Mapped[str] = mapped_column(String(200))
    truth: Mapped[str] = mapped_column(String(8))
    because: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class LeaseColumns:
    """Work that one worker holds at a time, for a while, with a token that fences off whoever overslept.

    `lease_owner` is the worker's host, `lease_until` moves on with each sign of life of its holder; `rank_at` is the
    order in which work is served (domain/priority).
    """

    due_at: Mapped[datetime]
    first_due_at: Mapped[datetime]
    rank_at: Mapped[datetime] = mapped_column(server_default=text("'1970-01-01 00:00:00'"))
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)


class JobRow(LeaseColumns, Table):
    """One bundle on one series revision under one work key; a key exists once."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_due", "state", "due_at"), Index("ix_jobs_rank", "state", "rank_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    work_key: Mapped[str] = mapped_column(String(64), unique=True)
    result_revision: Mapped[int]
    priority: Mapped[int] = mapped_column(default=CLINICAL, server_default=text(str(CLINICAL)))
    input_digest: Mapped[str] = mapped_column(String(64))
    bundle_hash: Mapped[str] = mapped_column(String(64))
    bundle_name: Mapped[str] = mapped_column(String(128))
    settings_hash: Mapped[str] = mapped_column(String(64))
    indication: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    releasable: Mapped[bool] = mapped_column(default=True)
    content_at: Mapped[datetime]
    results: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]

    series: Mapped[SeriesRow] = relationship(back_populates="jobs")
    objects: Mapped[list[ObjectRow]] = relationship(back_populates="job", order_by="ObjectRow.id")


class ObjectRow(Table):
    """One finished object; its bytes are in the outbox under their digest and never change.

    `variant` tells forms of one kind apart (domain/profiles); empty is the plain one.
    """

    __tablename__ = "objects"
    __table_args__ = (UniqueConstraint("job_id", "kind", "variant"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    variant: Mapped[str] = mapped_column(String(16), server_default=text("''"))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    created_at: Mapped[datetime]
    came_back: Mapped[int] = mapped_column(default=0)

    job: Mapped[JobRow] = relationship(back_populates="objects")
    deliveries: Mapped[list[DeliveryRow]] = relationship(back_populates="object", order_by="DeliveryRow.id")


class DeliveryRow(LeaseColumns, Table):
    """One object owed to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("object_id", "destination"),
        Index("ix_deliveries_due", "state", "due_at"),
        Index("ix_deliveries_rank", "state", "destination", "rank_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("objects.id"), index=True)
    destination: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    status: Mapped[int | None]
    warning: Mapped[bool] = mapped_column(default=False)
    sent_at: Mapped[datetime | None]

    object: Mapped[ObjectRow] = relationship(back_populates="deliveries")


class PauseRow(Table):
    """A lane that a person has stopped: nothing more is begun there until it is resumed, which ends the row."""

    __tablename__ = "pauses"

    id: Mapped[int] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(String(48), index=True)
    actor: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class AttemptRow(Table):
    """One try at one piece of work, committed before any data are touched."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_subject", "subject", "subject_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[int]
    stage: Mapped[str] = mapped_column(String(16))
    lease_token: Mapped[str] = mapped_column(String(36), unique=True)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    detail: Mapped[str | None] = mapped_column(Text)


class RemovalRow(Table):
    """One file whose bytes were removed: where it lay, when, by whom, why. `restored_at`: the same bytes came again."""

    __tablename__ = "removals"
    __table_args__ = (Index("ix_removals_file", "place", "name"),)

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    place: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(_BIG)
    removed_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    restored_at: Mapped[datetime | None]


class RecoveredObjectRow(Table):
    """An object of ours that lies in the outbox of a ledger that does not know it: a restored ledger is older."""

    __tablename__ = "recovered_objects"

    sop_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    found_at: Mapped[datetime]


class ConstancyRow(Table):
    """One run of the constancy phantom through the live chain: what was measured, and what it came to."""

    __tablename__ = "constancy_runs"
    __table_args__ = (Index("ix_constancy_runs_day", "day"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(String(64), unique=True)
    day: Mapped[str] = mapped_column(String(10))
    asked_by: Mapped[str] = mapped_column(String(64))
    phantom_sha256: Mapped[str] = mapped_column(String(64))
    bundle_hash: Mapped[str] = mapped_column(String(64))
    settings_hash: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    measures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reasons: Mapped[list[Any]] = mapped_column(default=list)


class EventRow(Table):
    """What happened, in order, chained: `hash` covers this row and the hash before it. Rows are only ever added."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_subject", "subject", "subject_id"),)

    seq: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64), server_default=text("'node'"))
    subject: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[str] = mapped_column(String(64))
    event: Mapped[str] = mapped_column(String(32))
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str | None] = mapped_column(String(16))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
