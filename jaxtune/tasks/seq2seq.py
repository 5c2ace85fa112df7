"""What tasks of an encoder-decoder have in common that read one text and write another: translation, summarization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.generation.settings import GenerationSettings, settings_for
from jaxtune.hub.description import Description
from jaxtune.tasks.base import (
    Data,
    Made,
    Outputs,
    Piece,
    Record,
    Where,
    no_classes,
    one_text,
    plain_value,
    read_column,
    row_error,
)
from jaxtune.tasks.language import LanguageTask, teacher_forced
from jaxtune.tasks.reading.encoding import TextColumns, read_text


@dataclass(frozen=True)
class Seq2Seq(LanguageTask):
    """Cross-entropy of every next word of the target, given the text and the words before (teacher forcing).

    The decoder reads the target shifted right by one, behind the model's start token, as transformers has it.
    Where texts are written, it is by beam search.

    Attributes:
        prefix: put before every text.
        max_target_length: longer targets are cut, and no longer texts are written.
        start: token that the decoder begins with; none before ``for_model``.
        asked: settings of the search, by their names in ``GenerationSettings``.
        generation: those with the model's special tokens; none before ``for_model``.
    """

    columns: TextColumns
    target: str
    prefix: str
    max_target_length: int
    label_smoothing: float = 0.0
    vocab_size: int | None = None
    start: int | None = None
    # How texts are searched for changes no example, so it is no part of what a tokenised copy is known by.
    asked: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    generation: GenerationSettings | None = field(default=None, repr=False)

    name: ClassVar[str]
    head: ClassVar[str] = "seq2seq_lm"

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Self:
        """The task an experiment asks for."""
        no_classes(experiment, cls.name)
        one_text(experiment, cls.name)
        data, writing = experiment.data, experiment.generation
        return cls(
            TextColumns(data.text, None, data.max_length),
            data.target,
            data.prefix,
            data.max_target_length,
            experiment.train.label_smoothing,
            asked=(
                ("num_beams", writing.beams),
                ("length_penalty", writing.length_penalty),
                ("no_repeat_ngram_size", writing.no_repeat_ngram),
            ),
        )

    def for_model(self, model: Description) -> Self:
        """See ``Task.for_model``. Raises ConfigError without a start token, or for targets beyond its positions."""
        settings = settings_for(
            model.raw_config, None, model.tokenizer, max_new_tokens=self.max_target_length, **dict(self.asked)
        )
        if settings.decoder_start_token_id is None:
            raise ConfigError(
                "config.json of the model names no `decoder_start_token_id`, which the decoder begins with; "
                f"expected an encoder-decoder (T5, BART, Marian, …) for {self.name}"
            )
        most = model.config.max_position_embeddings
        if most is not None and self.max_target_length > most:
            raise ConfigError(
                f"`data.max_target_length` is {self.max_target_length}, but the model has positions for {most} tokens"
            )
        known = super().for_model(model)
        return dataclasses.replace(known, start=settings.decoder_start_token_id, generation=settings)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {**self.columns.columns_read, "data.target": self.target}

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
        made: list[Any] = []
        for i, record in enumerate(records):
            try:
                text = self.columns.read(record, where(i))[0]
                made.append((self.prefix + text, self._references(record, where(i))[0] if labelled else None))
            except DataError as error:
                made.append(error)
        good = [i for i, pair in enumerate(made) if not isinstance(pair, DataError)]
        sources = self.columns.encode([(made[i][0], None) for i in good], tokenizer)
        targets = [made[i][1] for i in good]
        written = self._encode_targets(targets, tokenizer) if labelled else [None] * len(good)
        for i, source, target in zip(good, sources, written):
            made[i] = self._example(source, target, where(i))
        return made

    def _references(self, record: Record, place: str) -> list[str]:
        """The target, or the targets where a row has several. Raises DataError for what is no text."""
        value = plain_value(read_column(record, self.target, "--data.target", place))
        texts = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        if not texts:
            raise row_error(place, self.target, "holds an empty list", "a text, or several")
        return [read_text({self.target: text}, self.target, "--data.target", place) for text in texts]

    def _encode_targets(self, texts: list[str], tokenizer: Any) -> list[tuple[list[int], bool]]:
        """Token ids of each target, its end among them, and whether it was cut."""
        if not texts:
            return []
        encoded = tokenizer(
            text_target=texts, truncation=True, max_length=self.max_target_length, verbose=False
        )
        end = tokenizer.eos_token_id
        found = []
        for tokens, encoding in zip(encoded["input_ids"], encoded.encodings):
            if end is not None and tokens[-1:] != [end]:
                tokens = [*tokens[: self.max_target_length - 1], end]
            found.append((tokens, bool(encoding.overflowing)))
        return found

    def _example(self, source: Any, target: tuple[list[int], bool] | None, place: str) -> Made:
        if isinstance(source, str):
            return row_error(place, source, "holds only characters that the tokenizer drops", "a text")
        if target is None:
            return dict(source)
        if self.start is None:
            raise ValueError("for_model(…) comes before tokenize(…)")
        tokens, cut = target
        told = teacher_forced(np.asarray(tokens, np.int32), self.start)
        return {**source, **told, "truncated": source["truncated"] or cut}

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Loss per token, perplexity, accuracy; and where texts were written, what they are worth."""
        result = super().score(outputs, data)
        if "text" not in outputs:
            return result
        records = (data.records[i] for i in range(len(data.examples)))
        references = [self._references(record, "a row that was read before") for record in records]
        return {**result, **self.written_scores(outputs["text"], references)}

    def written_scores(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Metrics of texts [n] against the references of each."""
        raise NotImplementedError

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The text that was written; of a labelled record also the loss of its target."""
        outputs = pieces[0].outputs
        written = {"written": outputs["text"]} if "text" in outputs else {}
        return {**written, **(super().answer(record, pieces) if "loss_sum" in outputs else {})}

    def truth(self, record: Record, target: Any) -> Any:
        """The target as the data has it."""
        references = self._references(record, "a row that was read before")
        return references[0] if len(references) == 1 else references
