/* Dense layers: every unit reads every input. Large layers come with the largest terms of each unit only. */
import { LAST, at, clamp, data, plane, range } from "./data.js";
import {
  answer,
  box,
  choices,
  count,
  equation,
  heading,
  make,
  note,
  numberField,
  row,
  split,
  text,
} from "./elements.js";
import { unitMap } from "./maps.js";
import { number, short } from "./numbers.js";
import { termList } from "./terms.js";
import { exciting } from "./excitation.js";

export function dense(layer, index, p, set, backward) {
  p.unit = clamp(p.unit, layer.y.length);
  p.input = clamp(p.input, layer.x.length);
  const name = (u) => (index === LAST ? data.names[u] : String(u));
  return backward ? denseBackward(layer, index, p, set, name) : denseForward(layer, index, p, set, name);
}

/* The units: a map, a field for a number, and the names of the classes where the units have some. */
function units(layer, index, array, title, id, p, set) {
  const choose = (unit, focus) => set({ unit }, focus);
  return box(
    unitMap(title, array, p.unit, choose, { id }),
    numberField("unit", "unit", p.unit, layer.y.length, choose),
    index === LAST
      ? choices(
          "classes",
          "classes",
          data.names.map((name) => ({ name })),
          p.unit,
          choose,
          "choices scrolls",
        )
      : null,
  );
}

function inputs(layer, array, title, id, p, set) {
  const choose = (input, focus) => set({ input }, focus);
  return box(
    unitMap(title, array, p.input, choose, { id }),
    numberField("input", "input", p.input, layer.x.length, choose),
  );
}

/* The terms of a unit: all of them, or the largest ones. */
function unitTerms(layer, u) {
  const known = layer.weight ? range(layer.x.length) : Array.from(plane(layer.top, u));
  const weights = plane(layer.weight ?? layer.topWeights, u);
  return known.map((i, k) => ({
    name: `x[${i}] × w[${u},${i}] = ${short(layer.x[i])} × ${short(weights[k])}`,
    value: Math.fround(layer.x[i] * weights[k]),
    change: { input: i },
  }));
}

function denseForward(layer, index, p, set, name) {
  const all = layer.x.length;
  const shown = `output[${name(p.unit)}]`;
  return [
    text`Every [[unit]] reads every input: it multiplies each by a weight of its own, and adds up these products and its [[bias]].`,
    split(
      [
        inputs(layer, layer.x, `the ${count(all, "input")}`, "input-map", p, set),
        units(layer, index, layer.y, `the outputs of the ${count(layer.y.length, "unit")}`, "output", p, set),
      ],
      [
        box(
          equation(`${shown} = `, number(layer.y[p.unit], "b")),
          heading(`its ${count(all, "term")}: input × weight`),
          termList({
            id: "terms",
            terms: unitTerms(layer, p.unit),
            all,
            lit: (term) => term.change.input === p.input,
            total: layer.y[p.unit],
            totalName: shown,
            bias: layer.bias ? layer.bias[p.unit] : null,
            p,
            set,
          }),
          layer.weight
            ? null
            : note`The layer has too many weights for a page: of each unit it has the ${layer.top.shape[1]} largest terms.`,
        ),
      ],
    ),
    index === LAST ? row(exciting(layer, p.unit, name(p.unit))) : null,
  ];
}

function denseBackward(layer, index, p, set, name) {
  const [x, dy] = [layer.x[p.input], layer.dy[p.unit]];
  const gradients = Array.from(layer.x, (value, i) => ({
    name: `dy × x[${i}] = ${short(dy)} × ${short(value)}`,
    value: Math.fround(dy * value),
    change: { input: i },
  }));
  const weightName = `dweight[${name(p.unit)}, ${p.input}]`;
  return [
    text`The gradient of a weight is [[dy]] of its [[unit]] times its input: a weight whose input is zero learns nothing from this image.`,
    split(
      [
        units(layer, index, layer.dy, "dy, the gradients that arrive", "dy", p, set),
        inputs(layer, layer.dx, "dx, for the layer before", "dx", p, set),
      ],
      [
        make(
          "div",
          { class: "beside halves" },
          box(
            equation(`dy[${name(p.unit)}] = `, number(dy, "b")),
            layer.frozen
              ? answer("The weights of this layer are frozen: they collect no gradient.")
              : equation(`${weightName} = dy × x = `, number(Math.fround(dy * x), "b")),
            layer.dbias && !layer.frozen ? text`The bias has the gradient dy: ${number(layer.dbias[p.unit])}` : null,
            heading(`the gradients of the ${count(gradients.length, "weight")} of this unit`),
            termList({
              id: "weight-terms",
              terms: layer.frozen ? [] : gradients,
              lit: (term) => term.change.input === p.input,
              total: null,
              totalName: `the gradients of unit ${p.unit}`,
              p,
              set,
            }),
          ),
          inputGradient(layer, p, set),
        ),
      ],
    ),
  ];
}

/* dx of one input: the sum over all units. */
function inputGradient(layer, p, set) {
  const dx = layer.dx[p.input];
  const shown = `dx[${p.input}]`;
  const place = layer.weight ? null : layer.topOfInput.inputs.indexOf(p.input);
  if (place === -1)
    return box(
      equation(`${shown} = `, number(dx, "b")),
      note`Its terms are not on the page: this layer has too many weights. Of the inputs with the largest gradients they are: ${layer.topOfInput.inputs.slice(0, 8).join(", ")}.`,
    );
  const known = place === null ? range(layer.y.length) : Array.from(plane(layer.topOfInput.units, place));
  const weight = (u, k) => (place === null ? at(layer.weight, u, p.input) : at(layer.topOfInput.weights, place, k));
  const terms = known.map((u, k) => ({
    name: `w[${u},${p.input}] × dy[${u}] = ${short(weight(u, k))} × ${short(layer.dy[u])}`,
    value: Math.fround(weight(u, k) * layer.dy[u]),
    change: { unit: u },
  }));
  return box(
    equation(`${shown} = `, number(dx, "b")),
    heading(`its ${count(layer.y.length, "term")}: weight × dy of every unit`),
    termList({
      id: "input-terms",
      terms,
      all: layer.y.length,
      lit: (term) => term.change.unit === p.unit,
      total: dx,
      totalName: shown,
      p,
      set,
    }),
  );
}
