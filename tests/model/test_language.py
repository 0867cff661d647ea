"""RWKV-6 and RWKV-7 against the equations in numpy, float64, token by token; and the forms against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aurora_export.model.language import LanguageState
from aurora_export.plugins.wkv import reference
from tiny import tiny_model

BOTH = pytest.mark.parametrize("version", [6, 7])
LIMIT = 1e-5
"""Largest error allowed of outputs of WKV and of states, relative to the largest value of the tensor."""

LIMIT_LOGITS = 1e-4
"""The same for logits, which pass through one norm per head and layer more."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, weight, bias, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


class Equations:
    """One sequence, one token at a time, from a flat dict of weights; the letters are those of the papers."""

    def __init__(self, model):
        config = model.config.language
        self.p = {name: value.double().numpy() for name, value in model.language.state_dict().items()}
        self.n_layers, self.n_heads, self.version = config.n_layers, config.n_heads, config.version
        shape = (config.n_layers, config.width)
        self.att_shift, self.ffn_shift = np.zeros(shape), np.zeros(shape)
        self.wkv = np.zeros((config.n_layers, config.n_heads, config.head_size, config.head_size))

    def step(self, x):
        p = self.p
        x = layer_norm(x, p["blocks.0.ln0.weight"], p["blocks.0.ln0.bias"], 1e-5)
        for layer in range(self.n_layers):
            block = f"blocks.{layer}."
            z = layer_norm(x, p[block + "ln1.weight"], p[block + "ln1.bias"], 1e-5)
            x = x + getattr(self, f"time_mix_{self.version}")(layer, z, self.att_shift[layer] - z)
            self.att_shift[layer] = z
            z = layer_norm(x, p[block + "ln2.weight"], p[block + "ln2.bias"], 1e-5)
            x = x + getattr(self, f"channel_mix_{self.version}")(layer, z, self.ffn_shift[layer] - z)
            self.ffn_shift[layer] = z
        return p["head.weight"] @ layer_norm(x, p["ln_out.weight"], p["ln_out.bias"], 1e-5)

    def get(self, layer):
        return lambda name: np.squeeze(self.p[f"blocks.{layer}.{name}"])

    def heads(self, x):
        return x.reshape(self.n_heads, -1)

    def group_norm(self, o, get):
        o = (o - o.mean(1, keepdims=True)) / np.sqrt(o.var(1, keepdims=True) + 64e-5)
        return o.reshape(-1) * get("att.ln_x.weight") + get("att.ln_x.bias")

    def time_mix_6(self, layer, z, delta):
        get = self.get(layer)
        y = z + delta * get("att.time_maa_x")
        mixes = np.tanh(y @ get("att.time_maa_w1")).reshape(5, -1)
        inputs = {}
        for j, name in enumerate("wkvrg"):
            inputs[name] = z + delta * (get(f"att.time_maa_{name}") + mixes[j] @ get("att.time_maa_w2")[j])
        r, k, v = (get(f"att.{n}.weight") @ inputs[n[0]] for n in ("receptance", "key", "value"))
        g = get("att.gate.weight") @ inputs["g"]
        omega = get("att.time_decay") + np.tanh(inputs["w"] @ get("att.time_decay_w1")) @ get("att.time_decay_w2")
        w = np.exp(-np.exp(omega))
        o = np.zeros((self.n_heads, len(z) // self.n_heads))
        for h in range(self.n_heads):
            r_h, k_h, v_h, w_h = (self.heads(x)[h] for x in (r, k, v, w))
            outer = np.outer(k_h, v_h)
            bonus = self.p[f"blocks.{layer}.att.time_faaaa"][h]
            o[h] = r_h @ (np.diag(bonus) @ outer + self.wkv[layer, h])
            self.wkv[layer, h] = outer + np.diag(w_h) @ self.wkv[layer, h]
        return get("att.output.weight") @ (self.group_norm(o, get) * g * sigmoid(g))

    def channel_mix_6(self, layer, z, delta):
        get = self.get(layer)
        k = np.maximum(get("ffn.key.weight") @ (z + delta * get("ffn.time_maa_k")), 0) ** 2
        r = get("ffn.receptance.weight") @ (z + delta * get("ffn.time_maa_r"))
        return sigmoid(r) * (get("ffn.value.weight") @ k)

    def time_mix_7(self, layer, z, delta):
        get = self.get(layer)
        inputs = {name: z + delta * get(f"att.x_{name}") for name in "rwkvag"}
        r, k, v = (get(f"att.{n}.weight") @ inputs[n[0]] for n in ("receptance", "key", "value"))
        q = get("att.w0") + np.tanh(inputs["w"] @ get("att.w1")) @ get("att.w2")
        w = np.exp(-np.exp(-np.log1p(np.exp(-q)) - 0.5))  # the other spelling of the decay
        a = sigmoid(get("att.a0") + inputs["a"] @ get("att.a1") @ get("att.a2"))
        g = sigmoid(inputs["g"] @ get("att.g1")) @ get("att.g2")
        if layer == 0:
            self.v_first = v
        else:
            v = v + (self.v_first - v) * sigmoid(get("att.v0") + inputs["v"] @ get("att.v1") @ get("att.v2"))
        kappa = self.heads(k * get("att.k_k"))
        kappa = kappa / np.linalg.norm(kappa, axis=1, keepdims=True)
        k = k * (1 + (a - 1) * get("att.k_a"))
        o = np.zeros_like(kappa)
        for h in range(self.n_heads):
            r_h, k_h, v_h, w_h, a_h = (self.heads(x)[h] for x in (r, k, v, w, a))
            s = self.wkv[layer, h].T  # the paper's matrix is [value, key]
            s = s @ np.diag(w_h) - np.outer(s @ kappa[h], kappa[h] * a_h) + np.outer(v_h, k_h)
            o[h] = s @ r_h
            self.wkv[layer, h] = s.T
        o = self.heads(self.group_norm(o, get))
        bonus = (self.heads(r) * self.heads(k) * self.p[f"blocks.{layer}.att.r_k"]).sum(1, keepdims=True)
        return get("att.output.weight") @ ((o + bonus * self.heads(v)).reshape(-1) * g)

    def channel_mix_7(self, layer, z, delta):
        get = self.get(layer)
        return get("ffn.value.weight") @ (np.maximum(get("ffn.key.weight") @ (z + delta * get("ffn.x_k")), 0) ** 2)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=[6, 7])
def model(request):
    return tiny_model(version=request.param).eval()


def run(model, embeddings, state=None):
    with torch.inference_mode():
        return model.language(embeddings, state or model.language.zero_state(len(embeddings)), all_positions=True)


def chunked(model):
    form = {6: reference.wkv6_chunked, 7: reference.wkv7_chunked}[model.config.language.version]
    other = type(model)(model.config, wkv=form).eval()
    other.load_state_dict(model.state_dict())
    return other


def error(found, expected):
    found, expected = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_states_close(found, expected):
    errors = {name: error(*pair) for name, *pair in zip(LanguageState._fields, found, expected, strict=True)}
    assert max(errors.values()) < LIMIT, errors


def test_equals_the_equations(model):
    embeddings = torch.randn(2, 19, model.config.language.width)
    logits, state = run(model, embeddings)
    for sequence in range(2):
        equations = Equations(model)
        expected = np.stack([equations.step(x.double().numpy()) for x in embeddings[sequence]])
        assert error(logits[sequence], expected) < LIMIT_LOGITS
        found = [part[:, sequence] for part in state]
        assert_states_close(found, [equations.att_shift, equations.ffn_shift, equations.wkv])


@pytest.mark.parametrize("n_tokens", [1, 7, 300])
@pytest.mark.parametrize("n_sequences", [1, 3])
def test_recurrent_and_chunked_forms_agree(model, n_tokens, n_sequences):
    embeddings = torch.randn(n_sequences, n_tokens, model.config.language.width)
    _, start = run(model, torch.randn(n_sequences, 5, model.config.language.width))
    logits, state = run(model, embeddings, start)
    logits_chunked, state_chunked = run(chunked(model), embeddings, start)
    assert error(logits_chunked, logits) < LIMIT_LOGITS
    assert_states_close(state_chunked, state)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_of_any_size_agree_with_the_whole(model, size):
    embeddings = torch.randn(2, 65, model.config.language.width)
    logits, state = run(model, embeddings)
    pieces, carried = [], None
    for start in range(0, 65, size):
        piece, carried = run(model, embeddings[:, start : start + size], carried)
        pieces.append(piece)
    assert error(torch.cat(pieces, dim=1), logits) < LIMIT_LOGITS
    assert_states_close(carried, state)


def test_forward_changes_neither_module_nor_given_state(model):
    embeddings = torch.randn(1, 4, model.config.language.width)
    state = model.language.zero_state()
    first, _ = run(model, embeddings, state)
    again, _ = run(model, embeddings, state)
    assert torch.equal(first, again)
    assert not any(part.any() for part in state)


def test_only_the_last_position_unless_asked(model):
    embeddings = torch.randn(2, 6, model.config.language.width)
    with torch.inference_mode():
        last, _ = model.language(embeddings, model.language.zero_state(2))
    torch.testing.assert_close(last, run(model, embeddings)[0][:, -1])


@pytest.mark.parametrize("strength", [0.01, 1.0, 3.0, 60.0], ids=lambda s: f"omega<{s}")
def test_chunked_wkv6_stays_exact_at_any_decay(strength):
    """omega is unbounded: decays down to exp(-exp(60)) = 0 must neither overflow nor lose the state."""
    generator = torch.Generator().manual_seed(1)
    r, k, v = (torch.randn(2, 50, 3, 64, generator=generator) for _ in range(3))
    log_decay = -torch.exp(torch.rand(2, 50, 3, 64, generator=generator) * strength)
    bonus = torch.randn(3, 64, generator=generator)
    state = torch.randn(2, 3, 64, 64, generator=generator)
    doubles = [x.double() for x in (r, k, v, log_decay, bonus, state)]
    expected_y, expected_state = reference.wkv6_recurrent(*doubles)
    y, next_state = reference.wkv6_chunked(r, k, v, log_decay, bonus, state)
    assert error(y, expected_y) < LIMIT
    assert error(next_state, expected_state) < LIMIT


def test_chunked_wkv6_has_the_gradients_of_the_recurrence():
    generator = torch.Generator().manual_seed(2)
    shape = (1, 21, 2, 8)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    given.append(-torch.exp(torch.randn(shape, generator=generator, dtype=torch.float64)))
    given += [torch.randn(2, 8, generator=generator).double(), torch.randn(1, 2, 8, 8, generator=generator).double()]
    gradients = []
    for form in (reference.wkv6_recurrent, reference.wkv6_chunked):
        inputs = [x.clone().requires_grad_() for x in given]
        y, state = form(*inputs)
        (y.sin().sum() + state.cos().sum()).backward()
        gradients.append([x.grad for x in inputs])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@BOTH
def test_512_steps_stay_close_to_double_precision(version):
    """Drift: the state after 512 single steps in float32 against the equations in float64."""
    model = tiny_model(version=version).eval()
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(1, 512, model.config.language.width, generator=generator)
    equations, state = Equations(model), None
    for t in range(512):
        _, state = run(model, embeddings[:, t : t + 1], state)
        equations.step(embeddings[0, t].double().numpy())
    assert error(state.wkv[:, 0], equations.wkv) < LIMIT
