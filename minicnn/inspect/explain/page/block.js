/* Blocks: rows of layers side by side, each with the same input; their outputs are added or concatenated. */
import { largest, layers, plane } from "./data.js";
import { box, equation, heading, make, note, split, text } from "./elements.js";
import { channels, map, thumbnail, unitMap } from "./maps.js";
import { number } from "./numbers.js";

/* openLayer(index): goes to the page of a layer inside. */
export function block(layer, index, p, set, backward, openLayer) {
  const adds = layer.join === "add";
  const array = backward ? layer.dx : layer.y;
  const isFlat = array.shape.length === 1;
  const [C, H, W] = array.shape;
  const f = isFlat ? 0 : Math.min(p.f, C - 1);
  const i = isFlat ? Math.min(p.unit, array.length - 1) : f * H * W + Math.min(p.r, H - 1) * W + Math.min(p.s, W - 1);
  const [r, s] = [Math.floor(i / W) % H, i % W];
  const place = `[${(isFlat ? [i] : [f, r, s]).join(", ")}]`;
  const name = backward ? "dx" : "output";
  const parts = layer.rows.map((row) => ({
    ...row,
    array: backward ? rowGradient(layer, row) : rowOutput(layer, row),
  }));
  const shares = partsAt(parts, layer, i, isFlat ? 1 : H * W, backward || adds);
  return [
    idea(adds, backward),
    split(
      [
        box(
          isFlat
            ? unitMap(name, array, i, (unit, focus) => set({ unit }, focus), { id: "output" })
            : map(`${name}, channel ${f}`, H, W, plane(array, f), {
                id: "output",
                scale: largest(array),
                selected: [r, s],
                move: (r, s, focus) => set({ r, s }, focus),
              }),
          isFlat ? null : channels("filters", "channel", array, f, (f, focus) => set({ f }, focus)),
        ),
      ],
      [
        box(
          ...shares.map(({ label, value }) => make("div", { class: "line" }, make("span", {}, label), number(value))),
          equation(`${name}${place} = `, number(array[i], "b")),
        ),
        make("div", { class: "lanes" }, ...parts.map((row) => lane(row, openLayer, backward, f))),
        note`Open a layer of a row: it has its own page.`,
      ],
    ),
  ];
}

function idea(adds, backward) {
  if (backward)
    return text`The gradient goes into every row; what the rows return is added, because the input of the block was copied into each of them. Through an empty row, the [[shortcut]], it passes unchanged, however many layers the block holds.`;
  return adds
    ? text`Each row of layers receives the same input, and their outputs are added. An empty row is the input itself, the [[shortcut]].`
    : text`Each row of layers receives the same input; their outputs stand one after the other as the channels of one output.`;
}

function rowOutput(layer, row) {
  return row.entries.length ? layers[row.entries.at(-1)].y : layer.x;
}
/* What a row returns in the backward pass: its first layer's dx, or what arrived, where the row is empty. */
function rowGradient(layer, row) {
  return row.entries.length ? layers[row.entries[0]].dx : row.dy;
}

/* What each row adds to a number of the block's output or dx; of a concatenation, the one row that it belongs to. */
function partsAt(parts, layer, i, size, isSum) {
  if (isSum) return parts.map((row, k) => ({ label: `${k ? "plus " : ""}row ${row.name}`, value: row.array[i] }));
  let start = 0;
  for (const row of parts) {
    const end = start + row.array.length;
    if (i < end) {
      const own = Math.floor((i - start) / size);
      return [{ label: `row ${row.name}, its channel ${own}`, value: row.array[i - start] }];
    }
    start = end;
  }
  return [];
}

/* A row as buttons, in the order in which the numbers pass. */
function lane(row, openLayer, backward, f) {
  const buttons = row.entries.map((index) => {
    const layer = layers[index];
    const shown = backward ? layer.dy : layer.y;
    return make(
      "button",
      { type: "button", onclick: () => openLayer(index) },
      make("span", {}, layer.kind),
      shown.shape.length === 3 ? thumbnail(shown, Math.min(f, shown.shape[0] - 1)) : null,
    );
  });
  const order = backward ? buttons.reverse() : buttons;
  const arrow = () => make("span", { class: "soft", "aria-hidden": "true" }, "→");
  return make(
    "section",
    { class: "box lane" },
    heading(`row ${row.name}`),
    make(
      "div",
      { class: "row" },
      ...(order.length
        ? order.flatMap((button, i) => (i ? [arrow(), button] : [button]))
        : ["nothing: the numbers pass unchanged"]),
    ),
  );
}
