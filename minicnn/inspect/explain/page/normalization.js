/* Normalization: minus the mean, divided by the standard deviation; and its backward pass, the hardest of all, because
   every number changes the mean and the variance of all. */
import { at, largest, plane } from "./data.js";
import { answer, box, equation, heading, make, note, sentence, split, text } from "./elements.js";
import { channels, map, unitMap } from "./maps.js";
import { number } from "./numbers.js";

const step = (...parts) => make("li", {}, ...parts);

export function normalization(layer, index, p, set, backward) {
  const isFlat = layer.shape.length === 1;
  const f = isFlat ? p.unit : p.f;
  const of = (array) => (array.length === layer.x.length ? (isFlat ? array[f] : at(array, f, p.r, p.s)) : array[f]);
  const place = `[${(isFlat ? [f] : [f, p.r, p.s]).join(", ")}]`;
  const picture = (title, array, id) =>
    isFlat
      ? unitMap(title, array, f, (unit, focus) => set({ unit }, focus), { id })
      : map(`${title}, channel ${f}`, layer.shape[1], layer.shape[2], plane(array, f), {
          id,
          scale: largest(array),
          selected: [p.r, p.s],
          move: (r, s, focus) => set({ r, s }, focus),
        });
  const chosen = (array) =>
    isFlat ? null : channels("filters", "channel", array, f, (channel, focus) => set({ f: channel }, focus));
  const steps = backward ? backwardSteps : forwardSteps;
  return [
    text`Each number minus the mean, divided by the standard deviation; then times a learned scale, plus a learned shift. ${layer.sharing}`,
    split(
      backward
        ? [box(picture("dy", layer.dy, "dy"), chosen(layer.dy)), box(picture("dx", layer.dx, "dx"))]
        : [box(picture("input", layer.x, "input")), box(picture("output", layer.y, "output"), chosen(layer.y))],
      [
        steps(layer, layer.statistics, layer, of, f, place),
        layer.asInTraining ? steps(layer, layer.asInTraining, layer.asInTraining, of, f, place) : null,
      ].filter(Boolean),
    ),
  ];
}

/* statistics: of the numbers themselves, or fixed. result: with y and dx. of: the selected number of an array. */
function forwardSteps(layer, statistics, result, of, f, place) {
  const group = Math.floor((f * statistics.mean.length) / layer.shape[0]);
  return box(
    heading(titleOf(statistics)),
    make(
      "ol",
      { class: "steps" },
      step(`x${place} = `, number(of(layer.x))),
      step("minus the mean ", number(statistics.mean[group])),
      step(
        ...sentence`divided by √(variance + [[epsilon]]) = √(${number(statistics.variance[group])} + ${layer.epsilon}), gives [[normalized]] = ${number(of(statistics.normalized))}`,
      ),
      step("times the scale ", number(of(layer.scale)), ", plus the shift ", number(of(layer.shift))),
    ),
    equation(`output${place} = `, number(of(result.y), "b")),
    statistics.fixed ? note`The mean is the [[running mean]], and the variance is kept in the same way.` : null,
  );
}

function backwardSteps(layer, statistics, result, of, f, place) {
  const group = Math.floor((f * statistics.mean.length) / layer.shape[0]);
  const dnormalized = of(layer.dy) * of(layer.scale);
  const deviation = Math.sqrt(statistics.variance[group] + layer.epsilon);
  const throughStatistics = statistics.fixed
    ? []
    : [
        step(
          "minus the mean of dnormalized ",
          number(statistics.meanGradient[group]),
          ": a larger x also makes the mean larger, and that makes every number smaller",
        ),
        step(
          "minus normalized × the mean of dnormalized × normalized = ",
          number(of(statistics.normalized)),
          " × ",
          number(statistics.meanProduct[group]),
          ": a larger x also changes the variance, and that changes the size of every number",
        ),
      ];
  return box(
    heading(titleOf(statistics)),
    make(
      "ol",
      { class: "steps" },
      step(...sentence`[[dy]]${place} = ${number(of(layer.dy))}`),
      step("times the scale ", number(of(layer.scale)), ", gives dnormalized = ", number(dnormalized)),
      ...throughStatistics,
      step("divided by √(variance + epsilon) = ", number(deviation)),
    ),
    equation(`dx${place} = `, number(of(result.dx), "b")),
    statistics.fixed ? answer("The mean and the variance are fixed here: the gradient is that of a product.") : null,
    result === layer
      ? text`dscale, the sum of dy × normalized: ${number(of(layer.dscale))}. dshift, the sum of dy: ${number(of(layer.dshift))}.`
      : null,
  );
}

function titleOf(statistics) {
  if (statistics.fixed) return "outside training: with the mean and variance kept from training";
  return statistics.alone
    ? "as in training, with this image alone as the batch"
    : "with the mean and variance of these numbers";
}
