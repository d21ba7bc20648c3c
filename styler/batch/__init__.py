"""Paint many pictures: every content in every style, resumable after any interruption.

    discover (files) ─► plan (pairs, names, what is left) ─► runner (events) ─► report (index page)
                          ▲                                  │  ▲
                          └──────────── manifest ◄───────────┘  │ reports
                                                       tasks ▼  │
                                            worker (this process) · ray (a cluster)

A worker paints every picture with `Painter.stream`, whichever engine runs it. `runner.stylize_folder` is the entry
point for programs. Does not know the command line. README.md is the guide for users.
"""
