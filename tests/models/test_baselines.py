"""BiLSTM and TextCNN against their equations written with NumPy, against torch, and packed against alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

import jaxtune
from jaxtune.hub.pretrained import Pretrained
from jaxtune.models.families.bilstm import BiLSTMConfig, BiLSTMModel
from jaxtune.models.families.textcnn import TextCNNConfig, TextCNNModel
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy, dropout_key
from jaxtune.models.model import build_model, init_params

CLOSE = 1e-5
FLOAT32 = Policy(matmul_precision="highest")
LSTM = BiLSTMConfig(
    vocab_size=40, embedding_size=5, hidden_size=6, num_hidden_layers=2, initializer_range=1.0
)
ENDS = BiLSTMConfig(
    vocab_size=40, embedding_size=6, hidden_size=6, num_hidden_layers=2, initializer_range=1.0, pooling="ends"
)
CNN = TextCNNConfig(vocab_size=40, embedding_size=5, num_filters=4, initializer_range=1.0)
CONFIGS = {"max": LSTM, "ends": ENDS, "cnn": CNN}
LENGTHS = (7, 1, 4, 2, 9)


def made(config, head="classification", **options):
    model = build_model(config, head, 3, FLOAT32, **options)
    params = init_params(build_model(config, head, 3), jax.random.key(0))
    # Biases start at zero; with others they count.
    noise = np.random.RandomState(0)
    return model, jax.tree.map(lambda p: p + 0.1 * noise.normal(size=p.shape).astype(np.float32), params)


def texts():
    rng = np.random.RandomState(1)
    return [rng.randint(1, 40, n).astype(np.int32) for n in LENGTHS]


def alone(model, params):
    """Logits of every text in a row of its own."""
    return [
        np.asarray(jax.jit(model.apply)({"params": params}, text[None], np.ones_like(text[None])))[0, 0]
        for text in texts()
    ]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(x, weights, layer, ending):
    """torch.nn.LSTM's documented equations, one token after the other."""
    w_ih, w_hh, b_ih, b_hh = (
        weights[f"{kind}_l{layer}{ending}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = np.zeros(w_hh.shape[1])
    states = []
    for token in x:
        i, f, g, o = np.split(w_ih @ token + b_ih + w_hh @ hidden + b_hh, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states)


def torch_names(params, layers):
    """The LSTM's parameters as torch names and turns them."""
    named = {}
    for i in range(layers):
        for direction, ending in (("forward", ""), ("backward", "_reverse")):
            branch = params["backbone"]["layers"][str(i)][direction]
            for part, short in ((branch["input"], "ih"), (branch["cell"]["recurrent"], "hh")):
                named[f"weight_{short}_l{i}{ending}"] = np.asarray(part["kernel"]).T
                named[f"bias_{short}_l{i}{ending}"] = np.asarray(part["bias"])
    return named


def test_the_lstm_is_that_of_the_equations():
    model, params = made(LSTM, None)
    weights = {name: w.astype(np.float64) for name, w in torch_names(params, 2).items()}
    table = np.asarray(params["backbone"]["word"]["embedding"], np.float64)
    for text in texts():
        x = table[text]
        for layer in range(2):
            forward = lstm_by_hand(x, weights, layer, "")
            backward = lstm_by_hand(x[::-1], weights, layer, "_reverse")[::-1]
            x = np.concatenate([forward, backward], -1)
        ours = jax.jit(model.apply)({"params": params}, text[None], np.ones_like(text[None]))
        np.testing.assert_allclose(ours[0], x, atol=CLOSE)
        assert np.abs(x).max() > 0.05


def test_the_lstm_and_its_gradients_equal_torch_live():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[torch]'")
    model, params = made(LSTM, None)
    rows = np.stack([np.pad(t, (0, max(LENGTHS) - len(t))) for t in texts()])
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    peer = torch.nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)
    peer.load_state_dict({name: torch.tensor(w) for name, w in torch_names(params, 2).items()})
    x = torch.tensor(np.asarray(params["backbone"]["word"]["embedding"]))[torch.tensor(rows).long()]
    lengths = torch.tensor(LENGTHS)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(peer(packed)[0], batch_first=True)
    states.square().sum().backward()

    def total(params):
        hidden = jax.jit(model.apply)({"params": params}, rows, mask)
        return (hidden**2).sum(), hidden

    (_, ours), gradient = jax.value_and_grad(total, has_aux=True)(params)
    np.testing.assert_allclose(ours, states.detach().numpy(), atol=CLOSE)
    for name, g in torch_names(gradient, 2).items():
        theirs = getattr(peer, name).grad.numpy()
        assert np.linalg.norm(g - theirs) <= 1e-4 * np.linalg.norm(theirs), name


def test_the_cnn_is_that_of_the_equations():
    model, params = made(CNN)
    backbone = jax.tree.map(lambda p: np.asarray(p, np.float64), params["backbone"])
    for text, ours in zip(texts(), alone(model, params)):
        pooled = []
        for width in CNN.filter_widths:
            left = (width - 1) // 2
            x = np.pad(backbone["word"]["embedding"][text], ((left, width - 1 - left), (0, 0)))
            seen = np.array([x[s : s + width].ravel() for s in range(len(text))])
            layer = backbone[f"convolutions_{width}"]
            pooled.append(np.maximum(seen @ layer["kernel"] + layer["bias"], 0).max(0))
        head = params["head"]["classifier"]
        np.testing.assert_allclose(np.concatenate(pooled) @ head["kernel"] + head["bias"], ours, atol=CLOSE)


def test_the_convolutions_equal_torch_live():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[torch]'")
    model, params = made(CNN, None)
    text = texts()[0]
    x = torch.tensor(np.asarray(params["backbone"]["word"]["embedding"]))[torch.tensor(text).long()].T[None]
    ours = np.split(
        np.asarray(jax.jit(model.apply)({"params": params}, text[None], np.ones_like(text[None])))[0], 3, -1
    )
    for width, answers in zip(CNN.filter_widths, ours):
        layer = params["backbone"][f"convolutions_{width}"]
        weight = np.asarray(layer["kernel"]).T.reshape(CNN.num_filters, width, CNN.embedding_size)
        theirs = torch.nn.functional.conv1d(
            x,
            torch.tensor(weight.transpose(0, 2, 1).copy()),
            torch.tensor(np.asarray(layer["bias"])),
            padding="same",
        )
        np.testing.assert_allclose(answers, theirs.relu()[0].T.numpy(), atol=CLOSE)


def packed_row(gap=0):
    """All texts in one row, ``gap`` paddings after each: tokens, segment ids, positions, starts."""
    length = sum(LENGTHS) + gap * len(LENGTHS) + 3
    tokens, segments, positions = (np.zeros((1, length), np.int32) for _ in range(3))
    tokens[:] = 39  # what lies in padding must not matter
    starts, at = [], 0
    for n, text in enumerate(texts()):
        span = slice(at, at + len(text))
        tokens[0, span], segments[0, span], positions[0, span] = text, n + 1, np.arange(len(text))
        starts.append(at)
        at += len(text) + gap
    return tokens, segments, positions, np.array([[*starts, 0]], np.int32)


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_texts_do_not_see_each_other(name, gap):
    model, params = made(CONFIGS[name])
    tokens, segments, positions, starts = packed_row(gap)
    logits = np.asarray(jax.jit(model.apply)({"params": params}, tokens, segments, positions, None, starts))[
        0
    ]
    expected = alone(model, params)
    np.testing.assert_allclose(logits[:-1], expected, atol=CLOSE)
    assert np.isfinite(logits[-1]).all(), "the slot of an absent example must not be NaN"
    assert np.abs(np.diff(expected, axis=0)).max() > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_of_packed_texts_are_those_of_the_texts_alone(name):
    model, params = made(CONFIGS[name])
    tokens, segments, positions, starts = packed_row()

    def packed(params):
        logits = model.apply({"params": params}, tokens, segments, positions, None, starts)
        return (logits[:, :2] ** 2).sum()

    def separate(params):
        rows = [model.apply({"params": params}, t[None], np.ones_like(t[None])) for t in texts()[:2]]
        return sum((row**2).sum() for row in rows)

    ours, theirs = jax.jit(jax.grad(packed))(params), jax.jit(jax.grad(separate))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=CLOSE, rtol=1e-4), ours, theirs)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CONFIGS)
def test_padding_on_either_side_changes_nothing(name, side):
    model, params = made(CONFIGS[name])
    text = texts()[0]
    width = ((0, 0), (3, 0) if side == "left" else (0, 3))
    tokens = np.pad(text[None], width, constant_values=39)
    mask = np.pad(np.ones_like(text[None]), width)
    logits = jax.jit(model.apply)({"params": params}, tokens, mask)
    np.testing.assert_allclose(logits[0, 0], alone(model, params)[0], atol=CLOSE)


@pytest.mark.parametrize("name", ["max", "ends"])
def test_the_state_passes_over_padding_within_a_text(name):
    model, params = made(CONFIGS[name])
    text = texts()[0]
    tokens = np.insert(text, [2, 5, 5], 39)[None]
    mask = np.insert(np.ones_like(text), [2, 5, 5], 0)[None]
    logits = jax.jit(model.apply)({"params": params}, tokens, mask)
    np.testing.assert_allclose(logits[0, 0], alone(model, params)[0], atol=CLOSE)


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (LSTM, ("hidden_dropout_prob", "classifier_dropout")),
        (CNN, ("embedding_dropout_prob", "classifier_dropout")),
    ],
    ids=["bilstm", "textcnn"],
)
def test_dropout_hits_every_place_it_is_meant_for(config, rates):
    _, params = made(config)
    tokens, segments, positions, starts = packed_row()

    first, second = dropout_key(0, 0), dropout_key(0, 1)

    def logits(key=first, **changed):
        quiet = type(config)(**{**vars(config.with_dropout(0.0)), **changed})
        model = build_model(quiet, "classification", 3, FLOAT32)
        return np.asarray(
            jax.jit(model.apply)(
                {"params": params}, tokens, segments, positions, None, starts, dropout_key=key
            )
        )

    plain = logits()
    np.testing.assert_array_equal(plain, logits(key=None))
    for name in rates:
        assert np.abs(logits(**{name: 0.5}) - plain).max() > 1e-3, name
        assert np.abs(logits(**{name: 0.5}) - logits(second, **{name: 0.5})).max() > 1e-3, name


def test_every_layer_of_the_lstm_has_dropout_of_its_own():
    tokens, segments, *_ = packed_row()
    config = ENDS.with_dropout(0.5)
    backbone = BiLSTMModel(config, FLOAT32)
    params = made(ENDS, None)[1]["backbone"]
    seen = []

    def spy(next_call, args, kwargs, context):
        if context.module.name == "input":
            seen.append(np.asarray(args[0]) == 0)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(spy):
        backbone.apply({"params": params}, tokens, segments, key=dropout_key(0, 0))
    first, first_back, second, second_back = seen
    real = segments != 0
    np.testing.assert_array_equal(first, first_back)
    np.testing.assert_array_equal(second, second_back)
    for zeros in (first, second):
        assert 0.3 < zeros[real].mean() < 0.7
    assert (first != second)[real].mean() > 0.3


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_layers_are_the_same_function(remat):
    model, params = made(ENDS)
    tokens, segments, positions, starts = packed_row()
    scanned, _ = made(ENDS, scan_layers=True, remat=remat)
    expected = jax.jit(model.apply)({"params": params}, tokens, segments, positions, None, starts)
    ours = jax.jit(scanned.apply)({"params": stack_layers(params)}, tokens, segments, positions, None, starts)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("config", [LSTM, CNN], ids=["bilstm", "textcnn"])
def test_layers_that_differ_are_not_scanned(config):
    with pytest.raises(ValueError, match="scan"):
        build_model(config, "classification", 3, scan_layers=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_comes_back_as_it_was(name, tmp_path):
    model, params = made(CONFIGS[name])
    jaxtune.save_pretrained(tmp_path / "out", Pretrained(model, params, labels=("a", "b", "c")))
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    if name == "cnn":
        assert names >= {"textcnn.embeddings.weight", "textcnn.convolutions.3.weight", "classifier.weight"}
    else:
        assert names >= {"bilstm.lstm.weight_ih_l0", "bilstm.lstm.bias_hh_l1_reverse", "classifier.bias"}
    again = jaxtune.load_pretrained(tmp_path / "out", "auto")
    assert (again.config, again.labels) == (CONFIGS[name], ("a", "b", "c"))
    ours, theirs = flatten_dict(params, sep="/"), flatten_dict(again.params, sep="/")
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        rows = CONFIGS[name].vocab_size if path.endswith("embedding") else None
        np.testing.assert_array_equal(leaf[:rows], theirs[path][:rows], path)


@pytest.mark.parametrize(
    ("config", "setting", "said"),
    [
        (BiLSTMConfig, {"pooling": "mean"}, "pooling='mean'.*'max', 'ends'"),
        (BiLSTMConfig, {"hidden_size": 7}, "hidden_size=7"),
        (TextCNNConfig, {"filter_widths": [3, 3]}, "filter_widths"),
        (TextCNNConfig, {"filter_widths": []}, "filter_widths"),
        (TextCNNConfig, {"num_hidden_layers": 2}, "num_hidden_layers=2"),
    ],
)
def test_settings_that_cannot_be_are_named(config, setting, said):
    with pytest.raises(ValueError, match=said):
        config.from_hf(setting)


def test_bfloat16_stays_close():
    for config, kind in ((LSTM, BiLSTMModel), (CNN, TextCNNModel)):
        _, params = made(config, None)
        tokens, segments, *_ = packed_row()
        exact = kind(config, FLOAT32).apply({"params": params["backbone"]}, tokens, segments)
        rough = kind(config, Policy(compute_dtype=jnp.bfloat16)).apply(
            {"params": params["backbone"]}, tokens, segments
        )
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05 * float(np.abs(exact).max()))
