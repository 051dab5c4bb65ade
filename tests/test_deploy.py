"""What docs/deploy has works: rules, dashboard, runbook, units; and a real Prometheus fires."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from simulated_world import VirtualClock, settle

import lb_probe
from lb_probe.cli import cli
from lb_probe.config import load
from lb_probe.core import active_active
from lb_probe.core.failover import CONDITIONS
from lb_probe.demo import Demo
from lb_probe.events.metrics import Metrics, Snapshot
from lb_probe.events.systemd import Systemd

DOCS = Path(__file__).parents[1] / "docs"
DEPLOY = DOCS / "deploy"
RULES = DEPLOY / "prometheus" / "lb-probe.rules.yml"
TESTS = sorted(RULES.parent.glob("*.tests.yml"))
METRIC = re.compile(r"\blb_probe_[a-z_]+")
BASE = "https://lb-probe.example/docs/runbook#"


def need(program):
    """Return where a program is; a test without it says so."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def rules():
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def known():
    """Every metric there is, as a scrape names its series."""
    metrics = Metrics(lambda: 0.0)
    text = metrics.render(Snapshot((), is_store_writable=True, is_config_good=True)).decode()
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        more = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + end for end in more}
    return found | {f"lb_probe_agent_{name}" for name in named_by_agents()}


def named_by_agents():
    """What an agent shows depends on what its node has: the sources name all of it."""
    for source in (Path(lb_probe.__file__).parent / "agent").rglob("*.py"):
        text = source.read_text()
        yield from re.findall(r'(?:Reading\(|PREFIX \+)\s*"(\w+)"', text)
        yield from (f"{name}_total" for name in re.findall(r'Counted\(\s*"(\w+)"', text))


def anchors():
    heads = re.findall(r"^#+ (.+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}


# ------------------------------------------------------------------ rules and dashboard
def test_prometheus_accepts_the_rules_and_their_tests_hold():
    promtool = need("promtool")
    for words in (
        ["check", "rules", RULES],
        ["test", "rules", *TESTS],
    ):
        answer = subprocess.run(
            [promtool, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr


def fired():
    """Every alert that a test of the rules sees firing."""
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for one in test.get("alert_rule_test", ()):
                if one["exp_alerts"]:
                    yield one["alertname"]
            for one in test.get("promql_expr_test", ()):
                for sample in one["exp_samples"]:
                    yield from re.findall(r'alertname="(\w+)"', sample["labels"])


def test_every_alert_is_seen_firing_by_a_test_and_every_recorded_rate_too():
    assert {rule["alert"] for rule in rules() if "alert" in rule} == set(fired())
    told = "".join(file.read_text() for file in TESTS)
    assert all(f"expr: {rule['record']}" in told for rule in rules() if "record" in rule)


def test_every_alert_has_a_runbook_and_every_condition_too():
    for rule in rules():
        if "alert" in rule:
            link = rule["annotations"]["runbook_url"]
            assert link.startswith(BASE)
            assert link.removeprefix(BASE) in anchors(), link
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["alert"] in (DOCS / "runbook.md").read_text(), rule["alert"]
    assert {*CONDITIONS, *active_active.CONDITIONS} <= anchors()


def test_rules_and_dashboard_ask_only_for_metrics_that_exist():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = "\n".join(rule["expr"] for rule in rules())
    dashboard = json.loads((DEPLOY / "grafana" / "lb-probe.json").read_text())
    targets = [t for panel in dashboard["panels"] for t in panel.get("targets", [])]
    asked += "\n".join(target["expr"] for target in targets)
    asked += "\n".join(str(v.get("query", "")) for v in dashboard["templating"]["list"])
    assert targets
    assert set(METRIC.findall(asked)) - known() == set()
    assert set(re.findall(r"lb_probe:[a-z0-9_:]+", asked)) <= recorded


# ------------------------------------------------------------------ a real one
def ask(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


@pytest.mark.timeout(120)
def test_a_real_prometheus_sees_a_real_failover_and_the_alert_fires(stand, tmp_path):
    prometheus = need("prometheus")
    demo: Demo = stand(confirm="300ms")
    metrics = demo.ports["9600"]
    (tmp_path / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{RULES}]
scrape_configs:
  - job_name: lb-probe
    static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]
"""
    )
    port = _free_port()
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [
                prometheus,
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _until(lambda: _assigned(port) == "node-a", "it scrapes node-a as assigned")
            demo.kill("node-a")
            _until(lambda: "LbProbeFailedOver" in _firing(port), "the alert fires")
            assert _assigned(port) == "node-b"
        finally:
            child.terminate()
            child.wait()


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def _assigned(port):
    try:
        found = ask(port, "/api/v1/query?query=lb_probe_group_assigned==1")["data"]["result"]
    except OSError:
        return None
    return found[0]["metric"]["node"] if found else None


def _firing(port):
    alerts = ask(port, "/api/v1/alerts")["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def _until(is_true, what, patience_s=40.0):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.1)


# ------------------------------------------------------------------ units and containers
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_little_to_expose(unit):
    line = [need("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(unit)]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout[-300:]


def test_the_cluster_example_is_a_configuration_that_is_accepted(tmp_path):
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "lb-probe.yaml").read_text()))
    kinds = {part["kind"]: part for part in parts}
    file = tmp_path / "probes.yaml"
    file.write_text(kinds["ConfigMap"]["data"]["probes.yaml"])
    assert load(file).groups[0].act is False
    spec = kinds["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def lines_of_containers():
    """Every command of lb-probe in the container files, and which file has it."""
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"][
        "prober"
    ]
    yield "compose", compose["command"]
    yield "compose health", compose["healthcheck"]["test"][2:]
    quadlet = (DEPLOY / "quadlet" / "lb-probe.container").read_text()
    yield "quadlet", re.search(r"^Exec=(.*)$", quadlet, re.MULTILINE)[1].split()
    yield "quadlet health", json.loads(re.search(r"^HealthCmd=(.*)$", quadlet, re.MULTILINE)[1])[1:]
    parts = yaml.safe_load_all((DEPLOY / "kubernetes" / "lb-probe.yaml").read_text())
    deployment = next(part for part in parts if part["kind"] == "Deployment")
    yield "kubernetes", deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    image = (DOCS.parent / "Containerfile").read_text()
    yield "image", json.loads(re.search(r"^CMD (.*)$", image, re.MULTILINE)[1])
    health = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (.*)$", image, re.MULTILINE)[1]
    yield "image health", json.loads(health)[1:]


@pytest.mark.parametrize(("file", "words"), list(lines_of_containers()), ids=str)
def test_every_line_of_a_container_file_is_one_that_lb_probe_understands(file, words):
    if words == ["--help"]:
        return
    with cli.make_context("lb-probe", list(words)) as ctx:
        verb = cli.get_command(ctx, words[0])
        with verb.make_context(words[0], list(words[1:]), parent=ctx):
            pass


def test_each_container_has_a_place_for_the_store_the_file_and_the_socket():
    places = {"/etc/lb-probe", "/var/lib/lb-probe", "/run/lb-probe"}
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    prober = compose["services"]["prober"]
    mounts = [volume.split(":")[1] for volume in prober["volumes"]]
    mounts = [place.removesuffix("/probes.yaml") for place in mounts]
    assert places <= {*mounts, *(tmpfs.split(":")[0] for tmpfs in prober["tmpfs"])}
    assert prober["read_only"] is True
    quadlet = (DEPLOY / "quadlet" / "lb-probe.container").read_text()
    volumes = re.findall(r"^Volume=([^:]+):([^:\n]+)", quadlet, re.MULTILINE)
    tmpfs = re.findall(r"^Tmpfs=([^:]+)", quadlet, re.MULTILINE)
    assert places <= {*(place for _, place in volumes), *tmpfs}
    for name in (name for name, _ in volumes if name.endswith(".volume")):
        assert (DEPLOY / "quadlet" / name).exists()


def test_the_parts_of_the_cluster_example_fit_each_other():
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "lb-probe.yaml").read_text()))
    kinds = {part["kind"]: part for part in parts}
    pod = kinds["Deployment"]["spec"]["template"]
    (prober,) = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in prober["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    claim = volumes["state"]["persistentVolumeClaim"]["claimName"]
    assert claim == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    (where,) = prober["env"]
    assert where["value"] == f"{mounts['config']}/probes.yaml"
    labels = pod["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in prober["ports"]}
    asked = {prober[kind]["httpGet"]["port"] for kind in ("livenessProbe", "readinessProbe")}
    asked |= {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert asked == set(ports)
    file = yaml.safe_load(kinds["ConfigMap"]["data"]["probes.yaml"])
    assert file["metrics"]["listen"] == f"0.0.0.0:{ports['metrics']}"
    assert file["store"].startswith(f"sqlite:{mounts['state']}/")
    assert file["api"]["socket"].startswith(f"{mounts['run']}/")
    assert pod["spec"]["securityContext"]["runAsUser"] == 65532


def test_the_image_runs_as_nobody_and_gets_signals_itself():
    image = (DOCS.parent / "Containerfile").read_text()
    last = image.rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in last
    assert '\nENTRYPOINT ["lb-probe"]\n' in last  # no shell between it and SIGTERM
    assert "--require-hashes" in image
    for file in re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.MULTILINE):
        assert all((DOCS.parent / name).exists() for name in file.split())


@pytest.mark.timeout(120)
def test_the_prober_tells_systemd_that_it_is_ready_and_alive(stand):
    demo: Demo = stand()
    demo.kill("prober")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(demo.folder / "notify"))
        supervisor.settimeout(30.0)
        address = str(demo.folder / "notify")
        demo.start("prober", NOTIFY_SOCKET=address, WATCHDOG_USEC="400000")
        heard = {supervisor.recv(100) for _ in range(4)}
        assert heard == {b"READY=1", b"WATCHDOG=1"}
        demo.children["prober"].terminate()
        while supervisor.recv(100) != b"STOPPING=1":
            pass


async def test_the_watchdog_starves_when_no_probe_ends(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.setblocking(False)
        told = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"})
        clock, trouble = VirtualClock(), [""]
        task = asyncio.ensure_future(told.watch(clock, lambda: trouble[0]))
        await settle()
        await clock.advance(2.5)
        assert [supervisor.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        trouble[0] = "no probe ended for 30s"
        await clock.advance(60.0)
        with pytest.raises(BlockingIOError):
            supervisor.recv(100)
        task.cancel()


async def test_without_systemd_nothing_is_told():
    told = Systemd({})
    told.tell("READY=1")
    await told.watch(VirtualClock(), lambda: "")
    gone = Systemd({"NOTIFY_SOCKET": "/nonexistent/notify"})
    gone.tell("READY=1")
