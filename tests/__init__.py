"""The tests. A package, because rt-utils installs a top-level `tests` of its own, which would be found instead."""
