"""minicnn under `mc.use("plain")`: the formulas of `minicnn.core`, without the fast backend."""

import minicnn as mc
from benchmarks.contenders import ours


def make(case):
    mc.use("plain")
    mc.im2col.BUDGET = 2**40  # bytes: this backend always writes the columns of the complete batch, at any batch size
    contender = ours.load(case)
    for parameter, value in zip(contender.model.parameters().values(), case.weights(), strict=True):
        parameter.value[...] = value
    return contender
