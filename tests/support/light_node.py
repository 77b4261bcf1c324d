"""A node whose jobs measure nothing: rows are made up, and everything around them is what a real job does.

Its orders are cases, a frontier or kernels. ``CASES_DONE`` names a file that gets a line for each job that was carried
out to its end. ``RATE`` and ``TORCH`` make a node look slow, or as if it had another torch. SIMULATED: no number of it
means anything.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from convbench.run.node import main, node_name
from convbench.run.staging import Staged, scratch, stage
from convbench.schema import Case, Measurement, QualityRow, Row


def rows(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an order after a moment, with the rates and the torch of this node."""
    if order["stage"]:
        stage(Staged(**order["stage"]), scratch())
    rate, torch = float(os.environ.get("RATE", "1e11")), os.environ.get("TORCH", "2.13.0")
    time.sleep(float(os.environ.get("JOB_S", "0.3")))
    made: list[Row] = []  # torch is imported for these alone: jobs of cases start at once
    if "kernels" in order:
        from simulated_bench import SimulatedGpu

        from convbench.run import kernels

        made += kernels.rows_of_order(order["kernels"], SimulatedGpu().measure)
    elif "frontier" in order:
        made += ways(order["frontier"])
    found = [row.to_json() for row in made] or [
        Measurement.of(
            Case(**case),
            verdict="VALID",
            images_per_s=10.0 * case["batch"],
            images_per_s_low=9.9 * case["batch"],
            images_per_s_high=10.1 * case["batch"],
            smallest_difference=0.03,
            rates={"matmul_flops_per_s": rate, "copy_bytes_per_s": rate},
            environment={} if order["launcher"] == "local" else {"cpu": "SIMULATED", "torch": torch},
        ).to_json()
        for case in order.get("cases", ())
    ]
    if done := os.environ.get("CASES_DONE"):
        with Path(done).open("a") as file:
            file.write(f"{found[0]['case']} {order['job']} {node_name()}\n")
    return found


def ways(asked: Mapping[str, Any]) -> list[QualityRow]:
    """Rows of the ways that are planned, and of a plain one that a real race would have added."""
    from convbench.run import frontier_plan, pareto

    found = frontier_plan.planned(pareto.request_of_order(asked))
    plain = replace(found.ways[0], plan=replace(found.ways[0].plan, steps=7), role="fewer steps")
    return [
        QualityRow(
            case=found.case_of(way),
            model=found.wanted.model,
            res=found.res,
            batch=found.batch,
            device=found.wanted.device,
            threads=found.wanted.threads,
            on=found.wanted.on,
            sampling=str(way.plan),
            role=way.role,
            evaluations=way.plan.steps,
            seed=found.wanted.seed,
            images=found.images,
            planned=found.images,
            image_set=found.judge.name,
            images_per_s=1.0,
            images_per_s_low=0.9,
            images_per_s_high=1.1,
            frechet=1.0,
        )
        for way in (*found.ways, plain)
    ]


if __name__ == "__main__":
    main(rows)
