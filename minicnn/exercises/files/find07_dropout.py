"""Find the mistake 7: dropout."""

from minicnn.exercises import check


def dropout(x, rate, rng, training):
    """Dropout. The formula is right; one line of the code is not.

        mask = 1 where rng.random(x.shape) >= rate, and 0 elsewhere
        in training: y = x * mask / (1 - rate) and dx = dy * mask / (1 - rate)
        in evaluation: y = x and dx = dy

    Args:
        x: an array of any shape.
        rate: the probability of dropping a number.
        rng: a numpy.random.Generator.
        training: True in training, False in evaluation.

    Returns:
        y, and backward(dy), which returns dx.
    """

    def drop(values):
        if not training:
            return values
        mask = rng.random(values.shape) >= rate
        return values * mask / (1 - rate)

    def backward(dy):
        return drop(dy)

    return drop(x), backward


def test_dropout():
    check("find07_dropout", dropout)
