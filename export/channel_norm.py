"""Layer norms over the channels of a map, rewritten in an ONNX graph to run where the map lies.

A network normalises maps (B, C, H, W) over C by two transposes around a LayerNormalization. OpenVINO copies the map for
each of the two, with code that takes most of the time of a DiCo. As means over axis 1 nothing moves; ONNX Runtime is
slower with those, so its files keep the norm.
"""

from typing import Any

from convbench import packages

TO_LAST, BACK = [0, 2, 3, 1], [0, 3, 1, 2]


def rewrite(graph: Any) -> int:
    """Rewrite such norms of an ``onnx_ir`` model in place. Returns how many there were."""
    ir = packages.require("onnx_ir")
    packages.require("onnxscript")
    from onnxscript.rewriter import MatchResult, pattern

    class ChannelNorm(pattern.RewriteRuleClassBase):
        """d = x - mean(x), y = d / sqrt(mean(d^2) + eps) scale, every mean over the channels: the norm's definition."""

        def pattern(self, op: Any, x: Any, scale: Any) -> Any:
            last = op.Transpose(x, perm=TO_LAST)
            normed = op.LayerNormalization(last, scale, axis=-1, _allow_other_attributes=True, _outputs=["normed"])
            return op.Transpose(normed, perm=BACK)

        def check(self, op: Any, *_: Any, **matched: Any) -> MatchResult:
            """Refuse a scale that is not known when the file is written."""
            found = MatchResult()
            return found if matched["scale"].const_value is not None else found.fail("the scale is not a constant")

        def rewrite(self, op: Any, x: Any, scale: Any, normed: Any) -> Any:
            """Build the same from means over axis 1."""
            given = normed.producer().attributes.get("epsilon")
            epsilon = op.Constant(value_float=1e-5 if given is None else given.as_float())  # ONNX's default
            channels = op.Constant(value_ints=[1])
            difference = op.Sub(x, op.ReduceMean(x, channels, keepdims=1))
            variance = op.ReduceMean(op.Mul(difference, difference), channels, keepdims=1)
            normal = op.Div(difference, op.Sqrt(op.Add(variance, epsilon)))
            factor = scale.const_value.numpy()
            if (factor == 1).all():
                return normal
            return op.Mul(normal, op.Constant(value=ir.tensor(factor.reshape(-1, 1, 1))))

    rule: Any = ChannelNorm.rule  # onnxscript's own types leave it out
    return int(pattern.RewriteRuleSet([rule()]).apply_to_model(graph))
