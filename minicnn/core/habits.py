"""What users of other libraries write first, and where it is here: the sentences of the error messages.

Nothing here is a second way to do a thing. Each entry belongs to a name that this library does not have.
"""

from minicnn.core.errors import UnknownNameError

#: Names of the package: `mc.Linear`.
NAMES = {
    "Linear": "a dense layer is mc.Dense(units); the number of its inputs is found when it is built",
    "Conv2d": "it is mc.Conv2D(filters, kernel_size); the number of input channels is found when it is built",
    "MaxPooling2D": "it is mc.MaxPool2D(pool_size)",
    "MaxPool2d": "it is mc.MaxPool2D(pool_size)",
    "AveragePooling2D": "it is mc.AvgPool2D(pool_size)",
    "AvgPool2d": "it is mc.AvgPool2D(pool_size)",
    "GlobalAveragePooling2D": "it is mc.GlobalAvgPool2D()",
    "AdaptiveAvgPool2d": "the mean of each channel is mc.GlobalAvgPool2D()",
    "BatchNormalization": "it is mc.BatchNorm()",
    "BatchNorm2d": "it is mc.BatchNorm(); the number of channels is found when it is built",
    "Activation": "activations are layers of their own, such as mc.ReLU()",
    "Input": "the shape of one input is an argument: mc.Sequential(layers, input_shape=(1, 28, 28))",
    "Model": "a network is mc.Sequential(layers)",
    "CrossEntropyLoss": "it is mc.SoftmaxCrossEntropy(), on logits",
    "CategoricalCrossentropy": "it is mc.SoftmaxCrossEntropy(), on logits; a closing Softmax is left out in training",
    "SparseCategoricalCrossentropy": "it is mc.SoftmaxCrossEntropy(), which takes class indices as well as rows",
    "BCEWithLogitsLoss": "it is mc.BinaryCrossEntropy(), on logits",
    "MSELoss": "it is mc.MeanSquaredError()",
    "AdamW": "it is mc.Adam(weight_decay=...): the weight decay of Adam here is the decoupled one",
    "ImageDataGenerator": "random changes of training images: model.fit(..., augmentation=mc.Augmentation(shift=2))",
    "RandomRotation": "random changes of training images: model.fit(..., augmentation=mc.Augmentation(rotate=10))",
    "SwapEMAWeights": "it is mc.AveragedWeights(), a callback",
    "to_categorical": "labels may stay class indices (N,); one-hot rows are np.eye(classes)[labels]",
    "one_hot": "labels may stay class indices (N,); one-hot rows are np.eye(classes)[labels]",
    "load_model": "it is mc.load(path)",
    "tensor": "layers and models take NumPy arrays",
    "no_grad": "nothing is recorded: model.predict(x), or model.forward(x), and leave its backward unused",
    "device": "mc.use('cupy') computes on the GPU, mc.use('numpy') on the CPU",
    "manual_seed": "every source of chance has a seed of its own: mc.Sequential(layers, seed=0)",
    "nn": "layers and losses are names of the package itself, such as mc.Dense",
    "optim": "optimizers are names of the package itself, such as mc.SGD",
    "utils": "labels may stay class indices (N,), and there is no other helper: see the names of the package",
}

#: Attributes of models, layers, losses, optimizers, schedules and callbacks: `model.compile`.
ATTRIBUTES = {
    "compile": "fit takes the optimizer and the loss: model.fit(x, y, optimizer=mc.Adam(), loss=...)",
    "train": "there is no mode to set: model.fit trains, and model.forward(x, training=True) computes as in training",
    "eval": "there is no mode to set: predict, evaluate and model.forward(x) compute as outside training",
    "zero_grad": "optimizer.step clears the gradients",
    "backward": "forward returns it: logits, backward = model.forward(x, training=True)",
    "state_dict": "model.save(path) writes a model, and model.parameters() is a dict {name: Parameter}",
    "load_state_dict": "mc.load(path) reads a model; a weight is set by model.parameters()[name].value[...] = array",
    "weights": "model.parameters() is a dict {name: Parameter}, and parameter.value the array",
    "trainable_weights": "model.parameters() is a dict {name: Parameter}, and parameter.value the array",
    "get_weights": "model.parameters() is a dict {name: Parameter}, and parameter.value the array",
    "set_weights": "a weight is set by model.parameters()[name].value[...] = array",
    "named_parameters": "model.parameters() is a dict: model.parameters().items()",
    "count_params": "it is model.count_parameters()",
    "kernel": "it is layer.weight",
    "to": "mc.use('cupy') chooses the GPU, then model.convert() moves the model; model.convert('float64') converts it",
    "cuda": "mc.use('cupy') chooses the GPU, then model.convert() moves the model",
    "cpu": "mc.use('numpy') chooses the CPU, then model.convert() moves the model",
    "train_on_batch": "a training step is four lines, see the example of mc.Sequential",
    "predict_classes": "it is model.predict(x).argmax(axis=1)",
    "requires_grad_": "layer.trainable = False freezes a layer",
    "lr": "it is optimizer.learning_rate",
    "param_groups": "the learning rate is optimizer.learning_rate, one for all parameters",
    "apply_gradients": "it is optimizer.step(model.parameters())",
    "minimize": "it is optimizer.step(model.parameters()), after backward(dlogits)",
}

#: Arguments by name: `Dense(64, activation="relu")`.
ARGUMENTS = {
    "activation": "activations are layers: put mc.ReLU() after it",
    "in_channels": "the number of input channels is found when the layer is built: leave it out",
    "in_features": "the number of inputs is found when the layer is built: leave it out",
    "out_channels": "it is called filters",
    "out_features": "it is called units",
    "strides": "it is called stride",
    "dilation_rate": "it is called dilation",
    "bias": "it is called use_bias",
    "kernel_initializer": "it is called weight_initializer, a function of mc.initializers",
    "kernel_regularizer": "the optimizer has it: mc.SGD(weight_decay=...)",
    "data_format": "images are (N, C, H, W): convert with x.transpose(0, 3, 1, 2)",
    "input_shape": "the model takes it: mc.Sequential(layers, input_shape=(1, 28, 28)), without the batch axis",
    "input_dim": "the model takes it: mc.Sequential(layers, input_shape=(D,))",
    "p": "it is called rate",
    "lr": "it is called learning_rate",
    "betas": "they are called beta1 and beta2",
    "beta_1": "it is called beta1",
    "beta_2": "it is called beta2",
    "eps": "it is called epsilon",
    "clipnorm": "it is called clip_norm, and is that of all gradients together",
    "global_clipnorm": "it is called clip_norm",
    "from_logits": "mc.SoftmaxCrossEntropy is always computed from logits",
    "metrics": "accuracy is measured with every loss of classes; other measures of predictions are in mc.metrics",
    "class_weight": "the loss has it: mc.SoftmaxCrossEntropy(class_weights=...)",
    "weight": "the loss has it: mc.SoftmaxCrossEntropy(class_weights=...)",
    "sample_weight": "samples have no weights; classes have: mc.SoftmaxCrossEntropy(class_weights=...)",
    "initial_epoch": "fit(checkpoint=PATH, resume=True) continues a run",
    "step_size": "it is called every",
    "gamma": "it is called factor",
}

#: Too many arguments by position, by the name of what is called: `Conv2D(1, 6, 5)`.
POSITIONS = {
    "Conv2D": "the number of input channels is found when the layer is built",
    "Dense": "the number of inputs is found when the layer is built; activations are layers: put mc.ReLU() after it",
    "Sequential": "the layers are one list: mc.Sequential([mc.Flatten(), mc.Dense(10)])",
    "fit": "the third argument is the size of a batch in Keras and the number of epochs elsewhere: write epochs=10 or "
    "batch_size=32",
    "evaluate": "write loss=... or batch_size=...",
    "predict": "write batch_size=...",
}


def unknown_name(owner, name, sentences):
    """The error for a name that an owner does not have, with the sentence that says where it is.

    >>> print(unknown_name("minicnn", "MSELoss", NAMES))
    minicnn has no MSELoss: it is mc.MeanSquaredError()
    """
    sentence = f": {sentences[name]}" if name in sentences else ""
    return UnknownNameError(f"{owner} has no {name}{sentence}")
