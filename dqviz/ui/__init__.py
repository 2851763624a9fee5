"""The app: widgets, handlers and the server around the pages. Gradio appears here only."""
