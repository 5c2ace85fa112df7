"""A damaged text, which an encoder-decoder repairs: T5's span corruption, BART's text infilling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError
from jaxtune.generation.settings import settings_for
from jaxtune.hub.description import Description
from jaxtune.models.registry import family_of
from jaxtune.tasks.base import Made, Record, Where, no_classes, one_text
from jaxtune.tasks.language import LanguageTask
from jaxtune.tasks.noise.infilling import Infilling
from jaxtune.tasks.noise.span_corruption import SpanCorruption, SpanNoise
from jaxtune.tasks.reading.text_pieces import read_pieces, specials_around

INSTEAD = {"encoder": "masked_lm", "decoder": "causal_lm"}
"""What other kinds of models learn from texts alone."""

SHORTEST_ROOM = 3
"""Tokens of text that must fit into an example: with fewer, a piece of a text could have only one."""

Noise = SpanNoise | Infilling


@dataclass(frozen=True)
class Denoising(LanguageTask):
    """Cross-entropy of what was cut out (``spans``), or of the whole text (``infilling``).

    A text longer than ``max_length`` becomes several examples of nearly equal length. The damage is new in every
    epoch of the training; an evaluation has the same every time.

    Attributes:
        noise: what is done to a text; none takes what the model was made with.
        permute_sentences: infilling also shuffles them.
        dynamic: the noise for the model; none before ``for_model``.
    """

    text: str
    max_length: int
    label_smoothing: float = 0.0
    vocab_size: int | None = None
    noise: str | None = None
    permute_sentences: bool = False
    dynamic: Noise | None = field(default=None, repr=False)

    name: ClassVar[str] = "denoising"
    head: ClassVar[str] = "seq2seq_lm"

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Self:
        """The task an experiment asks for."""
        no_classes(experiment, cls.name)
        one_text(experiment, cls.name)
        data = experiment.data
        return cls(
            data.text,
            data.max_length,
            experiment.train.label_smoothing,
            noise=data.noise,
            permute_sentences=data.permute_sentences,
        )

    def for_model(self, model: Description) -> Self:
        """See ``Task.for_model``. Raises ConfigError for a model or a tokenizer that cannot do it."""
        family = family_of(str(model.raw_config["model_type"]))
        if self.head not in family.heads:
            instead = INSTEAD.get(family.kind, "classification")
            raise ConfigError(
                f"`task` is {self.name!r}, which takes an encoder-decoder (T5, BART, …), but the model is a "
                f"{family.model_type}; expected task={instead} for it"
            )
        start = settings_for(model.raw_config, None, model.tokenizer).decoder_start_token_id
        if start is None:
            raise ConfigError(
                "config.json of the model names no `decoder_start_token_id`, which the decoder begins with"
            )
        noise = self.noise or _usual_noise(family.model_type, model.tokenizer)
        if self.permute_sentences and noise == "spans":
            raise ConfigError(
                "`data.permute_sentences` is True; expected False with data.noise=spans, whose target does not tell "
                "the order of a text"
            )
        least = sum(specials_around(model.tokenizer)) + SHORTEST_ROOM
        if self.max_length < least:
            raise ConfigError(
                f"`data.max_length` is {self.max_length}; expected at least {least} for {self.name}"
            )
        make = _span_noise if noise == "spans" else _infilling
        dynamic = make(model.tokenizer, start, self.permute_sentences)
        return dataclasses.replace(super().for_model(model), noise=noise, dynamic=dynamic)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {"data.text": self.text}

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Made]:
        """See ``Task.tokenize``. Of two tokens one is cut out and one is left; there must be two."""
        return read_pieces(
            self.text,
            records,
            tokenizer,
            where,
            self.max_length,
            fewest=2,
            sentences=self.permute_sentences,
        )


def _usual_noise(model_type: str, tokenizer: Any) -> str:
    """What a family was made with: T5 and its like have sentinels, BART and its like a mask."""
    if _sentinels(tokenizer):
        return "spans"
    if tokenizer.mask_token_id is not None:
        return "infilling"
    raise ConfigError(
        f"`data.noise` is not set, and the tokenizer of this {model_type} has neither sentinels (<extra_id_0>, …) nor a "
        "mask token; expected a model that was made to repair texts (T5, mT5, BART, mBART)"
    )


def _sentinels(tokenizer: Any) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1>, … as far as they go."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (token := f"<extra_id_{len(found)}>") in vocabulary:
        found.append(vocabulary[token])
    return tuple(found)


def _span_noise(tokenizer: Any, start: int, permute: bool) -> SpanNoise:
    sentinels = _sentinels(tokenizer)
    if not sentinels:
        raise ConfigError(
            "`data.noise` is 'spans', but the tokenizer of the model has no sentinels (<extra_id_0>, …); expected a T5, "
            "or data.noise=infilling"
        )
    corrupt = SpanCorruption(sentinels, eos_token_id=tokenizer.eos_token_id)
    return SpanNoise(corrupt, start, specials_around(tokenizer))


def _infilling(tokenizer: Any, start: int, permute: bool) -> Infilling:
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            "`data.noise` is 'infilling', but the tokenizer of the model has no mask token; expected a BART, or "
            "data.noise=spans"
        )
    return Infilling(tokenizer.mask_token_id, start, specials_around(tokenizer), permute)
