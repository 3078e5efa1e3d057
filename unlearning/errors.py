"""Everything the core can refuse, so that a caller can tell the causes apart.

UnlearningError
├── ConfigError     a setting that is impossible or unknown
├── DatasetError    files that are missing, damaged or not what they should be
├── StrategyError   a mislabel strategy that raised or returned unusable labels
└── DivergedError   a loss that is no longer a finite number
"""


class UnlearningError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(UnlearningError, ValueError):
    """A setting is impossible or unknown; the message names it and what is allowed."""


class DatasetError(UnlearningError):
    """A data set cannot be used; the message names the files and what to do."""


class StrategyError(UnlearningError):
    """A mislabel strategy raised, or returned labels that cannot be trained on."""


class DivergedError(UnlearningError):
    """Training produced a loss that is not finite."""
