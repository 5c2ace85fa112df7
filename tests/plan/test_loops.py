"""How often each part of a compiled program runs."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.errors import RunError
from jaxtune.plan.hlo import parse_module
from jaxtune.plan.loops import executions

LOOP = """HloModule made

%body.1 (s: (s32[], s32[], f32[8])) -> (s32[], s32[], f32[8]) {{
  %s = (s32[], s32[], f32[8]{{0}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%s), index=0
  %n = s32[]{{:T(128)}} get-tuple-element(%s), index=1
  %x = f32[8]{{0}} get-tuple-element(%s), index=2
  %one = s32[]{{:T(128)}} constant({step})
  %next = s32[]{{:T(128)}} {update}
  ROOT %t = (s32[], s32[], f32[8]{{0}}) tuple(%next, %n, %x)
}}

%condition.1 (c: (s32[], s32[], f32[8])) -> pred[] {{
  %c = (s32[], s32[], f32[8]{{0}}) parameter(0)
  %j = s32[]{{:T(128)}} get-tuple-element(%c), index=0
  %m = s32[]{{:T(128)}} get-tuple-element(%c), index=1
  %limit = s32[]{{:T(128)}} constant({limit})
  ROOT %lt = pred[]{{:T(512)}} compare({compared}), direction={direction}
}}

ENTRY %main (p: f32[8], q: s32[]) -> (s32[], s32[], f32[8]) {{
  %p = f32[8]{{0}} parameter(0)
  %q = s32[] parameter(1)
  %start = s32[]{{:T(128)}} constant({start})
  %copy.1 = s32[]{{:T(128)}} copy(%start)
  %copy.2 = s32[]{{:T(128)}} copy(%copy.1)
  %bound = s32[]{{:T(128)}} constant({limit})
  %state = (s32[], s32[], f32[8]{{0}}) tuple({first}, {second}, %p)
  ROOT %while.1 = (s32[], s32[], f32[8]{{0}}) while(%state), condition=%condition.1, body=%body.1{noted}
}}
"""
PLAIN = {
    "start": 0,
    "step": 1,
    "limit": 12,
    "direction": "LT",
    "update": "add(%i, %one)",
    "compared": "%j, %limit",
    "first": "%copy.2",
    "second": "%bound",
    "noted": "",
}


def runs(text, costs=None):
    return executions(parse_module(text), costs or {})


def loop(**changes):
    return LOOP.format(**{**PLAIN, **changes})


def test_a_plain_counter_as_the_tpu_compiler_leaves_it():
    assert runs(loop()) == {"body.1": 12, "condition.1": 13, "main": 1}


def test_what_the_compiler_noted_comes_first():
    noted = ', backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}'
    assert runs(loop(noted=noted))["body.1"] == 7


def test_a_product_spread_over_the_ring_steps_by_two():
    # jax 0.10 for v5e: a windowed einsum over 8 chips, both ways at once, is `i < 4` with `i + 2`.
    assert runs(loop(limit=4, step=2))["body.1"] == 2


HOLDS = {
    "LT": lambda i, n: i < n,
    "LE": lambda i, n: i <= n,
    "GT": lambda i, n: i > n,
    "GE": lambda i, n: i >= n,
    "NE": lambda i, n: i != n,
}


@given(
    st.integers(-20, 20),
    st.integers(-4, 4),
    st.integers(-20, 20),
    st.sampled_from(sorted(HOLDS)),
    st.booleans(),
    st.booleans(),
)
def test_passes_are_those_of_the_loop_itself(start, step, limit, direction, subtracts, swapped):
    values = (start + step * k for k in range(60))
    passes = sum(1 for _ in itertools.takewhile(lambda i: HOLDS[direction](i, limit), values))
    written = (
        {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}[direction] if swapped else direction
    )
    text = loop(
        start=start,
        step=-step if subtracts else step,
        limit=limit,
        update="subtract(%i, %one)" if subtracts else "add(%one, %i)",
        direction=written,
        compared="%limit, %j" if swapped else "%j, %limit",
    )
    if passes == 60 or step == 0:  # it never ends, or would not if it began
        assert passes == 0 or _refused(text)
    else:
        assert runs(text)["body.1"] == passes


def _refused(text):
    with pytest.raises(RunError, match=r"%while\.1 .* does not say how often"):
        runs(text)
    return True


def test_a_limit_that_is_handed_through_the_loop():
    assert runs(loop(compared="%j, %m", limit=9))["body.1"] == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"first": "%q"},  # begins where an argument says
        {"compared": "%j, %m", "second": "%q"},  # ends where an argument says
        {"update": "multiply(%i, %one)"},
        {"update": "add(%i, %i)"},
        {"direction": "EQ"},
        {"limit": 3, "start": 0, "step": 2, "direction": "NE"},
    ],
)
def test_a_number_of_passes_that_is_not_known_is_an_error(changes):
    assert _refused(loop(**changes))


def test_a_counter_inside_fusions():
    fused = (
        "%sum (a: s32[], b: s32[]) -> s32[] {\n  %a = s32[] parameter(0)\n  %b = s32[] parameter(1)\n"
        "  ROOT %r = s32[] add(%a, %b)\n}\n\n"
        "%less (a: s32[], b: s32[]) -> pred[] {\n  %a.1 = s32[] parameter(0)\n  %b.1 = s32[] parameter(1)\n"
        "  ROOT %r.1 = pred[] compare(%a.1, %b.1), direction=LT\n}\n\n%body.1"
    )
    text = loop(update="fusion(%i, %one), kind=kLoop, calls=%sum", limit=6, step=2)
    text = text.replace("%body.1", fused, 1)
    text = text.replace("compare(%j, %limit), direction=LT", "fusion(%j, %limit), kind=kLoop, calls=%less")
    assert runs(text)["body.1"] == 3


def calls(lines, extra=""):
    inner = "\n".join(
        f"%part.{i} (x: f32[8]) -> f32[8] {{\n  ROOT %x.{i} = f32[8]{{0}} parameter(0)\n}}\n"
        for i in range(3)
    )
    return f"HloModule made\n{inner}{extra}\nENTRY %main (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n{lines}\n}}\n"


def test_what_is_called_runs_with_its_caller_and_what_is_waited_for_once():
    text = calls(
        "  %a = f32[8]{0} call(%p), to_apply=%part.0\n"
        "  %b = f32[8]{0} fusion(%a), kind=kLoop, calls=%part.0\n"
        "  %s = ((f32[8]{0}), f32[8]{0}, s32[]) async-start(%b), calls=%part.1\n"
        "  %u = ((f32[8]{0}), f32[8]{0}, s32[]) async-update(%s), calls=%part.1\n"
        "  ROOT %d = f32[8]{0} async-done(%u), calls=%part.1"
    )
    assert runs(text) == {"part.0": 2, "part.1": 1, "main": 1}


def test_functions_of_numbers_are_no_part_of_the_program():
    text = calls("  ROOT %a = f32[8]{0} all-reduce-start(%p), replica_groups={}, to_apply=%part.0")
    assert runs(text, {"part.0": 5.0}) == {"main": 1}


@pytest.mark.parametrize(
    "roles",
    [
        "branch_computations={%part.0, %part.1, %part.2}",
        "true_computation=%part.0, false_computation=%part.2",
    ],
)
def test_of_branches_the_costliest_runs(roles):
    text = calls(f"  ROOT %c = f32[8]{{0}} conditional(%p, %p, %p), {roles}")
    found = runs(text, {"part.0": 1.0, "part.1": 2.0, "part.2": 3.0})
    assert {name: times for name, times in found.items() if times} == {"part.2": 1, "main": 1}


def test_loops_in_loops_of_real_programs_multiply():
    def inner(x, _):
        return jax.lax.fori_loop(0, 4, lambda i, y: jnp.sin(y) + i, x), None

    step = jax.jit(lambda x: jax.lax.scan(inner, x, None, length=5)[0])
    text = step.lower(jnp.ones(8)).compile().as_text()
    assert text.count("known_trip_count") == 2
    times = runs(text)
    assert {5, 20} <= set(times.values()) <= {1, 5, 6, 20, 25}


def test_a_loop_over_data_cannot_be_counted():
    step = jax.jit(lambda x: jax.lax.while_loop(lambda y: y.sum() < 100.0, lambda y: y * 2, x))
    with pytest.raises(RunError, match="use a scan or a fori_loop"):
        runs(step.lower(jnp.ones(8)).compile().as_text())
