/* The arithmetic of sliding windows: which pixels a window reads, and which windows read a pixel. */
import { clamp, layers, range } from "./data.js";

/* The row and column of the window's first tap; negative in the padding. */
export function corner(layer, r, s) {
  const { stride, pads } = layer.window;
  return [r * stride[0] - pads[0][0], s * stride[1] - pads[1][0]];
}

/* The pixel [h, w] that a tap of the window reads at an output position, or null in the padding. */
export function pixel(layer, r, s, kh, kw) {
  const [top, left] = corner(layer, r, s);
  const [h, w] = [top + kh * layer.window.dilation[0], left + kw * layer.window.dilation[1]];
  return h >= 0 && w >= 0 && h < layer.x.shape[1] && w < layer.x.shape[2] ? [h, w] : null;
}

/* All taps [kh, kw], as the rows of the kernel. */
export function taps(layer) {
  const [KH, KW] = layer.window.kernel;
  return range(KH).map((kh) => range(KW).map((kw) => [kh, kw]));
}

/* The window at an output position, on the layer's own input: [row, column, height, width]. */
export function field(layer, r, s) {
  const { kernel, dilation } = layer.window;
  return [...corner(layer, r, s), dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1];
}

/* The output positions whose windows read a pixel, each with the tap that reads it. */
export function readers(layer, h, w) {
  const [, OH, OW] = layer.y.shape;
  const found = [];
  for (let r = 0; r < OH; r++)
    for (let s = 0; s < OW; s++) {
      const [top, left] = corner(layer, r, s);
      const [kh, kw] = [(h - top) / layer.window.dilation[0], (w - left) / layer.window.dilation[1]];
      const isTap = (k, size) => Number.isInteger(k) && k >= 0 && k < size;
      if (isTap(kh, layer.window.kernel[0]) && isTap(kw, layer.window.kernel[1])) found.push({ r, s, kh, kw });
    }
  return found;
}

/* The receptive field: the pixels of the image that an output position depends on, through all layers before it, as
   [row, column, height, width]; null where a layer may read any pixel. */
export function receptiveField(index, r, s) {
  const bounds = trace(index, [r, s, r, s]);
  return bounds && [bounds[0], bounds[1], bounds[2] - bounds[0] + 1, bounds[3] - bounds[1] + 1];
}

function trace(index, bounds) {
  if (index < 0 || bounds === null) return bounds;
  const layer = layers[index];
  if (layer.view === "block") {
    const ends = layer.rows.map((row) => trace(row.entries.at(-1) ?? layer.reads, bounds));
    return ends.includes(null) ? null : union(ends);
  }
  if (layer.view === "generic" || layer.shape.length !== 3 || layer.mixes) return null;
  if (layer.view === "upsampling") return trace(layer.reads, addingTo(layer, bounds));
  return trace(layer.reads, layer.window ? seenBy(layer, bounds) : bounds);
}

/* The pixels of the input of an upsampling layer that add to some of its outputs. */
function addingTo(layer, bounds) {
  const { kernel, stride, pads, dilation } = layer.window;
  return bounds.map((end, i) => {
    const axis = i % 2;
    const last = end + pads[axis][0];
    const position =
      i < 2 ? Math.ceil((last - dilation[axis] * (kernel[axis] - 1)) / stride[axis]) : last / stride[axis];
    return clamp(Math.floor(position), layer.x.shape[axis + 1]);
  });
}

function seenBy(layer, [top, left, bottom, right]) {
  const [first, last] = [field(layer, top, left), field(layer, bottom, right)];
  const [, H, W] = layer.x.shape;
  const ends = [first[0], first[1], last[0] + last[2] - 1, last[1] + last[3] - 1];
  return ends.map((end, i) => clamp(end, i % 2 ? W : H));
}

const union = (all) => range(4).map((i) => (i < 2 ? Math.min : Math.max)(...all.map((bounds) => bounds[i])));
