"""Who may talk: title, address and certificate together, or a reason for the refusal."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final, NamedTuple

from npc_rtnode.adapters.dicom.tls import Shown
from npc_rtnode.domain.records import AssociationInfo
from npc_rtnode.settings import ListenerSettings, Peer


class Refusal(NamedTuple):
    """Of an association, as its A-ASSOCIATE-RJ says it, and for us why."""

    result: int  # PS3.8 9.3.4: 1 permanent, 2 transient
    source: int  # 1 service user, 3 service provider (presentation)
    diagnostic: int
    reason: str


_CALLED_UNKNOWN: Final = Refusal(1, 1, 7, "called AE title not recognised")
_CALLING_UNKNOWN: Final = Refusal(1, 1, 3, "calling AE title not recognised for this address")
_UNBOUND: Final = Refusal(1, 1, 3, "calling AE title not recognised for this certificate, or without one")


def unknown_caller(ip: str) -> AssociationInfo:
    """Somebody at that address who has not said yet who it is."""
    return AssociationInfo(secrets.token_hex(8), calling_ae="", called_ae="", peer_ip=ip)


class AccessList:
    """The settings' called titles and peers, ready to be asked; an empty list of peers admits nobody."""

    def __init__(self, settings: ListenerSettings, tls: bool = False) -> None:
        """Networks are parsed once (`ipaddress`, never a string prefix); `tls`: whether this node has certificates."""
        self._called = frozenset(called.ae_title for called in settings.called)
        self._peers = [(peer, [ipaddress.ip_network(n) for n in peer.networks]) for peer in settings.peers]
        self._tls = tls

    def knows_address(self, ip: str) -> bool:
        """Whether any peer may call from there at all: asked before a byte is parsed."""
        return any(_within(ip, networks) for _, networks in self._peers)

    def refusal(self, info: AssociationInfo, shown: Shown | None = None) -> Refusal | None:
        """Why this caller, with what its certificate has shown (None: no TLS), is refused, or None."""
        if info.called_ae not in self._called:
            return _CALLED_UNKNOWN
        if not self._claimed(info):
            return _CALLING_UNKNOWN
        return None if self.peer(info, shown) else _UNBOUND

    def peer(self, info: AssociationInfo, shown: Shown | None = None) -> Peer | None:
        """Who this is, by title, address and certificate together; its roles say what it may do."""
        return next((peer for peer in self._claimed(info) if self._vouched(peer, shown)), None)

    def _claimed(self, info: AssociationInfo) -> list[Peer]:
        """Whom the caller says that it is, as far as its address allows."""
        return [p for p, networks in self._peers if p.ae_title == info.calling_ae and _within(info.peer_ip, networks)]

    def _vouched(self, peer: Peer, shown: Shown | None) -> bool:
        if shown is None:
            return peer.plaintext or not self._tls
        return not shown.names.isdisjoint(peer.certificates)


def _within(ip: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
