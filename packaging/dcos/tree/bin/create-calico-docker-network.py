#!@RUNTIME@/bin/python3
"""Makes Docker's network `calico` (unit dcos-calico-libnetwork-plugin): see the module."""

import sys

from calico_dcos.docker_network import main

sys.exit(main())
