"""A model on its mesh: parameters in place, and the jitted evaluation step. All that prediction needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxtune.config import Experiment
from jaxtune.data.examples import Examples
from jaxtune.data.loader import lengths_of
from jaxtune.data.planning import Plan, plan_evaluation
from jaxtune.errors import ConfigError, DataError
from jaxtune.generation.text import generate_texts
from jaxtune.hub.pretrained import Pretrained
from jaxtune.models.attention import plain_attention
from jaxtune.models.axes import constrained_by
from jaxtune.models.kernels.choice import ChosenAttention, place_on
from jaxtune.models.layer_stack import stack_layers, unstack_layers
from jaxtune.models.layers import Policy
from jaxtune.models.model import Model, build_model, init_params
from jaxtune.parallel.activations import OnMesh
from jaxtune.parallel.mesh import batch_sharding, check_length, check_rows, make_mesh, replicated
from jaxtune.parallel.rules import Rule, check_heads, rules_of, shardings_of
from jaxtune.tasks.base import Data, Record, Task, pieces_of
from jaxtune.training.evaluation import Evaluated, gather_outputs
from jaxtune.training.precision import make_policy
from jaxtune.training.state import TRAINED, Trains, merge
from jaxtune.training.step import Forward, make_eval_step, make_forward


@dataclasses.dataclass(frozen=True)
class Unscored:
    """Examples without labels, and the rows they were made of; see ``tasks.base.Data``."""

    examples: Examples
    records: Sequence[Record]
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Network:
    """A model for a task on a mesh.

    Attributes:
        experiment: with ``model.precision`` resolved.
        model: the Linen module; with ``scan_layers`` its parameters are stacked.
    """

    experiment: Experiment
    task: Task
    tokenizer: Any
    model: Model
    mesh: Mesh

    @property
    def trains(self) -> Trains:
        """What is trained of the parameters, by path."""
        return TRAINED[self.experiment.train.trainable]

    @cached_property
    def replicated(self) -> NamedSharding:
        """Sharding of results."""
        return replicated(self.mesh)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Where parameters lie, by path."""
        return rules_of(self.model.family.model_type, self.experiment.mesh.rules)

    def shardings(self, tree: Any) -> Any:
        """Where parameters, or a state that holds them, lie; of arrays or shapes in either layout."""
        return shardings_of(tree, self.rules, self.mesh)

    @cached_property
    def forward(self) -> Forward:
        """The model on a batch's fields, its activations laid out on the mesh."""
        forward = make_forward(self.model)
        if self.mesh.size == 1 or self.experiment.mesh.mode == "pmap":
            return forward

        def on_mesh(params: Any, batch: Any, key: Any) -> Any:
            with constrained_by(OnMesh(self.mesh)):
                return forward(params, batch, key)

        return on_mesh

    @cached_property
    def training_forward(self) -> Forward:
        """``forward`` for the train step; within ``pmap`` each device is alone."""
        attention = self.model.attention
        if self.experiment.mesh.mode != "pmap" or not isinstance(attention, ChosenAttention):
            return self.forward
        return make_forward(self.model.clone(attention=attention.alone()))

    def attention_lines(self) -> list[str]:
        """Which kernels compute attention in the programs traced so far, and why no others, for people."""
        attention = self.model.attention
        return attention.describe() if isinstance(attention, ChosenAttention) else []

    @cached_property
    def batch_sharding(self) -> NamedSharding:
        """Sharding of a batch's fields."""
        return batch_sharding(self.mesh)

    @cached_property
    def eval_step(self) -> Callable[..., Any]:
        """Jitted ``(params, batch) -> outputs`` of the task, whole on every device."""
        step = make_eval_step(self.forward, self.task.outputs)
        return jax.jit(step, out_shardings=self.replicated)

    def place(self, canonical: Any) -> Any:
        """Canonical parameters (or a state) on the mesh, stacked where the model wants that."""
        shapes = jax.eval_shape(self.from_canonical, canonical)
        return jax.jit(self.from_canonical, out_shardings=self.shardings(shapes))(canonical)

    def from_canonical(self, tree: Any) -> Any:
        """The layout this model runs in."""
        return stack_layers(tree) if self.experiment.model.scan_layers else tree

    def to_canonical(self, tree: Any) -> Any:
        """The layout that checkpoints and exports speak of."""
        if not self.experiment.model.scan_layers:
            return tree
        layout = self.shardings(jax.eval_shape(unstack_layers, tree))
        return jax.jit(unstack_layers, out_shardings=layout)(tree)

    def params_of(self, saved: Any) -> Any:
        """Parameters in the layout the model runs in, from the two parts a checkpoint holds."""
        canonical = merge(saved["trainable"], saved["frozen"])
        return self.arrange(canonical)

    def arrange(self, placed: Any) -> Any:
        """A canonical tree that is on the mesh already, in the layout this model runs in."""
        return self.place(placed) if self.experiment.model.scan_layers else placed

    def pretrained(self, canonical_params: Any, raw_config: Mapping[str, Any]) -> Pretrained:
        """The model with these parameters as ``load_pretrained`` would give it, computing in float32.

        Args:
            raw_config: config.json of the checkpoint it came from.
        """
        plain = self.model.clone(scan_layers=False, policy=Policy(), attention=plain_attention)
        return Pretrained(
            plain,
            canonical_params,
            labels=self.task.labels,
            raw_config=raw_config,
            tokenizer=self.tokenizer,
            problem_type=self.task.problem_type,
        )

    def abstract_params(self) -> Any:
        """Shapes, dtypes and shardings of the canonical parameters."""
        shapes = jax.eval_shape(lambda: self.fresh_params(0))
        return self.placed(shapes)

    def placed(self, shapes: Any) -> Any:
        """Shapes and dtypes, with where they lie."""
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            self.shardings(shapes),
        )

    def fresh_params(self, seed: int) -> Any:
        """Newly initialised canonical parameters; under ``jax.eval_shape`` only their shapes."""
        plain = self.model.clone(scan_layers=False, attention=plain_attention)
        return init_params(plain, jax.random.key(seed))

    def plan(self, examples: Examples) -> Plan:
        """Batches for one pass over ``examples``."""
        data = self.experiment.data
        lengths, decoder_lengths = lengths_of(examples, self.task.dynamic)
        plan = plan_evaluation(
            lengths,
            batching=data.batching,
            batch_size=self.experiment.train.batch_size,
            buckets=data.buckets,
            row_length=data.row_length,
            rows=data.rows,
            decoder_lengths=decoder_lengths,
            max_tokens=data.max_tokens,
        )
        check_plan(plan, self.mesh)
        return plan

    def evaluate(
        self, params: Any, data: Data, plan: Plan | None = None, *, written: bool = True
    ) -> Evaluated:
        """Metrics of labelled examples.

        Args:
            written: also those metrics that need texts to be written, where the task has any.
        """
        outputs = self.outputs(params, data.examples, plan)
        if written and self.task.generation is not None:
            outputs["text"] = self.write(params, data.examples)
        return Evaluated(self.task.score(outputs, data), outputs)

    def write(self, params: Any, examples: Examples) -> list[str]:
        """What the model writes in answer to each text."""
        assert self.task.generation is not None, "the task writes texts"
        return generate_texts(
            self.model,
            params,
            self.tokenizer,
            [examples.tokens_of(i).tolist() for i in range(len(examples))],
            self.task.generation,
            batch_size=self.experiment.generation.batch_size * self.task.generation.num_beams,
        )

    def predict(
        self, params: Any, records: Sequence[Record], where: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        """What the task reads from each record, in order; labels are not needed.

        Raises:
            DataError: of the first record that cannot be read.
        """
        made: list[dict[str, Any]] = []
        rows: list[int] = []
        for row, result in enumerate(self.task.tokenize(records, self.tokenizer, where, labelled=False)):
            if isinstance(result, DataError):
                raise result
            pieces = result if isinstance(result, list) else [result]
            made += pieces
            rows += [row] * len(pieces)
        data = Unscored(Examples.from_list(made), [records[row] for row in rows], np.asarray(rows))
        if self.task.generation is None:
            outputs = self.outputs(params, data.examples)
        else:
            outputs = {"text": self.write(params, data.examples)}
        return [self.task.answer(record, pieces) for record, pieces in pieces_of(outputs, data)]

    def outputs(self, params: Any, examples: Examples, plan: Plan | None = None) -> dict[str, Any]:
        """The task's outputs in the order of the examples."""
        return gather_outputs(
            self.eval_step,
            params,
            examples,
            plan or self.plan(examples),
            self.batch_sharding,
            per_token=self.task.per_token,
            dynamic=self.task.dynamic,
            seed=self.experiment.train.seed,
        )


def build_network(
    experiment: Experiment, task: Task, tokenizer: Any, config: Any, devices: Sequence[Any] | None = None
) -> Network:
    """The model of a configuration for a task, on the mesh the experiment asks for.

    Args:
        devices: to lay out; none takes those that are here. Those of a plan are of machines elsewhere.

    Raises:
        ConfigError: the mesh does not fit the machine, or the model has no such head or form.
    """
    m = experiment.model
    if m.dropout is not None:
        config = config.with_dropout(m.dropout)
    policy = make_policy(m.precision, m.matmul_precision)
    mesh = make_mesh(experiment.mesh, devices)
    windows = tuple(sorted(set(getattr(config, "windows", None) or ())))
    place = place_on(mesh, windows=windows, packed=experiment.data.batching == "packed")
    try:
        model = build_model(
            config,
            task.head,
            task.num_labels,
            policy,
            scan_layers=m.scan_layers,
            remat=m.remat,
            attention=ChosenAttention(place),
        )
    except ValueError as error:
        raise ConfigError(f"{m.source}: {error}") from error
    heads, kv_heads = model.family.attention_heads(config)
    check_heads(heads, kv_heads, mesh)
    return Network(experiment, task, tokenizer, model, mesh)


def check_plan(plan: Plan, mesh: Mesh, accumulate: int = 1) -> None:
    """Check that all batches of a plan divide over the mesh.

    Raises:
        ConfigError: one does not; names the nearest sizes that do.
    """
    for rows, length in plan.shapes:
        check_rows(rows, mesh, accumulate)
        check_length(length, mesh)
