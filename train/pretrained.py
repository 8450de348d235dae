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
    """Load initial weights into the network in place; return one line on what was loaded.

    spec: "none"; "imagenet" (backbone) or "coco" (backbone and head) of torchvision, fetched from
    its server and kept in torch's cache; or the path of a safetensors file with a whole network
    (the weights of a run) or a backbone (torchvision's names). classes: of the network, in its
    order. A run.json beside the file names the classes of its head, whose last layer is then taken
    class by class, whatever their order; a class that the file lacks starts fresh, and so does a
    head of unknown classes of another number. Raises WssegError if the weights cannot be had, are
    not finite, or do not cover the whole backbone.
    """
    if spec == "none":
        return "none: every part starts fresh"
    by_class = ""
    if spec in PUBLISHED:
        tensors = _fetch(network.name, spec)
    else:
        tensors = _read(Path(spec))
        if classes:
            by_class = _by_class(network, tensors, Path(spec), classes)
    own = network.state_dict()
    # A backbone from a file has torchvision's names, without the prefix.
    renamed = {
        name if name in own else BACKBONE + name.removeprefix(FEATURES): tensor
        for name, tensor in tensors.items()
    }
    fitting = {n: t for n, t in renamed.items() if n in own and t.shape == own[n].shape}
    backbone = [name for name in own if name.startswith(BACKBONE) and COUNTER not in name]
    missing = [name for name in backbone if name not in fitting]
    if missing:
        raise WssegError(
            f"{spec} covers {len(backbone) - len(missing)} of the {len(backbone)} backbone "
            f"tensors of {network.name}, for example not {missing[0]}; its first names are "
            f"{', '.join(sorted(tensors)[:3])}: choose the network that the weights were made for"
        )
    network.load_state_dict(fitting, strict=False)
    unloaded = [name for name in own if name not in fitting and COUNTER not in name]
    # Head and layer, such as classifier.4 for classifier.4.weight.
    fresh = sorted({".".join(name.split(".")[:2]) for name in unloaded})
    report = (
        f"{spec}: {len(fitting)} of {len(own)} tensors loaded, {len(tensors) - len(fitting)} not "
        f"used, fresh: {', '.join(fresh) or 'nothing'}{by_class}"
    )
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
    """Order the last layer's rows in `tensors` by the names of the classes; say how in a clause."""
    last = next(name for name, layer in network.named_modules() if layer is last_layer(network))
    head = [name for name in (f"{last}.weight", f"{last}.bias") if name in tensors]
    if not head:
        return ""
    count = len(tensors[head[0]])
    try:
        record = json.loads((path.parent / RECORD).read_text(encoding="utf-8"))
        known = [str(name) for name in record["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        known = []
    if len(known) != count:
        if count == len(classes):
            logger.warning(
                "the classes of %s are unknown (there is no %s beside it): its head is assigned to "
                "the classes in the order %s; use the file in its run folder if this order is "
                "wrong",
                path,
                RECORD,
                ", ".join(classes),
            )
        return ""
    own = network.state_dict()
    for name in head:
        if tensors[name].shape[1:] == own[name].shape[1:]:
            rows = [
                tensors[name][known.index(label)] if label in known else own[name][index].cpu()
                for index, label in enumerate(classes)
            ]
            tensors[name] = torch.stack(rows)
    parts = (
        ("taken by name", [name for name in classes if name in known]),
        ("new", [name for name in classes if name not in known]),
        ("not used", [name for name in known if name not in classes]),
    )
    return "; classes " + ", ".join(f"{part}: {' '.join(names)}" for part, names in parts if names)
