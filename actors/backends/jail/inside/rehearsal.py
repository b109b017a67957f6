"""The rehearsal: short programs that a zygote runs, so that its forks find in place what it takes to run others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

_PYTHON = """
import json, math, re, collections
class Point:
    def __init__(self, x, y=1):
        self.x, self.y = x, y
def mean(values):
    return sum(values) / len(values)
counts = collections.Counter(re.findall(r"[a-z]+", "to be or not to be"))
text = f"{mean([Point(n).x for n in range(9)]):.2f} {json.dumps(dict(counts))} {math.sqrt(2)}"
print(end="")
sorted(counts.items(), key=lambda item: -item[1])
"""
_FAILURE = """
def divide(n):
    return 1 / n
divide(0)
"""
_NUMPY = """
import numpy as np
values = np.arange(12.0).reshape(3, 4)
str((values @ values.T).sum(axis=0)), values.mean(), values[values > 2]
"""
_PANDAS = """
import numpy as np, pandas as pd
frame = pd.DataFrame({"key": np.arange(60) % 7, "value": np.arange(60) * 0.5})
frame["double"] = frame["value"] * 2
int(frame[frame.value > 3].groupby("key")["value"].sum()[3])
"""
_TABLES = """
import io, pandas as pd
frame = pd.DataFrame({"key": range(20), "name": ["a", "b"] * 10})
frame.merge(frame, on="key").groupby("name").agg({"key": "mean"}).describe()
pd.read_csv(io.StringIO(frame.to_csv(index=False))).sort_values("key")
str(frame)
frame.head(2)
"""
_PLOT = """
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.title("a")
plt.show()
"""
_COMMON = {"sys": (_PYTHON,), "numpy": (_NUMPY,), "pandas": (_PANDAS,)}
_RARER = {"sys": (_FAILURE, "%time 1"), "pandas": (_TABLES,), "matplotlib.pyplot": (_PLOT,)}


def common(modules: Iterable[str]) -> Iterator[str]:
    """Yield programs that touch the memory that most programs touch, as far as their modules are imported."""
    return _fitting(_COMMON, modules)


def rarer(modules: Iterable[str]) -> Iterator[str]:
    """Yield programs of which something takes long only once: late imports, the search for fonts."""
    return _fitting(_RARER, modules)


def _fitting(programs: Mapping[str, tuple[str, ...]], modules: Iterable[str]) -> Iterator[str]:
    return (program for module in programs.keys() & set(modules) for program in programs[module])
