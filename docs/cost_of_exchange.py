"""The cost model of parallel.md: `python docs/cost_of_exchange.py` prints its tables again.

A batch of N images is shared by W ranks. For a dense weight of r rows (units) and c columns (features) there are
three ways to come to the same update. The module has one function for each quantity: what a rank sends, in how many
rounds, what it computes, and the time that follows.
"""

from typing import NamedTuple

BYTES = 4  # of a float32
RANKS = (8, 64, 512)
#: Gb/s of the network, and the seconds that one message needs besides: typical of Ethernet, and of InfiniBand.
NETWORKS = {10: 30e-6, 200: 2e-6}
#: Operations a second of a rank: one thread here. A step of two_conv at batch 32 has 25e9 of them and took 330 ms.
SPEED = 76e9

WIDE = (5000, 25088)  # the dense weight of two_conv
LENET5 = (1, 61706)  # all parameters of LeNet-5, as if they were one row

#: The ways in the order of the tables.
WAYS = {"gradients": "whole gradients", "factors": "thin factors", "rows": "shared rows"}


class Cost(NamedTuple):
    """What one step costs a rank.

    Attributes:
        sent: bytes.
        rounds: messages that must wait for each other.
        operations: additions and multiplications for this weight: forward, backward and update.
        memory: bytes of the weight that it keeps.
    """

    sent: float
    rounds: int
    operations: float
    memory: float

    def exchange(self, network):
        """Seconds of the messages on a network of so many Gb/s: rounds * latency + bits / bandwidth."""
        return self.rounds * NETWORKS[network] + 8 * self.sent / (network * 1e9)


def gradients(r, c, N, W):
    """Each rank multiplies out the gradient of its N / W images, r * c numbers, and all add them up in a ring.

    A ring allreduce has two halves. In each a rank sends W - 1 messages of r * c / W numbers.

    >>> round(gradients(5000, 25088, N=32, W=2).sent / 1e6)
    502
    """
    return Cost(2 * (W - 1) / W * r * c * BYTES, 2 * (W - 1), 6 * N / W * r * c, r * c * BYTES)


def factors(r, c, N, W):
    """Each rank gathers dy (N, r) and x (N, c) of all images, and multiplies out the gradient of the whole batch.

    Forward and backward take 4 operations a weight for each of the own N / W images, the update 2 for each of all N.

    >>> round(factors(5000, 25088, N=32, W=2).sent / 1e6, 1)
    1.9
    """
    return Cost((W - 1) / W * N * (r + c) * BYTES, W - 1, (4 * N / W + 2 * N) * r * c, r * c * BYTES)


def rows(r, c, N, W):
    """Each rank owns r / W rows of the weight, and computes their outputs for all images.

    x (N, c) is gathered, y (N, r / W) returned to whom the images belong; backward dy (N, r / W) travels the first way
    again, and the W terms of dx (N, c) go to the images' ranks, which add them. Weight and gradient do not travel.

    >>> round(rows(5000, 25088, N=32, W=2).sent / 1e6, 1)
    3.5
    """
    return Cost(2 * (W - 1) / W * N * (c + r / W) * BYTES, 4 * (W - 1), 6 * N * r / W * c, r * c * BYTES / W)


def crossing(r, c):
    """The batch at which thin factors and whole gradients send the same: N (r + c) = 2 r c.

    >>> round(crossing(5000, 25088))
    8338
    """
    return 2 * r * c / (r + c)


def factors_pay_below(network):
    """The batch below which thin factors save more time of messages than they cost in computing; N (r + c) left out.

    2 N r c operations more, 2 r c numbers of 32 bits less: N / SPEED = 32 / (bits a second).

    >>> round(factors_pay_below(10)), round(factors_pay_below(200))
    (243, 12)
    """
    return 32 * SPEED / (network * 1e9)


COSTS = {"gradients": gradients, "factors": factors, "rows": rows}


def wide_table(batch):
    """A Markdown table of two_conv's wide layer.

    Args:
        batch: a function of the number of ranks.
    """
    lines = [
        "| ranks | images in a batch | | MB sent | ms, 10 Gb/s | ms, 200 Gb/s | ms computed | MB of the weight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for W in RANKS:
        N = batch(W)
        for way, name in WAYS.items():
            cost = COSTS[way](*WIDE, N, W)
            numbers = [cost.sent / 1e6, *(1000 * cost.exchange(network) for network in NETWORKS)]
            numbers += [1000 * cost.operations / SPEED, cost.memory / 1e6]
            lines.append(f"| {W} | {N:,} | {name} | " + " | ".join(map(_short, numbers)) + " |")
    return "\n".join(lines)


def lenet5_table():
    """A Markdown table of the exchange of LeNet-5's gradients, which are too small for another way."""
    lines = ["| ranks | MB sent | ms, 10 Gb/s | ms, 200 Gb/s |", "|---|---|---|---|"]
    for W in RANKS:
        cost = gradients(*LENET5, N=32, W=W)
        numbers = [cost.sent / 1e6, *(1000 * cost.exchange(network) for network in NETWORKS)]
        lines.append(f"| {W} | " + " | ".join(map(_short, numbers)) + " |")
    return "\n".join(lines)


def two_ranks_table(N=32, W=2):
    """A Markdown table of what the model says of the measurement: two_conv's wide layer on two ranks of one machine."""
    lines = ["| | MB sent | ms computed |", "|---|---|---|"]
    for way, name in WAYS.items():
        cost = COSTS[way](*WIDE, N, W)
        lines.append(f"| {name} | {_short(cost.sent / 1e6)} | {_short(1000 * cost.operations / SPEED)} |")
    return "\n".join(lines)


def tables():
    """All tables of the page, by title."""
    return {
        "The batch grows with the ranks, 32 images each": wide_table(lambda W: 32 * W),
        "The batch stays at 1,024 images": wide_table(lambda W: 1024),
        "LeNet-5, all gradients": lenet5_table(),
        "Two ranks, batch 32": two_ranks_table(),
    }


def _short(number):
    """Three digits, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    for title, table in tables().items():
        print(f"{title}:\n\n{table}\n")
