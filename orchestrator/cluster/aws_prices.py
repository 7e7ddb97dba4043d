"""Prices of the machines of a cluster on AWS, from the dated table in aws_prices.yaml."""

from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from orchestrator.scheduling.launch import HourlyPrice
from pipelines.wording import counted

_TABLE = Path(__file__).with_suffix(".yaml")
_SETUP_HOURS = 0.25  # of a GPU machine, before its first trial


def is_on_aws(config: Mapping[str, Any]) -> bool:
    """Whether the machines of a cluster are those of AWS. config: of `ray up`."""
    provider = config.get("provider", {})
    return "aws" in f"{provider.get('type')} {provider.get('module', '')}"


def hourly_price(
    config: Mapping[str, Any], machines: Mapping[str, int], today: date | None = None
) -> HourlyPrice | None:
    """Return the price of the head and of `machines` (number of each node type) at the same time;
    None if the cluster is not on AWS.

    config: of `ray up`. The price is that of on-demand machines, which spot machines never exceed.
    """
    if not is_on_aws(config):
        return None
    provider = config["provider"]
    counts = Counter({config["head_node_type"]: 1}) + Counter(machines)
    types: Counter[str] = Counter()
    for name, count in counts.items():
        node_config = config["available_node_types"][name].get("node_config", {})
        types[node_config.get("InstanceType", f"node type {name}")] += count
    table = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    prices = table["usd_per_hour"] if provider["region"] in table["regions"] else {}
    idle_hours = config.get("idle_timeout_minutes", 5) / 60
    unknown = [name for name in types if name not in prices]
    if unknown:
        basis = f"of {', '.join(unknown)} in {provider['region']}; see {table['source']}"
        return HourlyPrice(None, basis, idle_hours + _SETUP_HOURS)
    year, month = map(int, str(table["month"]).split("-"))
    today = today or date.today()
    age = max(0, 12 * (today.year - year) + today.month - month)
    listed = ", ".join(f"{count} x {name}" for name, count in types.items())
    basis = (
        f"{listed}, on demand in {provider['region']}, list prices of {table['month']} "
        f"({counted(age, 'month')} old)"
    )
    dollars = sum(count * prices[name] for name, count in types.items())
    return HourlyPrice(dollars, basis, idle_hours + _SETUP_HOURS)
