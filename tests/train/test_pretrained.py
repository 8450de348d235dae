import json

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, mobilenet_v2
from torchvision.models.segmentation import DeepLabV3_MobileNet_V3_Large_Weights

from wsseg.imaging import WssegError
from wsseg.train.networks import build_network
from wsseg.train.pretrained import load_weights


def network(classes=1, channels=1, seed=0):
    torch.manual_seed(seed)
    return build_network("mobilenet_v2", classes=classes, channels=channels)


def changed(network, before):
    """Names of the top two levels whose tensors are no longer what they were."""
    after = network.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(5)
    return mobilenet_v2(weights=None).state_dict()


def test_a_published_classifier_gives_its_backbone_and_leaves_the_heads_fresh(tmp_path, published):
    file = tmp_path / "mobilenet.safetensors"
    save_file(published, file)
    fresh = network()
    before = copied(fresh)
    report = load_weights(fresh, str(file))
    assert changed(fresh, before) == {"backbone"}
    loaded = fresh.state_dict()["backbone.17.conv.2.weight"]
    assert torch.equal(loaded, published["features.17.conv.2.weight"])
    assert f"306 of {len(before)} tensors loaded" in report
    for part in ("fine", "middle", "pyramid", "refine"):
        assert f"classifier.{part}" in report
    assert "reconstruction.3" in report


def test_the_weights_of_a_run_come_back_whole(tmp_path):
    file = tmp_path / "weights.safetensors"
    source = network(seed=1)
    save_file(source.state_dict(), file)
    target = network(seed=2)
    report = load_weights(target, str(file))
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in target.state_dict().items())
    assert "fresh: nothing" in report


def test_a_run_on_other_classes_gives_all_but_the_last_layer(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(network(classes=3, seed=1).state_dict(), file)
    target = network(classes=1, seed=2)
    own = copied(target)
    report = load_weights(target, str(file))
    assert report.endswith("fresh: classifier.refine")
    assert f"{len(own) - 2} of {len(own)} tensors loaded" in report
    loaded = target.state_dict()
    last, before_it = "classifier.refine.4.weight", "classifier.refine.0.weight"
    assert torch.equal(loaded[last], own[last])
    assert torch.equal(loaded[before_it], network(classes=3, seed=1).state_dict()[before_it])


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}, file)
    target = network()
    before = copied(target)
    with pytest.raises(WssegError, match=r"covers 0 of the \d+ backbone tensors of mobilenet_v2"):
        load_weights(target, str(file))
    assert changed(target, before) == set()


def test_a_backbone_with_one_tensor_of_another_shape_is_refused(tmp_path, published):
    file = tmp_path / "mixture.safetensors"
    name = "features.17.conv.2.weight"
    save_file(published | {name: torch.zeros(3, 3)}, file)
    with pytest.raises(WssegError, match=r"not backbone\.17\.conv\.2\.weight"):
        load_weights(network(), str(file))


def test_a_missing_file_says_what_may_be_given(tmp_path):
    with pytest.raises(WssegError, match="give none, imagenet, coco or the path"):
        load_weights(network(), str(tmp_path / "missing.safetensors"))


def test_a_file_that_can_run_code_is_not_opened(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(WssegError, match="is not a safetensors file"):
        load_weights(network(), str(file))


def test_none_changes_nothing():
    target = network()
    before = copied(target)
    assert "fresh" in load_weights(target, "none")
    assert changed(target, before) == set()


def test_a_failed_download_says_what_to_do_instead(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(WssegError, match=r"no route to host.*give the path of a safetensors file"):
        load_weights(network(), "imagenet")


def test_a_download_is_checked_and_cannot_run_code(monkeypatch, published):
    asked: dict[str, object] = {}

    def served(url, **kwargs):
        asked.update(kwargs, url=url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", served)
    assert "306 of " in load_weights(network(), "imagenet")
    assert asked["weights_only"]
    assert asked["check_hash"]
    assert "mobilenet_v2" in str(asked["url"])


def test_there_are_no_coco_weights_for_mobilenet_v2():
    with pytest.raises(WssegError, match="only for resnet50"):
        load_weights(network(), "coco")


def test_a_published_segmenter_gives_all_but_its_last_layer(monkeypatch):
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large as segmenter

    source = segmenter(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    tensors = source.state_dict()
    monkeypatch.setattr(
        DeepLabV3_MobileNet_V3_Large_Weights, "get_state_dict", lambda self, **kwargs: tensors
    )
    ours = build_network("mobilenet_v3_large", classes=2, channels=1)
    report = load_weights(ours, "coco")
    heads = ("reconstruction.0", "reconstruction.1", "reconstruction.3")
    assert report.endswith(f"fresh: classifier.4, {', '.join(heads)}")
    for name in ("backbone.0.0.weight", "classifier.0.convs.1.0.weight", "classifier.1.weight"):
        assert torch.equal(ours.state_dict()[name], tensors[name])


def test_published_resnet_names_fit_our_resnet(monkeypatch):
    from torchvision.models import resnet50

    source = resnet50(weights=None).state_dict()
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda self, **kwargs: source)
    ours = build_network("resnet50", classes=1, channels=1)
    load_weights(ours, "imagenet")
    name = "layer4.2.conv3.weight"
    assert torch.equal(ours.state_dict()[f"backbone.{name}"], source[name])


def run_of(folder, classes, seed=1):
    """The weights of a run on these classes, its run.json beside them."""
    folder.mkdir()
    source = network(classes=len(classes), seed=seed)
    save_file(source.state_dict(), folder / "weights.safetensors")
    (folder / "run.json").write_text(json.dumps({"classes": classes}))
    return source.state_dict(), str(folder / "weights.safetensors")


LAST = "classifier.refine.4.weight", "classifier.refine.4.bias"


def test_a_head_is_taken_class_by_class_whatever_their_order(tmp_path):
    source, file = run_of(tmp_path / "run", ["cyst", "lumen"])
    target = network(classes=2, seed=2)
    report = load_weights(target, file, ("lumen", "cyst"))
    for name in LAST:
        assert torch.equal(target.state_dict()[name], source[name].flip(0))
    assert report.endswith("fresh: nothing; classes taken by name: lumen cyst")


def test_a_class_that_the_weights_have_not_starts_fresh_beside_those_that_they_have(tmp_path):
    source, file = run_of(tmp_path / "run", ["cyst", "lumen"])
    target = network(classes=3, seed=2)
    own = copied(target)
    report = load_weights(target, file, ("lumen", "wall", "stone"))
    for name in LAST:
        assert torch.equal(target.state_dict()[name][0], source[name][1])
        assert torch.equal(target.state_dict()[name][1:], own[name][1:])
    assert report.endswith("classes taken by name: lumen, new: wall stone, not used: cyst")


def test_a_head_of_unknown_classes_is_taken_in_order_with_a_warning(tmp_path, caplog):
    _, file = run_of(tmp_path / "run", ["cyst", "lumen"])
    (tmp_path / "run" / "run.json").unlink()
    load_weights(network(classes=2, seed=2), file, ("lumen", "cyst"))
    assert "in the order lumen, cyst" in caplog.text


def test_weights_that_are_not_finite_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    tensors = network(seed=1).state_dict()
    tensors["classifier.refine.4.bias"][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(WssegError, match=r"not finite, such as in classifier\.refine\.4\.bias"):
        load_weights(network(), str(file))
