"""The cluster's own network on this machine: one interface, one route, one nftables table.

Everything made here carries our name, so that `remove` takes away what is ours and nothing else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .commands import run
from .settings import (
    API_PORT,
    NFT_TABLE,
    NODE_ADDRESS,
    NODE_INTERFACE,
    POD_CIDR,
    SERVICE_CIDR,
)

# Pods reach the outside under the machine's address. The API server listens on every address, because clients come
# from 127.0.0.1 and from pods; nobody outside this machine has any business there.
_RULES = f"""
table inet {NFT_TABLE}
delete table inet {NFT_TABLE}
table inet {NFT_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {POD_CIDR} ip daddr != {{ {POD_CIDR}, {NODE_ADDRESS} }} masquerade
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        tcp dport {API_PORT} iifname != "lo" ip saddr != {{ {POD_CIDR}, {NODE_ADDRESS} }} drop
        tcp dport {API_PORT} iifname != "lo" meta nfproto ipv6 drop
    }}
}}
"""


def create() -> None:
    """Make the node's interface and rules; safe to call again."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if not Path(f"/sys/class/net/{NODE_INTERFACE}").exists():
        # A bridge without ports: like a dummy interface, which not every kernel has.
        run(["ip", "link", "add", NODE_INTERFACE, "type", "bridge"])
    run(["ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", NODE_INTERFACE])
    run(["ip", "link", "set", NODE_INTERFACE, "up"])
    # Without a route, a machine with no default route could not even try a service's address.
    run(["ip", "route", "replace", SERVICE_CIDR, "dev", NODE_INTERFACE, "src", NODE_ADDRESS])
    run(["nft", "-f", "-"], stdin=_RULES)


def remove() -> None:
    """Take away what `create`, kube-proxy and CNI left; safe to call when nothing is there."""
    if Path(f"/sys/class/net/{NODE_INTERFACE}").exists():
        run(["ip", "link", "delete", NODE_INTERFACE])
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines()
    for table in (f"inet {NFT_TABLE}", "ip kube-proxy", "ip6 kube-proxy"):
        if f"table {table}" in tables:
            run(["nft", "delete", "table", *table.split()])


def nameservers_known(resolv_conf: Path = Path("/etc/resolv.conf")) -> bool:
    """Whether the machine has resolvers that CoreDNS can forward to."""
    return resolv_conf.exists() and any(line.startswith("nameserver") for line in resolv_conf.read_text().splitlines())
