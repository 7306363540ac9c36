"""The command lines we understand, as docopt usage texts (spec/calicoctl.md 1, 3.2, 4-7).

docopt is upstream's own grammar: options may stand anywhere, `--opt value` equals `--opt=value`, and a unique
prefix of a long option is enough.
"""

from __future__ import annotations

import re
from typing import Any

import docopt

TOP = """Usage:
  calicoctl [options] <command> [<args>...]

    create         Create resources from a file, a directory or stdin.
    replace        Replace existing resources from a file, a directory or stdin.
    apply          Create or replace resources from a file, a directory or stdin.
    patch          Change part of a resource.
    delete         Delete resources by name or by file.
    get            Show resources.
    label          Add, change or remove a label of a resource.
    validate       Check resources of a file without a datastore.
    ipam           Show, check and release IP addresses.
    node           Look at this host: its agent, its BGP sessions, its kernel.
    cluster        Collect diagnostics of the cluster.
    version        Show the versions of this program and of the cluster.

Options:
  -h --help                   Show this text.
  -l --log-level=<LEVEL>      One of panic, fatal, error, warn, info, debug [default: panic]. From error on, what
                              went wrong is named with object, file and line, as it always is on a terminal.
  --context=<CONTEXT>         Accepted and ignored: a note says which cluster is meant.
  --allow-version-mismatch    Do not warn of a cluster of another release.

See 'calicoctl <command> --help' to read about a specific subcommand.
"""

_COMMON = """  -h --help                   Show this text.
  -c --config=<CONFIG>        File with the connection settings [default: /etc/calico/calicoctl.cfg].
  --context=<CONTEXT>         Accepted and ignored: a note says which cluster is meant.
  --allow-version-mismatch    Do not warn of a cluster of another release.
"""
_NAMESPACE = (
    "  -n --namespace=<NS>         Namespace of the resources; 'default' if neither file nor option names one.\n"
)
_FILE = """  -f --filename=<FILENAME>    File, directory (.yaml, .yml, .json), or - for stdin.
  -R --recursive              Descend into the directory's folders.
  --skip-empty                An input without resources is not an error.
"""
_KINDS = """
<KIND> is one of bgpConfiguration, bgpFilter, bgpPeer, clusterInformation, felixConfiguration, globalNetworkPolicy
(gnp), globalNetworkSet, ipPool (pool), ipReservation, networkPolicy (np), networkSet, node, profile, tier,
workloadEndpoint (wep), in any case, singular or plural.
"""
_OPTIONS = "[--config=<CONFIG>] [--context=<CONTEXT>] [--allow-version-mismatch]"

IPAM = ("show", "check", "release")
NODE = ("debug", "status", "diags", "checksystem", "run")
CLUSTER = ("diags",)
GROUPS = {"ipam": IPAM, "node": NODE, "cluster": CLUSTER}
"""Commands with subcommands; the first of them is meant where only options are given."""
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
VALUED = re.compile(r"(?<![\w-])(--[\w-]+)=<")
PAIR = re.compile(r"(?m)^ +(-\w)(?: (--[\w-]+))?(=)?")
"""How an option is described: its short form, its long one, whether it takes a value."""

COMMANDS: dict[str, str] = {
    "create": f"""Usage:
  calicoctl create --filename=<FILENAME> [--recursive] [--skip-empty] [--skip-exists] [--namespace=<NS>] {_OPTIONS}

Create resources; one that exists already is an error.

Options:
{_FILE}  --skip-exists               Count resources that exist already as handled.
{_NAMESPACE}{_COMMON}""",
    "apply": f"""Usage:
  calicoctl apply --filename=<FILENAME> [--recursive] [--skip-empty] [--namespace=<NS>] {_OPTIONS}

Create resources, or replace those that exist.

Options:
{_FILE}{_NAMESPACE}{_COMMON}""",
    "replace": f"""Usage:
  calicoctl replace --filename=<FILENAME> [--recursive] [--skip-empty] [--namespace=<NS>] {_OPTIONS}

Replace resources; one that does not exist is an error.

Options:
{_FILE}{_NAMESPACE}{_COMMON}""",
    "delete": f"""Usage:
  calicoctl delete ( (<KIND> [<NAME>...]) | --filename=<FILENAME> [--recursive] [--skip-empty] )
                   [--skip-not-exists] [--namespace=<NS>] {_OPTIONS}

Delete resources by kind and name, or those of a file.
{_KINDS}
Options:
{_FILE}  -s --skip-not-exists        Count resources that do not exist as deleted.
{_NAMESPACE}{_COMMON}""",
    "validate": """Usage:
  calicoctl validate --filename=<FILENAME> [--recursive] [--skip-empty] [--allow-version-mismatch]

Check the resources of a file; needs no datastore.

Options:
  -h --help                   Show this text.
  -f --filename=<FILENAME>    File, directory (.yaml, .yml, .json), or - for stdin.
  -R --recursive              Descend into the directory's folders.
  --skip-empty                An input without resources is not an error.
  --allow-version-mismatch    Accepted and ignored.
""",
    "get": f"""Usage:
  calicoctl get ( (<KIND> [<NAME>...]) | --filename=<FILENAME> [--recursive] [--skip-empty] )
                [--output=<OUTPUT>] [--namespace=<NS>] [--all-namespaces | -a] [--export] {_OPTIONS}

Show resources.
{_KINDS}
Options:
{_FILE}  -o --output=<OUTPUT>        ps, wide, yaml, json or custom-columns=A,B [default: ps]. Upstream's go-template
                              and go-template-file are not there.
{_NAMESPACE}  -A --all-namespaces         Resources of every namespace.
  -a                          The same as -A.
  --export                    Leave out what belongs to this cluster only.
{_COMMON}""",
    "patch": f"""Usage:
  calicoctl patch <KIND> <NAME> --patch=<PATCH> [--type=<TYPE>] [--namespace=<NS>] {_OPTIONS}

Change part of a resource.
{_KINDS}
Options:
  -p --patch=<PATCH>          The change, as JSON.
  -t --type=<TYPE>            strategic, merge (RFC 7386) or json (RFC 6902) [default: strategic].
{_NAMESPACE}{_COMMON}""",
    "label": f"""Usage:
  calicoctl label (<KIND> <NAME> ( <LABEL> [--overwrite | --remove] ) ) [--namespace=<NS>] {_OPTIONS}

Add (key=value), change (--overwrite) or remove (key --remove) a label.
{_KINDS}
Options:
  --overwrite                 Change a label that has another value.
  --remove                    Remove the label; name the key only.
{_NAMESPACE}{_COMMON}""",
    "ipam show": f"""Usage:
  calicoctl ipam show [--ip=<IP> | --show-blocks | --show-borrowed | --show-configuration] {_OPTIONS}

Show the use of the IP pools, or who holds an address.

Options:
  --ip=<IP>                   Show who holds this address.
  --show-blocks               Show the blocks of each pool.
  --show-borrowed             Show addresses that a node uses from another node's block.
  --show-configuration        Show the configuration of address management.
{_COMMON}""",
    "ipam check": f"""Usage:
  calicoctl ipam check [--show-all-ips] [--show-problem-ips] [--output=<FILE>] [--kubeconfig=<KUBECONFIG>] {_OPTIONS}

Compare the addresses that are allocated with those that endpoints and nodes use. Problems that are found are no
failure of the command.

Options:
  -o --output=<FILE>          Write a report, for 'ipam release --from-report'.
  --show-all-ips              Show every address, and everything that --show-problem-ips shows.
  --show-problem-ips          Show the addresses, handles and blocks that something is wrong with.
  --kubeconfig=<KUBECONFIG>   Accepted and ignored.
{_COMMON}""",
    "ipam release": f"""Usage:
  calicoctl ipam release [--ip=<IP>] [--from-report=<REPORT>]... [--force] {_OPTIONS}

Release an address that nothing uses any more, or all that reports of 'ipam check' call leaked. Whatever uses an
address is not looked for with --ip, and goes on using it.

Options:
  --ip=<IP>                   The address.
  --from-report=<REPORT>      A report; given several times, only what all of them call leaked is released. Something
                              that changed hands since, or that is in use now, stays.
  --force                     Release although the datastore is not locked (containers may start meanwhile), although
                              the report is another release's, or although endpoints cannot be read.
{_COMMON}""",
    "node debug": """Usage:
  calicoctl node debug <COMMAND> [<ARGUMENT>] [--socket=<PATH>] [--allow-version-mismatch]

Show what the agent of this host believes. The agent answers root only; the datastore is not asked.

<COMMAND> is one of:
  status                      Is it up to date? Revisions and figures, as JSON.
  problems                    What cannot be used, has no effect, or cannot be reached.
  pending                     What could not be programmed and is tried again.
  dirty                       What has changed and is not in the kernel yet.
  show <KIND>                 What stands in the kernel or is wanted there: endpoints, policies, sets, routes or links.
  config                      Every parameter, the value in force, and where it comes from.
  table                       The wanted nftables table, as it would be loaded.
  trace <OBJECT>              What happens to an object from now on (Ctrl-C ends it), for example 'Profile(calico)'.
  resync                      Read the kernel's state again, and write the whole table again.

Options:
  -h --help                   Show this text.
  --socket=<PATH>             The agent's socket; else that of the variable CALICO_NODE_SOCKET, else
                              /run/calico/node.sock.
  --allow-version-mismatch    Accepted and ignored.
""",
    "node status": """Usage:
  calicoctl node status [--allow-version-mismatch]

Show whether the agent of this host runs, and the state of its BGP sessions. Needs root; the datastore is not asked.

Options:
  -h --help                   Show this text.
  --allow-version-mismatch    Accepted and ignored.
""",
    "node diags": """Usage:
  calicoctl node diags [--log-dir=<LOG_DIR>] [--allow-version-mismatch]

Collect diagnostics of this host in one archive: of the kernel, our services, the agent, BIRD, files and logs. Needs
root. Its index.md says what looks wrong. Secrets are replaced.

Options:
  -h --help                   Show this text.
  --log-dir=<LOG_DIR>         Folder with logs to take along [default: /var/log/calico].
  --allow-version-mismatch    Accepted and ignored.
""",
    "node checksystem": """Usage:
  calicoctl node checksystem [--kernel-config=<FILE>] [--allow-version-mismatch]

Check that this kernel has what the services of a node need. Needs root.

Options:
  -h --help                   Show this text.
  -f --kernel-config=<FILE>   The configuration that the kernel was built with, where /proc and /boot have none.
  --allow-version-mismatch    Accepted and ignored.
""",
    "node run": """Usage:
  calicoctl node run [--ip=<IP>] [--ip6=<IP6>] [--as=<AS>] [--name=<NAME>] [--ip-autodetection-method=<METHOD>]
                     [--ip6-autodetection-method=<METHOD6>] [--log-dir=<LOG_DIR>] [--node-image=<IMAGE>]
                     [--backend=<BACKEND>] [--config=<CONFIG>] [--felix-config=<FELIX_CONFIG>]
                     [--no-default-ippools] [--dryrun] [--init-system] [--allow-version-mismatch]

Start the services of this node, which are units of systemd. Options are settings of the units' files: what is not there
is named, and nothing is started.

Options:
  -h --help                   Show this text.
  --ip=<IP>                   The node's IPv4 address, or autodetect.
  --ip6=<IP6>                 The node's IPv6 address, or autodetect.
  --as=<AS>                   Its AS number.
  --name=<NAME>               Its name; else the host's.
  --ip-autodetection-method=<METHOD>    first-found, can-reach=, interface=, skip-interface= or cidr=.
  --ip6-autodetection-method=<METHOD6>  The same for IPv6.
  --backend=<BACKEND>         bird, vxlan or none.
  --no-default-ippools        Do not make pools.
  --dryrun                    Print how, and do nothing.
  --log-dir=<LOG_DIR>         Accepted and ignored, as the next four: there is no container.
  --node-image=<IMAGE>        Accepted and ignored.
  -c --config=<CONFIG>        Accepted and ignored.
  --felix-config=<FELIX_CONFIG>  Accepted and ignored.
  --init-system               Accepted and ignored.
  --allow-version-mismatch    Accepted and ignored.
""",
    "cluster diags": f"""Usage:
  calicoctl cluster diags [--since=<SINCE>] [--max-logs=<MAX_LOGS>] [--max-parallelism=<N>] [--focus-nodes=<NODES>]
                          [--skip-temp-dir-cleanup] {_OPTIONS}

Collect diagnostics of the cluster in one archive: every object, the use of addresses, the agents' reports and etcd. Its
index.md says what looks wrong. Secrets are replaced. For one host: 'calicoctl node diags', on it.

Options:
  --since=<SINCE>             Accepted and ignored, as the next four: logs are on the hosts.
  --max-logs=<MAX_LOGS>       Accepted and ignored.
  --max-parallelism=<N>       Accepted and ignored.
  --focus-nodes=<NODES>       Accepted and ignored.
  --skip-temp-dir-cleanup     Accepted and ignored.
{_COMMON}""",
    "version": f"""Usage:
  calicoctl version [--poll=<POLL>] [--client] {_OPTIONS}

Show the versions of this program and of the cluster.

Options:
  --poll=<POLL>               Ask again after this time, for example 5s; print changes only.
  --client                    Do not ask the cluster.
{_COMMON}""",
}


def parse(usage: str, argv: list[str], *, options_first: bool = False) -> dict[str, Any]:
    """Arguments by name; raises `docopt.DocoptExit` with the usage when they do not fit."""
    return dict(docopt.docopt(usage, argv, default_help=False, options_first=options_first))


def usage_lines(usage: str) -> str:
    """The lines of a help text that show the grammar."""
    return usage.partition("\n\n")[0]


def what_is_wrong(name: str, argv: list[str], problem: str) -> str:
    """Why a command line does not fit, in one clause; `problem` is docopt's text, of use only for options' values."""
    known = set(OPTION.findall(COMMANDS[name]))
    for word in argv:
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        if len(option) > 1 and option.startswith("-") and not _is_known(option, known):
            return f"there is no option '{option}'"
    first = problem.partition("\n")[0]
    if first.startswith("-"):
        return first
    options, bare = _options_and_words(argv, COMMANDS[name])
    for option in options:
        meant = sorted(one for one in known if one.startswith(option))
        if option not in known and len(meant) > 1:
            return f"'{option}' may be {' or '.join(meant)}: write it whole"
        if options.count(option) > 1 and option != "--from-report":
            return f"the option {option} is there more than once"
    if "--filename" in COMMANDS[name].partition("\n\n")[0] and not any(map(_names_a_file, argv)):
        if "<KIND>" not in COMMANDS[name]:
            return f"name the file with --filename={bare[0] if bare else 'FILE'}"
        if not bare:
            return "name a kind, or a file with --filename=FILE"
    return "an argument is missing, is one too many, or does not go with the others"


def _options_and_words(argv: list[str], usage: str) -> tuple[list[str], list[str]]:
    """The options of a command line by their long names, as far as they are known, and the words that are none."""
    pairs = PAIR.findall(usage)
    long_of = {short: long or short for short, long, _ in pairs}
    takes = {long for _, long, value in pairs if value} | set(VALUED.findall(usage))
    known = takes | set(OPTION.findall(usage))
    options: list[str] = []
    bare: list[str] = []
    is_value = False
    for word in argv[1:]:
        if is_value:
            is_value = False
        elif not word.startswith("-") or word == "-":
            bare.append(word)
        else:
            option = word.partition("=")[0] if word.startswith("--") else long_of.get(word[:2], word[:2])
            meant = [one for one in known if one.startswith(option)]
            options.append(meant[0] if len(meant) == 1 else option)
            is_value = options[-1] in takes and (len(word) == 2 or (word.startswith("--") and "=" not in word))
    return options, bare


def _is_known(option: str, known: set[str]) -> bool:
    return option in known or (option.startswith("--") and any(one.startswith(option) for one in known))


def _names_a_file(word: str) -> bool:
    return word.startswith(("-f", "--f"))
