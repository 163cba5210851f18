"""One process of a group that trains together: it reads questions from a socket, answers, and waits in between.

Run as `python -m benchmarks.contenders.rank KIND PORT`; `benchmarks/parallel.py` starts it. The kinds are

    one                     minicnn in one process
    mpi                     minicnn on the processes of mpiexec, which says which rank this is
    pytorch                 PyTorch in one process
    pytorch_channels_last   PyTorch in one process, with the channels innermost in memory
    ddp                     PyTorch's DistributedDataParallel with gloo

and "factors" and "gradient": "mpi" with thin factors, or whole gradients, for every dense weight that has the choice.

A step lasts from one call of the loss to the next: each kind computes it once a step, so all are measured alike.
"""

import json
import pathlib
import socket
import sys
import time

from benchmarks.contenders.case import EPSILON, Case
from benchmarks.contenders.worker import forget_peak, peak_memory


class Clock:
    """Notes the time, the processor time of this process, and the bytes that it has sent, at each tick."""

    def __init__(self):
        self.ticks = []

    def tick(self, sent=0):
        """Begin the next step; `sent` are the bytes sent so far."""
        self.ticks.append((time.perf_counter(), time.process_time(), sent))

    def per_step(self):
        """What passed from one tick to the next, the mean of all but the first, a cold one."""
        first, last, steps = self.ticks[1], self.ticks[-1], len(self.ticks) - 2
        means = [(after - before) / steps for before, after in zip(first, last, strict=True)]
        return dict(zip(("seconds", "cpu", "sent"), means, strict=True))


def counted(MPI):
    """`MPI.COMM_WORLD` as a communicator that counts, in `sent`, the bytes that this rank sends to the others."""

    class Counted(MPI.Intracomm):
        sent = 0

        def Allgather(self, own, gathered):
            Counted.sent += own.nbytes * (self.size - 1)
            super().Allgather(own, gathered)

        def Allgatherv(self, own, gathered):
            Counted.sent += own.nbytes * (self.size - 1)
            super().Allgatherv(own, gathered)

        def Alltoallv(self, pieces, received):
            array, lengths = pieces
            Counted.sent += array.nbytes - lengths[self.rank] * array.itemsize
            super().Alltoallv(pieces, received)

        def Bcast(self, array, root=0):
            Counted.sent += array.nbytes * (self.size - 1) * (self.rank == root)
            super().Bcast(array, root)

    return Counted(MPI.COMM_WORLD)


class Ours:
    """minicnn: a turn is an epoch of `fit`, in one process or on a communicator."""

    def __init__(self, case, communicator=None):
        import minicnn as mc

        contender = self

        class TimedLoss(mc.SoftmaxCrossEntropy):
            def compute(self, logits, labels):
                contender.clock.tick(getattr(communicator, "sent", 0))
                return super().compute(logits, labels)

        self.batch = case.batch
        self.images, self.labels = case.data()
        self.model = getattr(mc.networks, case.net)()
        self.loss = TimedLoss()
        rate = case.learning_rate
        self.optimizer = mc.Adam(rate, epsilon=EPSILON) if case.uses_adam else mc.SGD(rate)
        self.communicator = communicator
        if communicator is None and next(case.weights(), None) is None:
            case.write_weights(parameter.value for parameter in self.model.parameters().values())

    def run(self, steps):
        """Train so many steps; returns their times, and the mean loss."""
        self.clock = Clock()
        rows = slice(0, steps * self.batch)
        history = self.model.fit(
            self.images[rows],
            self.labels[rows],
            epochs=1,
            batch_size=self.batch,
            shuffle=False,
            optimizer=self.optimizer,
            loss=self.loss,
            verbose=False,
            communicator=self.communicator,
        )
        return self.clock, history["loss"][-1] if history.get("loss") else None


class PyTorch:
    """PyTorch as its users write it, in one process; the same network with the same weights."""

    rank, ranks = 0, 1

    def __init__(self, case, memory_format="contiguous_format"):
        import torch

        from benchmarks.contenders import pytorch

        torch.set_num_threads(case.threads)
        self.torch, self.batch = torch, case.batch
        self.memory_format = getattr(torch, memory_format)
        images, labels = case.data()
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.model = self.whole(pytorch.Contender().load(case, self.memory_format))
        rate = case.learning_rate
        adam, sgd = torch.optim.Adam, torch.optim.SGD
        parameters = self.model.parameters()
        self.optimizer = adam(parameters, rate, eps=EPSILON) if case.uses_adam else sgd(parameters, rate)
        self.loss = torch.nn.CrossEntropyLoss()

    def whole(self, model):
        return model

    def run(self, steps):
        """Train so many steps; returns their times, and the mean loss."""
        clock, total = Clock(), 0.0
        for step in range(steps):
            rows = slice(step * self.batch + self.rank, (step + 1) * self.batch, self.ranks)
            self.optimizer.zero_grad()
            logits = self.model(self.images[rows].contiguous(memory_format=self.memory_format))
            clock.tick()
            loss = self.loss(logits, self.labels[rows])
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return clock, total / steps


class DDP(PyTorch):
    """The same network in each process, and gradients that are averaged meanwhile."""

    def whole(self, model):
        from torch import distributed
        from torch.nn.parallel import DistributedDataParallel

        distributed.init_process_group("gloo")
        self.rank, self.ranks = distributed.get_rank(), distributed.get_world_size()
        self.distributed = distributed
        return DistributedDataParallel(model)

    def run(self, steps):
        clock, mean = super().run(steps)
        mean = self.torch.tensor(mean)
        self.distributed.all_reduce(mean)
        return clock, mean.item() / self.ranks

    def close(self):
        self.distributed.destroy_process_group()


def make(kind, case):
    """The contender of a kind; those of several processes are made in all of them at the same time."""
    if kind == "ddp":
        return DDP(case)
    if kind.startswith("pytorch"):
        return PyTorch(case, kind.partition("_")[2] or "contiguous_format")
    if kind == "one":
        return Ours(case)
    from mpi4py import MPI

    if kind != "mpi":
        from minicnn.parallel import exchange

        exchange.choose = lambda *sizes, **options: kind
    return Ours(case, counted(MPI))


def serve(kind, port):
    """Answer the questions that come until the connection ends."""
    contender = None
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as file:

        def answer(**values):
            file.write(json.dumps(values) + "\n")
            file.flush()

        answer()
        for line in file:
            question = json.loads(line)
            if question["ask"] == "start":
                case = Case(question["net"], question["batch"], pathlib.Path(question["folder"]), question["threads"])
                contender = make(kind, case)
                forget_peak()
                answer()
            elif question["ask"] == "run":
                before = time.process_time()
                clock, loss = contender.run(question["steps"])
                answer(**clock.per_step(), total_cpu=time.process_time() - before, loss=loss)
            else:
                answer(bytes=peak_memory())
        if hasattr(contender, "close"):
            contender.close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
