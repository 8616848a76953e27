"""The laboratory: one network that draws the GTV and names the T stage, and everything needed to train and ship it.

Stands alone: nothing here imports the daemon. The daemon comes in by one door, :mod:`model.bundle`.
"""
