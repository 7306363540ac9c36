# Types for the compiled build of py/rules.py.
cdef class AddressSet:
    cdef public dict nets
    cpdef bint contains(self, int family, object address) except -1

cdef class PortSet:
    cdef public dict members
    cpdef bint contains(self, int family, object address, int protocol, int port) except -1

cdef class Side:
    cdef readonly tuple nets, not_nets, sets, not_sets, ports, not_ports, port_sets, not_port_sets
    cdef readonly bint empty

cdef class Rule:
    cdef readonly bint decides
    cdef readonly int family, protocol, not_protocol
    cdef readonly tuple icmp, not_icmp
    cdef readonly Side source, destination

cdef class Packet:
    cdef readonly int family, protocol, source_port, destination_port, icmp_type, icmp_code
    cdef readonly object source, destination

cdef class Sets:
    cdef public dict addresses, ports

cpdef int first_decision(list rules, Sets sets, Packet packet) except -2
cpdef bint matches(Rule rule, Sets sets, Packet packet) except -1
cdef bint _icmp_matches(tuple wanted, Packet packet) except -1
cdef bint _side_matches(Side side, Sets sets, Packet packet, object address, int port) except -1
cdef bint _has_ports(int protocol) noexcept
cdef bint _in_nets(tuple nets, int family, object address) except -1
cdef bint _in_set(Sets sets, str name, int family, object address) except -1
cdef bint _in_ports(tuple ports, int port) except -1
cdef bint _in_port_sets(tuple names, Sets sets, Packet packet, object address, int port) except -1
