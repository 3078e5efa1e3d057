"""What the paper itself reports, as data: printed beside a sweep's numbers, never mixed in.

Source: Kim & Woo, "Efficient Two-stage Model Retraining for Machine Unlearning", CVPR Workshops
2022, Tables 2 to 5 and section 5. Accuracies are in per cent and variances in squared percentage
points, as printed there. The keys of every mapping are the names of the readers in
`unlearning.datasets`, in the order of the paper's columns.
"""

from types import MappingProxyType

DISPLAY_NAMES = MappingProxyType(
    {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "svhn": "SVHN",
        "mnist": "MNIST",
        "fashion_mnist": "Fashion-MNIST",
        "ham10000": "HAM10000",
    }
)
_COLUMNS = tuple(DISPLAY_NAMES)

# The strategy of the paper's own method, and the one it compares with in section 5.2.
PAPER_STRATEGY = "minimum"
RIVAL_STRATEGY = "maximum"

# Tables 3 and 4 are about forget ratios from 1 to 10 % (sections 5.1 and 5.2).
RATIO_RANGE = (0.01, 0.10)

AUGMENTATIONS = MappingProxyType(
    {
        "horizontal_flip": "horizontal flip",
        "vertical_flip": "vertical flip",
        "center_crop": "center crop",
    }
)


def _row(*values: float | None) -> MappingProxyType[str, float]:
    pairs = zip(_COLUMNS, values, strict=True)
    return MappingProxyType({name: value for name, value in pairs if value is not None})


# Table 2: mean test accuracy over the ratios, and its variance over the ratios.
TEST_ACCURACY = MappingProxyType(
    {
        "original": _row(64.35, 41.61, 86.54, 99.20, 90.63, 72.25),
        "retrained": _row(65.25, 41.90, 92.64, 99.20, 90.94, 74.39),
        "scratch": _row(63.43, 38.15, 89.18, 98.89, 90.23, 68.42),
    }
)
TEST_ACCURACY_VARIANCE = MappingProxyType(
    {
        "original": _row(None, None, None, None, None, None),
        "retrained": _row(0.24, 0.71, 0.32, 0.03, 0.15, 1.61),
        "scratch": _row(0.79, 4.9, 6.83, 0.15, 0.47, 1.64),
    }
)
# The text of section 5 names these values for the same cells. Five of them contradict the table.
TEST_ACCURACY_IN_TEXT = MappingProxyType(
    {
        "original": _row(None, None, None, None, None, None),
        "retrained": _row(65.25, 41.90, 87.51, 99.20, 91.14, 74.39),
        "scratch": _row(64.43, 38.15, 87.85, 98.89, 91.09, 68.42),
    }
)

# Table 3: mean best epoch ("saving point") over ratios of 1 to 10 %, and the gap to scratch.
BEST_EPOCH = MappingProxyType(
    {
        "retrained": _row(12.4, 8.6, 10.9, 11.50, 10, 29),
        "scratch": _row(23.4, 43.6, 44.1, 35.50, 11.3, 77.6),
    }
)
BEST_EPOCH_GAP = _row(11, 35, 33.2, 24, 1.3, 48.6)

# Table 4: mean accuracy on the forget set under augmentation. The stage is not stated.
AUGMENTED_FORGET_ACCURACY = MappingProxyType(
    {
        ("minimum", "horizontal_flip"): _row(3.85, 0.58, 6.95, 7.28, 1.27, 5.43),
        ("minimum", "vertical_flip"): _row(6.11, 0.76, 4.66, 8.54, 6.37, 6.23),
        ("minimum", "center_crop"): _row(3.00, 0.49, 0.45, 1.95, 0.56, 2.46),
        ("maximum", "horizontal_flip"): _row(14.2, 5.31, 16.43, 10.37, 10.55, 10.81),
        ("maximum", "vertical_flip"): _row(18.36, 3.8, 4.98, 9.2, 9.44, 11.33),
        ("maximum", "center_crop"): _row(7.29, 2.37, 3.73, 5.68, 10.43, 7.3),
    }
)
AUGMENTED_FORGET_AVERAGE = MappingProxyType(
    {
        ("minimum", "horizontal_flip"): 4.23,
        ("minimum", "vertical_flip"): 5.45,
        ("minimum", "center_crop"): 1.49,
        ("maximum", "horizontal_flip"): 11.28,
        ("maximum", "vertical_flip"): 9.52,
        ("maximum", "center_crop"): 6.13,
    }
)
CHANCE = _row(10, 1, 10, 10, 10, 14.3)

# Table 5: epochs of stage 1 until accuracy on the forget set is zero, by ratio in per cent.
EPOCHS_TO_ZERO = MappingProxyType(
    {
        1: _row(37, 5, 11, 16, 28, 16),
        2: _row(57, 279, 5, 15, 12, 3689),
        3: _row(33, 5, 4, 14, 19, 4208),
        4: _row(41, 58, 3, 9, 12, 3535),
        5: _row(35, 6, 3, 9, 8, 15),
        6: _row(39, 20, 3, 6, 9, 2325),
        7: _row(34, 6, 4, 6, 9, 2084),
        8: _row(37, 11, 2, 5, 12, 1819),
        9: _row(31, 8, 2, 5, 10, 1559),
        10: _row(33, 13, 1, 3, 14, 1421),
    }
)


def whole_percent(ratio: float) -> int | None:
    """The row of Table 5 that a forget ratio stands in: 1 to 10, or None for any other ratio."""
    percent = round(100 * ratio)
    return percent if percent in EPOCHS_TO_ZERO and abs(100 * ratio - percent) < 1e-6 else None


def in_ratio_range(ratio: float) -> bool:
    """Whether Tables 3 and 4 are about this forget ratio: 1 to 10 %, both included."""
    low, high = RATIO_RANGE
    return low - 1e-9 <= ratio <= high + 1e-9
