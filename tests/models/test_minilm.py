"""The real MiniLM, imported by the hub, against torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.hub.pretrained import load_pretrained
from tests.models.golden import Golden, check_gradients, from_torch, loss_and_gradient, to_torch
from tests.sources import MINILM

CLOSE = 2e-5


@pytest.fixture(scope="module")
def encoder():
    return load_pretrained(MINILM, matmul_precision="highest")


@pytest.mark.real
def test_hidden_pooled_and_logits_equal_torch(encoder):
    golden = Golden("minilm")
    batch = [golden[k] for k in ("input_ids", "attention_mask", "token_type_ids")]
    hidden = np.asarray(encoder(*batch))[batch[1] == 1]
    np.testing.assert_allclose(hidden, golden["hidden"], atol=CLOSE)
    np.testing.assert_allclose(encoder.pooled(*batch), golden["pooled"], atol=CLOSE)

    classifier = load_pretrained(MINILM, "classification", labels=("a", "b", "c"), matmul_precision="highest")
    classifier.params = {**classifier.params, "head": golden.head}
    np.testing.assert_allclose(classifier(*batch), golden["logits"], atol=CLOSE)


@pytest.mark.real
def test_gradients_equal_torch(encoder):
    golden = Golden("minilm")
    params = {"backbone": encoder.params["backbone"], "head": golden.head}
    loss, gradient = loss_and_gradient(params, encoder.config, golden.inputs, golden["labels"])
    assert float(loss) == pytest.approx(float(golden["loss"]), abs=1e-5)
    check_gradients(golden, to_torch(gradient, encoder.config))


@pytest.mark.real
def test_every_tensor_equals_torch_live(encoder):
    """All elements of all gradients, where torch is installed; the golden files hold samples of the large ones."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[torch]'")
    from transformers import BertForSequenceClassification

    golden = Golden("minilm")
    peer = BertForSequenceClassification.from_pretrained(
        encoder.folder, num_labels=3, attn_implementation="eager"
    )
    peer.eval()
    batch = {k: torch.tensor(golden[k]).long() for k in ("input_ids", "attention_mask", "token_type_ids")}
    out = peer(**batch, labels=torch.tensor(golden["labels"]).long())
    out.loss.backward()
    params = from_torch({n: p.detach().numpy() for n, p in peer.named_parameters()}, encoder.config)
    loss, gradient = loss_and_gradient(params, encoder.config, golden.inputs, golden["labels"])
    assert float(loss) == pytest.approx(out.loss.item(), abs=1e-5)
    theirs = {n: p.grad.numpy() for n, p in peer.named_parameters()}
    ours = to_torch(gradient, encoder.config)
    total = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in theirs.values()))
    assert ours.keys() == theirs.keys()
    for name, g in theirs.items():
        assert np.linalg.norm(ours[name] - g) <= 1e-4 * np.linalg.norm(g) + 1e-7 * total, name
    assert jnp.isfinite(loss)
