"""The arrays of a checkpoint, written and read by Orbax.

A state of any pytree class is stored as a nested dict of its path names (``params/backbone/…``),
so that a checkpoint can be read without the classes that made it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxtune import files
from jaxtune.errors import CheckpointError

_TIMEOUT = 3600
_SHOWN = 5


class OrbaxArrays:
    """Asynchronous writer and reader of one tree of arrays per folder."""

    def __init__(self) -> None:
        self._orbax = self._open()

    @staticmethod
    def _open() -> ocp.AsyncCheckpointer:
        # OCDBT puts all arrays into a few files. No compression: it gains 8 % on trained weights and
        # costs three times the processor time, which a CPU run takes from training.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)
        return ocp.AsyncCheckpointer(handler, timeout_secs=_TIMEOUT)

    def start(self, folder: str, state: Any) -> None:
        """Begins to write; the caller may donate or overwrite the arrays of `state` right after.

        Orbax copies from accelerators before it returns; on a CPU it holds references that make XLA
        give a donated buffer's successor new memory (tests/persistence/test_checkpoints.py watches it).
        """
        # Orbax refuses relative paths.
        self._orbax.save(files.absolute(folder), args=ocp.args.PyTreeSave(_nested(flatten(state))))

    def wait(self) -> None:
        """Until the arrays are on the disk of every process. Raises what went wrong."""
        self._orbax.wait_until_finished()

    def reset(self) -> None:
        """Forgets a failed write."""
        with contextlib.suppress(Exception):  # the failure that led here is reported by the caller
            self._orbax.close()
        self._orbax = self._open()

    def read(self, folder: str, like: Any) -> Any:
        """The arrays that `like` names, as jax arrays of its classes, shapes, dtypes and shardings."""
        wanted = flatten(like)
        item = _nested(wanted)
        arguments = _nested({name: _restore_argument(leaf) for name, leaf in wanted.items()})
        args = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        found = flatten(self._orbax.restore(files.absolute(folder), args=args))
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])

    def close(self) -> None:
        """Ends the background threads."""
        self._orbax.close()


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path names joined with ``/``, in the order of ``jax.tree.leaves``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(state: Any) -> dict[str, list[Any]]:
    """``{name: [dtype, shape]}`` of every array, as it goes into the record.

    Raises TypeError for a leaf that is not a jax array, ValueError for two leaves of one name.
    """
    named = flatten(state)
    if len(named) != len(jax.tree.leaves(state)):
        raise ValueError("two arrays of the state have the same path name")
    for name, leaf in named.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{name} of the state is a {type(leaf).__name__}; a checkpoint holds jax arrays")
    return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in named.items()}


def check_fit(place: str, saved: Mapping[str, Sequence[Any]], like: Any, *, partial: bool) -> None:
    """Raises CheckpointError that names the arrays in which a saved state and the wanted one differ.

    With `partial`, arrays that only the checkpoint has are fine.
    """
    wanted = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in flatten(like).items()}
    lines = [f"{name}: not in the checkpoint" for name in wanted if name not in saved]
    if not partial:
        lines += [f"{name}: only in the checkpoint" for name in saved if name not in wanted]
    lines += [
        f"{name}: saved {_show(saved[name])}, now {_show(wanted[name])}"
        for name in wanted
        if name in saved and list(saved[name]) != wanted[name]
    ]
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise CheckpointError(
            f"{place} is a checkpoint of another model or optimizer:\n  "
            + "\n  ".join(lines[:_SHOWN] + more)
            + "\nUse the configuration it was trained with, or start anew under another name."
        )


def _show(entry: Sequence[Any]) -> str:
    dtype, shape = entry
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _restore_argument(leaf: Any) -> ocp.ArrayRestoreArgs:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=sharding, global_shape=tuple(leaf.shape)
    )


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a/b": x}`` as ``{"a": {"b": x}}``."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree
