/* A layer of a kind that the page does not know: its arrays, and the shapes of its parameters. */
import { largest, plane } from "./data.js";
import { box, equation, heading, make, split, text } from "./elements.js";
import { channels, map, unitMap } from "./maps.js";
import { number } from "./numbers.js";

export function generic(layer, index, p, set, backward) {
  const shown = backward
    ? [
        ["dy, the gradient that arrives", layer.dy, "dy"],
        ["dx, for the layer before", layer.dx, "dx"],
      ]
    : [["output", layer.y, "output"]];
  return [
    text`The page has no detailed view of this kind of layer: it shows the arrays that the layer returns.`,
    split(
      shown.map(([title, array, id]) => box(picture(title, array, id, p, set))),
      [
        box(...shown.map(([title, array, id]) => selectedNumber(title, array, id, p))),
        layer.parameterShapes.length
          ? box(
              heading("its parameters"),
              make(
                "ul",
                {},
                ...layer.parameterShapes.map(([name, shape]) => make("li", {}, `${name}: ${shape.join(" × ")}`)),
              ),
            )
          : null,
      ].filter(Boolean),
    ),
  ];
}

const chosen = (p, id) => p[id] ?? 0; // each array has a selection of its own, because their shapes differ

function picture(title, array, id, p, set) {
  const i = Math.min(chosen(p, id), array.length - 1);
  if (array.shape.length !== 3) return unitMap(title, array, i, (unit, focus) => set({ [id]: unit }, focus), { id });
  const [, H, W] = array.shape;
  const f = Math.floor(i / (H * W));
  return make(
    "div",
    {},
    map(`${title}, channel ${f}`, H, W, plane(array, f), {
      id,
      scale: largest(array),
      selected: [Math.floor(i / W) % H, i % W],
      move: (r, s, focus) => set({ [id]: (f * H + r) * W + s }, focus),
    }),
    channels(`${id}-channels`, "channel", array, f, (c, focus) => set({ [id]: c * H * W + (i % (H * W)) }, focus)),
  );
}

function selectedNumber(title, array, id, p) {
  const i = Math.min(chosen(p, id), array.length - 1);
  const place = [];
  for (let axis = array.shape.length - 1, rest = i; axis >= 0; axis--) {
    place.unshift(rest % array.shape[axis]);
    rest = Math.floor(rest / array.shape[axis]);
  }
  return equation(`${id}[${place.join(", ")}] = `, number(array[i], "b"));
}
