/* Layers that make images larger: every pixel of the input adds a kernel to the output, or is copied into a rectangle.

   The window is that of the convolution whose backward pass the layer computes: position (h, w) of it is a pixel of the
   input, and its taps are pixels of the output. */
import { at, clamp, largest, plane, range } from "./data.js";
import { answer, box, count, equation, heading, make, note, split, text } from "./elements.js";
import { channels, map } from "./maps.js";
import { number, short } from "./numbers.js";
import { termList } from "./terms.js";
import { taps } from "./sliding.js";

/* The pixel of the output that a tap at an input pixel adds to, or null where it is cut off. */
function target(layer, h, w, [kh, kw]) {
  const { stride, pads, dilation } = layer.window;
  const [r, s] = [h * stride[0] + kh * dilation[0] - pads[0][0], w * stride[1] + kw * dilation[1] - pads[1][0]];
  return r >= 0 && s >= 0 && r < layer.y.shape[1] && s < layer.y.shape[2] ? [r, s] : null;
}

/* The pixels of the input that add to an output pixel, each with its tap. */
function sources(layer, r, s) {
  const { stride, pads, dilation } = layer.window;
  return taps(layer)
    .flat()
    .map(([kh, kw]) => ({
      tap: [kh, kw],
      h: (r + pads[0][0] - kh * dilation[0]) / stride[0],
      w: (s + pads[1][0] - kw * dilation[1]) / stride[1],
    }))
    .filter(({ h, w }) => [h, w].every((i, axis) => Number.isInteger(i) && i >= 0 && i < layer.x.shape[axis + 1]));
}

/* The channels on the other side that a channel is connected with: its group, or itself where there is no kernel. */
function connected(layer, channel, isInput) {
  if (!layer.weight) return [channel];
  const [inputs, outputs] = [layer.x.shape[0] / layer.groups, layer.weight.shape[1]];
  const [own, others] = isInput ? [inputs, outputs] : [outputs, inputs];
  const group = Math.floor(channel / own);
  return range(others).map((i) => group * others + i);
}
const weightAt = (layer, c, f, tap) => at(layer.weight, c, f % layer.weight.shape[1], ...tap);

export function upsampling(layer, index, p, set, backward) {
  p.c = clamp(p.c, layer.x.shape[0]);
  if (!connected(layer, p.f, false).includes(p.c)) p.c = connected(layer, p.f, false)[0];
  [p.h, p.w] = [clamp(p.h, layer.x.shape[1]), clamp(p.w, layer.x.shape[2])];
  const ofOutput = sources(layer, p.r, p.s);
  const isSource = ({ h, w, tap }) => h === p.h && w === p.w && tap.join() === p.tap.join();
  if (backward) [p.r, p.s] = target(layer, p.h, p.w, p.tap) ?? [p.r, p.s];
  else if (!ofOutput.some(isSource)) Object.assign(p, first(layer, p.r, p.s));
  return backward ? upsamplingBackward(layer, p, set) : upsamplingForward(layer, p, set);
}

function upsamplingForward(layer, p, set) {
  const [F, OH, OW] = layer.y.shape;
  const [, H, W] = layer.x.shape;
  const name = `output[${[p.f, p.r, p.s].join(", ")}]`;
  const terms = connected(layer, p.f, false).flatMap((c) =>
    sources(layer, p.r, p.s).map(({ h, w, tap }) => {
      const [x, weight] = [at(layer.x, c, h, w), layer.weight ? weightAt(layer, c, p.f, tap) : 1];
      const times = layer.weight
        ? ` × w[${[c, p.f % layer.weight.shape[1], ...tap]}] = ${short(x)} × ${short(weight)}`
        : "";
      return { name: `x[${[c, h, w]}]${times}`, value: Math.fround(x * weight), change: { c, h, w, tap } };
    }),
  );
  return [
    layer.weight
      ? text`Every pixel of the input adds the [[kernel]], times its value, to the output: a convolution's backward pass, used forward. An output is the sum of all that is added to it. Point at the output.`
      : text`Every pixel is copied into a rectangle of equal pixels: the image becomes larger, and nothing is learned. Point at the output.`,
    split(
      [
        inputMap(layer, p, set, layer.x, "input", "input"),
        box(
          map(`output, channel ${p.f}`, OH, OW, plane(layer.y, p.f), {
            id: "output",
            scale: largest(layer.y),
            selected: [p.r, p.s],
            move: (r, s, focus) => set({ r, s, ...first(layer, r, s) }, focus),
          }),
          F > 1 ? channels("filters", "channel", layer.y, p.f, (f, focus) => set({ f }, focus)) : null,
        ),
      ],
      [
        box(
          equation(`${name} = `, number(at(layer.y, p.f, p.r, p.s), "b")),
          heading(`its ${count(terms.length, "term")}`),
          termList({
            id: "terms",
            terms,
            lit: ({ change }) =>
              change.c === p.c && change.h === p.h && change.w === p.w && change.tap.join() === p.tap.join(),
            total: at(layer.y, p.f, p.r, p.s),
            totalName: name,
            bias: layer.bias ? layer.bias[p.f] : null,
            p,
            set,
          }),
        ),
        note`Input and output have ${H} × ${W} and ${OH} × ${OW} pixels.`,
      ],
    ),
  ];
}

/* The selection in the input that belongs to an output pixel: its first source. */
function first(layer, r, s) {
  const [source] = sources(layer, r, s);
  return source ? { h: source.h, w: source.w, tap: source.tap } : {};
}

function inputMap(layer, p, set, array, title, id) {
  const [C, H, W] = layer.x.shape;
  return box(
    map(`${title}, channel ${p.c}`, H, W, plane(array, p.c), {
      id,
      scale: largest(array),
      selected: [p.h, p.w],
      move: (h, w, focus) => set({ h, w }, focus),
    }),
    C > 1 ? channels("channels", "input channel", array, p.c, (c, focus) => set(withInput(layer, p, c), focus)) : null,
  );
}
const withInput = (layer, p, c) => {
  const outputs = connected(layer, c, true);
  return { c, f: outputs.includes(p.f) ? p.f : outputs[0] };
};

function upsamplingBackward(layer, p, set) {
  const [F, OH, OW] = layer.y.shape;
  const { h, w } = p;
  const name = `dx[${[p.c, h, w].join(", ")}]`;
  const terms = connected(layer, p.c, true).flatMap((f) =>
    taps(layer)
      .flat()
      .map((tap) => ({ tap, place: target(layer, h, w, tap) }))
      .filter(({ place }) => place)
      .map(({ tap, place: [r, s] }) => {
        const [dy, weight] = [at(layer.dy, f, r, s), layer.weight ? weightAt(layer, p.c, f, tap) : 1];
        const times = layer.weight
          ? ` × w[${[p.c, f % layer.weight.shape[1], ...tap]}] = ${short(dy)} × ${short(weight)}`
          : "";
        return { name: `dy[${[f, r, s]}]${times}`, value: Math.fround(dy * weight), change: { f, r, s, tap } };
      }),
  );
  return [
    layer.weight
      ? text`The gradient of a pixel is the sum over all outputs that it added to, each times the same weight: this is a convolution of [[dy]].`
      : text`The gradient of a copy is a sum: [[dx]] of a pixel adds up [[dy]] of its rectangle.`,
    split(
      [
        box(
          map(`dy, channel ${p.f}`, OH, OW, plane(layer.dy, p.f), {
            id: "dy",
            scale: largest(layer.dy),
            selected: [p.r, p.s],
            move: (r, s, focus) => set({ r, s, ...first(layer, r, s) }, focus),
          }),
          F > 1 ? channels("filters", "channel", layer.dy, p.f, (f, focus) => set({ f }, focus)) : null,
        ),
        inputMap(layer, p, set, layer.dx, "dx", "dx"),
      ],
      [
        box(
          equation(`${name} = `, number(at(layer.dx, p.c, h, w), "b")),
          heading(`its ${count(terms.length, "term")}`),
          termList({
            id: "pixel-terms",
            terms,
            lit: ({ change }) => change.f === p.f && change.r === p.r && change.s === p.s,
            total: at(layer.dx, p.c, h, w),
            totalName: name,
            p,
            set,
          }),
        ),
        layer.weight ? weightGradient(layer, p, set) : null,
      ].filter(Boolean),
    ),
  ];
}

/* dweight: a weight multiplies every pixel of the input, so its gradient is the sum over all of them. */
function weightGradient(layer, p, set) {
  const [, H, W] = layer.x.shape;
  const index = [p.c, p.f % layer.weight.shape[1], ...p.tap];
  const name = `dweight[${index.join(", ")}]`;
  const terms = range(H * W).flatMap((i) => {
    const [h, w] = [Math.floor(i / W), i % W];
    const place = target(layer, h, w, p.tap);
    if (!place) return [];
    const [x, dy] = [at(layer.x, p.c, h, w), at(layer.dy, p.f, ...place)];
    const change = { h, w, r: place[0], s: place[1] };
    return [{ name: `x[${[h, w]}] × dy[${place}] = ${short(x)} × ${short(dy)}`, value: Math.fround(x * dy), change }];
  });
  if (layer.frozen) return box(answer("The weights of this layer are frozen: they collect no gradient."));
  return box(
    equation(`${name} = `, number(at(layer.dweight, ...index), "b")),
    make("p", { class: "soft" }, "the weight of the selected term above"),
    heading(`its ${count(terms.length, "term")}: x × dy`),
    termList({
      id: "weight-terms",
      terms,
      lit: ({ change }) => change.h === p.h && change.w === p.w,
      total: at(layer.dweight, ...index),
      totalName: name,
      p,
      set,
    }),
  );
}
