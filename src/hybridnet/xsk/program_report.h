/* How the loader explains a failure: libbpf's words are collected instead of printed, and turned
   into the one sentence that hn_program_open promises. */
#ifndef HN_PROGRAM_REPORT_H
#define HN_PROGRAM_REPORT_H

#include <bpf/libbpf.h>
#include <stdarg.h>

#include "stack/base.h"

/* Where an error is to be told; borrows both pointers. */
struct hn_report {
    int *error_number;
    char *message;
    size_t message_bytes;
};

__attribute__((format(printf, 3, 4))) void hn_report_fail(const struct hn_report *report, int error,
                                                          const char *format, ...);

/* EPERM, with the capabilities that this process lacks. */
void hn_report_privileges(const struct hn_report *report);

/* The verifier rejects variable offsets into packets without CAP_PERFMON, with EACCES. */
bool hn_lacks_perfmon(void);

/* For libbpf_set_print: keeps the tail of what is said, per thread. */
int hn_log_print(enum libbpf_print_level level, const char *format, va_list arguments);
void hn_log_clear(void);

/* The last line that tells the cause, without libbpf's prefix; "" when there is none.  Cuts the
   log into pieces; valid until the next clear. */
const char *hn_log_last_line(void);

/* The kernel's own sentence on a refused netlink request, which libbpf prints; or NULL.  Valid
   until the next clear. */
const char *hn_log_kernel_sentence(void);

#endif
