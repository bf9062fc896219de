from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx.reference import ReferenceEvaluator
from onnx_graphs import in_order, model_of, node, operators, run

from export.activation_forms import choose_activation_forms
from export.precision import to_fp16

pytestmark = pytest.mark.onnx

# From where float16 ends to around zero, on both sides.
EDGES = np.array([1e-4, 1e-3, 0.1, 0.5, 1, 2, 4, 7, 11, 17, 18, 19, 25, 60, 90, 1e3, 1e4, 6e4])
PROBES = np.concatenate([-EDGES[::-1], [0], EDGES]).astype(np.float32)


def exact(x, beta: float):
    """In float64, where softplus neither overflows nor cancels."""
    x = x.astype(np.float64)
    return x * np.tanh(np.logaddexp(0, beta * x) / beta)


def softplus_form(number: float):
    beta = np.float32(number)
    nodes = [node("Mul", "x b", "u"), node("Softplus", "u", "l"), node("Div", "l b", "t")]
    nodes += [node("Tanh", "t", "h"), node("Mul", "x h", "y")]
    return model_of(nodes, [len(PROBES)], b=np.array([beta]))


def log_sigmoid_form(number: float):
    beta = np.float32(number)
    nodes = [node("Mul", "x m", "u"), node("Sigmoid", "u", "s"), node("Log", "s", "l")]
    nodes += [node("Mul", "l f", "t"), node("Tanh", "t", "h"), node("Mul", "h x", "y")]
    return model_of(nodes, [len(PROBES)], m=np.array([-beta]), f=np.array([-1 / beta]))


FORMS = [softplus_form, log_sigmoid_form]
BETAS = [1.0, 0.3, 0.94, 1.99, 2.01, 5.0, 30.0, -0.7, -1.0, -8.0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", BETAS)
def test_every_form_is_pmish_to_float32_from_the_smallest_input_to_the_largest(form, beta):
    rewritten = choose_activation_forms(form(beta))
    [found] = run(rewritten, PROBES)
    expected = exact(PROBES, beta)
    assert np.isfinite(found).all()
    assert "Softplus" not in operators(rewritten)
    # The logarithm of nearly one is right to half an ulp of one, and x / beta multiplies it.
    tolerance = 2e-6 + 2e-6 * np.abs(expected) + 6e-8 * np.abs(PROBES / beta)
    assert (np.abs(found - expected) <= tolerance).all()


@pytest.mark.parametrize("beta", BETAS)
def test_in_float16_every_form_stays_finite_and_within_its_rounding(beta):
    rewritten = to_fp16(choose_activation_forms(softplus_form(beta)))
    # By the reference evaluator, which rounds to float16 after each operator; infinity on the way
    # is where tanh is one.
    with np.errstate(all="ignore"):
        [found] = ReferenceEvaluator(rewritten).run(None, {"x": PROBES})
    assert isinstance(found, np.ndarray)
    expected = exact(PROBES.astype(np.float16), beta)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=4e-3)


def test_a_large_beta_is_right_where_the_sigmoid_has_rounded_to_zero():
    x = np.full(len(PROBES), 5, np.float32)
    model = log_sigmoid_form(5.0)
    [before], [after] = run(model, x), run(choose_activation_forms(model), x)
    expected = exact(x, 5.0)
    assert np.abs(before - expected).max() > 1e-4  # why there is another form
    np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_mish_has_no_logarithm_as_an_operator_or_written_out():
    for model in (model_of([node("Mish", "x", "y")], [len(PROBES)]), softplus_form(1.0)):
        rewritten = choose_activation_forms(model)
        assert in_order(rewritten) == ["Sigmoid", "Sub", "Mul", "Sub", "Div", "Mul"]
        [found] = run(rewritten, PROBES)
        np.testing.assert_allclose(found, exact(PROBES, 1.0), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("change", ["factor", "input", "tanh"])
def test_what_only_looks_like_pmish_stays(change):
    nodes = [node("Mul", "x b", "u"), node("Softplus", "u", "l"), node("Div", "l c", "t")]
    nodes += [node("Sin" if change == "tanh" else "Tanh", "t", "h")]
    nodes += [node("Mul", "u h" if change == "input" else "x h", "y")]
    b = np.array([1.3], np.float32)
    model = model_of(nodes, [len(PROBES)], b=b, c=b * 1.01 if change == "factor" else b)
    assert "Softplus" in operators(choose_activation_forms(model))


def clipped_line(low: float, high: float, *, shifted: bool):
    """`x` times `0.7 x` or `0.7 x + 0.2`, clipped."""
    nodes = [node("Mul", "x a", "u")]
    if shifted:
        nodes.append(node("Add", "b u", "v"))
    nodes += [node("Clip", f"{'v' if shifted else 'u'} low high", "o"), node("Mul", "x o", "y")]
    constants = dict(a=0.7, b=0.2, low=low, high=high)
    arrays = {name: np.array(value, np.float32) for name, value in constants.items()}
    return model_of(nodes, [len(PROBES)], **arrays)


@pytest.mark.parametrize("shifted", [True, False])
def test_a_hard_gate_is_opened_by_one_operator(shifted):
    rewritten = choose_activation_forms(clipped_line(0, 1, shifted=shifted))

    [found] = run(rewritten, PROBES)
    x = PROBES.astype(np.float64)
    assert in_order(rewritten) == ["HardSigmoid", "Mul"]
    np.testing.assert_allclose(found, x * np.clip(0.7 * x + 0.2 * shifted, 0, 1), rtol=1e-5)


def test_a_clip_to_another_interval_is_no_gate():
    model = clipped_line(-1, 1, shifted=True)

    assert in_order(choose_activation_forms(model)) == in_order(model)
