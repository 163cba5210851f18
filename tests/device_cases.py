"""What the tests on the stand-in and those on a real device have in common."""

from test_training import small_model, small_set

import minicnn as mc


def weights_after(epochs, path, resume, images=50, batch_size=16):
    """The weights of a run with Dropout and a checkpoint, on the backend in use."""
    x, y = small_set(images)
    model = small_model(dropout=True)
    model.fit(
        x, y, epochs=epochs, batch_size=batch_size, optimizer=mc.Adam(), verbose=False, checkpoint=path, resume=resume
    )
    return [mc.to_numpy(p.value) for p in model.parameters().values()]


def explained(image, backends):
    """For each backend, the saliency and occlusion maps of LeNet-5 for an image, after `explain` has run once."""
    found = []
    for backend in backends:
        mc.use(backend)
        model = mc.networks.lenet5()
        mc.explain(model, image, training=True)
        found.append((mc.attribution.saliency(model, image), mc.attribution.occlusion(model, image, size=7, stride=7)))
    return found
