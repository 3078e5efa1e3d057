"""Contrastive labels: which wrong class each class of the forget set is trained towards.

Algorithm 1 averages the original model's outputs over the forget set, class by class; Algorithm 2
matches classes to wrong classes by those averages. A strategy is one way to match.

Shape letters: N = images of the forget set, C = classes of the data set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearning.errors import ConfigError, StrategyError
from unlearning.plugins import load_plugins

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ContrastInput:
    """What a strategy may look at: the forget set's classes and the original's outputs on it."""

    mean_outputs_CC: Scores  # row y: mean output over forget images of class y; NaN where none
    classes: tuple[int, ...]  # classes present in the forget set, ascending
    allowed_CC: npt.NDArray[np.bool_]  # True where row's class may be trained towards column's
    generator: torch.Generator  # for strategies that draw at random; seeded by the unlearning seed


@dataclass(frozen=True)
class Matching:
    """A wrong class for every class of the forget set."""

    labels: dict[int, int]  # class -> contrastive label
    completed: tuple[int, ...] = ()  # classes whose label the greedy rule could not choose


Strategy = Callable[[ContrastInput], Matching]


@dataclass(frozen=True)
class RegisteredStrategy:
    """A strategy by name. Its version is in the unit's key: raise it when its labels change."""

    name: str
    description: str
    version: int
    match: Strategy


_strategies: dict[str, RegisteredStrategy] = {}


def register_strategy(
    name: str, description: str, version: int = 1
) -> Callable[[Strategy], Strategy]:
    """Decorator that makes a function available as a mislabel strategy under `name`.

    Raises:
        ConfigError: the name is taken.
    """

    def register(match: Strategy) -> Strategy:
        if name in _strategies:
            raise ConfigError(f"strategy {name!r} is registered twice")
        _strategies[name] = RegisteredStrategy(name, description, version, match)
        return match

    return register


def known_strategies() -> dict[str, RegisteredStrategy]:
    """All strategies by name, plug-ins included."""
    load_plugins()
    return dict(_strategies)


def get_strategy(name: str) -> RegisteredStrategy:
    """The strategy of this name.

    Raises:
        ConfigError: there is none; lists those that exist.
    """
    known = known_strategies()
    if name not in known:
        raise ConfigError(f"strategy {name!r} is unknown; known: {', '.join(sorted(known))}")
    return known[name]


def accumulate_outputs(logits_NC: Tensor, labels_N: Tensor, outputs: str = "logits") -> Scores:
    """Mean output for each class of the forget set (Algorithm 1), [C, C] float64.

    Row y is the average over the images with label y; rows of classes without an image are NaN.
    Paper: outputs are logits in section 5.2 and probabilities in section 1. Here: logits by
    default, `outputs="softmax"` for the other.

    Raises:
        ValueError: no images, since a mean over nothing is not a score.
    """
    if len(labels_N) == 0:
        raise ValueError("the forget set is empty")
    values_NC = logits_NC.double().cpu()
    if outputs == "softmax":
        values_NC = values_NC.softmax(dim=1)
    num_classes = values_NC.shape[1]
    sums_CC = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    sums_CC.index_add_(0, labels_N.cpu(), values_NC)
    counts_C = torch.bincount(labels_N.cpu(), minlength=num_classes)
    mean_CC: Scores = (sums_CC / counts_C.unsqueeze(1)).numpy()  # 0 / 0 is NaN, as wanted
    return mean_CC


def allowed_labels(classes: Sequence[int], num_classes: int) -> npt.NDArray[np.bool_]:
    """Which wrong class each class may be given, [C, C]: True at (from, to).

    Never the class itself. Paper: the pseudo-code masks only rows of classes that the forget set
    lacks, while the text relocates labels among its classes only, or among all classes if it has
    just one. Here: the text.
    """
    targets = range(num_classes) if len(classes) == 1 else classes
    allowed_CC = np.zeros((num_classes, num_classes), dtype=bool)
    allowed_CC[np.ix_(list(classes), list(targets))] = True
    np.fill_diagonal(allowed_CC, False)
    return allowed_CC


def match_greedily(scores_CC: Scores, contrast: ContrastInput) -> Matching:
    """One-to-one matching that takes the lowest score first (Algorithm 2).

    Repeatedly the lowest remaining score (from, to) is taken; ties go to the lower `from`, then
    the lower `to`. Paper: only column `to` is retired, which can pick a row again. Here: row
    `from` is retired too.

    The rule can end with one class that has only itself left. It is then completed at the least
    cost: that class takes the label of one already matched class, which takes it as label in turn.
    Both are named in `completed`.
    """
    open_CC = np.where(contrast.allowed_CC, scores_CC, np.inf)
    labels: dict[int, int] = {}
    while np.isfinite(open_CC).any():
        source, target = np.unravel_index(int(np.argmin(open_CC)), open_CC.shape)
        labels[int(source)] = int(target)
        open_CC[source, :] = np.inf
        open_CC[:, target] = np.inf
    left = [source for source in contrast.classes if source not in labels]
    if not left:
        return Matching(labels)
    assert len(left) == 1, left  # with two or more left, an off-diagonal entry is still open
    (last,) = left

    def added_cost(partner: int) -> tuple[float, int]:
        target = labels[partner]
        cost = scores_CC[last, target] + scores_CC[partner, last] - scores_CC[partner, target]
        return float(cost), partner

    partner = min(labels, key=added_cost)
    labels[last], labels[partner] = labels[partner], last
    return Matching(labels, completed=tuple(sorted((last, partner))))


def match_independently(scores_CC: Scores, contrast: ContrastInput) -> Matching:
    """Each class takes its own lowest score, whatever the others take; ties to the lower class."""
    open_CC = np.where(contrast.allowed_CC, scores_CC, np.inf)
    return Matching({source: int(np.argmin(open_CC[source])) for source in contrast.classes})


@register_strategy("minimum", "lowest mean output first, one-to-one (the paper's method)")
def minimum(contrast: ContrastInput) -> Matching:
    """Algorithm 2: towards the class that the model finds least like it."""
    return match_greedily(contrast.mean_outputs_CC, contrast)


@register_strategy("maximum", "highest mean output of a wrong class first, one-to-one")
def maximum(contrast: ContrastInput) -> Matching:
    """Section 5.2: towards the runner-up class, matched in the same greedy way."""
    return match_greedily(-contrast.mean_outputs_CC, contrast)


@register_strategy("minimum_independent", "each class its own lowest mean output")
def minimum_independent(contrast: ContrastInput) -> Matching:
    """Section 5.2 read literally: lowest score of each class, not one-to-one."""
    return match_independently(contrast.mean_outputs_CC, contrast)


@register_strategy("maximum_independent", "each class its own highest wrong mean output")
def maximum_independent(contrast: ContrastInput) -> Matching:
    """Section 5.2 read literally: second-highest score of each class, not one-to-one."""
    return match_independently(-contrast.mean_outputs_CC, contrast)


@register_strategy("random", "a seeded random one-to-one matching; the control")
def random(contrast: ContrastInput) -> Matching:
    """The greedy matching on random scores: never the true class, blind to the model."""
    num_classes = len(contrast.mean_outputs_CC)
    scores_CC = torch.rand(
        num_classes, num_classes, dtype=torch.float64, generator=contrast.generator
    )
    return match_greedily(scores_CC.numpy(), contrast)


def contrastive_labels(
    strategy: str,
    logits_NC: Tensor,
    labels_N: Tensor,
    generator: torch.Generator,
    outputs: str = "logits",
) -> Matching:
    """The matching that a strategy makes for a forget set, checked.

    Args:
        strategy: a registered name.
        logits_NC: the original model's logits on the forget set.
        labels_N: its true labels, int64.
        generator: for strategies that draw at random.
        outputs: what Algorithm 1 averages, "logits" or "softmax".

    Raises:
        ConfigError: the strategy is unknown.
        StrategyError: the data set has one class only, or the strategy raised, or left a class out,
            or gave a class its true label or a label that does not exist.
    """
    registered = get_strategy(strategy)
    num_classes = logits_NC.shape[1]
    if num_classes < 2:
        raise StrategyError("a data set with one class has no wrong class to train towards")
    classes = tuple(sorted(set(labels_N.tolist())))
    contrast = ContrastInput(
        mean_outputs_CC=accumulate_outputs(logits_NC, labels_N, outputs),
        classes=classes,
        allowed_CC=allowed_labels(classes, num_classes),
        generator=generator,
    )
    try:
        matching = registered.match(contrast)
    except Exception as error:
        text = f"strategy {strategy!r} raised {type(error).__name__}: {error}"
        raise StrategyError(text) from error
    return _checked(strategy, matching, classes, num_classes)


def _checked(
    strategy: str, matching: object, classes: tuple[int, ...], num_classes: int
) -> Matching:
    """The matching with plain integers, if every class of the forget set has a wrong label."""
    if not isinstance(matching, Matching):
        raise StrategyError(
            f"strategy {strategy!r} returned {type(matching).__name__}, no Matching"
        )
    try:
        labels = {index(source): index(target) for source, target in matching.labels.items()}
        completed = tuple(index(source) for source in matching.completed)
    except (AttributeError, TypeError) as error:
        raise StrategyError(
            f"strategy {strategy!r} returned {matching}; "
            "allowed: labels as a dict of class numbers, completed as a tuple of them"
        ) from error
    if set(labels) != set(classes):
        raise StrategyError(
            f"strategy {strategy!r} labelled classes {sorted(labels)}, "
            f"while the forget set has {list(classes)}"
        )
    for source, target in labels.items():
        if target == source or not 0 <= target < num_classes:
            raise StrategyError(
                f"strategy {strategy!r} gave class {source} the label {target}; "
                f"allowed: another class from 0 to {num_classes - 1}"
            )
    return Matching(labels, completed)
