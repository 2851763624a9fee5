"""Half an hour on a GPU: checks, the whole step of a DiT, single operations, tiles.

    python -m benchmarks.gpu --out DIR               go through the stages; again: go on after the last row
    python -m benchmarks.gpu --out DIR --dry-run     the same on the CPU, tiny shapes, the ops' definitions

A stage is a file of `stages/` with a `STAGE` (`stage.Stage`) and `rows(place)`, which yields what is to be done in the
order of its worth. It is found by existing. `supervise.py` starts the process that does the rows and starts another when that
one dies; `work.py` does them, and `rows.py` keeps each as soon as it is there. `benchmarks/gpu_page.py` makes results of them.

Nothing here imports more than torch and `kernels` before a stage asks for it: what a stage needs is on its card.
"""
