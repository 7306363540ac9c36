"""A cluster on one machine: hosts that are namespaces, a real underlay, real daemons, and a stand-in for Mesos.

    from tests.lab import Cluster

    with Cluster() as cluster:
        cluster.start()
        task = cluster.mesos("a1").launch("web", network="calico", labels={"role": "server"})
        print(task.address, cluster.mesos("a2").launch("client", network="calico").fetch(task.address))

Everything hangs from processes that die with the one that made them, so that even a killed run leaves nothing behind.
"""

from tests.lab.cluster import Cluster
from tests.lab.host import Host
from tests.lab.mesos import Mesos, Task, TaskFailed

__all__ = ["Cluster", "Host", "Mesos", "Task", "TaskFailed"]
