"""Texts that change a page, a message or a terminal where they are not escaped."""

import html.parser

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{data}} {{page}} {{title}} {{body}} /*DATA*/ /*PAGE*/ __DATA__ TITLE BODY $& $1 \\1 \\g<0>",
    "\u2028\u2029\x00\x1b[31m\r\udcff",
    "\N{GRINNING FACE} &lt;b&gt; $x^{2$",
)


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, [name for name, _ in attributes]))

    def handle_data(self, data):
        self.texts.append(data)


def tags(page):
    """The elements of a page with the names of their attributes, as a parser finds them."""
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return parser.tags


def texts(page):
    """What stands between a page's elements, as one text."""
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return "".join(parser.texts)
