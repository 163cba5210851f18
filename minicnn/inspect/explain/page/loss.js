/* Softmax and cross-entropy, after the last layer: where the backward pass starts. */
import { LAST, data, layers } from "./data.js";
import { answer, box, equation, heading, make, row, sentence, text } from "./elements.js";
import { bars, number } from "./numbers.js";

export function loss(drawn, backward) {
  const all = (values) =>
    bars(data.names.map((name, k) => ({ name, value: values[k], strong: k === data.label && !drawn })));
  const given = data.given ? "" : " (no label was given: this is the predicted class)";
  return [
    text`The outputs of the last layer, the [[logits]], can be any numbers. [[softmax|Softmax]] turns them into probabilities: e to the power of each, divided by the sum of all.`,
    drawn
      ? null
      : make(
          "p",
          {},
          `The right class is ${data.names[data.label]}${given}. `,
          ...sentence`The loss is the [[cross-entropy]]: minus the logarithm of its probability.`,
        ),
    row(
      drawn
        ? null
        : box(
            equation("loss = -log(probability) = ", number(data.loss, "b")),
            backward
              ? answer(
                  "The gradient of the logits is the predicted probability minus the right one, which is 1 for the right class and 0 for the others. The backward pass starts here.",
                )
              : null,
          ),
      backward ? box(heading("gradient: the probability, minus one for the right class"), all(layers[LAST].dy)) : null,
      box(heading("logits"), all(data.logits)),
      box(heading("probabilities"), all(data.probabilities)),
    ),
  ];
}
