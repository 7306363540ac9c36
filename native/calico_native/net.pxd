# Types for the compiled build of py/net.py.
cimport cython

ctypedef unsigned long long u64

cdef u64 ONES, _FIRST_FACTOR, _SECOND_FACTOR
cdef Py_ssize_t LONGEST_TEXT

@cython.final
cdef class Address:
    cdef int _family
    cdef u64 _high, _low

@cython.final
cdef class Cidr:
    cdef int _family, _length
    cdef u64 _high, _low

cdef object _number(u64 high, u64 low)
@cython.locals(mixed=u64)
cdef Py_hash_t _hash(int family, u64 high, u64 low, int length) noexcept
cdef int _compare(Cidr one, Cidr other) noexcept
cdef int _compare_addresses(Address one, Address other) noexcept
@cython.locals(length=int)
cdef void _mask(Cidr net) noexcept
@cython.locals(length=int)
cdef bint _covers(Cidr one, Cidr other) noexcept
@cython.locals(length=int, bit=u64)
cdef bint _are_halves(Cidr first, Cidr second) noexcept
@cython.locals(net=Cidr)
cdef Cidr _doubled(Cidr first)
@cython.locals(end=Py_ssize_t, stop=Py_ssize_t, is_v6=bint, full=int, length=int, number=longlong, character=Py_UCS4)
cdef bint _read(Cidr net, str text, bint may_have_length) except -1
@cython.locals(length=int, character=Py_UCS4)
cdef int _read_length(str text, Py_ssize_t place, Py_ssize_t end) except -2
@cython.locals(number=longlong, value=int, digits=int, dots=int, character=Py_UCS4)
cdef long long _read_v4(str text, Py_ssize_t place, Py_ssize_t end) except -2
@cython.locals(
    place=Py_ssize_t, start=Py_ssize_t, groups=int, before=int, group=int, number=longlong,
    high=u64, low=u64, high_before=u64, low_before=u64,
)
cdef bint _read_v6(Cidr net, str text, Py_ssize_t end) except -1
@cython.locals(value=int, digits=int, character=Py_UCS4)
cdef int _read_group(str text, Py_ssize_t place, Py_ssize_t end) except -2
@cython.locals(first=int, count=int, run=int, place=int, group=int, texts=list)
cdef str _address_text(int family, u64 high, u64 low)
