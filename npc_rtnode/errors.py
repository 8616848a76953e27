"""What can go wrong, as a tree one can see: the docstring is the message, the type says whose fault it is.

Four branches: the peer's fault, the input's, our own set-up's, and the moment's. `code` is what an operator greps for,
`exit_code` what a script sees (the table is in docs/cli.md), `transient` whether trying again by itself can help.
"""

from __future__ import annotations

from typing import ClassVar


class NodeError(Exception):
    """The node could not do what was asked."""

    code: ClassVar[str] = "NODE_ERROR"
    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, detail: str = "") -> None:
        said = (type(self).__doc__ or "").strip().split("\n")[0]
        super().__init__(f"{said} {detail}".strip() if detail else said)
        self.detail = detail or said


# --- the peer's fault -------------------------------------------------------------------------------------------------


class PeerError(NodeError):
    """The other system did not do its part."""

    code = "PEER_ERROR"
    exit_code = 60
    transient = True


class Unreachable(PeerError):
    """The peer cannot be reached."""

    code = "UNREACHABLE"


class AssociationRejected(PeerError):
    """The peer rejected the association."""

    code = "ASSOCIATION_REJECTED"
    exit_code = 61


class TlsFailed(PeerError):
    """TLS could not be agreed with the peer."""

    code = "TLS_FAILED"
    exit_code = 61


class ContextRefused(PeerError):
    """The peer does not accept this SOP Class."""

    code = "CONTEXT_REFUSED"
    exit_code = 61
    transient = False


class ObjectRefused(PeerError):
    """The peer refused the object."""

    code = "OBJECT_REFUSED"
    exit_code = 62
    transient = False


class PeerBusy(PeerError):
    """The peer is out of resources for now."""

    code = "PEER_BUSY"


class PeerConfused(PeerError):
    """The peer answered for another message or another object; that answer counts for nothing."""

    code = "PEER_CONFUSED"


class PeerStalled(PeerError):
    """The peer did not finish within the time allowed."""

    code = "PEER_STALLED"


class NotAllCame(PeerError):
    """The archive has not sent all that it tells of."""

    code = "NOT_ALL_CAME"
    transient = False


# --- the input's fault ------------------------------------------------------------------------------------------------


class InputFault(NodeError):
    """The input cannot be used."""

    code = "INPUT_FAULT"
    exit_code = 20


class Unreadable(InputFault):
    """The data set cannot be read to its last byte."""

    code = "UNREADABLE"


class GeometryRefused(InputFault):
    """The slices do not make one even stack."""

    code = "GEOMETRY_REFUSED"


class PixelsRefused(InputFault):
    """The pixels' numbers cannot be read as grey values."""

    code = "PIXELS_REFUSED"


class NothingEligible(InputFault):
    """No series here is eligible."""

    code = "NOTHING_ELIGIBLE"
    exit_code = 21


# --- our own set-up ---------------------------------------------------------------------------------------------------


class SetupFault(NodeError):
    """This installation is not set up as it should be."""

    code = "SETUP_FAULT"
    exit_code = 2


class ConfigFault(SetupFault):
    """The settings are wrong."""

    code = "CONFIG_FAULT"


class RulesFault(SetupFault):
    """The rule set is wrong."""

    code = "RULES_FAULT"


class BundleFault(SetupFault):
    """The model bundle cannot be used."""

    code = "BUNDLE_FAULT"


class SchemaFault(SetupFault):
    """The database schema is not the one this program knows."""

    code = "SCHEMA_FAULT"


class OtherRecipe(SetupFault):
    """This worker host has not the node's bundle, or not its settings."""

    code = "OTHER_RECIPE"


class CannotListen(SetupFault):
    """The node cannot listen where its settings say."""

    code = "CANNOT_LISTEN"


class NotFound(SetupFault):
    """No such thing is known here."""

    code = "NOT_FOUND"


class Forbidden(SetupFault):
    """The node does not allow this."""

    code = "FORBIDDEN"


class OutputFault(NodeError):
    """An object that was written failed its own check."""

    code = "OUTPUT_FAULT"
    exit_code = 40


# --- the moment's fault -----------------------------------------------------------------------------------------------


class MomentFault(NodeError):
    """Not now; the same thing may work later."""

    code = "MOMENT_FAULT"
    exit_code = 75
    transient = True


class DiskLow(MomentFault):
    """There is too little free space to promise anything."""

    code = "DISK_LOW"


class LedgerUnavailable(MomentFault):
    """The database did not take the record in time."""

    code = "LEDGER_UNAVAILABLE"


class InferenceTimeout(MomentFault):
    """Inference ran past its wall-clock limit and was killed."""

    code = "INFERENCE_TIMEOUT"


class InferenceCrashed(MomentFault):
    """The inference process died."""

    code = "INFERENCE_CRASHED"


class InferenceOutOfMemory(MomentFault):
    """Inference needs more memory than there is."""

    code = "INFERENCE_OUT_OF_MEMORY"


class FilesAway(MomentFault):
    """The node's files cannot be fetched or left there."""

    code = "FILES_AWAY"


class HostTaken(MomentFault):
    """Another process works under the name of this host."""

    code = "HOST_TAKEN"


class NodeStopping(MomentFault):
    """The node is being stopped; this work goes on after its next start."""

    code = "NODE_STOPPING"


class LeaseLost(MomentFault):
    """Another worker has taken this work over; what was done here is dropped."""

    code = "LEASE_LOST"
