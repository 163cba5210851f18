"""A data set: two pairs of arrays, and the names of the classes."""

from minicnn.core.checks import check_classes, quoted


class Dataset(tuple):
    """`(x_train, y_train), (x_test, y_test)`, with the names of the classes.

    It is an ordinary tuple of two pairs, so it is taken apart in the usual way.

    Args:
        train, test: pairs (images, labels).
        classes: the name of each class; label k is `classes[k]`.
        validation: a third pair (images, labels), if the data came with one; or None.
        skipped: (name, reason) of each file that was left out.
        names: {"train": names of the files, "test": ...}, one name for each image; empty where images are not files.

    Attributes:
        train, test, validation, classes, skipped, names: as in the arguments; `classes` is a list of str.

    Raises:
        InputError: names that are empty or appear twice.

    >>> data = Dataset(("images", "labels"), ("more", "of them"), classes=["cat", "dog"])
    >>> (x_train, y_train), (x_test, y_test) = data
    >>> x_test, data.classes
    ('more', ['cat', 'dog'])
    """

    def __new__(cls, train, test, classes, validation=None, skipped=(), names=None):
        self = super().__new__(cls, (tuple(train), tuple(test)))
        self.classes, self.validation = check_classes(classes), validation
        self.skipped, self.names = list(skipped), dict(names or {})
        return self

    train = property(lambda self: self[0])
    test = property(lambda self: self[1])

    def __getnewargs__(self):  # what copy and pickle pass to __new__
        return self.train, self.test, self.classes, self.validation, self.skipped, self.names

    def __repr__(self):
        train, test = (getattr(x, "shape", x) for x, _ in self)
        classes = quoted(", ".join(self.classes), 60)[1:-1]
        return f"Dataset(train {train}, test {test}, {len(self.classes)} classes: {classes})"
