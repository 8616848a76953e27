"""Hosts on one machine: network namespaces with addresses of their own, of which nothing else can be reached.

    with Lan() as lan:
        a = lan.host("a")                      # a.address, lan.node_address_for(a)
        subprocess.Popen([*a.prefix, ...])     # a process on that host
        lan.cut(a); lan.join(a)

Every host has one cable, to the node; the tester has one too. The node forwards nothing.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

_LANS = itertools.count()
"""A namespace goes some time after it was deleted, and its cables with it: no name is used twice."""


def refused() -> str | None:
    """Why this machine lets us make none; None where it does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"npc-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    cable = f"npct{os.getpid() % 100000}"
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", f"{cable}p")
        _ip("link", "del", cable)
    except RuntimeError:
        return "no virtual cables (veth) here"
    finally:
        _ip("netns", "del", name)
    return None


@dataclass(frozen=True)
class Host:
    """A namespace, its address, the node's address as it is seen from there, and the node's end of the cable."""

    name: str
    address: str
    node: str
    plug: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name) if self.name else ()


class Lan:
    """The node and who is plugged into it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        turn = next(_LANS)
        self._tag = f"{os.getpid() % 10000}{turn:x}"
        self._network = 10 + (os.getpid() + turn) % 200
        self.node = Host(f"npc{self._tag}-node", "", "127.0.0.1", "")
        self._plugged = 0

    def __enter__(self) -> Lan:
        """The node, and the tester's cable to it."""
        with ExitStack() as undone:
            undone.push(self._stack)
            self._add(self.node.name)
            self.tester = self._plug("", f"npc{self._tag}t")
            undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """All gone, and the cables with them."""
        self._stack.close()

    def host(self, name: str) -> Host:
        """One more host."""
        namespace = f"npc{self._tag}-{name}"
        self._add(namespace)
        return self._plug(namespace, f"npc{self._tag}{name}")

    def cut(self, host: Host) -> None:
        """Pull the plug at the node."""
        _ip("-n", self.node.name, "link", "set", host.plug, "down")

    def join(self, host: Host) -> None:
        """Put it in again."""
        _ip("-n", self.node.name, "link", "set", host.plug, "up")

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._stack.callback(_ip, "netns", "del", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _plug(self, namespace: str, cable: str) -> Host:
        self._plugged += 1
        subnet = f"10.{self._network}.{self._plugged}"
        host = Host(namespace, f"{subnet}.2", f"{subnet}.1", f"{cable}n")
        _ip("link", "add", host.plug, "type", "veth", "peer", "name", f"{cable}h")
        if not namespace:  # our own end goes with us, and not some time after the node's namespace
            self._stack.callback(_ip, "link", "del", f"{cable}h")
        _ip("link", "set", host.plug, "netns", self.node.name)
        _ip("-n", self.node.name, "addr", "add", f"{host.node}/24", "dev", host.plug)
        _ip("-n", self.node.name, "link", "set", host.plug, "up")
        there = ("-n", namespace) if namespace else ()
        if namespace:
            _ip("link", "set", f"{cable}h", "netns", namespace)
        _ip(*there, "addr", "add", f"{host.address}/24", "dev", f"{cable}h")
        _ip(*there, "link", "set", f"{cable}h", "up")
        return host


def _ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(args)}: {done.stderr.strip()}")
