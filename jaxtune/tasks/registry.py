"""The tasks there are. A new one is a file of this folder and a line of TASKS."""

from __future__ import annotations

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError
from jaxtune.tasks.base import Task
from jaxtune.tasks.causal_lm import CausalLM
from jaxtune.tasks.classification import Classification
from jaxtune.tasks.denoising import Denoising
from jaxtune.tasks.masked_lm import MaskedLM
from jaxtune.tasks.multi_label import MultiLabel
from jaxtune.tasks.multiple_choice import MultipleChoice
from jaxtune.tasks.question_answering import QuestionAnswering
from jaxtune.tasks.regression import Regression
from jaxtune.tasks.summarization import Summarization
from jaxtune.tasks.token_classification import TokenClassification
from jaxtune.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "multi_label": MultiLabel,
    "multiple_choice": MultipleChoice,
    "regression": Regression,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "denoising": Denoising,
    "translation": Translation,
    "summarization": Summarization,
}


def make_task(experiment: Experiment) -> Task:
    """The task of an experiment; with ``data.labels`` given, its labels are settled already.

    Raises ConfigError for an unknown task or an option it does not have.
    """
    try:
        task = TASKS[experiment.task]
    except KeyError:
        raise ConfigError(f"task is {experiment.task!r}, expected one of {', '.join(TASKS)}") from None
    return task.from_experiment(experiment)
