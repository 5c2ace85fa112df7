"""The masked words of a text, as BERT and RoBERTa learn them: to adapt an encoder to a kind of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError
from jaxtune.hub.description import Description
from jaxtune.models.registry import family_of
from jaxtune.tasks.base import Made, Record, Where, no_classes, one_text, row_error
from jaxtune.tasks.language import LanguageTask
from jaxtune.tasks.noise.masking import Masking
from jaxtune.tasks.reading.text_pieces import read_pieces, specials_around

INSTEAD = {"decoder": "causal_lm", "encoder_decoder": "denoising"}
"""What other kinds of models learn from texts alone."""


@dataclass(frozen=True)
class MaskedLM(LanguageTask):
    """Cross-entropy of the masked tokens, whose logits alone are computed.

    A text longer than ``max_length`` becomes several examples of nearly equal length, each with the special tokens
    around it, so that nothing of it is lost. The masks are new in every epoch of the training; an evaluation
    has the same ones every time. Perplexity is e to the loss: of masked words, given all others.

    Attributes:
        special: ids that are never masked nor drawn; none before ``for_model``.
        dynamic: the masking; none before ``for_model``.
    """

    text: str
    max_length: int
    label_smoothing: float = 0.0
    vocab_size: int | None = None
    special: tuple[int, ...] = ()
    # How much is masked changes no stored example, so it is no part of what a tokenised copy is known by.
    share: float = field(default=0.15, repr=False)
    whole_word: bool = field(default=False, repr=False)
    dynamic: Masking | None = field(default=None, repr=False)

    name: ClassVar[str] = "masked_lm"
    head: ClassVar[str] = "mlm"

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
            share=data.mask_share,
            whole_word=data.whole_word,
        )

    def for_model(self, model: Description) -> Self:
        """See ``Task.for_model``. Raises ConfigError for a model or a tokenizer that has no masked words."""
        family = family_of(str(model.raw_config["model_type"]))
        if self.head not in family.heads:
            instead = INSTEAD.get(family.kind, "classification")
            raise ConfigError(
                f"`task` is {self.name!r}, but {family.model_type} has no head for masked words; "
                f"expected task={instead} for this model, or an encoder (BERT, RoBERTa, …)"
            )
        tokenizer = model.tokenizer
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"`task` is {self.name!r}, but the tokenizer of the model has no mask token; "
                "expected one that has (model.tokenizer), or task=classification"
            )
        # A word that the tokenizer does not know is a word all the same.
        special = tuple(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}))
        words = min(len(tokenizer), model.config.vocab_size)
        unwanted = tuple(i for i in sorted({*special, tokenizer.unk_token_id} - {None}) if i < words)
        masking = Masking(
            self.share,
            tokenizer.mask_token_id,
            words,
            unwanted,
            self.whole_word,
            sum(specials_around(tokenizer)),
        )
        return dataclasses.replace(super().for_model(model), special=special, dynamic=masking)

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
        """See ``Task.tokenize``."""
        made = read_pieces(self.text, records, tokenizer, where, self.max_length)
        for i, pieces in enumerate(made):
            if isinstance(pieces, list):
                made[i] = self._maskable(pieces) or row_error(
                    where(i), self.text, "holds nothing but special tokens", "a text with words to mask"
                )
        return made

    def _maskable(self, pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those pieces in which there is something to mask; special tokens that a text spells out are no words."""
        for piece in pieces:
            spelled = np.isin(piece["tokens"], self.special)
            piece["words"] = np.where(spelled, -1, piece["words"]).astype(np.int32)
        return [piece for piece in pieces if (piece["words"] >= 0).any()]
