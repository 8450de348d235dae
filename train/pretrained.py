"""Initial weights from a local file or, when asked for, from torchvision's servers."""

import json
import logging
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import (
    MobileNet_V2_Weights,
    MobileNet_V3_Large_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    WeightsEnum,
)
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
)

from wsseg.imaging.errors import WssegError
from wsseg.train.config import NetworkName
from wsseg.train.networks import Network, last_layer
from wsseg.train.run_folder import RECORD, not_finite

logger = logging.getLogger(__name__)

BACKBONE = "backbone."
# torchvision's classification networks of the MobileNet family keep their backbone under this.
FEATURES = "features."
# A counter that does not change what a network computes.
COUNTER = "num_batches_tracked"

IMAGENET: dict[NetworkName, WeightsEnum] = {
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": ResNet101_Weights.IMAGENET1K_V1,
    "mobilenet_v3_large": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V1,
}
COCO: dict[NetworkName, WeightsEnum] = {
    "resnet50": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
    "resnet101": DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1,
    "mobilenet_v3_large": DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
}
PUBLISHED = {"imagenet": IMAGENET, "coco": COCO}


def load_weights(network: Network, spec: str, classes: tuple[str, ...] = ()) -> str:
    """Load initial weights into the network in place, and say in one line what was loaded.

    spec: "none"; "imagenet" (backbone) or "coco" (backbone and head) of torchvision, fetched from
    its server and kept in torch's cache; or the path of a safetensors file with a whole network
    (the weights of a run) or a backbone (torchvision's names). classes: of the network, in its
    order. A run.json beside the file names the classes of its head, whose last layer is then taken
    class by class, whatever their order; a class that the file has not starts fresh, and so does a
    head of unknown classes of another number. Raises WssegError if the weights cannot be had, are
    not finite, or do not cover the whole backbone.
    """
    if spec == "none":
        return "none: every part starts fresh"
    tensors, named = _fetch(network.name, spec) if spec in PUBLISHED else _read(Path(spec)), ""
    if spec not in PUBLISHED and classes:
        named = _by_class(network, tensors, Path(spec), classes)
    report = f"{spec}: {_load(network, tensors, spec)}{named}"
    logger.info("initial weights %s", report)
    return report


def _fetch(name: NetworkName, spec: str) -> dict[str, Tensor]:
    published = PUBLISHED[spec]
    if name not in published:
        raise WssegError(
            f"there are no published {spec} weights for {name}, only for {', '.join(published)}; "
            f"use weights=imagenet or a safetensors file"
        )
    weights = published[name]
    try:
        # weights_only: a downloaded file must not be able to run code.
        fetched: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise WssegError(
            f"the {spec} weights of {name} could not be fetched from {weights.url} ({error}); "
            f"give the path of a safetensors file as weights, or none"
        ) from error
    return fetched


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WssegError(
            f"there is no weights file {path}; give none, imagenet, coco or the path of a "
            f"safetensors file"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise WssegError(
            f"{path} is not a safetensors file ({error}); other formats are not read, because "
            f"they can run code: save the tensors with safetensors.torch.save_file"
        ) from error
    broken = not_finite(tensors)
    if broken:
        raise WssegError(
            f"{path} holds numbers that are not finite, such as in {broken}: the run that made it "
            "has failed; give other weights"
        )
    return tensors


def _by_class(
    network: Network, tensors: dict[str, Tensor], path: Path, classes: tuple[str, ...]
) -> str:
    """Order the last layer's rows in `tensors` by the classes' names; says how, in words."""
    last = next(name for name, layer in network.named_modules() if layer is last_layer(network))
    head = [name for name in (f"{last}.weight", f"{last}.bias") if name in tensors]
    if not head:
        return ""
    known = _classes_beside(path, len(tensors[head[0]]))
    if known is None:
        if len(tensors[head[0]]) == len(classes):
            _warn_of_order(path, classes)
        return ""
    own = network.state_dict()
    for name in head:
        if tensors[name].shape[1:] == own[name].shape[1:]:
            rows = [
                tensors[name][known.index(found)] if found in known else own[name][place].cpu()
                for place, found in enumerate(classes)
            ]
            tensors[name] = torch.stack(rows)
    taken = [name for name in classes if name in known]
    new = [name for name in classes if name not in known]
    left = [name for name in known if name not in classes]
    told = (("taken by name", taken), ("new", new), ("not used", left))
    return "; classes " + ", ".join(f"{what}: {' '.join(names)}" for what, names in told if names)


def _classes_beside(path: Path, count: int) -> tuple[str, ...] | None:
    """The classes of the run that a weights file lies in; None where nothing says them."""
    try:
        record = json.loads((path.parent / RECORD).read_text(encoding="utf-8"))
        classes = tuple(str(name) for name in record["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return classes if len(classes) == count else None


def _warn_of_order(path: Path, classes: tuple[str, ...]) -> None:
    logger.warning(
        "nothing says of which classes %s is (no %s lies beside it): its head is taken in the "
        "order %s; give the file in its run folder if that is not its order",
        path,
        RECORD,
        ", ".join(classes),
    )


def _load(network: Network, tensors: dict[str, Tensor], spec: str) -> str:
    own = network.state_dict()
    named = {_own_name(name, own): tensor for name, tensor in tensors.items()}
    fitting = {n: t for n, t in named.items() if n in own and t.shape == own[n].shape}
    backbone = [name for name in own if name.startswith(BACKBONE) and COUNTER not in name]
    missing = [name for name in backbone if name not in fitting]
    if missing:
        raise WssegError(
            f"{spec} covers {len(backbone) - len(missing)} of the {len(backbone)} backbone "
            f"tensors of {network.name}, for example not {missing[0]}; its first names are "
            f"{', '.join(sorted(tensors)[:3])}: choose the network that the weights were made for"
        )
    network.load_state_dict(fitting, strict=False)
    fresh = sorted({_part(name) for name in own if name not in fitting and COUNTER not in name})
    return (
        f"{len(fitting)} of {len(own)} tensors loaded, {len(tensors) - len(fitting)} not used, "
        f"fresh: {', '.join(fresh) or 'nothing'}"
    )


def _own_name(name: str, own: dict[str, Tensor]) -> str:
    """The network's name for a tensor of a file: its own, or a backbone's without the prefix."""
    return name if name in own else BACKBONE + name.removeprefix(FEATURES)


def _part(name: str) -> str:
    """Head and layer of a tensor: classifier.4 for classifier.4.weight."""
    return ".".join(name.split(".")[:2])
