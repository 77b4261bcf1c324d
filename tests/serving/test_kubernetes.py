"""``convbench deploy --to kubernetes``: manifests that its own schema accepts; servers behind a load balancer."""

import json
import re
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
import served
from waiting import until

from convbench import cli
from convbench.cli.deploy import command
from convbench.export import folder
from convbench.serving import kubernetes

pytest.importorskip("prometheus_client")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

DOCS = Path(__file__).parents[2] / "docs"
ERROR_BUDGET = 0.01  # of the answers, in the minute in which one of two servers is killed; see docs/howto/kubernetes.md


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


def written(artefact: Path, out: Path, *more: str) -> dict[str, dict[str, Any]]:
    """The objects that the command of the how-to page writes for an artefact."""
    page = (DOCS / "howto" / "kubernetes.md").read_text("utf-8")
    (shown,) = (line for line in page.splitlines() if line.startswith("convbench deploy "))
    places = {"dico_s.onnx.d": str(artefact), "manifests": str(out)}
    line = [places.get(word, word) for word in shown.split()[1:]]
    assert {str(artefact), str(out)} < set(line)
    with pytest.raises(SystemExit) as ended:
        cli.main([*line, *more])
    assert ended.value.code == 0
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(out.iterdir())}


def test_kubernetes_schema_accepts_the_manifests(artefact: Path, tmp_path: Path) -> None:
    files = written(artefact, tmp_path / "a")
    assert list(files) == ["autoscaler.yaml", "deployment.yaml", "disruption.yaml", "service.yaml"]
    for content in files.values():
        assert kubernetes_validate.validate(content, "1.37.0", strict=True) is not None
    damaged = files["deployment.yaml"]
    damaged["spec"]["template"]["spec"]["containers"][0]["resourcez"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(damaged, "1.37.0", strict=True)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("dico_s@kernel=7", "dico-s-kernel-7"),
        ("a" * 49 + "_" + "b" * 49, "a" * 49),  # cut behind a dash
        ("3d_unet", "d-unet"),  # a Service begins with a letter
        ("_-_", "model"),
        ("0.5", "model"),
        ("-" * 199 + "a", "a"),
    ],
)
def test_any_id_becomes_a_name_that_kubernetes_takes(model: str, name: str, artefact: Path) -> None:
    read = replace(folder.read(artefact), model=model)
    files = kubernetes.manifests(read, "artefact", kubernetes.Pods("convbench:1", "models"))
    assert files["service.yaml"]["metadata"]["name"] == name
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_the_manifests_fit_together(artefact: Path, tmp_path: Path) -> None:
    files = written(artefact, tmp_path / "a", "--threads", "3", "--gpus", "1", "--instances", "3", "--queue", "40")
    deployment, service = files["deployment.yaml"]["spec"], files["service.yaml"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    assert files["disruption.yaml"]["spec"]["selector"]["matchLabels"] == labels
    target = files["autoscaler.yaml"]["spec"]
    assert target["scaleTargetRef"]["name"] == files["deployment.yaml"]["metadata"]["name"]
    assert (target["minReplicas"], target["maxReplicas"]) == (3, 8)
    assert target["metrics"][0]["pods"]["target"]["averageValue"] == "8"
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "2Gi", "nvidia.com/gpu": "1"}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"]["readOnly"]
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    command.make_context("serve", ["x", "--to", "kubernetes", "--out", "y"])  # the program itself parses ...
    from convbench.cli.serve import command as serve

    with serve.make_context("serve", container["args"][1:]) as context:  # ... and so does what the pod runs
        given = context.params
    assert (given["threads"], given["queue"], given["max_batch"], given["port"]) == (3, 40, 8, 8000)
    assert pod["terminationGracePeriodSeconds"] > given["grace"]


@pytest.mark.slow
def test_the_metric_that_is_scaled_on_exists(artefact: Path) -> None:
    with served.process(str(artefact)) as (_, address):
        assert served.metrics(address)["convbench_queue_images"] == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--image", "Bad Image"], "is not the name of a container image"),
        (["--claim", "a/b"], "lower-case letters, digits and dashes"),
        (["--guidance"], "--guidance does not apply to --to kubernetes"),
        (["--instances", "9", "--max-instances", "2"], "--max-instances 2 is below --instances 9"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(
    more: list[str], words: str, artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["deploy", str(artefact), "--to", "kubernetes", "--image", "x", "--out", str(tmp_path / "a")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*line, *more])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Two servers behind a load balancer


@contextmanager
def balanced(servers: list[str], folder: Path) -> Iterator[str]:
    """HAProxy with the configuration of docs/howto/kubernetes.md in front of these servers; its address."""
    page = (DOCS / "howto" / "kubernetes.md").read_text("utf-8")
    text = page.partition("```haproxy\n")[2].partition("```")[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = text.replace("bind 127.0.0.1:8080", f"bind 127.0.0.1:{port}")
    for number, address in enumerate(servers):
        text = text.replace(f"127.0.0.1:800{number}", address.removeprefix("http://"))
    assert "127.0.0.1:800" not in text
    (folder / "haproxy.cfg").write_text(text)
    process = subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"], stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return served.request(address, "GET", "/v2/health/ready")[0] == 200
            except OSError:
                return False

        until(ready)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy: apt-get install haproxy")
def test_a_killed_server_gives_no_wrong_answer_and_keeps_the_error_budget(artefact: Path, tmp_path: Path) -> None:
    given = [served.inputs(1, 8, seed) for seed in range(4)]
    bodies = [json.dumps(served.content(each)).encode() for each in given]
    statuses: Counter[int] = Counter()
    wrong: list[int] = []
    with (
        served.process(str(artefact)) as (first, one),
        served.process(str(artefact)) as (_, two),
        balanced([one, two], tmp_path) as address,
    ):
        right = [served.output(served.request(one, "POST", served.INFER, body)[1]) for body in bodies]
        ends = threading.Event()

        def client(number: int) -> None:
            turn = number
            while not ends.is_set():
                turn = (turn + 1) % len(bodies)
                try:
                    status, answer = served.request(address, "POST", served.INFER, bodies[turn])
                except OSError:
                    status, answer = 0, None
                statuses[status] += 1
                if status == 200 and not np.allclose(served.output(answer), right[turn], rtol=1e-4, atol=1e-5):
                    wrong.append(turn)

        clients = [threading.Thread(target=client, args=[number]) for number in range(4)]
        for each in clients:
            each.start()
        try:
            until(lambda: statuses[200] >= 50)
            before = served.metrics(two)['convbench_requests_total{code="200"}']
            first.kill()
            count = statuses[200]
            until(lambda: statuses[200] >= count + 1500)
        finally:
            ends.set()
            for each in clients:
                each.join()
        assert before > 0  # both had answered
    failed = sum(number for status, number in statuses.items() if status != 200)
    print(f"{statuses[200]} right answers, {failed} failures")
    assert wrong == []
    assert failed <= ERROR_BUDGET * statuses.total()
