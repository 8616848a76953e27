"""What a caller is offered: SOP Classes, transfer syntaxes, the longest PDU, and which of it its role allows."""

from __future__ import annotations

from typing import Final

from pydicom import uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by pynetdicom at import

from npc_rtnode.adapters.dicom.commitment import PUSH_MODEL
from npc_rtnode.adapters.dicom.structure import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, TRANSFER_SYNTAXES
from npc_rtnode.settings import ListenerSettings

STORAGE_CLASSES: Final = (  # what travels with an MR study, to be kept or set aside with a reason
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.MRSpectroscopyStorage,
    uid.RTStructureSetStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.BasicTextSRStorage,
    uid.EnhancedSRStorage,
    uid.ComprehensiveSRStorage,
    uid.Comprehensive3DSRStorage,
    uid.EncapsulatedPDFStorage,
    uid.RawDataStorage,
    uid.SegmentationStorage,
    uid.ParametricMapStorage,
    uid.SpatialRegistrationStorage,
    uid.DeformableSpatialRegistrationStorage,
    uid.RealWorldValueMappingStorage,
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
)
ASSOCIATE_TIMEOUT_S: Final = 10.0  # from connection to a complete A-ASSOCIATE-RQ (row 4)


def entity(settings: ListenerSettings, commitment: bool) -> AE:
    """The application entity that offers all there is; `commitment`: whether that service is."""
    ae = AE(settings.called[0].ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    ae.maximum_pdu_size = settings.max_pdu_bytes
    ae.maximum_associations = 1_000_000  # it counts threads, half-open ones too (row 10): the door counts instead
    ae.network_timeout = ae.dimse_timeout = settings.idle_timeout_s
    ae.acse_timeout = min(ASSOCIATE_TIMEOUT_S, settings.idle_timeout_s)
    for storage_class in STORAGE_CLASSES:
        ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
    ae.add_supported_context(Verification)
    if commitment:
        ae.add_supported_context(PUSH_MODEL, [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
    return ae


def role_for(abstract_syntax: str) -> str:
    """The role that a peer needs for this SOP Class; none for C-ECHO."""
    return {str(Verification): "", str(PUSH_MODEL): "commit"}.get(abstract_syntax, "store")
