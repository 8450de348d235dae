"""Two real processes against one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from wsseg.train.distributed import GlobalBatchNorm, SeededDropout, convert, set_step

SAMPLES = 4
CPU = torch.device("cpu")


def small_network(dropout=0.5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        SeededDropout(dropout),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 1, 1),
    ).double()


def pictures():
    # The two halves differ, so that a batch norm of its own half only would be seen.
    random = torch.Generator().manual_seed(1)
    steps = torch.arange(1.0, 1 + SAMPLES)[:, None, None, None]
    return torch.randn(SAMPLES, 2, 6, 5, generator=random).double() * steps + 3 * steps


def two_steps(network, images, average):
    """Outputs of two training steps, with the gradients, weights and statistics they leave."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    seen = {}
    for step in range(2):
        set_step(network, step, seed=7)
        output = network(images)
        optimiser.zero_grad()
        (output.square().mean((1, 2, 3)).mean() + output[:, :, 0].abs().mean()).backward()
        for name, weight in network.named_parameters():
            average(weight.grad)
            seen[f"{step} gradient {name}"] = weight.grad.clone()
        seen[f"{step} output"] = output.detach()
        optimiser.step()
    return seen | {name: value.clone() for name, value in network.state_dict().items()}


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    network = convert(small_network(), CPU)
    assert sum(isinstance(layer, GlobalBatchNorm) for layer in network.modules()) == 2
    half = SAMPLES // 2

    def average(gradient):
        dist.all_reduce(gradient)
        gradient /= 2

    seen = two_steps(network, pictures()[rank * half : (rank + 1) * half], average)
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(two_processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    two_processes.run(work, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_give_the_outputs_gradients_and_statistics_of_one(halves):
    alone = two_steps(convert(small_network(), CPU), pictures(), lambda gradient: None)
    assert alone.keys() == halves[0].keys()
    for name, expected in alone.items():
        if name.endswith("output"):
            found = torch.cat([half[name] for half in halves])
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        else:
            for half in halves:
                torch.testing.assert_close(half[name], expected, rtol=1e-9, atol=1e-11)


def test_one_process_keeps_plain_batch_norm():
    network = small_network()
    assert convert(network, CPU) is network
    assert [type(layer) for layer in network.modules()].count(nn.BatchNorm2d) == 2


def test_a_frozen_layer_stays_frozen_among_several_processes(monkeypatch):
    monkeypatch.setattr("wsseg.train.distributed.world_size", lambda: 2)
    network = small_network()
    network[5].requires_grad_(False)
    before = {name: value.requires_grad for name, value in network.named_parameters()}
    convert(network, CPU)
    assert isinstance(network[5], GlobalBatchNorm)
    after = {name: value.requires_grad for name, value in network.named_parameters()}
    assert before == after
    assert not after["5.weight"]


def test_global_batch_norm_has_the_checkpoint_of_batch_norm():
    plain, twin = nn.BatchNorm2d(3), GlobalBatchNorm(3)
    assert list(plain.state_dict()) == list(twin.state_dict())


def masks(step, *, seed=0, probability=0.5):
    layer = SeededDropout(probability)
    set_step(layer, step, seed=seed)
    return layer(torch.ones(4, 16, 8, 8))


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropped = masks(0, probability=0.25)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert dropped.mean() == pytest.approx(1, abs=0.04)


def test_dropout_repeats_for_the_same_step_and_changes_with_step_seed_and_sample():
    assert torch.equal(masks(3), masks(3))
    assert not torch.equal(masks(3), masks(4))
    assert not torch.equal(masks(3), masks(3, seed=1))
    assert not torch.equal(masks(3)[0], masks(3)[1])


def test_two_dropouts_of_a_network_have_masks_of_their_own():
    network = nn.ModuleList([SeededDropout(0.5), SeededDropout(0.5)])
    set_step(network, 1)
    ones = torch.ones(1, 64)
    assert not torch.equal(network[0](ones), network[1](ones))


def test_dropout_touches_no_global_random_numbers_and_nothing_when_judging():
    before = torch.get_rng_state()
    masks(0)
    assert torch.equal(torch.get_rng_state(), before)
    ones = torch.ones(2, 8)
    assert torch.equal(SeededDropout(0.5).eval()(ones), ones)
