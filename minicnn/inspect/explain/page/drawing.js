/* An image drawn by hand. Only here the page computes the network itself: the forward pass, layer by layer in plain
   loops, as its text tells the reader. With the original image the library's numbers return. */
import { at, clamp, data, layers, plane, range, sum, withShape } from "./data.js";
import { arrowOf, $ } from "./elements.js";
import { map, paint } from "./maps.js";
import { grey } from "./numbers.js";
import { pixel, taps } from "./sliding.js";
import { firstChannel } from "./selection.js";
import { curves } from "./elementwise.js";

/* library: what was there before. redraw: what draws the page again. On the live page the library computes what is
   drawn: send asks it to, and restore returns to the image. */
export const drawing = {
  active: false,
  pixels: null,
  library: null,
  waiting: false,
  redraw: null,
  send: null,
  restore: null,
};

/* Whether the page shows numbers that it computed itself. */
export const computedHere = () => drawing.active && !drawing.send;

const zeros = (shape) => withShape(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);

/* A sum of weight times pixel over a window: the seven loops of a convolution. */
function convolve(layer, x) {
  const [F, C, KH, KW] = layer.weight.shape;
  const [, OH, OW] = layer.shape;
  const y = zeros(layer.shape);
  let i = 0;
  for (let f = 0; f < F; f++)
    for (let r = 0; r < OH; r++)
      for (let s = 0; s < OW; s++, i++) {
        let total = layer.bias ? layer.bias[f] : 0;
        for (let kh = 0; kh < KH; kh++)
          for (let kw = 0; kw < KW; kw++) {
            const place = pixel(layer, r, s, kh, kw);
            if (!place) continue;
            for (let c = 0; c < C; c++)
              total += at(layer.weight, f, c, kh, kw) * at(x, firstChannel(layer, f) + c, ...place);
          }
        y[i] = total;
      }
  return y;
}

function pool(layer, x) {
  const [C, OH, OW] = layer.shape;
  const y = zeros(layer.shape);
  let i = 0;
  for (let c = 0; c < C; c++)
    for (let r = 0; r < OH; r++)
      for (let s = 0; s < OW; s++, i++) {
        const places = taps(layer)
          .flat()
          .map((tap) => pixel(layer, r, s, ...tap));
        const values = places.filter(Boolean).map((place) => at(x, c, ...place));
        const divisor = layer.countPad ? places.length : values.length;
        y[i] = layer.pool === "max" ? Math.max(...values) : sum(values) / divisor;
      }
  return y;
}

function mean(layer, x) {
  return withShape(
    Float32Array.from(range(layer.shape[0]), (c) => sum(plane(x, c)) / plane(x, c).length),
    layer.y.shape,
  );
}

function linear(layer, x) {
  const output = (u) =>
    plane(layer.weight, u).reduce((total, w, i) => total + w * x[i], layer.bias ? layer.bias[u] : 0);
  return withShape(Float32Array.from(range(layer.shape[0]), output), layer.shape);
}

const each = (layer, x) => withShape(x.map(curves[layer.curve].value), x.shape);
const same = (layer, x) => withShape(x.slice(), layer.shape);

export const computed = {
  Conv2D: convolve,
  MaxPool2D: pool,
  AvgPool2D: pool,
  GlobalAvgPool2D: mean,
  Dense: linear,
  ReLU: each,
  Tanh: each,
  Sigmoid: each,
  Flatten: same,
  Dropout: same,
};

function compute() {
  let x = (data.input = withShape(drawing.pixels.slice(), data.input.shape));
  for (const layer of layers) {
    layer.x = x;
    x = layer.y = computed[layer.kind](layer, x);
  }
  const powers = Array.from(x, (value) => Math.exp(value - Math.max(...x)));
  data.logits = x;
  data.probabilities = Float32Array.from(powers, (power) => power / sum(powers));
}

/* A soft pen about two pixels wide. */
function draw(row, column) {
  const [C, H, W] = data.input.shape;
  for (let h = 0; h < H; h++)
    for (let w = 0; w < W; w++) {
      const ink = Math.max(0, Math.min(1, 1.7 - Math.hypot(h + 0.5 - row, w + 0.5 - column)));
      for (let c = 0; c < C; c++) {
        const i = (c * H + h) * W + w;
        drawing.pixels[i] = Math.max(drawing.pixels[i], ink);
      }
    }
  if (!drawing.waiting) requestAnimationFrame(showDrawing); // once a frame at most
  drawing.waiting = true;
}

function showDrawing() {
  drawing.waiting = false;
  if (drawing.send) drawing.send();
  else {
    compute();
    drawing.redraw();
  }
  const [, H, W] = data.input.shape;
  if ($("board"))
    paint(
      $("board"),
      H,
      W,
      (i) => drawing.pixels[i],
      (v) => grey(v, 1),
    );
}

export function beginDrawing() {
  drawing.active = true;
  if (drawing.send) return clearDrawing();
  const kept = ({ input, logits, probabilities }) => ({ input, logits, probabilities });
  drawing.library = { data: kept(data), layers: layers.map(({ x, y }) => ({ x, y })) };
  return clearDrawing();
}

export function clearDrawing() {
  drawing.pixels = new Float32Array(data.input.length);
  if (drawing.send) drawing.send();
  else compute();
}

export function endDrawing() {
  drawing.active = false;
  if (drawing.restore) return void drawing.restore();
  Object.assign(data, drawing.library.data);
  layers.forEach((layer, i) => Object.assign(layer, drawing.library.layers[i]));
}

/* The canvas to draw on: with the pointer, or with the arrow keys and the space bar. */
export function board() {
  const [, H, W] = data.input.shape;
  const cursor = [H >> 1, W >> 1];
  const options = { grey: true, size: 140, scale: 1, selected: cursor, id: "board" };
  const figure = map("", H, W, drawing.pixels, options);
  const canvas = figure.querySelector("canvas");
  const frame = figure.querySelector("rect.cell");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "draw here: the arrow keys move, the space bar draws");
  canvas.style.touchAction = "none"; // a finger draws, and does not scroll
  let last = null; // the last position of the pen: a fast pen leaves a line, not dots
  const pen = (event) => {
    const box = canvas.getBoundingClientRect();
    const now = [((event.clientY - box.top) / box.height) * H, ((event.clientX - box.left) / box.width) * W];
    if (!event.buttons) {
      last = null;
      return;
    }
    const from = event.type === "pointerdown" || !last ? now : last;
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(now[0] - from[0], now[1] - from[1])));
    for (let i = 1; i <= steps; i++) draw(...now.map((to, axis) => from[axis] + ((to - from[axis]) * i) / steps));
    last = now;
  };
  canvas.addEventListener("pointerdown", pen);
  canvas.addEventListener("pointermove", pen);
  canvas.addEventListener("keydown", (event) => {
    const arrow = event.key === " " ? [0, 0] : arrowOf(event);
    if (!arrow) return;
    event.preventDefault();
    [cursor[0], cursor[1]] = [clamp(cursor[0] + arrow[0], H), clamp(cursor[1] + arrow[1], W)];
    frame.setAttribute("y", cursor[0]);
    frame.setAttribute("x", cursor[1]);
    if (event.key === " ") draw(cursor[0] + 0.5, cursor[1] + 0.5);
  });
  return figure;
}
