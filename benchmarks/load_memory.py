"""Peak memory of ``load_pretrained`` on a synthetic Llama: anonymous memory (RssAnon) of a process of its own.

    python benchmarks/load_memory.py --preset llama-3-8b --dtype BF16 --param-dtype bfloat16 --out load-memory
    python benchmarks/load_memory.py --hidden-size 512 --devices 8 --layout split

The checkpoint's files are sparse (all zeros), so that they need no disk; what is read from them is written to
real memory. Pages of the mapped files are the kernel's to drop and do not count. Bar: what the process's shards
hold + the largest leaf of the tree. ``--layout``: ``one`` device; ``split`` each leaf along its longest axis over
the devices; ``copies`` the whole tree on each device; ``mixed`` tables and projections split, norms copied.
Linux only. Writes OUT.json and OUT.md, or prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PRESETS = {
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
}
ALLOWANCE = 48 << 20
"""Tracing, compiled programs, Python's objects and the allocator's slack: the same for any size of model."""
ITEM = {"F32": 4, "F16": 2, "BF16": 2}


def main() -> int:
    args = parse()
    if args.load:
        return load(args)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_checkpoint(Path(folder), settings(args), args.dtype, args.shard_bytes)
        result = measure(Path(folder), args)
    if args.out:
        write_report(Path(args.out), result)
    print(json.dumps(result))
    return 0 if result["peak_bytes"] <= result["bound_bytes"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS)
    for name, default in (
        ("hidden-size", 512),
        ("intermediate-size", 2048),
        ("num-hidden-layers", 8),
        ("num-attention-heads", 8),
        ("num-key-value-heads", 4),
        ("vocab-size", 16000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=ITEM, default="F32", help="type in the files")
    parser.add_argument("--param-dtype", default="float32")
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--layout", choices=("one", "split", "copies", "mixed"), default="one")
    parser.add_argument("--scan-layers", action="store_true")
    parser.add_argument(
        "--folder", help="where the sparse files are put; none: the system's temporary folder"
    )
    parser.add_argument("--out", help="write OUT.json and OUT.md")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """config.json of the synthetic model."""
    shape = PRESETS[args.preset] if args.preset else {}
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    given = {name: shape.get(name, getattr(args, name)) for name in names}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        **given,
    }


def tensor_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama as torch names and shapes it."""
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        linears = {
            "self_attn.q_proj": (d, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, d),
            "mlp.gate_proj": (f, d),
            "mlp.up_proj": (f, d),
            "mlp.down_proj": (d, f),
            "input_layernorm": (d,),
            "post_attention_layernorm": (d,),
        }
        shapes |= {f"{at}.{name}.weight": shape for name, shape in linears.items()}
    return shapes | {"model.norm.weight": (d,), "lm_head.weight": (v, d)}


def write_checkpoint(folder: Path, config: dict[str, Any], dtype: str, shard_bytes: int) -> None:
    """config.json and sparse shards with an index."""
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in tensor_shapes(config).items():
        nbytes = math.prod(shape) * ITEM[dtype]
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        header, end = {}, 0
        for name, shape in shard.items():
            begin, end = end, end + math.prod(shape) * ITEM[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(encoded).to_bytes(8, "little") + encoded)
            out.truncate(8 + len(encoded) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load in a process of its own, watched from here every few milliseconds."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}"
    child = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--load", str(folder)],
        env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()  # imported and warm
    baseline = anonymous(child.pid)
    peak, done = [baseline], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous(child.pid))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    print(file=child.stdin, flush=True)
    line = child.stdout.readline()  # it waits for our answer, so that it is still there to be looked at
    after = anonymous(child.pid) if line else 0
    done.set()
    watcher.join()
    child.communicate("\n")
    if not line:
        raise SystemExit(f"the loading process failed with status {child.returncode}")
    held = json.loads(line)
    return {
        "config": settings(args),
        "dtype": args.dtype,
        "param_dtype": args.param_dtype,
        "layout": args.layout,
        "devices": args.devices,
        "scan_layers": args.scan_layers,
        **held,
        "baseline_bytes": baseline,
        "peak_bytes": peak[0] - baseline,
        "after_bytes": after - baseline,
        "allowance_bytes": ALLOWANCE,
        "bound_bytes": held["shards_bytes"] + held["largest_leaf_bytes"] + ALLOWANCE,
    }


def anonymous(pid: int) -> int:
    """RssAnon of a process in bytes; 0 once it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def load(args: argparse.Namespace) -> int:
    """In the watched process: get warm, wait, load, say what is held, wait."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaxtune.hub.pretrained import load_pretrained

    jnp.ones(8).sum().block_until_ready()
    print("ready", flush=True)
    sys.stdin.readline()
    mesh = Mesh(np.array(jax.devices()), ("all",))

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        whole = args.layout == "copies" or (args.layout == "mixed" and path.endswith("scale"))
        axis = shape.index(max(shape))
        if whole or shape[axis] % len(mesh.devices):
            return NamedSharding(mesh, P())
        return NamedSharding(mesh, P(*[None] * axis, "all"))

    start = time.perf_counter()
    lm = load_pretrained(
        args.load,
        "causal_lm",
        param_dtype=args.param_dtype,
        sharding=None if args.layout == "one" else sharding,
        scan_layers=args.scan_layers,
    )
    seconds = time.perf_counter() - start
    leaves = jax.tree.leaves(lm.params)
    held = {
        "shards_bytes": sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards),
        "largest_leaf_bytes": max(leaf.nbytes for leaf in leaves),
        "parameters": sum(leaf.size for leaf in leaves),
        "seconds": round(seconds, 2),
    }
    print(json.dumps(held), flush=True)
    sys.stdin.readline()
    return 0


def write_report(out: Path, result: dict[str, Any]) -> None:
    from jaxtune.persistence.provenance import machine, versions

    facts = {**result, "machine": machine(), "versions": versions()}
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")

    def gib(name: str) -> str:
        return f"{result[name] / 2**30:.2f} GiB"

    c = result["config"]
    out.with_suffix(".md").write_text(
        f"""# Memory of loading

A synthetic Llama of {result["parameters"] / 1e9:.2f}e9 parameters ({c["num_hidden_layers"]} layers of {c["hidden_size"]}, \
vocabulary {c["vocab_size"]}), {result["dtype"]} in the files, {result["param_dtype"]} in memory, layout `{result["layout"]}` \
on {result["devices"]} device(s). Anonymous memory beyond that of the process with jax imported:

| | |
|---|---|
| what the shards hold | {gib("shards_bytes")} |
| largest leaf | {gib("largest_leaf_bytes")} |
| bar: the two together, and {ALLOWANCE >> 20} MiB for what does not grow with the model | {gib("bound_bytes")} |
| **peak while loading** | **{gib("peak_bytes")}** |
| after loading | {gib("after_bytes")} |
| time | {result["seconds"]:.1f} s |

`python benchmarks/load_memory.py` measures it; tests/hub/test_load_memory.py holds it to the bar at a small size.
"""
    )


if __name__ == "__main__":
    sys.exit(main())
