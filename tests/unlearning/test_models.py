"""unlearning.models: networks whose weights come from one seed and nothing else."""

import pytest
import torch
from torch import Tensor, nn

from unlearning.config import ModelConfig
from unlearning.errors import ConfigError
from unlearning.models import MODEL_DESCRIPTIONS, MODELS, build_model, require_model

SHAPES = [("two_conv", (1, 8, 8)), ("two_conv", (3, 9, 7)), ("resnet50", (1, 32, 32))]
CONSTANT = ("running_mean", "running_var", "num_batches_tracked")  # buffers of batch normalisation


def weights(name: str, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    model = build_model(ModelConfig(name=name, widths=[4, 8]), shape, 5, seed)
    return dict(model.state_dict())


def is_drawn(name: str, tensor: Tensor) -> bool:
    """Not a constant start, as those of batch normalisation are."""
    return not name.endswith(CONSTANT) and bool(tensor.min() < tensor.max())


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_all_fresh_weights_depend_on_the_seed_and_on_nothing_else(
    name: str, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(1)
    first = weights(name, shape, seed=0)
    torch.manual_seed(2)
    again, other = weights(name, shape, seed=0), weights(name, shape, seed=1)
    assert first.keys() == again.keys() == other.keys()
    drawn = [key for key, tensor in first.items() if is_drawn(key, tensor)]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(not torch.equal(first[key], other[key]) for key in drawn)
    matrices = {key for key, tensor in first.items() if tensor.dim() > 1}
    assert matrices <= set(drawn)  # every convolution and fully connected layer


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_building_leaves_the_global_generator_where_it_was(
    name: str, shape: tuple[int, int, int]
) -> None:
    before = torch.get_rng_state()
    weights(name, shape, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_reseeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"GPUs were seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    weights("two_conv", (1, 8, 8), seed=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "side"), [("two_conv", 28), ("two_conv", 5), ("resnet50", 32)])
def test_logits_come_out_for_gray_and_colour(name: str, side: int, channels: int) -> None:
    model = build_model(ModelConfig(name=name), (channels, side, side), 7, 0).eval()
    with torch.no_grad():
        logits = model(torch.zeros(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


def test_two_conv_is_two_convolutions_and_one_fully_connected_layer() -> None:
    model = build_model(ModelConfig(widths=[3, 5]), (3, 13, 10), 4, 0)
    images = torch.rand(6, 3, 13, 10, dtype=torch.float64)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    hidden = images
    for layer in ("conv1", "conv2"):
        hidden = nn.functional.conv2d(
            hidden, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=1
        )
        hidden = nn.functional.max_pool2d(hidden.clamp(min=0), 2)  # ReLU first, the obvious order
    expected = hidden.flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    assert set(state) == {f"{n}.{k}" for n in ("conv1", "conv2", "fc") for k in ("weight", "bias")}
    torch.testing.assert_close(model(images.float()).double(), expected, rtol=1e-5, atol=1e-6)


def test_resnet50_is_torchvisions_with_fresh_weights_and_a_stem_for_the_channels() -> None:
    from torchvision.models import resnet50

    gray = build_model(ModelConfig(name="resnet50"), (1, 32, 32), 9, 0).state_dict()
    colour = resnet50(weights=None, num_classes=9).state_dict()
    assert gray.keys() == colour.keys()
    differing = {name for name in gray if gray[name].shape != colour[name].shape}
    assert differing == {"conv1.weight"}
    assert gray["conv1.weight"].shape == (64, 1, 7, 7)


def test_images_too_small_for_the_pooling_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 pixels a side"):
        build_model(ModelConfig(), (1, 3, 8), 4, 0)


def test_an_unknown_model_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="'vgg'; known models: resnet50, two_conv"):
        require_model("vgg")
    with pytest.raises(ConfigError, match="known models"):
        build_model(ModelConfig(name="vgg"), (1, 8, 8), 4, 0)


def test_every_model_is_described() -> None:
    assert MODELS.keys() == MODEL_DESCRIPTIONS.keys()
