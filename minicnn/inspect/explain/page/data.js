/* What the library computed: every array of the network for one image, and small functions to read from arrays.

   An array is a typed array with its shape: at(y, f, r, s) reads one number of it. */

function parsed(text) {
  const found = JSON.parse(text, (_, value) => {
    if (!value || typeof value !== "object" || !(value.f32 || value.u8)) return value;
    const bytes = Uint8Array.from(atob(value.f32 ?? value.u8), (letter) => letter.charCodeAt(0));
    return withShape(value.u8 ? bytes : new Float32Array(bytes.buffer), value.shape);
  });
  for (const layer of found.layers) layer.x = layer.reads < 0 ? found.input : found.layers[layer.reads].y;
  return found;
}

export const data = parsed(document.getElementById("data").textContent);
export const layers = data.layers;

/* Other numbers of the same layers, of the live page. */
export function replaceData(text) {
  const found = parsed(text);
  layers.splice(0, layers.length, ...found.layers);
  Object.assign(data, found, { layers });
}

export const END = layers.length; // the index of softmax and loss, after the layers
export const LAST = layers.findLastIndex((layer) => layer.depth === 0); // the layer whose outputs are the logits

export function withShape(array, shape) {
  return Object.assign(array, { shape });
}

export function at(array, ...index) {
  return array[index.reduce((offset, i, axis) => offset * array.shape[axis] + i, 0)];
}

/* The numbers array[i] of a stack of images, of kernels or of rows: a view, not a copy. */
export function plane(array, i) {
  const size = array.length / array.shape[0];
  return array.subarray(i * size, (i + 1) * size);
}

export const clamp = (i, size) => Math.max(0, Math.min(size - 1, i));
export const range = (count) => Array.from({ length: count }, (_, i) => i);
export const sum = (values) => values.reduce((total, value) => total + value, 0);

/* A function whose results are kept by array: they are needed again at every move of the pointer. */
export function cached(compute) {
  const memory = new WeakMap();
  return (array, ...key) => {
    if (!memory.has(array)) memory.set(array, new Map());
    const known = memory.get(array);
    const name = key.join();
    if (!known.has(name)) known.set(name, compute(array, ...key));
    return known.get(name);
  };
}

/* The size of the largest number, or 1 where all are zero. */
export const largest = cached((array) => array.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1);

/* The indices of an array, those of the largest numbers first. */
export const largestFirst = cached((array) =>
  Array.from(array.keys()).sort((a, b) => Math.abs(array[b]) - Math.abs(array[a])),
);
