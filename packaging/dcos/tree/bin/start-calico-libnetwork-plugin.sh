#!/bin/bash
# Becomes Docker's network plug-in (unit dcos-calico-libnetwork-plugin). Endpoints belong to the node of the agent's name,
# and policies are of the namespace `default`.
set -ex

CALICO_LIBNETWORK_HOSTNAME=$(/opt/mesosphere/bin/detect_ip)
export CALICO_LIBNETWORK_HOSTNAME
export CALICO_LIBNETWORK_NAMESPACE=default
unset LD_LIBRARY_PATH PYTHONPATH

exec /opt/mesosphere/bin/calico-libnetwork-plugin
