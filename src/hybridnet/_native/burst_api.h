/* Plain declarations, read by cffi and (through burst.h) by the C compiler. */

/* Adds the types Engine, Port and Lease to the dict whose address (id()) is given.  Called once,
   on import of hybridnet._native.  0, or -1 with a Python exception printed. */
int hn_burst_install(size_t dict_address);
