"""From probes.yaml to an agent's peers: who they are, where, and what is tested there."""

from types import SimpleNamespace

from lb_probe.app import agent_peers, agent_sync, agent_watch
from lb_probe.clock import SystemClock
from lb_probe.config import load
from lb_probe.config.likeness import digest

FILE = """\
version: 1
groups:
  - name: app
    act: true
    nodes:
      - name: main-a
        role: primary
        url: "http://192.0.2.10:8080"
        agent: {listen: "0.0.0.0:8080", control: a.sock, trust: {listen: "0.0.0.0:8445"}}
      - name: main-b
        role: secondary
        candidate: true
        url: "http://192.0.2.11:8080"
        agent:
          listen: "0.0.0.0:8080"
          control: b.sock
          trust: {listen: "0.0.0.0:8445", address: "198.51.100.11:9445"}
          connectivity: {}
      - name: dr
        role: secondary
        url: "http://203.0.113.12:8080"
        agent:
          listen: "0.0.0.0:8080"
          control: d.sock
          peer: main-b
          trust: {listen: "0.0.0.0:8446", folder: keys}
          connectivity: {ports: [{port: 22, kind: ssh}]}
      - {name: bare, role: secondary, url: "http://203.0.113.13:8080"}
"""


def made(folder, name):
    """Return the trust of one node's agent, and its connectivity where it has that."""
    file = folder / "probes.yaml"
    file.write_text(FILE)
    config = load(file, as_=f"agent:{name}")
    (group,) = config.groups
    (node,) = [one for one in group.nodes if one.name == name]
    stub = SimpleNamespace(
        name=name, clock=SystemClock(), emit=print, sync_guards=[], promote_guards=[], refreshers=[]
    )
    parts = {
        part.name: part for part in (make(stub) for make in agent_peers.parts(config, group, node))
    }
    return parts["trust"], parts.get("connection")


def test_an_agent_does_without_the_files_that_only_the_prober_has(tmp_path):
    """The authority of the nodes' certificates: pages that cannot be asked are left out."""
    file = tmp_path / "probes.yaml"
    tls = ', tls: {ca_file: only-the-prober-has-it.pem}, agent: {sync: {sync_command: ["true"]}, '
    text = FILE.replace("http://", "https://").replace('8080"\n        agent: {', f'8080"{tls}', 1)
    text = text.replace('role: primary\n        url: "https', 'role: primary, url: "https')
    text = text.replace(
        "- name: main-a\n        role: primary, ", "- {name: main-a, role: primary, "
    )
    text = text.replace('trust: {listen: "0.0.0.0:8445"}}', 'trust: {listen: "0.0.0.0:8445"}}}', 1)
    file.write_text(text)
    config = load(file, as_="agent:main-a")
    (group,) = config.groups
    main_a = group.nodes[0]

    assert [agent_peers._page_of(group, node.name) for node in group.nodes] == [None] * 4
    peer = group.partner_of(main_a)
    assert len(agent_sync.parts(group, main_a, peer)) == 1
    assert agent_watch.parts(config, group, main_a) == []


def test_every_pair_of_a_group_has_its_own_link_and_ports(tmp_path):
    """R45: the DR site's pairs too; each node says where it is found and what must be reached."""
    trust, connection = made(tmp_path, "dr")
    assert {name: link.address for name, link in trust.links.items()} == {
        "main-a": ("192.0.2.10", 8445),
        "main-b": ("198.51.100.11", 9445),
    }
    assert trust.settings.partner == "main-b"
    assert trust.settings.folder == tmp_path / "keys"
    theirs = {
        name: [(one.host, one.port, one.kind) for one in tried]
        for name, tried in connection._settings.theirs.items()
    }
    ports = ((8443, "tls"), (443, "tls"), (22, "ssh"))
    assert theirs == {"main-a": [], "main-b": [("198.51.100.11", *port) for port in ports]}
    assert [(one.port, one.kind) for one in connection._settings.own] == [(22, "ssh")]
    trust, connection = made(tmp_path, "main-a")
    assert trust.settings.partner == "main-b"
    assert trust.settings.folder == tmp_path / "a.trust"
    assert connection is None


def test_only_what_a_file_says_counts_and_not_how_it_is_written(tmp_path):
    """R81: comments, defaults that are spelled out, and the folder make no difference."""
    prints = []
    texts = (
        FILE,
        "# a comment\n" + FILE.replace("    act: true\n", "    confirm: 10s\n    act: true\n"),
        FILE.replace("act: true", "act: false"),
        FILE.replace("kind: ssh", "kind: tcp"),
    )
    for number, text in enumerate(texts):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "probes.yaml").write_text(text)
        config = load(folder / "probes.yaml", as_="client")
        prints.append(digest(config, config.groups[0]))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
