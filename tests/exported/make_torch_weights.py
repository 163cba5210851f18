"""Make `torch_weights.pt`: python tests/exported/make_torch_weights.py, with PyTorch installed (made with 2.13).

A small network with names in words, for which the order of the alphabet is wrong, and with three dtypes. The tests also
change this file: its byte order, its pickle, single bytes.
"""

import pathlib

import torch


class Network(torch.nn.Module):
    """Two convolutions with batch normalization, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
        self.body = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
        self.classifier = torch.nn.Linear(2 * 3 * 4, 3)

    def forward(self, x):
        return self.classifier(self.body(self.stem(x)).flatten(1))


if __name__ == "__main__":
    torch.manual_seed(0)
    network = Network()
    for _ in range(3):
        network(torch.rand(8, 1, 5, 6))  # so that the running means are not zeros
    network.body.bfloat16()
    network.classifier.double()
    torch.save(network.state_dict(), pathlib.Path(__file__).with_name("torch_weights.pt"))
