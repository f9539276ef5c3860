"""Measurements: contenders on the same machine in the same run, interleaved, behind the same front; ratios within a run are the result.

`python -m bench` runs all of it and saves bench/results/latest.json (`results`, the documented schema), from which `report` and `plots`
make docs/performance.md.
"""
