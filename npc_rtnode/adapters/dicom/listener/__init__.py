"""The Storage SCP: who may send, what is taken, and what each sender is told.

pynetdicom 3.0.4 speaks the protocol; the rooms here close the holes measured in intake.md 1.2 (its row numbers stand
beside the code). Nothing is decoded: the encoded data set goes to the sink as it came, and only the sink's verdict
becomes a status word. It runs in a small process of its own, without torch and without pixel codecs.

Memory: of an object no more than one PDU is held here (row 26); the sink has the rest on disk as it comes, in the DUL
thread, so that a disk that is slower than the network slows the sender down (ADR 0019).

The rooms, from a caller's first byte on:

- `server`: the ports, start and stop, TLS.
- `door`: who is let in, how many are inside, the way to the sink; `access` knows the callers.
- `association`: one connection, put together of a gate and the four rooms that follow.
- `connection`: what these know of the whole: who calls, how far it has come, how it ends.
- `guarded_socket`: each PDU within its time and its cap.
- `wire`: the thread that reads and writes; `fast_store` knows the bytes of an ordinary C-STORE.
- `meter`: messages fragment by fragment, counted and capped, data sets handed on as they come.
- `offer`: what may be negotiated; `answers`: what a sender is told; `quiet`: what the libraries may not say.
"""
