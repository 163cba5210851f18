/* Flatten: the images as one row of numbers. */
import { clamp } from "./data.js";
import { box, equation, numberField, split, text } from "./elements.js";
import { unitMap } from "./maps.js";
import { number } from "./numbers.js";

export function flatten(layer, index, p, set, backward) {
  const [C, H, W] = layer.from;
  const i = clamp(p.unit, layer.y.length);
  const array = backward ? layer.dy : layer.y;
  const choose = (unit, focus) => set({ unit }, focus);
  return [
    text`The ${C} channels of ${H} × ${W} are written one after the other, row after row: ${layer.y.length} numbers that the next layer reads. Nothing is computed; in the backward pass the gradient gets the shape of the images again.`,
    split(
      [
        box(
          unitMap(backward ? "dy" : "output", array, i, choose, { id: "output" }),
          numberField("unit", "position", i, layer.y.length, choose),
        ),
      ],
      [
        box(
          equation(
            `position ${i} = channel ${Math.floor(i / (H * W))}, row ${Math.floor(i / W) % H}, column ${i % W}: `,
            number(array[i], "b"),
          ),
        ),
      ],
    ),
  ];
}
