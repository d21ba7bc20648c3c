"""`stylize_folder`: a batch for programs, as `styler batch` is one for people."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from styler import library
from styler.batch import index, ledger
from styler.batch.discover import Rules
from styler.batch.prepare import Request, prepare
from styler.batch.tools import Tools
from styler.batch.work import Event, events
from styler.options import Options


def stylize_folder(
    contents: str | Path,
    styles: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    stop: threading.Event | None = None,
    tools: Tools | None = None,
    rules: Rules | None = None,
    **more: Any,
) -> Iterator[Event]:
    """Paint every content in every style, telling everything that happens; what is done already is left out.

    A picture that fails is an event like others. Whoever calls sees to it that nobody else works in the folder.

    Args:
        contents: a file, a folder, a pattern, `@list.txt`, or the name of a picture that comes with styler.
        styles: likewise.
        out: the folder of the results.
        options: all settings; `Options()` when not given.
        stop: once it is set, the picture in work is dropped and nothing new is begun.
        tools: how pictures are read and written.
        rules: what is taken from folders.
        more: other fields of `prepare.Request`: `zipped`, `blended`, `template`, `format`, `overwrite`, `retry` …

    Raises:
        StylerError: nothing can be painted, or the request makes no sense.
    """
    request = Request(
        contents=str(contents),
        styles=str(styles),
        out=Path(out),
        options=options or Options(),
        rules=rules or Rules(),
        **more,
    )
    past = ledger.read(request.out)
    batch = prepare(request, past, library.find_content, library.find_style)
    tools = tools or Tools()
    with ledger.Ledger(request.out, past) as book:
        yield from events(batch, book, tools, stop or threading.Event())
        if tools.small:
            index.write(batch, book)
