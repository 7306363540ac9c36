"""DC/OS's side of Calico: `calico_*` parameters of config.yaml, what they turn into, and Docker's network `calico`."""
