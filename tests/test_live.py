"""The live page: what a reader changes is computed by the library, and nobody else can ask the server."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import minicnn as mc
from minicnn import __main__, console
from minicnn.core.im2col import Window
from minicnn.exchange.any_file import load
from minicnn.inspect.explain import excitation, live_server
from minicnn.inspect.explain.collect import collect as collect_page
from minicnn.inspect.explain.experiment import Experiment, kept_epochs, rebuilt
from minicnn.inspect.explain.live import MOST_BYTES, LiveServer


def network(seed=0):
    layers = [mc.Conv2D(3, 3, padding="same"), mc.Tanh(), mc.MaxPool2D(2), mc.Flatten(), mc.Dense(4)]
    return mc.Sequential(layers, input_shape=(1, 8, 8), seed=seed)


def picture():
    return np.random.default_rng(5).random((1, 8, 8)).astype("float32")


@pytest.fixture
def experiment():
    return Experiment(network(), picture(), label=1)


def collect(model, image, label):
    return collect_page(model, image, label, complete=False)


def loss_of(model, image, label):
    return float(mc.SoftmaxCrossEntropy()(model.forward(image[None])[0], np.array([label]))[0])


def assert_same(found, wanted):
    """The page's data of two networks: every array and number of every layer."""
    assert len(found["layers"]) == len(wanted["layers"])
    for one, other in zip([found, *found["layers"]], [wanted, *wanted["layers"]], strict=True):
        for key, value in other.items():
            if key not in ("layers", "drawable", "live") and not key.startswith("num"):
                np.testing.assert_equal(one[key], value, err_msg=key)


# What a change does


def test_a_pixel_a_weight_and_the_label_are_those_of_a_network_changed_by_hand(experiment):
    model, image = network(), picture()
    experiment.change({"do": "pixel", "index": [0, 2, 3], "value": 0.25})
    experiment.change({"do": "weight", "parameter": "conv2d_1.weight", "index": [2, 0, 1, 1], "value": -1.5})
    experiment.change({"do": "weight", "parameter": "dense_1.bias", "index": [3], "value": 2})
    data = experiment.change({"do": "label", "label": 3})
    image[0, 2, 3] = 0.25
    model.layers[0].weight.value[2, 0, 1, 1] = -1.5
    model.layers[-1].bias.value[3] = 2
    assert_same(data, collect(model, image, 3))
    assert data["loss"] == loss_of(model, image, 3)


def test_a_drawing_replaces_the_image_and_the_first_one_returns(experiment):
    drawn = np.linspace(0, 1, 64, dtype="float32")
    data = experiment.change({"do": "pixels", "pixels": drawn.tolist()})
    np.testing.assert_array_equal(data["input"].ravel(), drawn)
    np.testing.assert_array_equal(experiment.change({"do": "first image"})["input"], picture())


def test_a_step_is_weight_minus_rate_times_gradient(experiment):
    model, image = network(), picture()
    logits, backward = model.forward(image[None])
    loss, dlogits = mc.SoftmaxCrossEntropy()(logits, np.array([1]))
    backward(dlogits)
    gradients = {name: p.grad.copy() for name, p in model.parameters().items()}
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    chosen = {"parameter": "conv2d_1.weight", "index": [1, 0, 2, 0]}
    data = experiment.change({"do": "sgd", "learning_rate": 0.5, **chosen})
    done = data["live"]["step"]
    np.testing.assert_allclose(done["before"], loss, rtol=1e-6)
    first, *others = done["rows"]
    assert first["name"] == "conv2d_1.weight" and first["index"] == [1, 0, 2, 0] and first["chosen"]
    weight, gradient = before["conv2d_1.weight"][1, 0, 2, 0], gradients["conv2d_1.weight"][1, 0, 2, 0]
    np.testing.assert_allclose(first["numbers"], [weight, gradient, 0.5 * gradient, weight - 0.5 * gradient], rtol=1e-6)
    assert {row["name"] for row in others} == set(before)
    for row in others:
        assert abs(gradients[row["name"]][tuple(row["index"])]) == np.abs(gradients[row["name"]]).max()
    for name, parameter in model.parameters().items():
        parameter.value[...] = before[name] - np.float32(0.5) * gradients[name]
        parameter.clear_gradient()
    np.testing.assert_allclose(done["after"], loss_of(model, image, 1), rtol=1e-5)
    assert done["after"] < done["before"] and data["live"]["losses"] == [done["before"], data["loss"]]
    np.testing.assert_allclose(data["layers"][0]["weight"], model.layers[0].weight.value, rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "changes", "window", "shape"),
    [
        ("conv2d_1", {"stride": "2"}, Window(3, 2, "same"), (3, 4, 4)),
        ("conv2d_1", {"padding": "valid"}, Window(3), (3, 6, 6)),
        ("conv2d_1", {"padding": "0, 1, 2, 0"}, Window(3, padding=((0, 1), (2, 0))), (3, 7, 8)),
        ("conv2d_1", {"kernel_size": "5"}, Window(5, padding="same"), (3, 8, 8)),
        ("conv2d_1", {"kernel_size": "2x4", "padding": "1"}, Window((2, 4), padding=1), (3, 9, 7)),
        ("maxpool2d_1", {"pool_size": "3", "stride": "1"}, Window(3), (3, 6, 6)),
    ],
)
def test_a_window_is_changed_and_the_layers_behind_it_fit(experiment, layer, changes, window, shape):
    old = experiment.model
    data = experiment.change({"do": "window", "layer": layer, **changes})
    about = next(found for found in data["layers"] if found["name"] == layer)
    assert tuple(about["y"].shape) == shape and about["window"]["stride"] == list(window.stride)
    new = dict(zip(experiment.model.names, experiment.model.layers, strict=True))[layer]
    assert new.window == window
    dense, was = experiment.model.layers[-1].weight.value, old.layers[-1].weight.value
    if dense.shape == was.shape:
        np.testing.assert_array_equal(dense, was)
        assert "dense_1" not in data["live"]["message"]
    else:
        assert re.search(f"dense_1.*{dense.shape[1]}.*{was.shape[1]}.*new", data["live"]["message"])
    assert_same(data, collect(experiment.model, picture(), 1))


def test_a_kernel_of_another_size_keeps_its_middle():
    old = network()
    weight = old.layers[0].weight.value
    larger = rebuilt(old, "conv2d_1", {"kernel_size": 5})[0]
    np.testing.assert_array_equal(larger.layers[0].weight.value, np.pad(weight, ((0, 0), (0, 0), (1, 1), (1, 1))))
    np.testing.assert_allclose(larger(picture()[None]), old(picture()[None]), atol=1e-6)
    np.testing.assert_array_equal(
        rebuilt(old, "conv2d_1", {"kernel_size": 1})[0].layers[0].weight.value, weight[:, :, 1:2, 1:2]
    )


def test_a_copy_has_the_states_and_the_frozen_layers_of_blocks_too():
    block = mc.Residual([mc.Conv2D(3, 3, padding="same"), mc.BatchNorm(), mc.ReLU()])
    model = mc.Sequential(
        [mc.Conv2D(3, 1), block, mc.Flatten(), mc.Dropout(0.5), mc.Dense(4)], input_shape=(1, 8, 8), seed=2
    )
    model.forward(picture()[None], training=True)
    block.layers[1].running_mean.value[...] = 7
    block.layers[0].trainable = False
    copy, notes = rebuilt(model, "residual_1.layers.0", {"kernel_size": 5})
    assert notes and copy.layers[1].layers[0].window.kernel_size == (5, 5)
    assert [layer.trainable for layer in copy.layers[1].layers] == [False, True, True] and copy.layers[1].trainable
    np.testing.assert_allclose(copy(picture()[None]), model(picture()[None]), atol=1e-6)
    np.testing.assert_array_equal(copy.layers[1].layers[1].running_mean.value, block.layers[1].running_mean.value)
    again = [net.forward(picture()[None], training=True)[0] for net in (copy, model)]  # the same numbers drop
    np.testing.assert_allclose(*again, atol=1e-6)
    copy.layers[0].weight.value[...] = 0
    assert model.layers[0].weight.value.any()


def test_the_epochs_of_a_run(tmp_path):
    model, images = network(), np.random.default_rng(0).random((16, 1, 8, 8)).astype("float32")
    pattern = str(tmp_path / "epoch-{epoch:02d}-{loss:.3f}.npz")
    labels = np.arange(16) % 4
    model.fit(images, labels, epochs=3, callbacks=[mc.ModelCheckpoint(pattern)], verbose=False)
    epochs = kept_epochs(pattern)
    assert list(epochs) == [1, 2, 3]
    experiment = Experiment(network(seed=9), picture(), label=1, epochs=epochs, load=load)
    assert experiment.data["live"]["epochs"] == [1, 2, 3] and experiment.data["live"]["epoch"] is None
    data = experiment.change({"do": "epoch", "epoch": 2})
    assert data["live"]["epoch"] == 2
    assert_same(data, collect(mc.load(epochs[2]), picture(), 1))
    assert_same(experiment.change({"do": "epoch", "epoch": 3}), collect(model, picture(), 1))
    mc.networks.logistic_regression((1, 8, 8), 4).save(epochs[1])
    with pytest.raises(mc.InputError, match="another network"):
        experiment.change({"do": "epoch", "epoch": 1})
    os.remove(epochs[2])
    with pytest.raises(mc.FileError):
        experiment.change({"do": "epoch", "epoch": 2})
    assert experiment.data["live"]["epoch"] == 3


@pytest.mark.parametrize(
    ("pattern", "error"),
    [("run.npz", mc.InputError), ("no{epoch}where.npz", mc.FileError), ("a\0{epoch}", mc.FileError)],
)
def test_a_pattern_without_epochs_is_refused(tmp_path, monkeypatch, pattern, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        kept_epochs(pattern)


def test_all_can_start_again_and_the_model_was_never_touched():
    model = network()
    experiment = Experiment(model, picture(), label=1)
    for request in ({"do": "pixel", "index": [0, 0, 0], "value": 9}, {"do": "sgd", "learning_rate": 1}):
        experiment.change(request)
    experiment.change({"do": "window", "layer": "conv2d_1", "stride": "2"})
    for name, parameter in network().parameters().items():
        np.testing.assert_array_equal(model.parameters()[name].value, parameter.value)
    assert_same(experiment.change({"do": "restart"}), collect(network(), picture(), 1))


def test_numerical_gradients_are_computed_when_they_are_asked_for(experiment, monkeypatch):
    monkeypatch.setattr(excitation, "SECONDS", np.inf)  # on a busy machine, too
    assert np.isnan(experiment.data["layers"][0]["numWeight"]).all()
    layer = experiment.change({"do": "complete"})["layers"][0]
    np.testing.assert_allclose(layer["numWeight"], layer["dweight"], atol=1e-4)
    assert "ascent" in layer


WEIGHT = {"do": "weight", "parameter": "conv2d_1.weight", "index": [0, 0, 0, 0]}
BAD = [
    *([], None, "pixel", 3, {}, {"do": "open"}, {"do": ["pixel"]}, {"do": "restart", "x": 1}),
    *({"do": "pixel", "index": index, "value": 1} for index in ([0, 0], [0, 8, 0], [0, -1, 0], [0, 0.5, 0], "000")),
    *({"do": "pixel", "index": [0, 0, 0], "value": value} for value in (None, "1", True, 1e7, np.nan, np.inf, [], {})),
    *({"do": "pixels", "pixels": pixels} for pixels in (None, [], [0.5] * 63, [None] * 64, [[0] * 8] * 8)),
    *({"do": "label", "label": label} for label in (4, -1, "Z", 1.5, True, [], "9" * 5000)),
    *({**WEIGHT, "value": value} for value in (None, 2e6, "x")),
    {**WEIGHT, "parameter": "conv2d_9.weight", "value": 1},
    {**WEIGHT, "parameter": ["conv2d_1.weight"], "value": 1},
    {**WEIGHT, "index": [0, 0, 0], "value": 1},
    {"do": "weight", "parameter": "dense_1.weight"},
    *({"do": "window", "layer": "conv2d_1", "kernel_size": text} for text in ("0", "", "-1", "99", "three", None)),
    *({"do": "window", "layer": "conv2d_1", "padding": text} for text in ("full", "1,2,3", "9" * 400, 1.5)),
    {"do": "window", "layer": "conv2d_1", "filters": "9"},
    {"do": "window", "layer": "conv2d_1", "pool_size": "2"},
    {"do": "window", "layer": "dense_1", "stride": "2"},
    {"do": "window", "layer": [], "stride": "2"},
    {"do": "window", "layer": "maxpool2d_1", "padding": "2"},
    {"do": "window", "layer": "maxpool2d_1", "pool_size": "9"},
    *({"do": "sgd", "learning_rate": rate} for rate in (0, -1, None, "1", True)),
    {"do": "sgd", "learning_rate": 1, "parameter": "x", "index": [0]},
    {"do": "epoch", "epoch": 1},
]  # fmt: skip


@pytest.mark.parametrize("request_", BAD, ids=lambda request: ascii(request)[:70])
def test_a_change_that_cannot_be_made_changes_nothing(experiment, request_):
    before = experiment.data
    with pytest.raises(mc.InputError) as found:
        experiment.change(request_)
    assert 0 < len(str(found.value)) < 500
    assert experiment.data is before
    assert_same(collect(experiment.model, experiment.image, experiment.label), collect(network(), picture(), 1))


def test_a_window_that_changes_what_the_network_ends_in_is_refused():
    model = mc.Sequential([mc.Conv2D(2, 3), mc.Flatten()], input_shape=(1, 8, 8))
    with pytest.raises(mc.InputError, match="end in the shape"):
        Experiment(model, picture(), 0).change({"do": "window", "layer": "conv2d_1", "stride": "2"})


def test_weights_that_lead_to_infinity_are_taken_back():
    model = mc.Sequential([mc.Flatten(), *(mc.Dense(4) for _ in range(9))], input_shape=(1, 8, 8))
    experiment = Experiment(model, picture(), 0)
    before = experiment.data
    with pytest.raises(mc.InputError, match="finite"):
        for _ in range(3):
            experiment.change({"do": "sgd", "learning_rate": 1e6})
    assert np.isfinite(experiment.data["loss"]) and all(
        np.isfinite(p.value).all() for p in experiment.model.parameters().values()
    )
    assert_same(experiment.change({"do": "restart"}), before)


def test_an_image_that_leads_to_infinity_is_taken_back():
    layers = [mc.Flatten(), *(mc.Dense(4) for _ in range(6))]
    experiment = Experiment(mc.Sequential(layers, input_shape=(1, 8, 8)), np.zeros((1, 8, 8), "float32"), 0)
    for name in experiment.model.parameters():
        if name.endswith("weight"):
            experiment.change({"do": "weight", "parameter": name, "index": [0, 0], "value": 1e6})
    with pytest.raises(mc.InputError, match="finite"):
        experiment.change({"do": "pixel", "index": [0, 0, 0], "value": 1e6})
    data = experiment.change({"do": "label", "label": 1})
    assert not data["input"].any() and len(data["live"]["losses"]) == 8  # the first, six weights, and the label


# Who is answered


@pytest.fixture
def server():
    with live_server(network(), picture(), label=1) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method="POST", path=None, body=b'{"do": "restart"}', headers=None, drop=()):
    """The status, the headers and the text of the answer to a request, by default a change."""
    path = f"/{server.token}/change" if path is None else path
    all_headers = {"Host": f"127.0.0.1:{server.server_port}", "Content-Type": "application/json"}
    all_headers |= {"Content-Length": str(len(body))} if method == "POST" else {}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (all_headers | (headers or {})).items():
        if name not in drop:
            connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(ConnectionError):  # it was refused before all was sent
        connection.send(body if method == "POST" else b"")
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read().decode()
    connection.close()
    return found


def test_the_page_and_its_changes(server):
    assert server.server_address[0] == "127.0.0.1"
    assert re.fullmatch(rf"http://127\.0\.0\.1:{server.server_port}/[\w-]{{20,}}/", server.address)
    status, headers, page = ask(server, "GET", f"/{server.token}/")
    assert status == 200 and page.startswith("<!doctype html>") and headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, _, found = ask(server, body=b'{"do": "label", "label": "C"}')
    assert status == 200 and json.loads(found)["label"] == 2
    assert '"label": 2' in ask(server, "GET", f"/{server.token}/")[2]
    status, headers, text = ask(server, "HEAD", f"/{server.token}/")
    assert status == 200 and int(headers["Content-Length"]) > 10_000 and text == ""


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        *((403, {"headers": {"Host": host}}) for host in ("evil.example:80", "127.0.0.1", "", "127.0.0.1:1")),
        (403, {"drop": ("Host",)}),
        *((403, {"headers": {"Origin": origin}}) for origin in ("http://evil.example", "null", "http://127.0.0.1:1")),
        *((404, {"path": path}) for path in ("/", "/change", "/aaaaaaaaaaaaaaaaaaaaaa/change", "//", "/\xe9/change")),
        *(
            (404, {"method": "GET", "path": path, "body": b""})
            for path in ("/", "/TOKEN", "/TOKEN/change", "/TOKEN/../setup.cfg", "/TOKEN/page/main.js", "/etc/passwd")
        ),
        (404, {"path": "/TOKEN/"}),
        *((415, {"headers": {"Content-Type": kind}}) for kind in ("text/plain", "application/x-www-form-urlencoded")),
        (415, {"drop": ("Content-Type",)}),
        *((411, {"headers": {"Content-Length": length}}) for length in ("-1", "x", "1e3", "9" * 20)),
        (411, {"drop": ("Content-Length",)}),
        (411, {"headers": {"Transfer-Encoding": "chunked"}}),
        (413, {"headers": {"Content-Length": str(MOST_BYTES + 1)}}),
        *((422, {"body": body}) for body in (b"", b"{", b"\xff", b"[" * 100_000, b'"do"', b'{"do": "pixel"}')),
        *((501, {"method": method}) for method in ("PUT", "DELETE", "OPTIONS", "TRACE")),
    ],
    ids=lambda value: ascii(value)[:70],
)
def test_any_other_request_is_refused_with_a_sentence(server, status, arguments):
    before = server.experiment.data
    path = arguments.get("path")
    if path:
        path = path.replace("TOKEN", server.token).encode().decode("latin-1") if path.isascii() else "/%C3%A9/change"
    found, _, text = ask(server, **(arguments | {"path": path}))
    assert found == status and json.loads(text)["error"]
    assert server.experiment.data is before and server.token not in text
    assert ask(server)[0] == 200  # and the server goes on


def test_one_change_at_a_time_and_an_error_of_the_program_is_a_sentence():
    class Slow:
        data, running, most = {}, 0, 0

        def change(self, request):
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.02)
            self.running -= 1
            if request == "fail":
                raise ZeroDivisionError("<script>")
            return {"done": request}

    slow, answers = Slow(), []
    with LiveServer(slow, str, str) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        bodies = [b'"fail"' if i == 3 else str(i).encode() for i in range(6)]
        threads = [threading.Thread(target=lambda b=body: answers.append(ask(server, body=b))) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.shutdown()
    assert slow.most == 1
    assert sorted(status for status, *_ in answers) == [200] * 5 + [500]
    assert "ZeroDivisionError" in next(text for status, _, text in answers if status == 500)


# The command


def test_the_command_serves_until_ctrl_c(tmp_path):
    network().save(tmp_path / "net.npz")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "minicnn", "explain", "--live", "net.npz", "a.png", "--label", "B"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as program:
        try:
            address = program.stdout.readline().strip()
            host, port, token = re.fullmatch(r"http://([\d.]+):(\d+)/([\w-]+)/", address).groups()
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", f"/{token}/")  # and it stays open, as a browser's
            assert connection.getresponse().read().startswith(b"<!doctype html>")
            assert "Ctrl-C" in program.stdout.readline()
            program.send_signal(signal.SIGINT)
            _, error = program.communicate(timeout=120)
            connection.close()
        finally:
            program.kill()
    assert program.returncode == 130 and error.strip() == "stopped"
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "options",
    ["--port 8000", "--open", "--epochs a-{epoch}.npz", "--live -o page.html", "--live --epochs net.npz",
     "--live --epochs no-{epoch}.npz", "--live --port 99999999", "--live --port -1", "--live --label x"],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(tmp_path, monkeypatch, capsys, options):
    network().save(tmp_path / "net.npz")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["minicnn", "explain", "net.npz", "a.png", *options.split()])
    assert console.run_command(__main__.main) == 1
    found = capsys.readouterr()
    assert found.err.startswith("error: ") and found.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "net.npz"]


def test_a_port_that_is_taken_is_a_sentence(server):
    with pytest.raises(mc.InputError, match="--port"):
        live_server(network(), picture(), port=server.server_port)


# The page in a browser


@pytest.fixture(scope="module")
def epochs(tmp_path_factory):
    pattern = str(tmp_path_factory.mktemp("run") / "{epoch}.npz")
    images = np.random.default_rng(0).random((16, 1, 8, 8)).astype("float32")
    network().fit(images, np.arange(16) % 4, epochs=3, callbacks=[mc.ModelCheckpoint(pattern)], verbose=False)
    return kept_epochs(pattern)


class Page:
    """The live page in the browser."""

    def __init__(self, browser, server):
        self.server = server
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(180_000)
        self.errors, self.asked = [], set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(server.address)
        self.page.wait_for_selector("body[data-ready]")

    @property
    def data(self):
        return self.server.experiment.data

    def do(self, act):
        """Do something that changes the network, and wait for the answer on the page; its sentence comes back."""
        version = self.page.evaluate("live.version")
        act()
        self.wait(f"live.version > {version} && !live.busy && !live.playing")
        return self.page.inner_text("#live-message")

    def wait(self, condition):
        """Not Playwright's own, which the page's Content-Security-Policy does not let into the page."""
        deadline = time.monotonic() + 180  # a busy machine is no error of the page
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(5)

    def type(self, id, value):
        def act():
            self.page.fill(f"#live-{id}", str(value))
            self.page.press(f"#live-{id}", "Enter")

        return self.do(act)

    def click(self, id):
        return self.do(lambda: self.page.click(f"#live-{id}"))

    def value(self, id):
        return self.page.input_value(f"#live-{id}")

    def numbers(self, selector):
        return self.page.locator(f"{selector} .num").evaluate_all("found => found.map((one) => +one.dataset.value)")


@pytest.fixture(scope="module")
def opened(browser, epochs):
    with live_server(network(), picture(), label=1, epochs=epochs, load=load) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        page = Page(browser, server)
        yield page
        server.shutdown()
    assert page.errors == []
    assert page.asked == {server.address, f"{server.address}change"}


@pytest.fixture
def live(opened):
    opened.page.evaluate("state.selections.clear(); held.id = null")
    opened.click("restart")
    opened.page.click("#forward")
    opened.page.click("#layer-0")
    return opened


def test_a_pixel_is_chosen_on_the_map_and_changed(live):
    box = live.page.locator("#live-map").bounding_box()
    live.page.mouse.click(box["x"] + 3.5 * box["width"] / 8, box["y"] + 2.5 * box["height"] / 8)
    assert float(live.value("pixel")) == pytest.approx(picture()[0, 2, 3], abs=1e-4)
    assert "[0, 2, 3]" in live.type("pixel", 0.125)
    assert live.data["input"][0, 2, 3] == 0.125 and live.value("pixel") == "0.1250"
    live.page.focus("#live-map")
    live.page.keyboard.press("ArrowDown")
    assert "[0, 3, 3]" in live.page.inner_text("#live-image")
    shown = live.page.evaluate("[data.loss, at(data.input, 0, 2, 3), Array.from(data.probabilities)]")
    np.testing.assert_allclose(shown[2], live.data["probabilities"], rtol=1e-6)
    assert shown[:2] == [live.data["loss"], 0.125]


def test_a_weight_is_chosen_by_a_click_and_changed(live):
    live.page.click("#kernel-2-0")
    live.page.hover("#kernel-0-1")  # pointing alone does not choose another one to change
    f = live.page.evaluate("selection(layers[0]).f")
    assert f"[{f}, 0, 2, 0]" in live.type("weight", -1.25)
    assert live.data["layers"][0]["weight"][f, 0, 2, 0] == -1.25
    live.type("bias", 0.5)
    assert live.data["layers"][0]["bias"][f] == 0.5
    np.testing.assert_array_equal(
        live.page.evaluate("Array.from(layers[0].y)"), live.data["layers"][0]["y"].ravel().astype(float)
    )
    live.page.click("#layer-4")
    live.type("weight", 3)
    u, i = live.page.evaluate("[selection(layers[4]).unit, selection(layers[4]).input]")
    assert live.data["layers"][4]["weight"][u, i] == 3


def test_another_label_gives_another_loss(live):
    before = live.data["loss"]
    live.do(lambda: live.page.select_option("#live-label", "3"))
    assert live.data["label"] == 3 and live.data["loss"] != before
    live.page.click("#layer-5")
    assert live.numbers("#detail .equation")[0] == live.data["loss"]


def test_a_window_that_fits_changes_the_shapes_and_one_that_does_not_is_a_sentence(live):
    live.page.evaluate("Object.assign(selection(layers[0]), { r: 7, s: 7 }); show()")
    assert "dense_1" in live.type("stride", "2")
    f, r, s = live.page.evaluate("(({ f, r, s }) => [f, r, s])(selection(layers[0]))")
    assert r < 4 and s < 4  # not [7, 7], which is gone
    assert live.numbers("#detail .equation")[0] == live.data["layers"][0]["y"][f, r, s]
    live.page.click("#backward")
    assert "3 × 4 × 4" in live.page.inner_text("#layer-0") and live.value("stride") == "2"
    assert live.page.get_attribute("#live-message", "role") == "status"
    message = live.type("padding", "wide")
    assert "padding" in message and "wide" in message and live.value("padding") == "same"
    assert live.page.get_attribute("#live-message", "role") == "alert"
    assert "3 × 4 × 4" in live.page.inner_text("#layer-0")
    live.page.click("#layer-1")
    assert live.page.locator("#live-layer input").count() == 0
    live.page.click("#layer-2")
    assert "1" in live.type("pool_size", "1") and "3 × 4 × 4" in live.page.inner_text("#layer-2")


def test_a_step_shows_weight_rate_times_gradient_and_the_new_loss(live):
    live.page.click("#kernel-1-1")
    live.page.fill("#live-rate", "0.5")
    live.click("take")
    done = live.data["live"]["step"]
    assert live.numbers("#live-loss") == [done["before"], done["after"]]
    before, gradient, change, after = done["rows"][0]["numbers"]
    assert live.numbers(".moves li:first-child") == [gradient, change, before, change, after]
    assert done["rows"][0]["index"][2:] == [1, 1] and change == 0.5 * gradient
    assert live.page.locator(".losses i").count() == 2
    live.page.fill("#live-rate", "0")
    assert "rate" in live.click("take") and live.page.get_attribute("#live-message", "role") == "alert"


def test_a_run_is_played_epoch_by_epoch(live, epochs):
    live.click("play")
    assert live.data["live"]["epoch"] == 3 and "epoch 3" in live.page.inner_text("#live-shown")
    kernels = live.page.evaluate("Array.from(layers[0].weight)")
    np.testing.assert_array_equal(kernels, mc.load(epochs[3]).layers[0].weight.value.ravel().astype(float))
    live.page.focus("#live-epoch")
    live.do(lambda: live.page.keyboard.press("ArrowLeft"))
    assert live.data["live"]["epoch"] == 2
    assert len(live.data["live"]["losses"]) == 5  # of the beginning, three epochs, and one again


def test_a_drawing_goes_to_the_library_and_back(live):
    live.do(lambda: live.page.click("#draw"))
    assert not live.data["input"].any()
    box = live.page.locator("#board").bounding_box()
    live.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    live.page.mouse.down()
    live.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    live.page.mouse.up()
    live.wait("!live.busy && !live.again && !drawing.waiting && data.input.some((v) => v > 0.9)")
    assert live.data["input"].max() == 1
    live.page.click("#backward")  # the library's gradients are there for a drawing, too
    np.testing.assert_array_equal(
        live.page.evaluate("Array.from(layers[0].dx)"), live.data["layers"][0]["dx"].ravel().astype(float)
    )
    live.do(lambda: live.page.click("#back"))
    np.testing.assert_array_equal(live.data["input"], picture())


def test_numerical_gradients_on_the_page(live):
    live.page.click("#backward")
    assert "compute all" in live.page.inner_text("#detail")
    live.click("complete")
    assert "numerical gradient: " in live.page.inner_text("#detail")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_the_panel_fits_at_every_width(live, width, scheme):
    live.page.set_viewport_size({"width": width, "height": 900})
    live.page.emulate_media(color_scheme=scheme)
    live.page.evaluate("document.querySelectorAll('#live details').forEach((one) => (one.open = true))")
    live.click("take")
    assert live.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('#live > *')].map((one) => [one.scrollWidth, one.clientWidth + 1])"
    assert all(inside <= outside for inside, outside in live.page.evaluate(wide))
    panel, detail = (live.page.locator(id).bounding_box() for id in ("#live", "#detail"))
    beside = panel["x"] + panel["width"] <= detail["x"] + 1
    assert beside if width >= 1280 else panel["y"] + panel["height"] <= detail["y"] + 1
    live.page.set_viewport_size({"width": 1280, "height": 900})


def test_a_server_that_has_ended_is_a_sentence(browser):
    with live_server(network(), picture(), label=1) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        page = Page(browser, server)
        server.shutdown()
        thread.join()
    page.page.route("**/change", lambda route: route.abort())
    assert "does not answer" in page.type("pixel", 1)
    assert page.page.get_attribute("#live-message", "role") == "alert" and page.errors == []
    page.page.close()


def test_the_page_in_a_file_has_no_panel(browser, tmp_path):
    mc.explain(network(), picture(), label=1).save(tmp_path / "page.html")
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector("body[data-ready]")
    assert not page.is_visible("#live") and page.inner_text("#live") == ""
    page.close()
