"""Files of DICOM for the tests, written by pydicom: slices of a series, and enhanced files of several frames.

Every file holds the name of a patient, and private elements at its top level and in a sequence.
"""

import io
import warnings
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence

SYNTAXES = {
    "explicit": uid.ExplicitVRLittleEndian,
    "implicit": uid.ImplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
}
SECRETS = ("Doe^Jane", "MRN-4711", "19700315", "Privatissimo", "Innermost", "Dr^Who", "Saint Elsewhere", "Kitchen Sink")
"""Texts of every file that nothing which fer writes may hold."""
VALUES = np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16)
"""Stored values of the four slices of 6×5 pixels."""
EDGES = (0.7, 1.5, 2.5)
_FRAMES = "1.2.840.10008.5.1.4.1.1.2.1"


def dicom_slice(z: int, kind: str = "explicit", *, values: np.ndarray = VALUES, **changes: Any) -> bytes:
    """The slice `z` of a series; `changes` replace elements, None removes one."""
    return _written(_image(values[:, :, [z]], 10 + 2.5 * z), kind, changes)


def dicom_frames(kind: str = "explicit", *, values: np.ndarray = VALUES, **changes: Any) -> bytes:
    """All slices as frames of one enhanced file, in falling order along z."""
    elements = _image(values[:, :, ::-1], 0)
    elements.SOPClassUID = elements.file_meta.MediaStorageSOPClassUID = _FRAMES
    elements.NumberOfFrames = values.shape[2]
    plane, measures, rescale = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = elements.ImageOrientationPatient
    measures.PixelSpacing = elements.PixelSpacing
    rescale.RescaleSlope, rescale.RescaleIntercept = elements.RescaleSlope, elements.RescaleIntercept
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    elements.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for z in reversed(range(values.shape[2])):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [1, 2, 10 + 2.5 * z]
        frame.PlanePositionSequence = Sequence([place])
        frame.private_block(0x0021, "Innermost", create=True).add_new(1, "LO", "Innermost")
        frames.append(frame)
    elements.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        del elements[keyword]
    return _written(elements, kind, changes)


def _image(values: np.ndarray, z: float) -> Dataset:
    """The elements of an image of values (x, y, frame)."""
    elements = Dataset()
    elements.file_meta = FileMetaDataset()
    elements.file_meta.MediaStorageSOPClassUID = elements.SOPClassUID = uid.CTImageStorage
    elements.file_meta.MediaStorageSOPInstanceUID = elements.SOPInstanceUID = f"1.2.3.{round(z * 10)}"
    elements.PatientName, elements.PatientID, elements.PatientBirthDate = SECRETS[:3]
    elements.ReferringPhysicianName, elements.InstitutionName, elements.SeriesDescription = SECRETS[5:]
    elements.private_block(0x0009, "Privatissimo", create=True).add_new(1, "LO", "Privatissimo")
    elements.private_block(0x0029, "Privatissimo", create=True).add_new(1, "OB", b"Privatissimo")
    elements.SeriesInstanceUID, elements.SeriesNumber = "1.2.3", 7
    elements.Columns, elements.Rows, _ = values.shape
    elements.SamplesPerPixel, elements.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * values.dtype.itemsize
    elements.BitsAllocated, elements.BitsStored, elements.HighBit = bits, bits, bits - 1
    elements.PixelRepresentation = int(values.dtype.kind == "i")
    elements.ImagePositionPatient, elements.ImageOrientationPatient = [1, 2, z], [1, 0, 0, 0, 1, 0]
    elements.PixelSpacing = [EDGES[1], EDGES[0]]
    elements.RescaleSlope, elements.RescaleIntercept = 2, -1024
    elements.PixelData = values.T.tobytes()
    elements["PixelData"].VR = "OW"
    return elements


def _written(elements: Dataset, kind: str, changes: dict[str, Any]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that the standard does not allow
        for keyword, value in changes.items():
            if value is None:
                del elements[keyword]
            else:
                setattr(elements, keyword, value)
    stream = io.BytesIO()
    syntax = elements.file_meta.TransferSyntaxUID = SYNTAXES[kind]
    if kind == "rle":
        elements.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        elements.compress(syntax, generate_instance_uid=False)
    if kind == "big endian":
        elements.PixelData = np.frombuffer(elements.PixelData, "<i2").astype(">i2").tobytes()
    elements.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
