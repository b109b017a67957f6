"""The programs that are timed: distinct every time, so that no cache can help."""

from __future__ import annotations


def print_sum(n: int) -> tuple[str, str]:
    return f"print(1+{n})", str(1 + n)


def imports(n: int) -> tuple[str, str]:
    return f"import numpy, pandas, scipy\nprint(1+{n})", str(1 + n)


def group_by(n: int) -> tuple[str, str]:
    code = (
        "import numpy as np, pandas as pd\n"
        f"frame = pd.DataFrame({{'key': np.arange(3000) % 7, 'value': np.arange(3000) + {n}}})\n"
        "print(int(frame.groupby('key')['value'].sum()[3]))\n"
    )
    members = range(3, 3000, 7)
    return code, str(sum(members) + n * len(members))
