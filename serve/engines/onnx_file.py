"""What must hold for an ONNX file before a runtime sees it: its weights lie in it and are finite.

The base install has no package that reads ONNX files without running them, so the few fields that
matter are read here, in place, from protobuf's wire format, by their numbers in `onnx.proto`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.serve.manifest import EngineFile, UnfitFileError, engine_bytes

# By kind of message: the fields that hold messages with tensors somewhere inside.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 2, 4, 8, 9, 10, 13, 14
# The exponent of a float is all ones if it is NaN or infinite; by TensorProto.DataType.
_EXPONENTS: dict[int, Any] = {
    1: np.uint32(0x7F800000),
    10: np.uint16(0x7C00),
    11: np.uint64(0x7FF0000000000000),
    16: np.uint16(0x7F80),
}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
MOST_NESTED = 64
"""Messages inside each other; protobuf itself reads 100."""

Value = int | memoryview


def onnx_bytes(folder: Path, entry: EngineFile) -> bytes:
    """The content of an ONNX file of a model folder, see `engine_bytes`.

    Raises WssegError also for one that would read other files, from wherever the program runs, and
    for weights that are NaN or infinite: a Relu may hide them from the answers.
    """
    content = engine_bytes(folder, entry)
    check_onnx(content, f"{folder}: engine file {entry.file}")
    return content


def check_onnx(content: bytes, what: str) -> None:
    """Raise WssegError, which begins with `what`, for tensors in other files or not finite."""
    try:
        for tensor in _tensors(memoryview(content), "model", MOST_NESTED):
            _check(tensor, what)
    except ValueError as error:
        raise UnfitFileError(f"{what} is no ONNX file ({error}): export the model again") from error


def _tensors(message: memoryview, kind: str, nested: int) -> Iterator[memoryview]:
    """All tensors inside a message."""
    if not nested:
        raise ValueError("nested too deeply")
    for number, value in _fields(message):
        inner = _INSIDE[kind].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "tensor":
            yield value
        else:
            yield from _tensors(value, inner, nested - 1)


def _check(tensor: memoryview, what: str) -> None:
    kind, name, is_external = 0, "", False
    found: list[memoryview] = []
    for number, value in _fields(tensor):
        if number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME and not isinstance(value, int):
            name = bytes(value[:200]).decode(errors="replace")
        elif number in (_FLOATS, _RAW, _DOUBLES) and not isinstance(value, int):
            found.append(value)
        elif number == _EXTERNAL or (number == _LOCATION and value):
            is_external = True
    if is_external:
        raise UnfitFileError(
            f"{what} takes the tensor {name!r} from another file, which no export of wsseg does: "
            "export the model again"
        )
    exponent = _EXPONENTS.get(kind)
    if exponent is None:
        return
    for value in found:
        bits: Any = np.frombuffer(value, exponent.dtype)
        if ((bits & exponent) == exponent).any():
            raise UnfitFileError(
                f"{what} has weights that are NaN or infinite, in the tensor {name!r}: train and "
                "export the model again"
            )


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message: their numbers and values. ValueError if it is cut or none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        value: Value
        if wire == _VARINT:
            value, at = _varint(message, at)
        else:
            if wire == _BYTES:
                size, at = _varint(message, at)
            elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if wire == _EIGHT_BYTES else 4
            else:
                raise ValueError(f"a field of type {wire}")
            value = message[at : at + size]
            if len(value) < size:
                raise ValueError("it is cut off")
            at += size
        yield key >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where it ends."""
    value = 0
    for place in range(10):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
