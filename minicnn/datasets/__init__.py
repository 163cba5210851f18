"""The data sets: real letters (notMNIST), synthetic letters, and how to split them."""

from minicnn.datasets.letters import DESCRIPTION as LETTERS_DESCRIPTION
from minicnn.datasets.letters import LETTERS, load_letters
from minicnn.datasets.notmnist import load_notmnist, read_notmnist
from minicnn.datasets.preprocessing import normalize
from minicnn.datasets.splits import stratified_split
