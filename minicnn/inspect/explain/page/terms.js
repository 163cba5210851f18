/* A sum, shown completely: its largest terms, what all others add, and the total that the library computed.

   Every term is one product of two numbers of the library. The page adds up the terms that are not shown. */
import { arrowOf, count, hovers, make } from "./elements.js";
import { bar, number } from "./numbers.js";
import { clamp, largest, sum } from "./data.js";

const FIRST = 7; // terms that are shown at first
const MORE = 200; // and with every click

/* id: of the list. terms: { name, value, change }, in any order; change is what is selected with the term.
   all: of how many terms the sum consists; where only the largest ones are known, the others follow from the total.
   lit(term): whether it is the selected one. total, bias: of the library; bias null where there is none, and total null
   for a list that is no sum: of gradients, the largest first. */
export function termList({ id, terms, all = terms.length, lit, total, totalName, bias = null, p, set }) {
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const shown = Math.min(sorted.length, p.shown?.[id] ?? FIRST);
  const listed = sorted.slice(0, shown);
  const selected = listed.findIndex(lit);
  if (selected < 0 && sorted.some(lit)) listed.push(sorted.find(lit)); // the selected term is always among them
  const [most, signed] = [largest(listed.map((term) => term.value)), listed.some((term) => term.value < 0)];
  const others = all - listed.length;
  const rest =
    all === terms.length
      ? sum(sorted.filter((term) => !listed.includes(term)).map((term) => term.value))
      : total - (bias ?? 0) - sum(listed.map((term) => term.value));
  const item = (term, i) =>
    make(
      "li",
      {
        id: `${id}-${i}`,
        role: "option",
        "aria-selected": String(Boolean(lit(term))),
        tabindex: i === Math.max(0, listed.findIndex(lit)) ? 0 : -1,
        onmousemove: (event) => hovers(event) && !lit(term) && set(term.change),
        onclick: () => set(term.change, `${id}-${i}`),
        onkeydown: (event) => {
          const arrow = arrowOf(event);
          if (!arrow) return;
          const next = clamp(i + arrow[0] + arrow[1], listed.length);
          set(listed[next].change, `${id}-${next}`);
        },
      },
      make("span", {}, term.name),
      bar(term.value, most, signed),
      number(term.value),
    );
  const button = (label, shownNow) =>
    make("button", { type: "button", onclick: () => set({ shown: { ...p.shown, [id]: shownNow } }) }, label);
  return make(
    "div",
    { class: "sum" },
    listed.length > 0 &&
      make(
        "ul",
        { class: "terms scrolls", id, role: "listbox", "aria-label": `the largest terms of ${totalName}` },
        ...listed.map(item),
      ),
    total !== null &&
      make(
        "div",
        { class: "rest" },
        others > 0 && line(`the other ${count(others, "term")} add${others === 1 ? "s" : ""}`, rest, "others"),
        bias !== null && line("the bias adds", bias, "bias"),
        line(totalName, total, "total"),
      ),
    sorted.length > FIRST &&
      make(
        "div",
        { class: "more" },
        shown < sorted.length &&
          button(sorted.length - shown > MORE ? `show ${MORE} more` : `show all ${sorted.length}`, shown + MORE),
        shown > FIRST && button("show fewer", FIRST),
      ),
  );
}

const line = (name, value, kind) => make("div", { class: `line ${kind}` }, make("span", {}, name), number(value));
