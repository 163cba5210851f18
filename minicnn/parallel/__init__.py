"""Training on several processes and machines: `model.fit(..., communicator=MPI.COMM_WORLD)`.

    mpiexec -n 8 python -m mpi4py script.py

Eight processes, the ranks, run the same script. Of every batch each rank
computes one piece, and what the pieces say of the weights is added up in the
order of the ranks. So the result is that of one process which computes the
batch in eight pieces, whatever MPI is used.

`ranks.py` is what the ranks say to each other: pieces, sums, decisions, errors.
`exchange.py` is one training step on them: the loss, the gradients, the
statistics of normalization and the rows of wide weights.
"""

from minicnn.parallel.exchange import Exchange, choose, digest, follow_first
from minicnn.parallel.ranks import Ranks, describe_error, made_error, world

__all__ = ["Exchange", "Ranks", "choose", "describe_error", "digest", "follow_first", "made_error", "world"]
