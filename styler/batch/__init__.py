"""Many pictures: every content in every style, with a memory of what is done.

    discover (files) ─► pairs (names) ─► resume (what is left) ─► prepare ─► work (events) ─► index
                                              ▲                             │      ▲
                                              └────────── ledger ◄──────────┘      │ reports
                                                                        tasks ▼    │
                                                            local (threads) · ray (a cluster)
                                                                        └─ worker ─┘

Every picture is made by `Painter.stream` in a `worker`, whatever engine it is on. `folder.stylize_folder` is the whole
for programs. Does not know the command line.
"""
