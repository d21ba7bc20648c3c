"""The page: upload a photo in the browser, watch it being painted, keep what you like.

    cli.ui ─► server (socket, middleware, health) ─► app (wiring) ─► handlers ─► studio ─► styler.engine
                                                      │  layout       render      session
                                                      │  controls     batch_view ─► styler.batch
                                                      └► api (`/stylize`)
    areas has the parts of a photo: what is protected, and which part takes another painting.
    queue holds what all of them need to know about waiting.

A thin front end over `Painter.stream`; it does not know how a picture is made. Only `styler.cli.ui` imports it.
"""
