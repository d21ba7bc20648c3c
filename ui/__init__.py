"""The page: upload in the browser, watch it being painted, keep what you like.

    cli.ui ─► server (socket, gate, health) ─► app (layout, then wiring) ─► handlers ─► studio ─► styler.pipeline
                                                │    parts · controls · about  │         steps · visits
                                                ├──► batch ─► pile ────────────┴───────► studio ─► styler.batch
                                                └──► api (`/stylize`) · line (who waits)

A thin front end over `Painter.stream`: how a picture is made it does not know. Only `styler.cli.ui` imports it.
"""
