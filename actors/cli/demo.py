"""The main job that ``e2b-orchestrator demo`` runs: a real program, in a jail, with a table and a chart."""

TIMEOUT_S = 60.0
"""Generous: on a cold machine matplotlib may look at every font first."""

LOAN = """
import matplotlib.pyplot as plt
import numpy as np
import numpy_financial as npf
import pandas as pd

principal, annual_rate, years = 250_000, 0.045, 25
rate, periods = annual_rate / 12, years * 12
month = np.arange(1, periods + 1)
plan = pd.DataFrame({
    "interest": -npf.ipmt(rate, month, periods, principal),
    "principal": -npf.ppmt(rate, month, periods, principal),
}, index=pd.Index(month, name="month"))
plan["balance"] = (principal - plan["principal"].cumsum()).clip(lower=0)

by_year = plan.groupby((plan.index - 1) // 12 + 1).agg({"interest": "sum", "principal": "sum", "balance": "last"})
by_year.index.name = "year"
print(f"Payment: {-npf.pmt(rate, periods, principal):,.2f} a month")
print(f"Interest in all: {plan['interest'].sum():,.2f}")

figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
axes.bar(by_year.index, by_year["principal"], color="#2a6f97", label="principal")
axes.bar(by_year.index, by_year["interest"], bottom=by_year["principal"], color="#f4a259", label="interest")
axes.set(title="A loan of 250,000 at 4.5 % over 25 years", xlabel="year", ylabel="paid in the year", xlim=(0.4, 25.6))
axes.yaxis.set_major_formatter("{x:,.0f}")
balance = axes.twinx()
balance.plot(by_year.index, by_year["balance"], color="#333333", linewidth=2, label="balance")
balance.set(ylabel="balance", ylim=(0, principal * 1.05))
balance.yaxis.set_major_formatter("{x:,.0f}")
axes.spines["top"].set_visible(False)
balance.spines["top"].set_visible(False)
handles = [*axes.get_legend_handles_labels()[0], *balance.get_legend_handles_labels()[0]]
figure.legend(handles, ["principal", "interest", "balance"], loc="outside lower center", ncols=3, frameon=False)
plt.show()
by_year.iloc[[0, 4, 9, 14, 19, 24]].map("{:,.2f}".format).rename_axis(index=None, columns="year")
"""
