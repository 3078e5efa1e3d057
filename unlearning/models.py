"""The paper's two networks (Table 1), built from a name with seeded fresh weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unlearning.config import ModelConfig
from unlearning.errors import ConfigError
from unlearning.seeding import derive_seed

ImageShape = tuple[int, int, int]  # channels, height, width


class TwoConv(nn.Module):
    """Two convolutions and one fully connected layer.

    The paper gives no more than that. Here: 3x3 kernels with padding 1, each followed by ReLU and
    2x2 max pooling, so images need at least 4 pixels a side.
    """

    def __init__(self, shape: ImageShape, num_classes: int, widths: list[int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, widths[0], kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], kernel_size=3, padding=1)
        self.fc = nn.Linear(widths[1] * (height // 4) * (width // 4), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, channels, height, width]."""
        # ReLU after pooling equals ReLU before it and touches a quarter of the values.
        hidden = torch.relu(nn.functional.max_pool2d(self.conv1(images), 2))
        hidden = torch.relu(nn.functional.max_pool2d(self.conv2(hidden), 2))
        logits: Tensor = self.fc(hidden.flatten(1))
        return logits


def _two_conv(shape: ImageShape, num_classes: int, config: ModelConfig) -> nn.Module:
    if min(shape[1:]) < 4:
        raise ConfigError(f"model two_conv needs images of 4 pixels a side or more, not {shape}")
    return TwoConv(shape, num_classes, config.widths)


def _resnet50(shape: ImageShape, num_classes: int, config: ModelConfig) -> nn.Module:
    from torchvision.models import resnet50

    model: nn.Module = resnet50(weights=None, num_classes=num_classes)
    if shape[0] != 3:
        stem = nn.Conv2d(shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = stem
    return model


MODELS: dict[str, Callable[[ImageShape, int, ModelConfig], nn.Module]] = {
    "two_conv": _two_conv,
    "resnet50": _resnet50,
}

MODEL_DESCRIPTIONS = {
    "two_conv": "2 convolutions and 1 fully connected layer (MNIST, Fashion-MNIST, CIFAR-10)",
    "resnet50": "torchvision's ResNet-50, not pre-trained (CIFAR-100, SVHN, HAM10000)",
}


def require_model(name: str) -> None:
    """Refuse an unknown model's name.

    Raises:
        ConfigError: lists the known names.
    """
    if name not in MODELS:
        raise ConfigError(f"model.name is {name!r}; known models: {', '.join(sorted(MODELS))}")


def build_model(config: ModelConfig, shape: ImageShape, num_classes: int, seed: int) -> nn.Module:
    """A network with fresh weights, all of them drawn from `seed`, on the CPU.

    Original and scratch models of one training seed start from the same weights, as with the one
    fixed seed of the paper (section 4), so that they differ by their data alone.

    Raises:
        ConfigError: the model is unknown or cannot take images of this shape.
    """
    require_model(config.name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed the generators of GPUs.
        torch.default_generator.manual_seed(derive_seed("weights", seed))
        return MODELS[config.name](shape, num_classes, config)
