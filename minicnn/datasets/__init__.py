"""The data sets: letters, MNIST and its relatives, your own pictures, and how to split them."""

from minicnn.datasets.dataset import Dataset
from minicnn.datasets.folder import load_folder
from minicnn.datasets.letters import DESCRIPTION as LETTERS_DESCRIPTION
from minicnn.datasets.letters import LETTERS, load_letters
from minicnn.datasets.mnist import load_idx
from minicnn.datasets.notmnist import load_notmnist, read_notmnist
from minicnn.datasets.preprocessing import normalize
from minicnn.datasets.splits import stratified_split

__all__ = [
    "LETTERS",
    "LETTERS_DESCRIPTION",
    "Dataset",
    "load_folder",
    "load_idx",
    "load_letters",
    "load_notmnist",
    "normalize",
    "read_notmnist",
    "stratified_split",
]
