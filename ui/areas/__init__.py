"""Parts of the photo on the page: what is protected, what is drawn, and which part takes another painting.

choice (what the controls mean) ─► drawing (HTML) ─► events (handlers)
"""
