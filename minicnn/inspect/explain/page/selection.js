/* What is selected: the layer, the direction, and in each layer a filter, a channel, a position, a tap, a unit. */
import { at, clamp, largestFirst, range, sum } from "./data.js";
import { corner, pixel, taps } from "./sliding.js";

export const state = { layer: 0, backward: false, selections: new Map() };

/* The selection in a layer: filter f, input channel c, output position (r, s), pixel (h, w), tap, unit, input. */
export function selection(layer) {
  const key = layer.name ?? "loss";
  if (!state.selections.has(key)) state.selections.set(key, first(layer));
  return state.selections.get(key);
}

/* A view opens at the output that matters most: where output times gradient is largest. */
function first(layer) {
  const p = { f: 0, c: 0, r: 0, s: 0, h: 0, w: 0, tap: [0, 0], unit: 0, input: 0 };
  if (!layer.y) return p;
  const matters = layer.y.map((value, i) => value * layer.dy[i]);
  const [best] = largestFirst(matters.some((value) => value !== 0) ? matters : layer.y);
  if (layer.y.shape.length !== 3) {
    [p.input] = largestFirst(layer.dx);
    return { ...p, unit: best };
  }
  const [, H, W] = layer.y.shape;
  [p.f, p.r, p.s] = [Math.floor(best / (H * W)), Math.floor(best / W) % H, best % W];
  [p.h, p.w] = [p.r, p.s];
  if (layer.window) {
    p.tap = layer.window.kernel.map((size) => size >> 1);
    const [top, left] = corner(layer, p.r, p.s);
    [p.h, p.w] = [clamp(top + p.tap[0], layer.x.shape[1]), clamp(left + p.tap[1], layer.x.shape[2])];
  }
  p.c = layer.view === "convolution" ? largestChannel(layer, p) : p.f;
  return p;
}

/* The first input channel that a filter reads: 0, or that of its group. */
export function firstChannel(layer, f) {
  const [F, C] = layer.weight.shape;
  return Math.floor(f / (F / layer.groups)) * C;
}

/* The input channel whose products at an output position have the largest sum of sizes. */
function largestChannel(layer, p) {
  const start = firstChannel(layer, p.f);
  const size = (c) =>
    sum(
      taps(layer).flatMap((line) =>
        line.map(([kh, kw]) => {
          const read = pixel(layer, p.r, p.s, kh, kw);
          return read ? Math.abs(at(layer.weight, p.f, c, kh, kw) * at(layer.x, start + c, ...read)) : 0;
        }),
      ),
    );
  const sizes = range(layer.weight.shape[1]).map(size);
  return start + sizes.indexOf(Math.max(...sizes));
}
