"""Errors a user can act on.

Each message names the thing, the place (file, line, field), what was expected and what to do.
The command line prints them without a traceback; anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class JaxtuneError(Exception):
    """Base of every error whose message is written for the user."""


class ConfigError(JaxtuneError, ValueError):
    """A field of the configuration is unknown, ill-typed or out of range."""


class SourceError(JaxtuneError):
    """A checkpoint or data source cannot be found, reached, verified or trusted."""


class DataError(JaxtuneError, ValueError):
    """A record, column, label or split is not what the task needs."""


class WeightsError(JaxtuneError, ValueError):
    """Weights do not fit the model: wrong architecture, shape, or an unsafe format."""


class CheckpointError(JaxtuneError):
    """A training checkpoint cannot be written, or none that verifies is left to restore."""


class RunError(JaxtuneError):
    """A run directory cannot be used as asked (exists, unreadable, read-only, other config)."""


class NonFiniteError(JaxtuneError, ArithmeticError):
    """The loss or its gradient became NaN or infinite and the run was told to stop."""


class ProcessError(JaxtuneError):
    """Another process of the run is missing, went away or does not answer."""
