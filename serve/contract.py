"""The inputs and outputs by which any runtime tells an exported graph from another network."""

from collections.abc import Mapping
from dataclasses import dataclass

from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import EngineFile, Manifest

INPUT = "pixels"
OUTPUTS = {"mask": "uint8", "pixel_area": "int64", "soft_area": "float32"}
# Models exported by early versions lack it; only what recovers masks asks for it.
PROBABILITY = "probability"
KINDS = {**OUTPUTS, PROBABILITY: "float32"}


@dataclass(frozen=True)
class Port:
    """An input or output: type of its numbers as numpy names it, and length of its second axis.

    second: None where only a run would tell.
    """

    kind: str
    second: int | None


def check_contract(
    inputs: Mapping[str, Port], outputs: Mapping[str, Port], manifest: Manifest, entry: EngineFile
) -> None:
    """WssegError for a network that is not the one that the manifest describes."""
    known = {name: port for name, port in outputs.items() if name in KINDS}
    fits = (
        list(inputs) == [INPUT]
        and inputs[INPUT].kind == "float32"
        and OUTPUTS.keys() <= known.keys()
        and all(port.kind == KINDS[name] for name, port in known.items())
        and inputs[INPUT].second in (None, manifest.channels)
        and all(port.second in (None, len(manifest.classes)) for port in known.values())
    )
    if not fits:
        raise WssegError(
            f"{entry.file} is no graph of wsseg for {manifest.channels} channels and "
            f"{len(manifest.classes)} classes (inputs {dict(inputs)}, outputs {dict(outputs)}): "
            "export the model again"
        )
