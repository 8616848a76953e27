"""Children of several threads at once."""

from __future__ import annotations

import threading
from multiprocessing.process import BaseProcess
from typing import cast

from npc_rtnode.kinship import begin, let_go


class Child:
    """One whose start takes as long as the test wants."""

    def __init__(self) -> None:
        self.starting, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> None:
        """multiprocessing looks after all others meanwhile."""
        self.starting.set()
        assert self.go_on.wait(20)

    def close(self) -> None:
        """From now on there is nothing to look at."""
        self.closed.set()


def test_no_child_is_let_go_of_while_another_begins() -> None:
    """Or its start would meet one without a process, and a structure set was not sent for that."""
    slow, ended = Child(), Child()
    one = threading.Thread(target=begin, args=(cast("BaseProcess", slow),))
    other = threading.Thread(target=let_go, args=(cast("BaseProcess", ended),))
    one.start()
    assert slow.starting.wait(20)
    other.start()
    assert not ended.closed.wait(0.2)
    slow.go_on.set()
    assert ended.closed.wait(20)
    one.join()
    other.join()
