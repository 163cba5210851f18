"""HTML that no text can change: templates are filled in one pass, and everything put into them is escaped.

`fill` is the only way from a text to a page. Each `{{name}}` of a template is replaced by its value, and what was put
in is not read again, so a value may contain anything, template names included. Only `Markup`, which `fill`,
`script_data` and `table` return, is put in as it is.
"""

import json
import re


class Markup(str):
    """A text that is already HTML."""

    __slots__ = ()


def fill(template, **values):
    """A template with its `{{name}}`s replaced by values, all at once.

    Args:
        template: HTML of the library's own.
        values: for each name a `Markup`, a list of them, or anything else, which is escaped as text.

    Returns:
        a `Markup`.

    Raises:
        KeyError: the template has a name that is not among the values.

    >>> fill("<b>{{name}}</b>{{line}}", name="<i> {{line}}", line=Markup("<hr>"))
    '<b>&lt;i&gt; {{line}}</b><hr>'
    """
    return Markup(re.sub(r"\{\{(\w+)\}\}", lambda found: _html(values[found[1]]), template))


def script_data(data, default=None):
    """Plain values as JSON for a `<script>`: ASCII only, without the characters that HTML reads.

    Args:
        data: what `json.dumps` takes; `default` converts anything else.

    >>> script_data({"name": "</script>é"})
    '{"name": "\\\\u003c/script\\\\u003e\\\\u00e9"}'
    """
    text = json.dumps(data, default=default, allow_nan=False)
    return Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text))


def table(header, rows):
    """A table; the first column is read from the left, the others are numbers.

    Args:
        header, rows: lists of texts.

    >>> table(["layer", "parameters"], [["a < b", "3"]])[-89:]
    '<td style="text-align:left">a &lt; b</td><td style="text-align:right">3</td></tr></table>'
    """
    lines = [_row("<th", header, "</th>"), *(_row("<td", row, "</td>") for row in rows)]
    return fill("<table>{{lines}}</table>", lines=lines)


def _row(start, cells, end):
    sides = ["left", *["right"] * (len(cells) - 1)]
    cell = start + ' style="text-align:{{side}}">{{text}}' + end
    return fill("<tr>{{cells}}</tr>", cells=[fill(cell, side=s, text=t) for s, t in zip(sides, cells, strict=True)])


def visible(text):
    """A text whose control characters, and bytes of a file's name that are not text, are written as escapes.

    >>> visible("tab" + chr(9) + "escape" + chr(27))
    'tab\\tescape\\\\x1b'
    """
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def _html(value):
    if isinstance(value, Markup):
        return value
    if isinstance(value, list):
        return "".join(map(_html, value))
    from html import escape  # here, so that `import minicnn` is quick

    return escape(visible(str(value)))
