"""The page: upload in the browser, watch it being painted, keep what you like.

    cli.ui ─► server (socket, health) ─► app (layout, then wiring) ─► handlers ─► studio ─► styler.pipeline
                                             controls · looks                        visits

A thin front end over `Painter.stream`: how a picture is made it does not know. Only `styler.cli.ui` imports it.
"""
