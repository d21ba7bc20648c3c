"""Many pictures: every content in every style, with a memory of what is done.

    discover (files) ─► pairs (names) ─► resume (what is left) ─► prepare ─► work (events) ─► index
                                              ▲                                │
                                              └───────── ledger ◄──────────────┘

Every picture is made by `Painter.stream`, with one painter for all. `folder.stylize_folder` is the whole for programs.
Does not know the command line.
"""
