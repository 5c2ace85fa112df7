"""States, comparisons and a stand-in for Orbax that the tests of checkpoints share."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtune import files
from jaxtune.persistence.checkpoint_arrays import flatten
from jaxtune.persistence.checkpoints import Checkpoints


class Moments(NamedTuple):
    mu: Any
    nu: Any


def make_state(step: int, width: int = 8) -> dict[str, Any]:
    """A little state whose every value says which step it is of."""
    kernel = jnp.arange(width * width, dtype=jnp.float32).reshape(width, width) + step
    return {
        "step": jnp.int32(step),
        "params": {"backbone": {"kernel": kernel, "bias": jnp.full((width,), -0.0)}, "head": {}},
        "optimizer": (Moments(mu=(kernel / 3).astype(jnp.bfloat16), nu=jnp.zeros((width,))), None),
    }


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(left: Any, right: Any) -> None:
    """Same structure, dtypes, and bits (so that -0.0 and NaN count)."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (name, a), (_, b) in zip(flatten(left).items(), flatten(right).items()):
        assert a.dtype == b.dtype, name
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def save_steps(folder: str, steps: list[int], **options: Any) -> None:
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"position": step * 10})


class NumpyArrays:
    """Writes arrays through the file layer, for stores that Orbax cannot write to."""

    def __init__(self, fail_at: str | None = None) -> None:
        self.fail_at = fail_at
        self.pending: tuple[str, bytes] | None = None

    def start(self, folder: str, state: Any) -> None:
        out = io.BytesIO()
        raw = {name: np.asarray(leaf) for name, leaf in flatten(state).items()}
        np.savez(
            out,
            **{
                name.replace("/", "|"): leaf.view(np.uint8) if leaf.ndim else leaf
                for name, leaf in raw.items()
            },
        )
        self.pending = (folder, out.getvalue())

    def wait(self) -> None:
        assert self.pending is not None
        folder, data = self.pending
        if files.name(files.parent(folder)) == self.fail_at:
            raise OSError("the store went away")
        files.write_bytes(files.join(folder, "arrays.npz"), data)

    def reset(self) -> None:
        self.pending = None

    def read(self, folder: str, like: Any) -> Any:
        found = np.load(io.BytesIO(files.read_bytes(files.join(folder, "arrays.npz"))))
        leaves = [
            jnp.asarray(raw.view(leaf.dtype) if leaf.ndim else raw)
            for name, leaf in flatten(like).items()
            for raw in [found[name.replace("/", "|")]]
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        self.pending = None
