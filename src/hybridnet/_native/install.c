/* Makes the types of burst.h and puts them where Python finds them. */
#include "_native/burst.h"

extern PyType_Spec hn_engine_spec, hn_port_spec, hn_lease_spec;

static int add_type(PyObject *dict, PyTypeObject **slot, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromSpec(spec);
    if (!type)
        return -1;
    *slot = (PyTypeObject *)type; /* kept for the life of the process */
    return PyDict_SetItemString(dict, name, type);
}

int hn_burst_install(size_t dict_address)
{
    PyGILState_STATE state = PyGILState_Ensure(); /* cffi has let go of it */
    PyObject *dict = (PyObject *)dict_address;
    int result = add_type(dict, &hn_engine_type, &hn_engine_spec, "Engine");
    if (result == 0)
        result = add_type(dict, &hn_port_type, &hn_port_spec, "Port");
    if (result == 0)
        result = add_type(dict, &hn_lease_type, &hn_lease_spec, "Lease");
    if (result != 0)
        PyErr_Print();
    PyGILState_Release(state);
    return result;
}
