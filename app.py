"""Build and serve the app: `python app.py`, and what a hosted Space runs."""

import os

from dqviz import launch

if __name__ == "__main__":
    launch(
        host=os.environ.get("DQVIZ_HOST", "127.0.0.1"),
        port=int(os.environ.get("DQVIZ_PORT", "7860")),
    )
