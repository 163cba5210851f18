"""The names of a model's classes: kept in its file, and shown wherever a class is shown."""

import itertools
import json

import numpy as np
import pytest

import minicnn as mc

CLASSES = ["cat", "dog", "über 7"]


def with_classes(path, classes):
    """Change the classes in a model's file."""
    with np.load(path) as file:
        arrays = dict(file)
    (name,) = (name for name, array in arrays.items() if array.dtype == np.uint8 and b"classes" in array.tobytes())
    description = json.loads(arrays[name].tobytes())
    description["classes"] = classes
    arrays[name] = np.frombuffer(json.dumps(description).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


def network(classes=None, input_shape=(1, 6, 6)):
    model = mc.Sequential([mc.Flatten(), mc.Dense(3), mc.Softmax()], input_shape=input_shape)
    model.classes = classes
    return model


def test_classes_are_saved_and_loaded(tmp_path):
    for classes in (CLASSES, tuple(CLASSES), np.array(CLASSES)):
        network(classes).save(tmp_path / "model.npz")
        assert mc.load(tmp_path / "model.npz").classes == CLASSES
    network().save(tmp_path / "model.npz")
    assert mc.load(tmp_path / "model.npz").classes is None


@pytest.mark.parametrize(
    "classes", ["abc", 3, ["a", "b"], ["a", "b", "b"], ["a", "b", ""], ["a", "b", 3], {"a", "b", "c"}]
)
def test_what_is_not_a_name_for_each_class_is_refused(classes, tmp_path):
    model = network(CLASSES)
    with pytest.raises(mc.InputError, match="classes"):
        model.classes = classes
    assert model.classes == CLASSES
    if not isinstance(classes, set):
        model.save(tmp_path / "model.npz")
        with_classes(tmp_path / "model.npz", classes)
        with pytest.raises(mc.FileError, match="classes"):
            mc.load(tmp_path / "model.npz")


def test_names_that_do_not_fit_the_outputs_are_dropped_with_a_warning():
    model = network(CLASSES, input_shape=None)
    model.build((1, 6, 6))
    assert model.classes == CLASSES
    model = network(["a", "b"], input_shape=None)
    with pytest.warns(UserWarning, match="one name for each"):
        model.build((1, 6, 6))
    assert model.classes is None
    model = network(CLASSES)
    model.layers[1] = mc.Dense(2)
    with pytest.warns(UserWarning, match="They are dropped"):
        assert model.predict(np.zeros((1, 1, 6, 6), "uint8")).shape == (1, 2)
    assert model.classes is None
    model.layers[1] = mc.Dense(4)
    model.classes = ["a", "b", "c", "d"]  # before it is built
    assert model.predict(np.zeros((1, 1, 6, 6), "uint8")).shape == (1, 4)
    assert model.classes == ["a", "b", "c", "d"]
    with pytest.raises(mc.InputError, match="classes"):
        mc.Sequential([mc.Conv2D(3, 3)], input_shape=(1, 6, 6)).classes = CLASSES


def test_classes_change_nothing_in_a_run(tmp_path):
    """So a run is resumed by a script that names its classes, or renames them."""
    x, y = np.zeros((6, 1, 6, 6), "uint8"), np.arange(6) % 3
    network().fit(x, y, epochs=1, verbose=False, checkpoint=tmp_path / "run.npz")
    model = network(CLASSES)
    model.fit(x, y, epochs=2, verbose=False, checkpoint=tmp_path / "run.npz", resume=True)
    assert model.classes == CLASSES


def test_the_summary_names_the_classes():
    lines = []
    network(CLASSES).summary(print_fn=lines.append)
    assert any("3" in line and "cat, dog" in line for line in lines)
    many = [f"class number {k}" for k in range(3)]
    model = mc.Sequential([mc.Flatten(), mc.Dense(1000)], input_shape=(1, 2, 2))
    model.classes = [f"class number {k}" for k in range(1000)]
    model.summary(print_fn=lines.append)
    assert max(map(len, lines)) < 130 and many[0] in "".join(lines)


def texts(figure):
    shown = [figure.get_suptitle()]
    for axes in figure.axes:
        shown += [axes.get_title(), *(label.get_text() for label in axes.get_xticklabels())]
    return "\n".join(shown)


def test_every_page_and_picture_shows_the_names():
    pytest.importorskip("matplotlib")
    image, x, y = np.zeros((1, 6, 6), "uint8"), np.zeros((4, 1, 6, 6), "uint8"), np.array([0, 1, 2, 2])
    for classes, first in ((CLASSES, "cat"), (None, "A")):
        model = network(classes)
        model.layers[1].bias.value[...] = 3, 2, 1
        assert mc.explain(model, image).data["names"][0] == first
        assert mc.explain(model, image, names=["x", "y", "z"]).data["names"][0] == "x"
        assert f"Saliency of {first}" in texts(mc.plots.saliency(model, image))
        assert f"Occlusion of {first}" in texts(mc.plots.occlusion(model, image, size=3, stride=3))
        assert f"{first} 67 %" in texts(mc.plots.confident_mistakes(model, x, y))
        assert first in texts(mc.plots.confusion_matrix(y, model.predict(x), model.classes)).split("\n")


def test_long_names_stay_in_the_room_that_they_have():
    pytest.importorskip("matplotlib")
    model, x = network(), np.zeros((4, 1, 6, 6), "uint8")
    model.classes = [f"{k} a name that is longer than the picture below it is wide" for k in range(3)]
    model.layers[1].bias.value[...] = 3, 2, 1
    for figure in (
        mc.plots.confident_mistakes(model, x, [1, 1, 2, 2]),
        mc.plots.saliency(model, x[0]),
        mc.plots.occlusion(model, x[0]),
    ):
        figure.draw_without_rendering()
        boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        assert len(boxes) > 1 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.x1
