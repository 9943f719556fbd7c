#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* vasprintf */
#endif
#include "xsk/program_report.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOG_BYTES 2048u
#define LOG_MARK "libbpf: "

/* ---- What libbpf and the kernel say ---- */

/* The tail of what libbpf printed since the last clear.  libbpf's callback has no context, so
   this belongs to the thread. */
static _Thread_local char log_tail[LOG_BYTES];
static _Thread_local size_t log_length;

void hn_log_clear(void)
{
    log_length = 0;
    log_tail[0] = '\0';
}

static void log_append(const char *text, size_t bytes)
{
    if (bytes >= LOG_BYTES) {
        text += bytes - (LOG_BYTES - 1);
        bytes = LOG_BYTES - 1;
    }
    size_t excess = log_length + bytes >= LOG_BYTES ? log_length + bytes - (LOG_BYTES - 1) : 0;
    memmove(log_tail, log_tail + excess, log_length - excess);
    log_length -= excess;
    memcpy(log_tail + log_length, text, bytes);
    log_length += bytes;
    log_tail[log_length] = '\0';
}

int hn_log_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
    if (level == LIBBPF_DEBUG)
        return 0;
    /* A verifier log can have megabytes, with what matters at its end. */
    char *text = NULL;
    int bytes = vasprintf(&text, format, arguments);
    if (bytes < 0)
        return 0;
    log_append(text, (size_t)bytes);
    free(text);
    return 0;
}

/* Says nothing about the cause: statistics, frames of the log, and libbpf's summing up. */
static bool is_noise(const char *line)
{
    static const char *const marks[] = {"processed ", "-- ", "BEGIN PROG LOAD LOG",
                                        "END PROG LOAD LOG", "failed to load"};
    if (line[0] == '\0')
        return true;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (i < 2 ? strncmp(line, marks[i], strlen(marks[i])) == 0 : strstr(line, marks[i]) != NULL)
            return true;
    }
    return false;
}

const char *hn_log_last_line(void)
{
    const char *last = "";
    char *rest = log_tail, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strncmp(line, LOG_MARK, strlen(LOG_MARK)) == 0)
            line += strlen(LOG_MARK);
        if (!is_noise(line))
            last = line;
    }
    return last;
}

const char *hn_log_kernel_sentence(void)
{
    static const char mark[] = "Kernel error message: ";
    char *sentence = strstr(log_tail, mark);
    if (!sentence)
        return NULL;
    sentence += strlen(mark);
    sentence[strcspn(sentence, "\n")] = '\0';
    return sentence;
}

void hn_report_fail(const struct hn_report *report, int error, const char *format, ...)
{
    *report->error_number = error;
    if (report->message_bytes == 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report->message, report->message_bytes, format, arguments);
    va_end(arguments);
}

/* ---- Privileges ---- */

/* The kernel's numbers; the first 32 are in one word of capget's answer, the rest in the next. */
enum {
    CAPABILITY_NET_ADMIN = 12,
    CAPABILITY_SYS_ADMIN = 21,
    CAPABILITY_PERFMON = 38,
    CAPABILITY_BPF = 39
};

/* Unknown counts as held: the kernel has the last word anyway. */
static bool has_capability(unsigned capability)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, data) != 0)
        return true;
    return data[capability / 32].effective >> (capability % 32) & 1;
}

bool hn_lacks_perfmon(void)
{
    return !has_capability(CAPABILITY_PERFMON) && !has_capability(CAPABILITY_SYS_ADMIN);
}

void hn_report_privileges(const struct hn_report *report)
{
    bool missing[] = {!has_capability(CAPABILITY_NET_ADMIN),
                      !has_capability(CAPABILITY_BPF) && !has_capability(CAPABILITY_SYS_ADMIN),
                      hn_lacks_perfmon()};
    static const char *const names[] = {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"};
    char list[64] = "";
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        size_t used = strlen(list);
        if (missing[i])
            snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", names[i]);
    }
    if (list[0])
        hn_report_fail(report, EPERM,
                       "XDP needs %s, which this process lacks: run as root, grant that (before "
                       "Linux 5.8: CAP_SYS_ADMIN), or choose mode \"kernel\"",
                       list);
    else
        hn_report_fail(report, EPERM,
                       "the kernel does not permit XDP here although the capabilities are held "
                       "(user namespace, container policy or memory lock limit); choose mode "
                       "\"kernel\"");
}
