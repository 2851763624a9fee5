"""One file for each stage of a run on a GPU: `STAGE` and `rows(place)`."""
