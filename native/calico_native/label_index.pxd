# Types for the compiled build of py/label_index.py.
from calico_native.expression cimport Node

cdef class _Item:
    cdef public dict labels, effective
    cdef public tuple parents
    cdef public set matches
    cpdef int add_match(self, selector_id) except -1
    cpdef int drop_match(self, selector_id) except -1

cdef class _Filed:
    cdef public Node node
    cdef public str label
    cdef public tuple values
    cdef public bint possible
    cdef public set items
