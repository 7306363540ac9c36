# Types for the compiled build of py/expression.py.
cdef int ALL, GLOBAL, HAS, EQUAL, NOT_EQUAL, CONTAINS, STARTS_WITH, ENDS_WITH, IN, NOT_IN, NOT, AND, OR

cdef class Node:
    cdef readonly int op
    cdef readonly str label, value
    cdef readonly tuple members, children
    cdef readonly frozenset member_set
    cpdef bint evaluate(self, dict labels) except -1

cpdef bint evaluate(Node node, dict labels) except -1
cdef bint _compare(Node node, int op, str value) except -1
cpdef str render(Node node)
cdef str _quote(str value)

cdef class Parser:
    cdef str text
    cdef Py_ssize_t place, end
    cdef int depth
    cdef bint at_end(self) noexcept
    cdef int skip_blanks(self) except -1
    cdef bint take(self, str token) except -1
    cdef Node parse_or(self)
    cdef Node parse_and(self)
    cdef bint _take_pair(self, str character) except -1
    cdef Node parse_term(self)
    cdef Node parse_primary(self)
    cdef str parse_label(self)
    cdef Node parse_comparison(self)
    cdef int _word_operator(self, str label) except -1
    cdef bint _take_words(self, str first, str second) except -1
    cdef str parse_string(self)
    cdef tuple parse_set(self)
