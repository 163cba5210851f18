/* The words of the field, explained where they are used: a word is a button, and its meaning opens beside it. */
import { make } from "./elements.js";

export const MEANINGS = {
  tap: "One of the weights of a kernel, at its row and column [kh, kw]. In every window it reads one pixel.",
  dy: "The gradient of the loss with respect to the output y of a layer: how much the loss changes, for each output, when this output becomes a little larger.",
  dx: "The gradient of the loss with respect to the input x of a layer. It is the dy of the layer before.",
  dweight: "The gradient of the loss with respect to the weights. An optimizer moves each weight against it.",
  logits: "The outputs of the last layer, before softmax: any numbers, one for each class. The largest one wins.",
  saturated: "Where a curve is nearly flat: its output hardly changes with its input, so almost no gradient passes.",
  "finite difference":
    "A gradient without calculus: make the number a little larger and a little smaller, compute the loss both times, and divide the difference by the step. Slow, but it shows that the formula is right.",
  im2col:
    "Image to columns: the pixels of every window are copied into one column of a matrix, so that the convolution becomes one matrix product.",
  col2im:
    "Columns to image, the way back of im2col: the gradient of every copy of a pixel is added up, because the pixel was copied into several windows.",
  kernel: "The weights of one filter that slide over one input channel.",
  filter: "One kernel for each input channel, and a bias: together they compute one channel of the output.",
  channel: "One of the images in a stack: red, green and blue of a picture, or the output of one filter.",
  padding:
    "Pixels that are added around the image, so that windows fit at the border. They are zero, or minus infinity for a maximum.",
  stride: "How many pixels the window moves from one position to the next.",
  bias: "A learned number that is added to every output of a filter or a unit.",
  unit: "One output of a dense layer, with a weight for every input.",
  "receptive field": "The pixels of the image that an output can depend on, through all layers before it.",
  "effective receptive field":
    "How strongly an output depends on each pixel of its receptive field: the size of its gradient. In most networks it is far smaller than the field, and strongest in the middle.",
  "gradient ascent":
    "Start with grey noise, and change all pixels a little in the direction that makes one output larger. Repeat. The image shows what this output reacts to.",
  softmax: "e to the power of each logit, divided by the sum of all: probabilities that add up to 1.",
  "cross-entropy": "Minus the logarithm of the probability of the right class: 0 if it is 1, large if it is near 0.",
  normalized: "Minus the mean, divided by the standard deviation: numbers of mean 0 and variance 1.",
  epsilon: "A small number that is added to the variance, so that nothing is divided by zero.",
  "running mean": "A mean over many batches, kept in training, and used instead of the batch's outside training.",
  shortcut:
    "A row of layers, often an empty one, beside the layers of a residual block. Through it the gradient passes unchanged.",
};

/* A word that opens its meaning. */
export function word(name, shown = name) {
  return make("button", { class: "word", type: "button", onclick: (event) => open(event.currentTarget, name) }, shown);
}

function open(button, name) {
  const panel = document.getElementById("glossary");
  panel.replaceChildren(make("b", {}, name), make("p", {}, MEANINGS[name]));
  panel.showPopover({ source: button });
  const place = button.getBoundingClientRect();
  const { width, height } = panel.getBoundingClientRect();
  const below = place.bottom + 6 + height < innerHeight;
  panel.style.left = `${Math.max(6, Math.min(place.left, document.documentElement.clientWidth - width - 6))}px`;
  panel.style.top = `${below ? place.bottom + 6 : Math.max(6, place.top - height - 6)}px`;
  panel.focus();
}
