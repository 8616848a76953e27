"""npc_rtnode: the DICOM-RT pipeline node for nasopharyngeal carcinoma."""

__version__ = "0.1.0"
