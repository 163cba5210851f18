/* An image drawn by hand. Only here the page computes the network itself: the forward pass, layer by layer in plain
   loops, as its text tells the reader. With the original image the library's numbers return. */
const drawing = { active: false, pixels: null, library: null, waiting: false };

function blank(...shape) {
  return Object.assign(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape });
}
/* A sum of weight times pixel over a window: the seven loops of a convolution. */
function convolve(layer, x) {
  const [F, C, KH, KW] = layer.weight.shape, y = blank(...layer.shape), [, OH, OW] = layer.shape;
  for (let f = 0, i = 0; f < F; f++) for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++, i++) {
    let sum = layer.bias ? layer.bias[f] : 0;
    for (let kh = 0; kh < KH; kh++) for (let kw = 0; kw < KW; kw++) {
      const index = pixel(layer, r, s, kh, kw);
      if (index) for (let c = 0; c < C; c++) sum += at(layer.weight, f, c, kh, kw) * at(x, firstChannel(layer, f) + c, ...index);
    }
    y[i] = sum;
  }
  return y;
}
function pool(layer, x) {
  const y = blank(...layer.shape), [C, OH, OW] = layer.shape, max = layer.pool === "max";
  for (let c = 0, i = 0; c < C; c++) for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++, i++) {
    const pixels = taps(layer).flat().map(([kh, kw]) => pixel(layer, r, s, kh, kw)), real = pixels.filter(Boolean).map((index) => at(x, c, ...index));
    y[i] = max ? Math.max(...real) : real.reduce((a, b) => a + b, 0) / (layer.countPad ? pixels.length : real.length);
  }
  return y;
}
function linear(layer, x) {
  const y = blank(...layer.shape), { weight, bias } = layer.parameters;
  y.forEach((_, u) => { let sum = bias ? bias[u] : 0; for (let d = 0; d < x.length; d++) sum += weight[u * x.length + d] * x[d]; y[u] = sum; });
  const first = (values, count) => Array.from(values.keys()).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, count);
  layer.units = first(y, layer.units.length).sort((a, b) => a - b);
  layer.top = layer.units.map((u) => first(x.map((value, d) => value * weight[u * x.length + d]), layer.top[0].length));
  layer.topInputs = blank(layer.units.length, layer.top[0].length); layer.topWeights = blank(...layer.topInputs.shape);
  layer.top.forEach((inputs, n) => inputs.forEach((d, k) => { layer.topInputs[n * inputs.length + k] = x[d]; layer.topWeights[n * inputs.length + k] = weight[layer.units[n] * x.length + d]; }));
  if (bias) layer.bias = Float32Array.from(layer.units, (u) => bias[u]);
  return y;
}
function means(layer, x) {
  const y = blank(layer.shape[0], 1, 1);
  y.forEach((_, c) => (y[c] = plane(x, c).reduce((a, b) => a + b, 0) / plane(x, c).length));
  return y;
}
const each = (layer, x) => Object.assign(x.map(curves[layer.curve].f), { shape: x.shape });
const same = (layer, x) => Object.assign(x.slice(), { shape: layer.shape });
const computed = { Conv2D: convolve, MaxPool2D: pool, AvgPool2D: pool, GlobalAvgPool2D: means, Dense: linear, ReLU: each, Tanh: each, Sigmoid: each, Flatten: same, Dropout: same };

function compute() {
  let x = data.input = Object.assign(drawing.pixels.slice(), { shape: data.input.shape });
  for (const layer of layers) { layer.x = x; x = layer.y = computed[layer.kind](layer, x); }
  const most = x.reduce((a, b) => Math.max(a, b)), powers = Array.from(x, (value) => Math.exp(value - most)), sum = powers.reduce((a, b) => a + b);
  data.logits = x; data.probabilities = Float32Array.from(powers, (power) => power / sum);
}
function draw(row, column) { // a soft pen about two pixels wide
  const [C, H, W] = data.input.shape;
  for (let h = 0; h < H; h++) for (let w = 0; w < W; w++) {
    const ink = Math.max(0, Math.min(1, 1.7 - Math.hypot(h + 0.5 - row, w + 0.5 - column)));
    for (let c = 0; c < C; c++) { const i = (c * H + h) * W + w; drawing.pixels[i] = Math.max(drawing.pixels[i], ink); }
  }
  if (!drawing.waiting) requestAnimationFrame(redraw); // once a frame at most
  drawing.waiting = true;
}
function redraw() {
  drawing.waiting = false;
  compute(); verdict(); strip(); show();
  paint($("board"), data.input.shape[1], data.input.shape[2], (i) => drawing.pixels[i], 1, true);
}
function beginDrawing() {
  const pick = (object, names) => Object.fromEntries(names.map((name) => [name, object[name]]));
  drawing.library = { data: pick(data, ["input", "logits", "probabilities"]), layers: layers.map((layer) => pick(layer, ["x", "y", "units", "top", "topInputs", "topWeights", "bias"])) };
  drawing.active = true;
  clearDrawing(); turn(false); $("board").focus();
}
function clearDrawing() { drawing.pixels = new Float32Array(data.input.length); compute(); picture(); strip(); show(); }
function endDrawing() {
  drawing.active = false;
  Object.assign(data, drawing.library.data);
  layers.forEach((layer, i) => Object.assign(layer, drawing.library.layers[i]));
  picture(); strip(); show();
}
/* The canvas to draw on: with the pointer, or with the arrow keys and the space bar. */
function board() {
  const [, H, W] = data.input.shape, cursor = [H >> 1, W >> 1];
  const holder = map("", H, W, drawing.pixels, { grey: true, size: 168, scale: 1, selected: cursor, id: "board" });
  holder.firstChild.remove();
  const canvas = holder.querySelector("canvas"), frame = holder.querySelector("rect"), step = parseInt(canvas.style.width) / W;
  canvas.tabIndex = 0; canvas.setAttribute("aria-label", "draw here: the arrow keys move, the space bar draws"); canvas.style.touchAction = "none";
  let last = null; // the last position of the pen: a fast pen leaves a line, not dots
  const pen = (event) => {
    const b = canvas.getBoundingClientRect(), now = [(event.clientY - b.top - 1) / step, (event.clientX - b.left - 1) / step];
    if (!event.buttons) { last = null; return; }
    const from = event.type === "pointerdown" || !last ? now : last, steps = Math.max(1, Math.ceil(2 * Math.hypot(now[0] - from[0], now[1] - from[1])));
    for (let i = 1; i <= steps; i++) draw(...now.map((to, axis) => from[axis] + ((to - from[axis]) * i) / steps));
    last = now;
  };
  ["pointerdown", "pointermove"].forEach((name) => canvas.addEventListener(name, pen));
  canvas.addEventListener("keydown", (event) => {
    const arrow = { ...ARROWS, " ": [0, 0] }[event.key];
    if (!arrow) return;
    event.preventDefault();
    [cursor[0], cursor[1]] = [clamp(cursor[0] + arrow[0], H), clamp(cursor[1] + arrow[1], W)];
    frame.setAttribute("y", cursor[0] * step); frame.setAttribute("x", cursor[1] * step);
    if (event.key === " ") draw(cursor[0] + 0.5, cursor[1] + 0.5);
  });
  return holder;
}
