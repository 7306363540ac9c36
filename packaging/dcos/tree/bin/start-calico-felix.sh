#!/bin/bash
# Prepares this node and becomes its agent (unit dcos-calico-felix). Any step that fails ends it; systemd tries again in
# five seconds, and every step may be repeated.
set -ex

NODENAME=$(/opt/mesosphere/bin/detect_ip)
IP=$(/opt/mesosphere/bin/detect_ip)
export NODENAME IP
# DC/OS's libraries and Python are for DC/OS's programs, not for the host's that follow.
unset LD_LIBRARY_PATH PYTHONPATH

mkdir -p /etc/calico /var/lib/calico
cp /opt/mesosphere/etc/calico/calicoctl.cfg /etc/calico/calicoctl.cfg
cp /opt/mesosphere/active/calico/etc/profile.yaml /var/lib/calico/profile.yaml

# A datastore that does not answer yet is waited for: to DC/OS a unit that ends again and again is unhealthy.
export WAIT_FOR_DATASTORE="${WAIT_FOR_DATASTORE:-true}"
# A new node brings the default profile if it is not there; an operator's own is never replaced.
if [ ! -e /var/lib/calico/nodename ]; then
  tries=0
  until /opt/mesosphere/bin/calicoctl get profile calico || /opt/mesosphere/bin/calicoctl create --skip-exists -f /var/lib/calico/profile.yaml; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ]
    sleep 2
  done
fi
# From here on the CNI plug-in works.
echo "$NODENAME" >/var/lib/calico/nodename

/opt/mesosphere/bin/calico-node -startup
/opt/mesosphere/bin/calico-node -allocate-tunnel-addrs

# An empty value means "not set".
if [ -n "$NODENAME" ]; then
  export FELIX_FELIXHOSTNAME="$NODENAME"
fi
export FELIX_ETCDADDR="$ETCD_AUTHORITY"
export FELIX_ETCDENDPOINTS="$ETCD_ENDPOINTS"
export FELIX_ETCDSCHEME="$ETCD_SCHEME"
export FELIX_ETCDCAFILE="$ETCD_CA_CERT_FILE"
export FELIX_ETCDKEYFILE="$ETCD_KEY_FILE"
export FELIX_ETCDCERTFILE="$ETCD_CERT_FILE"
if [ -n "$DATASTORE_TYPE" ]; then
  export FELIX_DATASTORETYPE="$DATASTORE_TYPE"
fi

# Its own argv, for what looks for a process named so; its own status and process id, for systemd.
exec -a calico-node /opt/mesosphere/bin/calico-node -felix
