"""onnxscript's optimisation of a graph, without the rules that take a small number for none."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import _no_op

_RULES: Any = rewriter
# They match constants to within 1e-8 and 1e-5 of 0 and 1: of `x / (y + 1e-8)` the sum would be left out, and of
# `x * 0.99999` the product.
_EXACT = [rule for rule in _RULES._DEFAULT_REWRITE_RULES if rule not in list(_no_op.rules)]
ROUNDS = 2


def optimize(model: ir.Model) -> None:
    """Inline functions, fold constants and leave out what is idle, in place."""
    common.InlinePass()(model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.RewritePass(_EXACT)(model)
        for tidy in (common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass):
            tidy()(model)
    for last in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        last(model)
