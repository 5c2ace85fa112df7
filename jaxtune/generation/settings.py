"""How text is generated: one frozen record, checked where it is made."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from jaxtune.errors import ConfigError
from jaxtune.models.registry import FAMILIES

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Settings of one call; names and meanings as in transformers' GenerationConfig where it has them.

    Attributes:
        max_new_tokens: tokens to generate at most; 0 gives empty texts.
        min_new_tokens: no end-of-sequence token before so many.
        do_sample: none draws tokens if any of ``temperature``, ``top_k``, ``top_p``, ``min_p`` is set
            and the temperature is not 0; else the most likely token is taken.
        temperature, top_k, top_p, min_p: the distribution that tokens are drawn from; none of them
            changes it unless it is set (transformers has a ``top_k`` of 50 by default).
        repetition_penalty: of tokens that are in the prompt (of a decoder) or were generated.
        no_repeat_ngram_size: no sequence of so many tokens appears twice; 0 allows all.
        num_beams: 1 is no beam search.
        num_beam_groups, diversity_penalty: diverse beam search (Vijayakumar et al. 2018).
        length_penalty: finished beams are ranked by log probability / length^length_penalty.
        early_stopping: when a beam search ends: true as soon as there are ``num_beams`` finished ones;
            false if no better one is likely; "never" if no better one is possible.
        num_return_sequences: texts per prompt: samples, or the best beams, the best first.
        seed: of sampling. What is drawn for a prompt depends on it and on the prompt alone.
        stop: strings that end a text where they would begin.
        suppress_token_ids: tokens that are never generated.
        forced_bos_token_id: the first new token (mBART's target language).
        forced_eos_token_id: the last one, if a text gets as long as ``max_new_tokens``.
        eos_token_ids: tokens that end a text; empty: all texts get ``max_new_tokens`` long.
        pad_token_id: fills up what is shorter than others; nobody ever sees it.
        bos_token_id: what an empty prompt becomes.
        decoder_start_token_id: first token of the decoder of an encoder-decoder.

    Raises:
        ConfigError: a value out of range, or two that contradict each other.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    suppress_token_ids: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "suppress_token_ids", "eos_token_ids"):
            object.__setattr__(self, name, _tuple(getattr(self, name)))
        _check_ranges(self)
        _check_together(self)

    @property
    def sample(self) -> bool:
        """Whether tokens are drawn."""
        if self.do_sample is not None:
            return self.do_sample
        given = (self.temperature, self.top_k, self.top_p, self.min_p)
        return any(value is not None for value in given) and self.temperature != 0


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int) else tuple(value)


_INTEGERS = {
    "max_new_tokens": 0,
    "min_new_tokens": 0,
    "top_k": 1,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "seed": 0,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 0,
}
"""The smallest value of each."""

_NUMBERS = {
    "temperature": ("0 or more", lambda x: x >= 0),
    "top_p": ("a share above 0, up to 1", lambda x: 0 < x <= 1),
    "min_p": ("a share from 0 to 1", lambda x: 0 <= x <= 1),
    "repetition_penalty": ("above 0", lambda x: x > 0),
    "diversity_penalty": ("0 or more", lambda x: x >= 0),
    "length_penalty": ("a finite number", lambda x: True),
}


def _check_ranges(s: GenerationSettings) -> None:
    optional = {f.name for f in dataclasses.fields(s) if f.default is None}
    for name, least in _INTEGERS.items():
        value = getattr(s, name)
        if value is None and name in optional:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"`{name}` is {value!r}; expected a whole number, {least} or more")
    for name, (expected, fits) in _NUMBERS.items():
        value = getattr(s, name)
        if value is None and name in optional:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not fits(value):
            raise ConfigError(f"`{name}` is {value!r}; expected {expected}")
    if s.do_sample not in (None, True, False):
        raise ConfigError(f"`do_sample` is {s.do_sample!r}; expected true, false or none")
    if s.early_stopping not in (True, False, "never"):
        raise ConfigError(f"`early_stopping` is {s.early_stopping!r}; expected true, false or 'never'")
    if any(not isinstance(text, str) or not text for text in s.stop):
        raise ConfigError(f"`stop` is {list(s.stop)!r}; expected strings that are not empty")
    for name in ("eos_token_ids", "suppress_token_ids"):
        if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in getattr(s, name)):
            raise ConfigError(f"`{name}` is {getattr(s, name)!r}; expected token ids")
    if s.seed >= 2**32:
        raise ConfigError(f"`seed` is {s.seed}; expected a number below 2^32")


def _check_together(s: GenerationSettings) -> None:
    if s.do_sample and s.temperature == 0:
        raise ConfigError("`do_sample` is true and `temperature` is 0, which draws nothing; choose one")
    if s.do_sample is False and any(v is not None for v in (s.temperature, s.top_k, s.top_p, s.min_p)):
        raise ConfigError("`do_sample` is false, but a temperature, top_k, top_p or min_p is set; choose one")
    if s.sample and s.num_beams > 1:
        raise ConfigError(
            f"`num_beams` is {s.num_beams} and tokens are to be drawn; a beam search draws none: "
            "leave out temperature, top_k, top_p and min_p, or set num_beams 1"
        )
    if s.num_return_sequences > 1 and s.num_beams == 1 and not s.sample:
        raise ConfigError(
            f"`num_return_sequences` is {s.num_return_sequences}, but there is one most likely text; "
            "set a temperature, or num_beams"
        )
    if s.num_beams > 1 and s.num_return_sequences > s.num_beams:
        raise ConfigError(
            f"`num_return_sequences` is {s.num_return_sequences}; {s.num_beams} beams give {s.num_beams} at most"
        )
    if s.num_beams % s.num_beam_groups:
        raise ConfigError(
            f"`num_beam_groups` is {s.num_beam_groups}, which does not divide {s.num_beams} beams"
        )
    if (s.num_beam_groups > 1) != (s.diversity_penalty > 0):
        raise ConfigError(
            f"`num_beam_groups` is {s.num_beam_groups} and `diversity_penalty` {s.diversity_penalty}; diverse "
            "beam search needs more than one group and a penalty above 0"
        )
    if s.min_new_tokens > s.max_new_tokens:
        raise ConfigError(
            f"`min_new_tokens` is {s.min_new_tokens}, above `max_new_tokens`, {s.max_new_tokens}"
        )


def settings_for(
    raw_config: Mapping[str, Any],
    raw_generation_config: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    *,
    checkpoint_settings: bool = False,
    **overrides: Any,
) -> GenerationSettings:
    """Settings for a checkpoint: what is given here, then what its files say, then our defaults.

    Of a checkpoint's files are taken the ids of special tokens, the forced first and last token and
    the tokens that never appear; generation_config.json goes before config.json, and the tokenizer is
    asked last. How to search or sample (``num_beams``, ``temperature``, penalties, …) is not taken
    from there, so that the same call does the same on every checkpoint, unless
    ``checkpoint_settings`` asks for it.

    Args:
        raw_config, raw_generation_config: the JSON objects of config.json and generation_config.json.
        overrides: fields of ``GenerationSettings``; none stands for what the checkpoint says.

    Raises:
        ConfigError: an unknown field, or a value out of range.
    """
    fields = {f.name for f in dataclasses.fields(GenerationSettings)}
    for name in overrides.keys() - fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(sorted(fields))}"
        raise ConfigError(f"there is no setting `{name}`; {hint}")
    raw = {**_known(raw_config), **_known(raw_generation_config or {})}
    family = FAMILIES.get(str(raw_config.get("model_type")))
    seq2seq = family is not None and family.kind == "encoder_decoder"
    found = _special_tokens(raw, tokenizer, seq2seq)
    if checkpoint_settings:
        found |= _search_settings(raw, seq2seq)
    found |= {name: value for name, value in overrides.items() if value is not None}
    return GenerationSettings(**found)


def _known(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if value is not None}


def _special_tokens(raw: Mapping[str, Any], tokenizer: Any, seq2seq: bool) -> dict[str, Any]:
    def tokens(name: str) -> tuple[int, ...]:
        # Old files write -1 for a token that there is not.
        return tuple(i for i in _tuple(raw.get(name, getattr(tokenizer, name, None))) if i >= 0)

    eos = tokens("eos_token_id")
    found = {
        "eos_token_ids": eos,
        # Padding is masked wherever it lies, so any id will do where a checkpoint has none (GPT-2).
        "pad_token_id": _first((*tokens("pad_token_id"), *eos, 0)),
        "bos_token_id": _first(tokens("bos_token_id")),
        "suppress_token_ids": _suppressed(raw),
    }
    if seq2seq:
        found["decoder_start_token_id"] = _first(raw.get("decoder_start_token_id", raw.get("bos_token_id")))
        found["forced_bos_token_id"] = _first(raw.get("forced_bos_token_id"))
        found["forced_eos_token_id"] = _first(raw.get("forced_eos_token_id"))
    return found


def _first(ids: Any) -> Any:
    ids = _tuple(ids)
    return ids[0] if ids else None


def _suppressed(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Single tokens that never appear (Marian's padding)."""
    words = raw.get("bad_words_ids", [])
    if any(len(word) > 1 for word in words):
        logger.warning("bad_words_ids of more than one token are not supported; these words may appear")
    single = {word[0] for word in words if len(word) == 1} | set(_tuple(raw.get("suppress_tokens", ())))
    return tuple(sorted(i for i in single if i >= 0))


_SEARCH = (
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "length_penalty",
    "early_stopping",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "max_new_tokens",
    "min_new_tokens",
)
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def _search_settings(raw: Mapping[str, Any], seq2seq: bool) -> dict[str, Any]:
    """How a checkpoint's author meant it to be searched or sampled."""
    found = {name: raw[name] for name in _SEARCH if name in raw}
    if raw.get("do_sample"):
        found |= {"do_sample": True} | {name: raw[name] for name in _SAMPLING if raw.get(name)}
    if seq2seq:  # their lengths count the decoder's start
        if "max_length" in raw:
            found.setdefault("max_new_tokens", max(raw["max_length"] - 1, 0))
        if "min_length" in raw:
            found.setdefault("min_new_tokens", max(raw["min_length"] - 1, 0))
    return found
