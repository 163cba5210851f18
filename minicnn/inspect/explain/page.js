"use strict";
/* The page behind minicnn.explain. It shows the library's float32 numbers. What it multiplies itself are single
   products (a pixel times a weight); every sum that it shows comes from the library. */
const data = JSON.parse(document.getElementById("data").textContent, (_, value) => {
  if (!value || typeof value !== "object" || !value.f32) return value;
  const bytes = Uint8Array.from(atob(value.f32), (letter) => letter.charCodeAt(0));
  return Object.assign(new Float32Array(bytes.buffer), { shape: value.shape });
});
const layers = data.layers;
layers.forEach((layer, i) => (layer.x = i ? layers[i - 1].y : data.input));
const END = layers.length; // the index of softmax and loss, after the last layer
const state = { layer: 0, backward: false, selections: new Map() };
const $ = (id) => document.getElementById(id);

const make = (tag, ...rest) => filled(document.createElement(tag), ...rest);
const makeSvg = (tag, ...rest) => filled(document.createElementNS("http://www.w3.org/2000/svg", tag), ...rest);
/* An element with attributes and children. A text is a child or an attribute, never markup. */
function filled(element, attributes = {}, ...children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const isDark = matchMedia("(prefers-color-scheme: dark)").matches, dark = () => isDark; // read once: when it changes, the page is loaded again

/* Numbers: about four digits to see (two of a few thousandths, so that tables stay narrow), all of them on hover. */
function short(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}
function number(value, tag = "span", signed = true) {
  const sign = signed && value > 0 ? " plus" : signed && value < 0 ? " minus" : "";
  return make(tag, { class: "num" + sign, title: String(value), "data-value": String(value) }, short(value));
}

/* Colour: blue below zero, orange above; a pair that colour-blind people can distinguish. Images are grey. */
function colour(value, scale, grey) {
  if (grey) { const v = Math.max(0, Math.min(255, Math.round(255 * value / scale))); return [v, v, v]; }
  const share = Math.max(-1, Math.min(1, value / scale)), strength = Math.sqrt(Math.abs(share));
  const zero = dark() ? [38, 40, 45] : [250, 250, 248];
  const full = share < 0 ? (dark() ? [96, 170, 255] : [18, 84, 168]) : (dark() ? [255, 160, 80] : [196, 82, 4]);
  return zero.map((start, i) => Math.round(start + (full[i] - start) * strength));
}
/* A function whose results are cached by array: they are needed again at every move of the pointer. */
function cached(make) {
  const memory = new WeakMap();
  return (array, ...key) => {
    if (Array.isArray(array) || drawing.active) return make(array, ...key);
    if (!memory.has(array)) memory.set(array, new Map());
    const known = memory.get(array), name = key.join();
    if (!known.has(name)) known.set(name, make(array, ...key));
    return known.get(name);
  };
}
const largest = cached((array) => array.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1);
function paint(canvas, height, width, value, scale, grey) {
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0, k = 0; i < height * width; i++) {
    const [red, green, blue] = colour(value(i), scale, grey);
    image.data[k++] = red; image.data[k++] = green; image.data[k++] = blue; image.data[k++] = 255;
  }
  context.putImageData(image, 0, 0);
}
const at = (array, ...index) => array[index.reduce((offset, i, axis) => offset * array.shape[axis] + i, 0)];
const plane = (array, c) => array.subarray(c * array.shape[1] * array.shape[2], (c + 1) * array.shape[1] * array.shape[2]);

/* A map of numbers in which one cell is selected: by pointer, or by the arrow keys. */
function map(title, height, width, values, { scale, grey = false, size = 172, move = null, selected = null, boxes = [], id = null } = {}) {
  const canvas = make("canvas", { tabindex: move ? 0 : -1, role: "img", "aria-label": title, id });
  paint(canvas, height, width, (i) => values[i], scale ?? largest(values), grey);
  const step = Math.max(1, Math.floor(size / Math.max(height, width)));
  canvas.style.width = step * width + "px"; canvas.style.height = step * height + "px";
  const svg = makeSvg("svg", { width: step * width, height: step * height });
  const frame = ([r, c, h, w], wide) => {
    const box = makeSvg("rect", { x: c * step, y: r * step, width: w * step, height: h * step, fill: "none", "stroke-width": wide ? 2.5 : 1.5 });
    box.style.stroke = "var(--accent)"; if (!wide) box.style.strokeDasharray = "4 3";
    svg.append(box);
  };
  if (selected) frame([selected[0], selected[1], 1, 1], true);
  boxes.forEach((box) => frame(box, false));
  if (move) {
    const cell = (event) => {
      const box = canvas.getBoundingClientRect();
      return [Math.floor((event.clientY - box.top - 1) / step), Math.floor((event.clientX - box.left - 1) / step)];
    };
    const go = ([r, c], keep) => { if (r >= 0 && c >= 0 && r < height && c < width && !(selected && r === selected[0] && c === selected[1])) move(r, c, keep ? canvas.id : null); };
    canvas.addEventListener("mousemove", (event) => go(cell(event), document.activeElement === canvas));
    canvas.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (arrow) { event.preventDefault(); go([(selected ?? [0, 0])[0] + arrow[0], (selected ?? [0, 0])[1] + arrow[1]], true); }
    });
  }
  return make("div", {}, make("h3", {}, title), make("div", { class: "map" }, canvas, svg), title && !grey ? make("div", { class: "full" }, `full colour: ±${short(scale ?? largest(values))}`) : null);
}
const thumbnail = cached((array, c, grey) => {
  const canvas = make("canvas"), values = plane(array, c);
  paint(canvas, array.shape[1], array.shape[2], (i) => values[i], largest(array), grey);
  return canvas;
});
/* The channels of an array as small buttons. */
function channels(title, array, chosen, choose, grey) {
  const buttons = Array.from({ length: array.shape[0] }, (_, c) => {
    const canvas = thumbnail(array, c, grey);
    return make("button", { "aria-pressed": String(c === chosen), "aria-label": `${title} ${c}`, title: `${title} ${c}`, onclick: () => choose(c) }, canvas);
  });
  return make("div", { class: "maps" }, ...buttons);
}
/* A small table of numbers, coloured as the maps are. */
function numbers(rows, { scale = null, selected = null, pad = () => false, padding = "0", pick = null, kind = "" } = {}) {
  const most = scale ?? largest(rows.flat().filter(Number.isFinite));
  return make("table", { class: "numbers " + kind }, ...rows.map((row, r) => make("tr", {}, ...row.map((value, c) => {
    const [red, green, blue] = colour(value, most), isSelected = Boolean(selected) && selected[0] === r && selected[1] === c;
    const cell = make("td", { title: pad(r, c) ? (padding === "0" ? "padding: zero by definition" : "padding: never the maximum") : String(value), "data-value": String(value), class: (pad(r, c) ? "pad" : "") + (isSelected ? " selected" : ""), tabindex: pick && isSelected ? 0 : null }, pad(r, c) ? padding : short(value));
    if (!pad(r, c)) cell.style.cssText = `background: rgb(${red},${green},${blue}); color: ${legible(red, green, blue)}`;
    if (pick) cell.addEventListener("mousemove", () => { if (!isSelected) pick(r, c); }); // a pointer at rest does not take the selection back from the keys
    if (pick) cell.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (arrow) { event.preventDefault(); pick(clamp(r + arrow[0], rows.length), clamp(c + arrow[1], row.length)); }
    });
    return cell;
  }))));
}
/* Black or white, whichever is easier to read on a colour (by WCAG's contrast). */
function legible(...rgb) {
  const light = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return light > 0.179 ? "#000000" : "#ffffff"; // 4.58 : 1 at least
}
function bars(entries, most = largest(entries.map((entry) => entry.value))) {
  const signed = entries.some((entry) => entry.value < 0);
  return make("div", { class: "bars" }, ...entries.flatMap(({ name, value, strong }) => {
    const middle = signed ? 50 : 0, length = (signed ? 50 : 100) * Math.min(1, Math.abs(value) / most), fill = make("i");
    fill.style.cssText = `left: ${value < 0 ? middle - length : middle}%; width: ${length}%; background: var(${value < 0 ? "--negative" : "--positive"})`;
    const zero = make("i", { class: "zero" }); zero.style.left = middle + "%";
    return [make(strong ? "b" : "span", {}, name), make("div", { class: "bar" }, fill, zero), number(value)];
  }));
}
const box = (...children) => make("section", { class: "box" }, ...children);
const row = (...children) => make("div", { class: "row" }, ...children.filter(Boolean));
const text = (...parts) => make("p", {}, ...parts);
const answer = (...parts) => make("p", { class: "answer" }, ...parts);
const equation = (...parts) => make("div", { class: "equation" }, ...parts);

/* What is selected in a layer: filter f, channel c, output position (r, s), pixel (h, w), tap of the window. */
function selection(layer) {
  const key = layer.name ?? "loss";
  if (!state.selections.has(key)) {
    const p = { f: 0, c: 0, r: 0, s: 0, h: 0, w: 0, tap: [0, 0] };
    state.selections.set(key, p);
    if (layer.y && layer.y.shape.length === 3) { // begin where output times gradient is largest
      let best = -1;
      layer.y.forEach((value, i) => { const size = Math.abs(value * layer.dy[i]); if (size > best) { best = size; p.at = i; } });
      const [, H, W] = layer.y.shape;
      p.f = Math.floor(p.at / (H * W)); p.r = Math.floor(p.at / W) % H; p.s = p.at % W;
      if (layer.window) { const [top, left] = corner(layer, p.r, p.s); p.h = clamp(top + (layer.window.kernel[0] >> 1), layer.x.shape[1]); p.w = clamp(left + (layer.window.kernel[1] >> 1), layer.x.shape[2]); p.tap = layer.window.kernel.map((k) => k >> 1); }
      else { p.h = p.r; p.w = p.s; }
      p.c = layer.view === "convolution" ? largestChannel(layer, p) : p.f;
    }
  }
  return state.selections.get(key);
}
const clamp = (i, size) => Math.max(0, Math.min(size - 1, i));
const corner = (layer, r, s) => [r * layer.window.stride[0] - layer.window.pads[0][0], s * layer.window.stride[1] - layer.window.pads[1][0]];
const groupChannels = (layer) => layer.weight.shape[1];
const firstChannel = (layer, f) => Math.floor(f / (layer.weight.shape[0] / layer.groups)) * groupChannels(layer);
/* The input channel whose products at an output position have the largest sum of sizes. */
function largestChannel(layer, p) {
  const first = firstChannel(layer, p.f), sizes = Array.from({ length: groupChannels(layer) }, (_, c) => taps(layer).flat().reduce((size, [kh, kw]) => {
    const index = pixel(layer, p.r, p.s, kh, kw);
    return size + (index ? Math.abs(at(layer.weight, p.f, c, kh, kw) * at(layer.x, first + c, ...index)) : 0);
  }, 0));
  return first + sizes.indexOf(Math.max(...sizes));
}
/* The pixel that a tap of the window reads at an output position, or null in the padding. */
function pixel(layer, r, s, kh, kw) {
  const [top, left] = corner(layer, r, s), h = top + kh * layer.window.dilation[0], w = left + kw * layer.window.dilation[1];
  return h >= 0 && w >= 0 && h < layer.x.shape[1] && w < layer.x.shape[2] ? [h, w] : null;
}
const taps = (layer) => { const [KH, KW] = layer.window.kernel; return Array.from({ length: KH }, (_, kh) => Array.from({ length: KW }, (_, kw) => [kh, kw])); };
function field(layer, r, s) { // the window on the layer's own input, as [row, column, height, width]
  const [top, left] = corner(layer, r, s), { kernel, dilation } = layer.window;
  return [top, left, dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1];
}
/* The receptive field of an output position: the pixels of the image that it depends on, through all layers before. */
function receptiveField(index, r, s) {
  let [t, l, b, e] = [r, s, r, s];
  for (let i = index; i >= 0; i--) {
    const layer = layers[i];
    if (layer.view === "generic") return null; // it may read any pixel
    if (!layer.window) { if (layer.shape.length !== 3) return null; continue; }
    const first = field(layer, t, l), last = field(layer, b, e);
    [t, l, b, e] = [first[0], first[1], last[0] + last[2] - 1, last[1] + last[3] - 1];
    const [, H, W] = layer.x.shape; t = clamp(t, H); b = clamp(b, H); l = clamp(l, W); e = clamp(e, W);
  }
  return [t, l, b - t + 1, e - l + 1];
}
const isImage = (index) => index === 0;

/* Convolution, forward */
function convForward(layer, index, p, set) {
  const [F, C, KH, KW] = layer.weight.shape, [, OH, OW] = layer.y.shape, [, H, W] = layer.x.shape;
  const first = firstChannel(layer, p.f);
  if (p.c < first || p.c >= first + C) p.c = first;
  const value = at(layer.y, p.f, p.r, p.s);
  const read = (c, kh, kw) => { const index = pixel(layer, p.r, p.s, kh, kw); return index ? at(layer.x, c, ...index) : 0; };
  const patch = taps(layer).map((line) => line.map(([kh, kw]) => read(p.c, kh, kw)));
  const kernel = taps(layer).map((line) => line.map(([kh, kw]) => at(layer.weight, p.f, p.c - first, kh, kw)));
  const products = patch.map((line, r) => line.map((v, c) => Math.fround(v * kernel[r][c])));
  const outside = (r, c) => !pixel(layer, p.r, p.s, r, c);
  const scale = largest(layer.x), most = largest(plane4(layer.weight, p.f));
  const others = C > 1 ? ` over all ${C} input channels (select another one below its picture)` : "", receptive = index > 0 && receptiveField(index, p.r, p.s);
  return [
    text("A small window slides over the input. At every position each pixel of the window is multiplied by a weight, and the sum of these products is one number of the output. Hover over the output."),
    make("div", { class: "tables" },
      box(make("h3", {}, C > 1 ? `the patch, input channel ${p.c}` : "the patch under the window"), numbers(patch, { scale, selected: p.tap, pad: outside, kind: "patch" })),
      make("div", { class: "times" }, "×"),
      box(make("h3", {}, `the kernel of filter ${p.f}`), numbers(kernel, { scale: most, selected: p.tap, pick: (r, c) => set({ tap: [r, c] }), kind: "kernel" })),
      make("div", { class: "times" }, "="),
      box(make("h3", {}, "their products"), numbers(products, { selected: p.tap, kind: "products" })),
      make("div", { class: "times" }, "→"),
      make("div", { class: "sum" }, equation(`output[${p.f}, ${p.r}, ${p.s}] = `, number(value, "b")),
        text("the sum of all products", others, layer.bias ? " plus the filter's bias " : "", layer.bias ? number(layer.bias[p.f]) : ""))),
    row(
      box(map(`input, channel ${p.c}`, H, W, plane(layer.x, p.c), { scale, grey: isImage(index), boxes: [field(layer, p.r, p.s)], selected: pixel(layer, p.r, p.s, ...p.tap) }),
        layer.x.shape[0] > 1 ? channels("input channel", layer.x, p.c, (c) => set({ c }), isImage(index)) : null),
      box(map(`output of filter ${p.f}`, OH, OW, plane(layer.y, p.f), { id: "output", scale: largest(layer.y), selected: [p.r, p.s], move: (r, s, focus) => set({ r, s }, focus) }),
        F > 1 ? channels("filter", layer.y, p.f, (f) => set({ f }), false) : null),
      receptive ? box(photo("receptive field in the image", { boxes: [receptive] })) : null,
      columnsView(layer, p, set, first, C, KH, KW, OH, OW, value),
    ),
  ];
}
const plane4 = (array, f) => { const size = array.length / array.shape[0]; return array.subarray(f * size, (f + 1) * size); };
/* im2col's matrix of a layer's input as a picture, from the first channel of a group on. */
const columnsPicture = cached((x, layerIndex, first) => {
  const layer = layers[layerIndex], [, C, KH, KW] = layer.weight.shape, [, OH, OW] = layer.y.shape, count = OH * OW;
  const columns = new Float32Array(C * KH * KW * count);
  const [, H, W] = x.shape;
  for (let kh = 0; kh < KH; kh++) for (let kw = 0; kw < KW; kw++) for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++) {
    const index = pixel(layer, r, s, kh, kw);
    if (index) for (let c = 0; c < C; c++) columns[((c * KH + kh) * KW + kw) * count + r * OW + s] = x[((first + c) * H + index[0]) * W + index[1]];
  }
  const canvas = make("canvas");
  paint(canvas, C * KH * KW, count, (i) => columns[i], largest(columns), false);
  return canvas;
});
/* im2col: every window as a column, the kernel as a row, and the output as a row. */
function columnsView(layer, p, set, first, C, KH, KW, OH, OW, value) {
  const rows = C * KH * KW, count = OH * OW;
  const tall = Math.max(2, Math.min(8, Math.floor(150 / rows))), wide = Math.max(1, Math.min(8, Math.floor(860 / count)));
  const strip = (name, h, w, values, heightOf, widthOf, boxes, move) => {
    const canvas = make("canvas", { id: name, tabindex: move ? 0 : null, role: "img", "aria-label": name });
    if (values) paint(canvas, h, w, (i) => values[i], largest(values), false);
    else { canvas.width = w; canvas.height = h; canvas.getContext("2d").drawImage(columnsPicture(layer.x, state.layer, first), 0, 0); }
    canvas.style.cssText = `width: 100%; height: ${h * heightOf}px`;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${w} ${h}`); svg.setAttribute("preserveAspectRatio", "none");
    for (const [r, c, hh, ww] of boxes) {
      const frame = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [key, v] of Object.entries({ x: c, y: r, width: ww, height: hh, fill: "none", "stroke-width": 2, "vector-effect": "non-scaling-stroke" })) frame.setAttribute(key, v);
      frame.style.stroke = "var(--accent)"; svg.append(frame);
    }
    if (move) {
      const go = (r, c, focus) => { if (r >= 0 && c >= 0 && r < h && c < w) move(r, c, focus); };
      canvas.addEventListener("mousemove", (event) => { const b = canvas.getBoundingClientRect(); go(Math.floor(((event.clientY - b.top - 1) / (b.height - 2)) * h), Math.floor(((event.clientX - b.left - 1) / (b.width - 2)) * w), null); });
      canvas.addEventListener("keydown", (event) => {
        const arrow = ARROWS[event.key];
        if (arrow) { event.preventDefault(); go(h === 1 ? 0 : clamp(tap + arrow[0], rows), clamp(column + arrow[1], count), name); }
      });
    }
    const holder = make("div", { class: "map wide" }, canvas, svg);
    holder.style.maxWidth = w * widthOf + "px";
    return holder;
  };
  const tap = ((p.c - first) * KH + p.tap[0]) * KW + p.tap[1], column = p.r * OW + p.s;
  const pick = (r, c, focus) => { const kw = r % KW, kh = Math.floor(r / KW) % KH; set({ r: Math.floor(c / OW), s: c % OW, tap: [kh, kw], c: first + Math.floor(r / (KH * KW)) }, focus); };
  return make("section", { class: "box im2col" },
    make("h3", {}, `im2col: all ${count} windows as the columns of one matrix, ${rows} × ${count}`),
    text("Computers are slow at sliding and very fast at multiplying matrices. So every window is copied into a column (framed: the selected one; the framed row: one tap of the kernel, which reads a shifted copy of the image). The kernel as a row, times this matrix, gives all outputs in one matrix product."),
    make("div", {}, make("div", { class: "soft" }, `the kernel of filter ${p.f} as a row of ${rows} weights`),
      strip("weightrow", 1, rows, plane4(layer.weight, p.f), 12, Math.max(2, Math.min(20, Math.floor(860 / rows))), [[0, tap, 1, 1]]),
      make("div", { class: "soft" }, "times the columns"),
      strip("columns", rows, count, null, tall, wide, [[0, column, rows, 1], [tap, 0, 1, count]], pick),
      make("div", { class: "soft" }, "is the output of this filter, row after row; framed: ", number(value)),
      strip("productrow", 1, count, plane(layer.y, p.f), 12, wide, [[0, column, 1, 1]], (r, c, focus) => pick(tap, c, focus))));
}
/* Convolution, backward */
function convBackward(layer, index, p, set) {
  const [F, C, KH, KW] = layer.weight.shape, [, OH, OW] = layer.y.shape, [, H, W] = layer.x.shape;
  const first = firstChannel(layer, p.f);
  if (p.c < first || p.c >= first + C) p.c = first;
  const kernel = taps(layer).map((line) => line.map(([kh, kw]) => at(layer.dweight, p.f, p.c - first, kh, kw)));
  const terms = [], picture = new Float32Array(OH * OW);
  for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++) {
    const index = pixel(layer, r, s, ...p.tap), x = index ? at(layer.x, p.c, ...index) : 0, dy = at(layer.dy, p.f, r, s);
    picture[r * OW + s] = x * dy; terms.push({ size: Math.abs(x * dy), line: () => `x[${index ?? "padding"}] ${short(x)} × dy[${r},${s}] ${short(dy)} = ${short(Math.fround(x * dy))}` });
  }
  terms.sort((a, b) => b.size - a.size);
  const inputTerms = [];
  const perGroup = F / layer.groups, group = Math.floor(p.c / C);
  for (let f = group * perGroup; f < (group + 1) * perGroup; f++) for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++) {
    const [top, left] = corner(layer, r, s), kh = (p.h - top) / layer.window.dilation[0], kw = (p.w - left) / layer.window.dilation[1];
    if (!Number.isInteger(kh) || !Number.isInteger(kw) || kh < 0 || kw < 0 || kh >= KH || kw >= KW) continue;
    const weight = at(layer.weight, f, p.c - group * C, kh, kw), dy = at(layer.dy, f, r, s);
    inputTerms.push({ r, s, size: Math.abs(weight * dy), line: () => `filter ${f}, tap [${kh},${kw}] ${short(weight)} × dy[${r},${s}] ${short(dy)} = ${short(Math.fround(weight * dy))}` });
  }
  inputTerms.sort((a, b) => b.size - a.size);
  const windows = new Set(inputTerms.map((term) => `${term.r},${term.s}`)).size;
  const analytic = at(layer.dweight, p.f, p.c - first, ...p.tap), numeric = at(layer.numWeight, p.f, p.c - first, ...p.tap);
  const dx = at(layer.dx, p.c, p.h, p.w), numericX = at(layer.numInput, p.c, p.h, p.w);
  const beside = (value) => Number.isNaN(value) ? make("span", { class: "soft" }, " (no numerical gradient: this layer is large, and only some were computed)") : make("span", {}, " numerical gradient: ", number(value), make("span", { class: "soft" }, " (finite difference)"));
  return [
    text("In the backward pass every output receives its gradient dy: how much the loss changes with this output. From dy follow two gradients: dweight, of the weights, and dx, of the input, which goes to the layer before."),
    row(
      box(channels("filter", layer.dy, p.f, (f) => set({ f }), false),
        map(`gradient dy that arrives at filter ${p.f}`, OH, OW, plane(layer.dy, p.f), { id: "dy", scale: largest(layer.dy), selected: [p.r, p.s], boxes: around(inputTerms), move: (r, s, focus) => set({ r, s }, focus) }),
        equation(`dy[${p.f}, ${p.r}, ${p.s}] = `, number(at(layer.dy, p.f, p.r, p.s), "b"))),
      box(make("h3", {}, `dweight of filter ${p.f}${C > 1 ? `, input channel ${p.c}` : ""}: hover over it`),
        numbers(kernel, { selected: p.tap, pick: (r, c) => set({ tap: [r, c] }), kind: "dweight" }),
        equation(`dweight[${p.f}, ${p.c - first}, ${p.tap.join(", ")}] = `, number(analytic, "b")), make("p", {}, beside(numeric)),
        analytic === 0 ? answer("Why is this gradient zero? ", layer.frozen ? "The weights of this layer are frozen: they collect no gradient." : terms[0].size === 0 ? "Every one of its products is zero: where this weight reads a pixel that is not zero, no gradient arrives." : "Its products cancel exactly.") : null,
        map("what each position adds to it: x × dy", OH, OW, picture, { size: 110 })),
      box(make("h3", {}, `its ${terms.length} terms, the largest first`), make("ul", { class: "terms" }, ...terms.slice(0, 9).map((term) => make("li", {}, term.line()))),
        make("p", { class: "soft" }, "The kernel slides over all positions, so its gradient is the sum over all of them.")),
    ),
    row(
      box(layer.x.shape[0] > 1 ? channels("input channel", layer.dx, p.c, (c) => set({ c, f: Math.floor(c / C) * perGroup })) : null,
        map(`gradient of the input, channel ${p.c}: hover over a pixel`, H, W, plane(layer.dx, p.c), { id: "dx", scale: largest(layer.dx), selected: [p.h, p.w], move: (h, w, focus) => set({ h, w }, focus) })),
      box(equation(`dx[${p.c}, ${p.h}, ${p.w}] = `, number(dx, "b")), make("p", {}, beside(numericX)),
        dx === 0 ? answer("Why is this gradient zero? ", inputTerms.length === 0 ? "No window contains this pixel, so no output depends on it." : inputTerms[0].size === 0 ? "No gradient arrives at any output whose window contains this pixel." : "Its terms cancel exactly.") : null,
        answer(`col2im: this pixel was copied into ${windows} of the ${OH * OW} windows. Its gradient is the sum over these windows and all filters: ${inputTerms.length} terms in all. `, windows < KH * KW ? "At the border, and with strides, there are fewer." : "Away from the border every tap of the kernel reads it."),
        make("ul", { class: "terms" }, ...inputTerms.slice(0, 9).map((term) => make("li", {}, term.line())))),
    ),
  ];
}
/* The output positions of some terms, as one box on the map: none, or [[row, column, height, width]]. */
function around(terms) {
  if (!terms.length) return [];
  const [rows, cols] = [terms.map((term) => term.r), terms.map((term) => term.s)], [top, left] = [Math.min(...rows), Math.min(...cols)];
  return [[top, left, Math.max(...rows) - top + 1, Math.max(...cols) - left + 1]];
}
/* Pooling */
function pooling(layer, index, p, set) {
  const [, OH, OW] = layer.y.shape, [, H, W] = layer.x.shape, max = layer.pool === "max";
  p.c = p.f;
  const cells = taps(layer).map((line) => line.map(([kh, kw]) => pixel(layer, p.r, p.s, kh, kw)));
  const window = cells.map((line) => line.map((index) => index ? at(layer.x, p.f, ...index) : max ? -Infinity : 0));
  let largestTap = null;
  if (max) cells.forEach((line, r) => line.forEach((index, c) => { if (index && (!largestTap || window[r][c] > window[largestTap[0]][largestTap[1]])) largestTap = [r, c]; }));
  const divisor = (r, s) => { const pixels = taps(layer).flat().map(([kh, kw]) => pixel(layer, r, s, kh, kw)); return layer.countPad ? pixels.length : pixels.filter(Boolean).length; };
  const real = cells.flat().filter(Boolean).length, count = divisor(p.r, p.s);
  const about = max ? text("The output is the largest pixel of every window. The image becomes smaller, and a shape moved by a pixel looks almost the same.")
    : text(`The output is the mean of every window: the sum of its pixels divided by ${count}${real < cells.flat().length ? (layer.countPad ? ", the padding counted" : ", the padding not counted") : ""}. The image becomes smaller, and a shape moved by a pixel looks almost the same.`);
  const output = map(state.backward ? "gradient dy that arrives" : "output", OH, OW, plane(state.backward ? layer.dy : layer.y, p.f), { id: state.backward ? "dy" : "output", scale: largest(state.backward ? layer.dy : layer.y), selected: [p.r, p.s], move: (r, s, focus) => { const [h, w] = pixel(layer, r, s, 0, 0) ?? [0, 0]; set({ r, s, h, w }, focus); } });
  const chosen = channels("channel", layer.y, p.f, (f) => set({ f }));
  if (!state.backward) return [about, row(box(chosen, map("input", H, W, plane(layer.x, p.f), { scale: largest(layer.x), boxes: [field(layer, p.r, p.s)] })), box(output),
    box(make("h3", {}, max ? "the window: the maximum is framed" : "the window"), numbers(window, { selected: largestTap, pad: (r, c) => !cells[r][c], padding: max ? "−∞" : "0", scale: largest(layer.x), kind: "patch" }),
      equation(`output[${p.f}, ${p.r}, ${p.s}] = `, number(at(layer.y, p.f, p.r, p.s), "b"))))];
  const dx = at(layer.dx, p.f, p.h, p.w), outputs = outputsOf(layer, p.h, p.w);
  const fractions = [...new Set(outputs.map((at) => divisor(...at)))].sort((a, b) => a - b).map((n) => `dy / ${n}`).join(" or ");
  const isMaximum = ([r, s]) => { // of equally large pixels the first one, as in the library
    let best = null;
    for (const [kh, kw] of taps(layer).flat()) { const index = pixel(layer, r, s, kh, kw); if (index && (!best || at(layer.x, p.f, ...index) > at(layer.x, p.f, ...best))) best = index; }
    return best[0] === p.h && best[1] === p.w;
  };
  const maximumOf = max ? outputs.filter(isMaximum) : [];
  const why = outputs.length === 0 ? "No window contains this pixel, so no output depends on it: its gradient is zero."
    : !max ? `Every pixel of a window receives the same fraction of its gradient: ${fractions}.`
      : maximumOf.length === 0 ? "This pixel was not the largest of any window: it changes nothing, so its gradient is zero."
        : dx === 0 ? "This pixel was the largest of its window, but no gradient arrives there." : "This pixel was the largest of its window and receives all of the gradient that arrives there.";
  return [text(max ? "In the backward pass the gradient of a window goes to its largest pixel; the other pixels receive zero." : "In the backward pass the gradient of a window is divided equally among its pixels."),
    row(box(chosen, output, equation(`dy[${p.f}, ${p.r}, ${p.s}] = `, number(at(layer.dy, p.f, p.r, p.s), "b"))),
      box(map("gradient of the input: hover over a pixel", H, W, plane(layer.dx, p.f), { id: "dx", scale: largest(layer.dx), selected: [p.h, p.w], boxes: [field(layer, p.r, p.s)], move: (h, w, focus) => { const [r, s] = outputsOf(layer, h, w)[0] ?? [p.r, p.s]; set({ h, w, r, s }, focus); } })),
      box(equation(`dx[${p.f}, ${p.h}, ${p.w}] = `, number(dx, "b")), answer(why), make("p", { class: "soft" }, outputs.length ? `contained in the window${outputs.length > 1 ? "s" : ""} of output ${outputs.slice(0, 6).map((at) => `[${at}]`).join(" ")}` : "")))];
}
/* The outputs whose windows contain a pixel. */
function outputsOf(layer, row, column) {
  const [, OH, OW] = layer.y.shape, found = [];
  for (let r = 0; r < OH; r++) for (let s = 0; s < OW; s++) {
    const [top, left, height, width] = field(layer, r, s);
    if (row >= top && column >= left && row < top + height && column < left + width) found.push([r, s]);
  }
  return found;
}
/* Layers that treat every number separately: activations, with this number on the curve, and dropout. */
const curves = {
  ReLU: { f: (x) => Math.max(x, 0), why: (x) => x < 0 ? "The input is below zero, where the curve is flat: this unit is inactive for this image, and passes no gradient to the layers before it." : x === 0 ? "The input is exactly zero, the kink of the curve, where the library uses the slope 0." : null, idea: "Positive numbers stay, the others become zero." },
  Tanh: { f: Math.tanh, why: (x) => Math.abs(x) > 2.5 ? "The input is far from zero, where the curve is nearly flat (saturated): almost no gradient passes." : null, idea: "A soft switch from -1 to 1: steep near zero, flat far from it." },
  Sigmoid: { f: (x) => 1 / (1 + Math.exp(-x)), why: (x) => Math.abs(x) > 5 ? "The input is far from zero, where the curve is nearly flat (saturated): almost no gradient passes." : null, idea: "A soft switch from 0 to 1: steep near zero, flat far from it." },
};
function curve(kind, x, y) {
  const f = curves[kind].f, [w, h] = [220, 130], reach = Math.max(3, Math.min(12, Math.abs(x) * 1.2)), low = kind === "Tanh" ? -1.1 : -0.15, high = kind === "ReLU" ? reach : 1.1;
  const px = (v) => ((v + reach) / (2 * reach)) * w, py = (v) => h - ((v - low) / (high - low)) * h;
  const points = Array.from({ length: 121 }, (_, i) => { const v = -reach + (i * 2 * reach) / 120; return `${px(v).toFixed(1)},${py(f(v)).toFixed(1)}`; }).join(" ");
  const axis = { style: "stroke:var(--line)" };
  return make("div", {}, makeSvg("svg", { width: w, height: h, role: "img", "aria-label": `the curve of ${kind}` },
    makeSvg("line", { x1: 0, x2: w, y1: py(0), y2: py(0), ...axis }), makeSvg("line", { x1: px(0), x2: px(0), y1: 0, y2: h, ...axis }),
    makeSvg("polyline", { points, fill: "none", style: "stroke:var(--soft)", "stroke-width": 2 }),
    makeSvg("circle", { cx: px(Math.max(-reach, Math.min(reach, x))), cy: py(Math.min(high, y)), r: 5.5, style: "fill:var(--accent)" })));
}
function elementwise(layer, index, p, set) {
  const flat = layer.y.shape.length === 1, view = (array) => flat ? array : plane(array, p.f);
  const W = flat ? Math.ceil(Math.sqrt(layer.y.length)) : layer.y.shape[2], H = flat ? Math.ceil(layer.y.length / W) : layer.y.shape[1];
  const spread = (array) => { const values = new Float32Array(H * W); values.set(view(array).subarray(0, H * W)); return values; };
  const i = Math.min(p.r * W + p.s, view(layer.y).length - 1), [x, y, dy, dx] = [layer.x, layer.y, layer.dy, layer.dx].map((array) => view(array)[i]);
  const name = flat ? `[${i}]` : `[${p.f}, ${p.r}, ${p.s}]`, known = curves[layer.curve], isDropout = layer.rate !== undefined;
  const choose = flat ? null : channels("channel", layer.y, p.f, (f) => set({ f }));
  const shown = state.backward ? [["gradient dy that arrives", layer.dy, "dy"], ["gradient dx, which goes to the layer before", layer.dx, "dx"]] : [["input", layer.x, "input"], ["output", layer.y, "output"]];
  const why = dx === 0 ? (dy === 0 ? "No gradient arrives here, so none is passed on." : isDropout ? "This number was dropped out, so no later layer depends on it." : known?.why(x) ?? "The slope of the curve is zero here.") : known?.why(x);
  return [text(known ? known.idea : isDropout ? `In training each number is set to zero with probability ${layer.rate}, so that no unit relies on one other alone. ${data.training ? "Here, as in training, some outputs are zero because they were dropped out; the others are larger for it." : "Here, outside training, the output is the input."}` : "", flat && layer.y.length > 1 ? ` The ${layer.y.length} numbers are shown in rows of ${W}.` : ""),
    row(box(choose, row(...shown.map(([title, array, id]) => map(title, H, W, spread(array), { id, scale: largest(array), size: 196, selected: [Math.floor(i / W), i % W], move: (r, s, focus) => { if (r * W + s < view(layer.y).length) set({ r, s }, focus); } })))),
      box(known ? curve(layer.curve, x, y) : null, equation(`input${name} = `, number(x), " → output = ", number(y, "b")),
        state.backward ? equation("dy = ", number(dy), " → dx = dy × slope = ", number(dx, "b")) : null, state.backward && why ? answer(dx === 0 ? "Why is this gradient zero? " : "Why is it so small? ", why) : null))];
}
/* Dense layers, flatten, loss */
const largestFirst = cached((array, count) => Array.from(array.keys()).sort((a, b) => Math.abs(array[b]) - Math.abs(array[a])).slice(0, count));
function dense(layer, index, p, set) {
  const n = clamp(p.unit ?? 0, layer.units.length), unit = layer.units[n], many = layer.top[n].length, all = layer.x.length;
  const values = Array.from({ length: many }, (_, i) => i);
  const last = index === END - 1, name = (u) => last ? data.names[u] : String(u);
  const buttons = make("div", { class: "units", role: "group", "aria-label": "units" }, ...layer.units.map((u, i) => make("button", { "aria-pressed": String(i === n), onclick: () => set({ unit: i }), title: `output ${layer.y[u]}` }, `${name(u)}`)));
  const note = make("p", { class: "soft" }, `${layer.units.length < layer.y.length ? `The layer has ${layer.y.length.toLocaleString("en")} units: shown are the ${layer.units.length} whose outputs and gradients are largest. ` : ""}${many < all ? `Each reads ${all.toLocaleString("en")} inputs: shown are the ${many} with the largest terms.` : ""}`);
  if (!state.backward) return [text("Every unit reads every input: it multiplies each by a weight of its own, and adds up these products and its bias."), note, buttons,
    row(box(make("h3", {}, `the largest terms of unit ${name(unit)}: input × weight`), bars(values.map((i) => ({ name: `input ${layer.top[n][i]}: ${short(at(layer.topInputs, n, i))} × ${short(at(layer.topWeights, n, i))}`, value: Math.fround(at(layer.topInputs, n, i) * at(layer.topWeights, n, i)) })))),
      box(equation(`output[${name(unit)}] = `, number(layer.y[unit], "b")), text("the sum over all ", all.toLocaleString("en"), " inputs", layer.bias ? " plus the bias " : "", layer.bias ? number(layer.bias[n]) : "")))];
  return [text("In the backward pass the gradient of a weight is the gradient that arrives at its unit, times the input of this weight: a weight whose input is zero learns nothing from this image.", layer.frozen ? " The weights of this layer are frozen: they collect no gradient." : ""), note, buttons,
    row(box(make("h3", {}, `gradients of unit ${name(unit)}'s weights: dy × input`), bars([...values].sort((a, b) => Math.abs(at(layer.topGradients, n, b)) - Math.abs(at(layer.topGradients, n, a))).map((i) => ({ name: `weight of input ${layer.top[n][i]} (${short(at(layer.topInputs, n, i))})`, value: at(layer.topGradients, n, i) })))),
      box(equation(`dy[${name(unit)}] = `, number(layer.dy[unit], "b")), layer.dbias && !layer.frozen ? text("The bias has the same gradient: ", number(layer.dbias[n])) : null),
      box(make("h3", {}, "gradient dx of the inputs, which goes to the layer before"), make("p", { class: "soft narrow" }, `The gradient of an input is a sum over all ${layer.y.length.toLocaleString("en")} units: weight × dy.${many < all ? ` Shown are the ${many} largest.` : ""}`),
        bars(largestFirst(layer.dx, many).map((i) => ({ name: `input ${i}`, value: layer.dx[i] })))))];
}
function flatten(layer, index, p, set) {
  const [C, H, W] = layer.from, i = clamp(p.i ?? 0, layer.y.length);
  return [text(`The ${C} channels of ${H} × ${W} are written one after the other, row after row: ${layer.y.length} numbers that the next layer reads. Nothing is computed; in the backward pass the gradient gets the shape of the images again.`),
    row(box(equation(`position ${i} = channel ${Math.floor(i / (H * W))}, row ${Math.floor(i / W) % H}, column ${i % W}: `, number((state.backward ? layer.dy : layer.y)[i], "b")),
      make("label", {}, "position ", make("input", { type: "range", min: 0, max: layer.y.length - 1, value: i, id: "position", oninput: (event) => set({ i: +event.target.value }, "position") }))))];
}
function loss() {
  const classes = data.names.map((name, k) => ({ name, strong: k === data.label && !drawing.active, value: 0, k }));
  const bar = (values) => bars(classes.map((entry) => ({ ...entry, value: values[entry.k] })));
  const gradient = layers[END - 1].dy;
  const target = `The right class is ${data.names[data.label]}${data.given ? "" : " (no label was given: this is the predicted class)"}. `;
  return [text("The outputs of the last layer, the logits, can be any numbers. Softmax turns them into probabilities: e to the power of each, divided by the sum of all. ", ...(drawing.active ? [] : [target, "The loss is minus the logarithm of its probability."])),
    row(box(make("h3", {}, "logits"), bar(data.logits)), box(make("h3", {}, "probabilities"), bar(data.probabilities)),
      state.backward ? box(make("h3", {}, "gradient: the probability, minus one for the right class"), bar(gradient)) : null,
      drawing.active ? null : box(equation("loss = -log(probability) = ", number(data.loss, "b")), state.backward ? answer("The gradient of the logits is the predicted probability minus the right one, which is 1 for the right class and 0 for the others. The backward pass starts here.") : null))];
}
const views = { convolution: (...all) => (state.backward ? convBackward : convForward)(...all), pooling, dense, flatten, elementwise, generic };

function show(focus = null) {
  const layer = layers[state.layer] ?? { name: "loss" }, p = selection(layer);
  const set = (change, keep) => { Object.assign(p, change); show(keep); };
  const view = state.layer === END ? loss : views[layer.view];
  const title = state.layer === END ? "Softmax and cross-entropy" : `${layer.name}: ${layer.text}`;
  const shape = state.layer === END ? "" : ` (${layer.from.join(" × ")}) → (${layer.shape.join(" × ")})${arithmetic(layer)}`;
  const movable = () => [...$("detail").querySelectorAll("button, input, [tabindex='0']")], before = movable().indexOf(document.activeElement);
  $("detail").replaceChildren(make("h2", {}, title, make("span", { class: "soft" }, shape)), ...view(layer, state.layer, p, set));
  for (const button of $("strip").children) button.setAttribute("aria-current", String(+button.dataset.layer === state.layer));
  if (focus) document.getElementById(focus)?.focus();
  else if (before >= 0) movable()[clamp(before, movable().length)]?.focus(); // the same element of the same view
}
/* The arithmetic of a layer's output shape, or of the number of its weights. */
const arithmetic = (layer) => layer.sizes ? `; ${layer.sizes.join("; ")}` : "";
/* A layer of a kind that the page does not know: its output, its gradients, and the shapes of its parameters. */
function generic(layer) {
  const shown = (title, array, id) => box(make("h3", {}, title), make("div", { id },
    array.shape.length === 3 ? channels("channel", array, null, () => {}) : bars(Array.from(array.subarray(0, 40), (value, i) => ({ name: String(i), value })))),
    array.shape.length !== 3 && array.length > 40 ? make("p", { class: "soft" }, `the first 40 of ${array.length.toLocaleString("en")} numbers`) : null);
  return [text("The page has no detailed view of this kind of layer: it shows the arrays that the layer returns."),
    row(...(state.backward ? [shown("gradient dy that arrives", layer.dy, "dy"), shown("gradient dx, which goes to the layer before", layer.dx, "dx")] : [shown("output", layer.y, "output")]),
      layer.parameterShapes.length ? box(make("h3", {}, "its parameters"), make("ul", { class: "terms" }, ...layer.parameterShapes.map(([name, shape]) => make("li", {}, `${name}: ${shape.join(" × ")}`)))) : null)];
}
function turn(backward) {
  if (backward && drawing.active) return;
  state.backward = backward;
  $("forward").setAttribute("aria-checked", String(!backward)); $("backward").setAttribute("aria-checked", String(backward));
  const card = [...$("strip").children].indexOf(document.activeElement);
  strip(); show();
  if (card >= 0) $("strip").children[card].focus();
}
function strip() {
  const cards = layers.map((layer, i) => {
    const array = state.backward ? layer.dy : layer.y, thumbs = make("div", { class: "thumbs" });
    if (array.shape.length === 3) for (let c = 0; c < Math.min(2, array.shape[0]); c++) { const canvas = make("canvas"); paint(canvas, array.shape[1], array.shape[2], (k) => plane(array, c)[k], largest(array), false); thumbs.append(canvas); }
    else { const n = Math.min(96, array.length), w = Math.min(24, n), canvas = make("canvas"); paint(canvas, Math.ceil(n / w), w, (k) => array[k] ?? 0, largest(array), false); thumbs.append(canvas); }
    return card(i, layer.kind, layer.shape.join(" × "), thumbs, arithmetic(layer).slice(2));
  });
  const canvas = make("canvas"), values = state.backward ? layers[END - 1].dy : data.probabilities;
  paint(canvas, 1, values.length, (k) => values[k], largest(values), false); canvas.style.cssText = "width: 78px; height: 14px";
  $("strip").replaceChildren(...cards, card(END, "Softmax, loss", `${data.names.length} classes`, make("div", { class: "thumbs" }, canvas)));
}
function card(i, title, shape, thumbs, hint = null) {
  return make("button", { "data-layer": i, title: hint || null, "aria-current": String(i === state.layer), onclick: () => { state.layer = i; show(); }, onkeydown: (event) => {
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (arrow) { event.preventDefault(); state.layer = clamp(i + arrow, END + 1); show(); $("strip").children[state.layer].focus(); }
  } }, make("b", {}, title), make("span", {}, shape), thumbs);
}
/* The image, or the drawing, and what the network predicts for it. */
function picture() {
  const image = drawing.active ? board() : photo("", { size: 84 });
  if (!drawing.active) image.firstChild.remove();
  const buttons = drawing.active ? [make("button", { id: "clear", onclick: () => { clearDrawing(); $("clear").focus(); } }, "clear"), make("button", { id: "back", onclick: () => { endDrawing(); $("draw").focus(); } }, "back to the image")]
    : data.drawable ? [make("button", { id: "draw", onclick: beginDrawing }, "draw your own")] : [];
  $("picture").replaceChildren(image, make("div", {}, ...buttons));
  $("backward").disabled = drawing.active;
  verdict();
}
/* The image as a map: in grey, or in colour where its three channels are red, green and blue. */
function photo(title, options) {
  const [C, H, W] = data.input.shape;
  const holder = map(title, H, W, plane(data.input, 0), { grey: true, scale: Math.max(1, largest(data.input)), ...options });
  if (C === 3) paintColours(holder.querySelector("canvas"));
  return holder;
}
function paintColours(canvas) {
  const [, H, W] = data.input.shape, scale = Math.max(1, largest(data.input)), context = canvas.getContext("2d"), image = context.createImageData(W, H);
  for (let i = 0; i < H * W; i++) image.data.set([...[0, 1, 2].map((c) => Math.max(0, Math.min(255, Math.round(255 * data.input[c * H * W + i] / scale)))), 255], 4 * i);
  context.putImageData(image, 0, 0);
}
function verdict() {
  const best = data.probabilities.indexOf(data.probabilities.reduce((a, b) => Math.max(a, b)));
  const right = drawing.active || !data.given ? "" : best === data.label ? ", which is right" : `; the right class is ${data.names[data.label]}`;
  const source = drawing.active ? "This page itself computes the forward pass of your drawing, so the last digits can differ from the library's. For the backward pass, return to the image."
    : "Every number on this page was computed by the library. Hover over a number to see all its digits.";
  $("verdict").replaceChildren(make("h1", {}, `This network predicts ${data.names[best]}${right}`),
    make("p", {}, `with a probability of ${(100 * data.probabilities[best]).toFixed(1)} %. It has ${layers.length} layers and ${data.parameters.toLocaleString("en")} learned numbers. Select a layer below to see what it does. ${source}`));
}
function start() {
  $("legend").append("negative", make("i"), "positive");
  $("legend").children[0].style.background = `linear-gradient(90deg, ${Array.from({ length: 21 }, (_, i) => `rgb(${colour(i - 10, 10)})`).join(",")})`;
  $("forward").onclick = () => turn(false); $("backward").onclick = () => turn(true);
  document.addEventListener("keydown", (event) => { if (event.ctrlKey || event.metaKey || event.altKey) return; if (event.key === "f" || event.key === "F") turn(false); if (event.key === "b" || event.key === "B") turn(true); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
  picture(); strip(); show();
  document.body.dataset.ready = "true";
}
