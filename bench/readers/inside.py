"""Reads segmentations with each reader; runs in an environment of its own, without wsseg.

Standard input: JSON of the segmentations' paths, by name. Standard output: JSON of what each reader
gave, by reader and name: {"places": {segment: [[x, y, z], ...]}, "remark": text} in LPS mm, or
{"error": text}.
"""

import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Places = dict[str, list[list[float]]]
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Reading = tuple[Places, str]
"""The places of each segment's pixels, and a remark or ""."""


def _list(points: Any) -> list[list[float]]:
    found: list[list[float]] = np.asarray(points, float).reshape(-1, 3).round(3).tolist()
    return found


def _moved(affine: Any, index: Any) -> list[list[float]]:
    return _list(index @ affine[:3, :3].T + affine[:3, 3])


def _by_label(labels: Any, affine: Any) -> Places:
    """Of an array (i, j, k) and its affine to LPS."""
    values = [int(value) for value in np.unique(labels) if value]
    return {str(value): _moved(affine, np.argwhere(labels == value)) for value in values}


def _nifti(path: Path) -> tuple[Any, Any]:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj), TO_LPS @ image.affine


def pydicom(path: Path) -> Reading:
    """The frames, each at its own position."""
    from pydicom import dcmread

    found = dcmread(path)
    (shared,) = found.SharedFunctionalGroupsSequence
    spacing = [float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing]
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    places: dict[str, list[Any]] = {}
    for frame, group in zip(found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True):
        affine = np.eye(4)
        affine[:3, 0] = np.float64(cosines[0]) * spacing[1]
        affine[:3, 1] = np.float64(cosines[1]) * spacing[0]
        affine[:3, 3] = np.float64(group.PlanePositionSequence[0].ImagePositionPatient)
        named = group.get("SegmentIdentificationSequence")
        labels = frame * named[0].ReferencedSegmentNumber if named else frame
        for label, points in _by_label(labels.T[..., None], affine).items():
            places.setdefault(label, []).extend(points)
    return places, ""


def highdicom(path: Path) -> Reading:
    """A volume of each segment."""
    import highdicom

    found = highdicom.seg.segread(path)
    volume = found.get_volume(combine_segments=False, rescale_fractional=False)
    numbers = list(found.segment_numbers)
    places = {
        str(number): _moved(volume.affine, np.argwhere(volume.array[..., index]))
        for index, number in enumerate(numbers)
    }
    counted = found.number_of_segments
    wrong = f"`number_of_segments` is {counted}" if counted != len(numbers) else ""
    return places, wrong


def dcmqi(path: Path) -> Reading:
    """The files that segimage2itkimage writes: one for each segment."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(sys.executable).with_name("segimage2itkimage")
        arguments = ["--inputDICOM", str(path), "--outputDirectory", name, "--outputType", "nii"]
        subprocess.run([str(program), *arguments], capture_output=True, check=True)
        files = sorted(Path(name).glob("*.nii*"))
        places: Places = {}
        for file in files:
            places |= _by_label(*_nifti(file))
    return places, "one file for both" if len(files) < len(places) else ""


def simpleitk(path: Path) -> Reading:
    """A stack of all frames, by ReadImage; pixels have the value 255."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(path)
    labels = sitk.GetArrayFromImage(image).T
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _by_label(labels, affine), ""


def dcm2niix(path: Path) -> Reading:
    """The file that dcm2niix converts it to; its fourth dimension is the segment."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(sys.executable).with_name("dcm2niix")
        arguments = ["-f", "n", "-b", "n", "-z", "n", "-o", name, str(path.parent)]
        subprocess.run([str(program), *arguments], capture_output=True, check=True)
        (file,) = Path(name).glob("*.nii")
        labels, affine = _nifti(file)
    if labels.ndim == 4:
        labels = labels * np.arange(1, labels.shape[3] + 1)
        places = [_by_label(labels[..., index], affine) for index in range(labels.shape[3])]
        return {label: points for each in places for label, points in each.items()}, ""
    return _by_label(labels, affine), ""


def monai(path: Path) -> Reading:
    """A channel for each segment, by PydicomReader."""
    from monai.data import PydicomReader

    reader = PydicomReader(affine_lps_to_ras=False)
    array, meta = reader.get_data(reader.read(path))
    channels = np.moveaxis(array, 3, 0) if array.ndim == 4 else [array]
    affine = np.asarray(meta["affine"])
    return {
        str(number): _moved(affine, np.argwhere(channel))
        for number, channel in enumerate(channels, start=1)
    }, ""


READERS: dict[str, Callable[[Path], Reading]] = {
    "pydicom": pydicom,
    "highdicom": highdicom,
    "dcmqi": dcmqi,
    "SimpleITK": simpleitk,
    "dcm2niix": dcm2niix,
    "MONAI": monai,
}


def _answer(read: Callable[[Path], Reading], path: Path) -> dict[str, Any]:
    try:
        places, remark = read(path)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"places": places, "remark": remark}


def main() -> None:
    """Read what standard input names."""
    warnings.simplefilter("ignore")
    logging.disable()
    paths = json.load(sys.stdin)
    found = {
        name: {key: _answer(read, Path(path)) for key, path in paths.items()}
        for name, read in READERS.items()
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
