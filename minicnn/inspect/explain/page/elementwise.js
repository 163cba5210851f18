/* Layers that treat every number separately: activations, with this number on the curve, and dropout. */
import { clamp, data, largest, plane } from "./data.js";
import { answer, box, equation, make, makeSvg, row, split, text } from "./elements.js";
import { word } from "./glossary.js";
import { channels, map, unitMap } from "./maps.js";
import { number } from "./numbers.js";

/* value: the formula, for layers that the page computes itself when an image is drawn. why: of a small gradient. */
const nearlyFlat = (limit) => (x) =>
  Math.abs(x) > limit
    ? [
        "The input is far from zero, where the curve is ",
        word("saturated", "nearly flat (saturated)"),
        ": almost no gradient passes.",
      ]
    : null;
export const curves = {
  ReLU: {
    value: (x) => Math.max(x, 0),
    idea: "Positive numbers stay, the others become zero.",
    why: (x) =>
      x < 0
        ? [
            "The input is below zero, where the curve is flat: this unit is inactive for this image, and passes no gradient to the layers before it.",
          ]
        : x === 0
          ? ["The input is exactly zero, the kink of the curve, where the library uses the slope 0."]
          : null,
  },
  Tanh: {
    value: Math.tanh,
    idea: "A soft switch from -1 to 1: steep near zero, flat far from it.",
    why: nearlyFlat(2.5),
  },
  Sigmoid: {
    value: (x) => 1 / (1 + Math.exp(-x)),
    idea: "A soft switch from 0 to 1: steep near zero, flat far from it.",
    why: nearlyFlat(5),
  },
  LeakyReLU: { idea: "Positive numbers stay, the others become small, so that their gradient is never zero." },
  ELU: { idea: "Positive numbers stay, the others bend smoothly towards a number below zero." },
  GELU: { idea: "A smooth ReLU: x times the probability that a normal number is below x." },
  SiLU: { idea: "A smooth ReLU: x times the sigmoid of x." },
  Hardswish: { idea: "SiLU with straight lines in place of the sigmoid." },
};

export function elementwise(layer, index, p, set, backward) {
  const isFlat = layer.y.shape.length === 1;
  const [, , W] = layer.y.shape;
  const of = (array) => (isFlat ? array : plane(array, p.f));
  const i = isFlat ? clamp(p.unit, layer.y.length) : p.r * W + p.s;
  const [x, y, dy, dx] = [layer.x, layer.y, layer.dy, layer.dx].map((array) => of(array)[i]);
  const name = isFlat ? `[${i}]` : `[${p.f}, ${p.r}, ${p.s}]`;
  const shown = backward
    ? [
        ["dy, the gradient that arrives", layer.dy, "dy"],
        ["dx, for the layer before", layer.dx, "dx"],
      ]
    : [
        ["input", layer.x, "input"],
        ["output", layer.y, "output"],
      ];
  const figure = ([title, array, id]) =>
    box(
      isFlat
        ? unitMap(title, array, i, (unit, focus) => set({ unit }, focus), { id })
        : map(title, layer.y.shape[1], W, of(array), {
            id,
            scale: largest(array),
            selected: [p.r, p.s],
            move: (r, s, focus) => set({ r, s }, focus),
          }),
    );
  const choose = isFlat
    ? null
    : channels("filters", "channel", backward ? layer.dy : layer.y, p.f, (f, focus) => set({ f }, focus));
  const reason = why(layer, x, dy, dx);
  return [
    make("p", {}, idea(layer)),
    split([...shown.map(figure), choose ? box(choose) : null].filter(Boolean), [
      box(
        layer.curve ? drawCurve(layer, x, y) : null,
        equation(`input${name} = `, number(x), " → output = ", number(y, "b")),
        backward ? equation("dy = ", number(dy), " → dx = dy × slope = ", number(dx, "b")) : null,
        backward && reason
          ? answer(dx === 0 ? "Why is this gradient zero? " : "Why is it so small? ", ...reason)
          : null,
      ),
    ]),
    row(isFlat ? text`The ${layer.y.length} numbers are shown in several rows, the first one at the top left.` : null),
  ];
}

function idea(layer) {
  if (layer.rate === undefined) return curves[layer.curve]?.idea ?? "A function of every number separately.";
  const now = data.training
    ? "Here, as in training, some outputs are zero because they were dropped out; the others are larger for it."
    : "Here, outside training, the output is the input.";
  return `In training each number is set to zero with probability ${layer.rate}, so that no unit relies on one other alone. ${now}`;
}

function why(layer, x, dy, dx) {
  const known = curves[layer.curve]?.why?.(x) ?? null;
  if (dx !== 0) return known;
  if (dy === 0) return ["No gradient arrives here, so none is passed on."];
  if (layer.rate !== undefined) return ["This number was dropped out, so no later layer depends on it."];
  return known ?? ["The slope of the curve is zero here."];
}

/* The curve, as the library computed it at many points, and the selected number on it. */
function drawCurve(layer, x, y) {
  const [width, height] = [220, 130];
  const [points, end] = [layer.curveValues, layer.curveEnd]; // for x from -end to end
  const reach = Math.max(3, Math.min(end, Math.abs(x) * 1.2));
  const at = (i) => -end + (2 * end * i) / (points.length - 1);
  const inside = Array.from(points.keys()).filter((i) => Math.abs(at(i)) <= reach);
  const [low, high] = [Math.min(...inside.map((i) => points[i])), Math.max(...inside.map((i) => points[i]))];
  const margin = 0.08 * (high - low || 1);
  const across = (v) => ((v + reach) / (2 * reach)) * width;
  const up = (v) => height - ((v - low + margin) / (high - low + 2 * margin || 1)) * height;
  const line = inside.map((i) => `${across(at(i)).toFixed(1)},${up(points[i]).toFixed(1)}`).join(" ");
  const [cx, cy] = [across(Math.max(-reach, Math.min(reach, x))), up(Math.max(low, Math.min(high, y)))];
  return makeSvg(
    "svg",
    { width, height, class: "curve", role: "img", "aria-label": `the curve of ${layer.curve} at ${x}` },
    makeSvg("line", { x1: 0, x2: width, y1: up(0), y2: up(0), class: "axis" }),
    makeSvg("line", { x1: across(0), x2: across(0), y1: 0, y2: height, class: "axis" }),
    makeSvg("polyline", { points: line, class: "line" }),
    makeSvg("circle", { cx, cy, r: 5.5, class: "point" }),
  );
}
